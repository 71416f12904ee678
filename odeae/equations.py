"""One problem as a solver sees it: a flat vector of rows and its drift."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from odeae.autoencoder import Autoencoder
from odeae.precision import Real
from odeae.problem import Problem
from odeae.rules import AbstractRule
from odeae.spectrum import Leading, Spectrum, leading_modes
from odeae.state import Inputs, State, Unknowns

# Weights that have grown to this size count as diverged: products of four of them don't overflow.
HUGE = 1e50


class Equations(eqx.Module):
    """What the vector field needs: nothing of size D, and no D that would make it compile again."""

    rule: AbstractRule
    network: Autoencoder
    inputs: Inputs
    bins: Spectrum | None  # of the densities, if they are saved
    components: Real | None  # spikes along which the rows are saved
    diffusion: bool = eqx.field(static=True)
    leading: Leading | None = None  # of the error above PCA, if that is saved

    def pack(self, state: State) -> jax.Array:
        """The flat vector that diffrax integrates (one leaf is fastest)."""
        return self.vector(state.unknowns())

    def state(self, y) -> State:
        """Return the state of what `pack` made."""
        return self.unknowns(y).state(self.inputs.spikes.shape[0])

    def vector(self, unknowns: Unknowns) -> jax.Array:
        """The same as `pack` of what is not divided, which spares a copy in every drift."""
        parts = [self.network.pack(unknowns.rows)]
        if self.network.bias:
            parts.append(unknowns.bias)
        if unknowns.diffusion is not None:
            parts.append(unknowns.diffusion.ravel())
        return jnp.concatenate(parts) if len(parts) > 1 else parts[0]

    def unknowns(self, y) -> Unknowns:
        """Return the unknowns of a packed vector."""
        hidden, width = self.network.hidden, self.network.width
        rows = self.inputs.spikes.shape[0] + self.inputs.bulk.shape[0]
        modes = self.network.unpack(y[: rows * width], rows)
        rest = y[rows * width :]
        # Of NumPy's where y is: what `predict` returns is made outside of double precision.
        bias = rest[:hidden] if self.network.bias else np.zeros((hidden, *y.shape[1:]))
        added = rest[-(hidden**2) :].reshape(hidden, hidden) if self.diffusion else None
        return Unknowns(modes, bias, added)


def equations_of(problem: Problem, bins=None, components=None, diffusion=False) -> Equations:
    """The equations of a problem; `bins`, `components`, `diffusion` as there."""
    leading = leading_modes(problem.spectrum, problem.autoencoder.hidden)
    return Equations(
        problem.rule, problem.autoencoder, problem.inputs, bins, components, diffusion, leading
    )


# Module-level functions: a fresh lambda per call would make every call compile again.
def vector_field(t, y, equations: Equations):
    """Return the drift of packed rows at time t."""
    rule = equations.rule
    unknowns = equations.unknowns(y)
    return equations.vector(
        rule.drift(equations.network, equations.inputs, unknowns, rule.factor(t))
    )


def max_norm(y):
    """Return the largest entry, infinite if there is a NaN."""
    # An RMS norm would be diluted by the passive rows of the bulk. NaN must count as infinite:
    # the next step would be NaN too, and no step after it would ever be accepted.
    return jnp.max(jnp.where(jnp.isnan(y), jnp.inf, jnp.abs(y)))


def is_huge(y):
    """Whether a number has grown beyond what can be followed, or is none."""
    return ~(jnp.max(jnp.abs(y)) < HUGE)


def smallest_scale(state: State):
    """Smallest non-zero root mean square among the parts of the rows, at most 1.

    Rows of a trained network are of order one, however large they began.
    """
    parts = [part for part in jax.tree.leaves((state.spikes, state.bulk)) if part.size]
    sizes = jnp.stack([jnp.sqrt(jnp.mean(jnp.square(part))) for part in parts])
    return jax.lax.stop_gradient(jnp.min(jnp.where(sizes > 0, sizes, 1.0), initial=1.0))


def default_atol(state: State, rtol):
    """The absolute tolerance that follows the problem: rtol × 0.1 × the smallest scale."""
    return 0.1 * rtol * smallest_scale(state)
