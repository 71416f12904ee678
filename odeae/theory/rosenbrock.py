"""Rodas, a stiff solver that needs no iterations, for the long valleys of these equations."""

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def whole_matrix(vf: Callable, t: Any, y: Any, args: Any, shift: Any) -> Callable:
    """Return the map r ↦ (shift − J)⁻¹ r, by all of the Jacobian J of vf(t, y, args)."""
    n = y.shape[-1]

    def along(direction):  # of all systems at once, as none sees another
        return jax.jvp(lambda y: vf(t, y, args), (y,), (jnp.broadcast_to(direction, y.shape),))[1]

    jacobian = jnp.moveaxis(jax.vmap(along)(jnp.eye(n)), 0, -1)
    diagonal = jnp.broadcast_to(shift * jnp.eye(n), jacobian.shape)
    factors = jax.scipy.linalg.lu_factor(diagonal - jacobian)
    return lambda r: jax.scipy.linalg.lu_solve(factors, r[..., None])[..., 0]


class Rodas4(diffrax.AbstractAdaptiveSolver):
    """Rodas, the L-stable Rosenbrock method of order 4(3), for a vector or K vectors apart.

    Unknowns (n,), or (K, n) for K independent systems, of which the Jacobian has K blocks. The
    valley of docs/theory.md 8 is curved and, at t = 1e9, 1e12 times steeper than it is long:
    iterations of an implicit method with one Jacobian a step converge there for short steps alone,
    and rounding in the rates of change ends them. A Rosenbrock method has no iterations, and its
    stages and error estimate come out of a linear solve that damps rounding like everything else
    off the valley. Saved times must be ends of steps.

    Args:
        resolvent: How the linear systems are solved, called as (vector field, t, y, args, shift)
            for a function r ↦ (shift − J)⁻¹ r. `predict` replaces the default where another is
            cheaper.

    Source: Hairer & Wanner, Solving Ordinary Differential Equations II, IV.7 and VI.4.

    Example:
        >>> odeae.predict(problem, state, odeae.log_times(1e9), solver=odeae.Rodas4())
    """

    resolvent: Callable = eqx.field(static=True, default=whole_matrix)

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar = diffrax.LocalLinearInterpolation

    def order(self, terms):
        """Return 4."""
        return 4

    def error_order(self, terms):
        """Return 4, by which the local error estimate falls with the step."""
        return 4.0

    def init(self, terms, t0, t1, y0, args):
        """Return None: no step needs the one before."""

    def func(self, terms, t0, y0, args):
        """Return the vector field."""
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """Take one step: (1/(γh) − J) U_i = f(t_i, Y_i) + Σ_j c_ij U_j/h + d_i h ∂f/∂t."""
        # 0 in lanes of a batch that are done: what isn't used must not make derivatives NaN
        h = jnp.where(t1 > t0, t1 - t0, 1.0)

        def change(t, y):
            return terms.vf(t, y, args)

        in_time = jax.jvp(lambda t: change(t, y0), (t0,), (jnp.ones_like(t0),))[1]
        solve = self.resolvent(terms.vf, t0, y0, args, 1.0 / (_GAMMA * h))

        def stage(i, stages):  # in a loop, which compiles the vector field once
            y = y0 + jnp.tensordot(jnp.asarray(_A)[i], stages, axes=1)
            right = change(t0 + jnp.asarray(_PLACES)[i] * h, y)
            right = right + jnp.asarray(_SLOPES)[i] * h * in_time
            right = right + jnp.tensordot(jnp.asarray(_C)[i], stages, axes=1) / h
            return stages.at[i].set(solve(right))

        stages = jax.lax.fori_loop(0, 6, stage, jnp.zeros((6, *y0.shape)))
        y1 = y0 + jnp.tensordot(jnp.asarray(_B), stages, axes=1)
        return y1, stages[-1], {"y0": y0, "y1": y1}, None, diffrax.RESULTS.successful


def _lower(*rows):
    return np.array([[*row, *[0.0] * (6 - len(row))] for row in rows])


_GAMMA = 0.25
_A5 = [1.221224509226641, 6.019134481288629, 12.53708332932087, -0.6878860361058950]
_A = _lower(
    [],
    [1.544],
    [0.9466785280815826, 0.2557011698983284],
    [3.314825187068521, 2.896124015972201, 0.9986419139977817],
    _A5,
    [*_A5, 1.0],
)
_B = np.array([*_A5, 1.0, 1.0])
_C = _lower(
    [],
    [-5.6688],
    [-2.430093356833875, -0.2063599157091915],
    [-0.1073529058151375, -9.594562251023355, -20.47028614809616],
    [7.496443313967647, -10.24680431464352, -33.99990352819905, 11.70890893206160],
    [
        8.083246795921522, -7.981132988064893, -31.52159432874371, 16.31930543123136,
        -6.058818238834054,
    ],
)  # fmt: skip
_PLACES = np.array([0.0, 0.386, 0.21, 0.63, 1.0, 1.0])
_SLOPES = np.array([0.25, -0.1043, 0.1035, -0.0362, 0.0, 0.0])
