"""The theory: one problem and one state in, one curve out, through diffrax."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp

from odeae.activations import AbstractActivation
from odeae.checks import save_times, scalar, whole
from odeae.precision import Real, in_float64, is_traced
from odeae.problem import Problem, check_state
from odeae.rules import AbstractRule, generalisation_error
from odeae.spectrum import Eigenvalues, Spectrum
from odeae.state import Modes, State, densities, order_parameters
from odeae.trajectory import Status, Trajectory, settings_json

MAX_STEPS = 100_000
# Weights that have grown to this size count as diverged: products of four of them don't overflow.
HUGE = 1e50


class _Equations(eqx.Module):
    """What the vector field needs: nothing of size D, and no D that would make it compile again."""

    rule: AbstractRule
    activation: AbstractActivation
    rho: Eigenvalues
    trace: Real
    bias: bool = eqx.field(static=True)
    bins: Spectrum | None  # of the densities, if they are saved

    def unpack(self, y) -> tuple[Modes, Any]:
        """Rows and biases of the flat vector that diffrax integrates (one leaf is fastest)."""
        n = self.rho.spikes.shape[0] + self.rho.bulk.shape[0]
        hidden = y.shape[0] // (2 * n + self.bias)
        w, u = y[: n * hidden], y[n * hidden : 2 * n * hidden]
        modes = Modes(w.reshape(n, hidden), u.reshape(n, hidden))
        return modes, y[2 * n * hidden :] if self.bias else None

    def state(self, y) -> State:
        modes, bias = self.unpack(y)
        bias = jnp.zeros(modes.encoder.shape[1]) if bias is None else bias
        return State.from_rows(modes, self.rho.spikes.shape[0], bias)


def _pack(modes: Modes, bias) -> jax.Array:
    parts = [modes.encoder.ravel(), modes.decoder.ravel()]
    return jnp.concatenate(parts if bias is None else [*parts, bias])


# Module-level functions: a fresh lambda per call would make every call compile again.
def _vector_field(t, y, equations: _Equations):
    modes, bias = equations.unpack(y)
    rho = jnp.concatenate(equations.rho)
    return _pack(*equations.rule.drift(equations.activation, rho, modes, bias))


def _save(t, y, equations: _Equations):
    state = equations.state(y)
    saved = None if equations.bins is None else densities(state, equations.bins)
    return order_parameters(state, equations.rho), state.bias, saved


def _is_huge(t, y, equations: _Equations):
    return ~(jnp.max(jnp.abs(y)) < HUGE)


def _stop(t, y, equations: _Equations, **kwargs):
    modes, _ = equations.unpack(y)
    q = jnp.concatenate(equations.rho) @ jnp.square(modes.encoder)
    # A step can't end where the averages are not resolved, so stop just before.
    return ~equations.activation.resolves(1.001 * q) | _is_huge(t, y, equations)


def _max_norm(y):
    # An RMS norm would be diluted by the passive rows of the bulk. NaN must count as infinite:
    # the next step would be NaN too, and no step after it would ever be accepted.
    return jnp.max(jnp.where(jnp.isnan(y), jnp.inf, jnp.abs(y)))


@eqx.filter_jit
def _solve(equations, state, times, rtol, atol, solver, max_steps, adjoint, progress):
    y0 = _pack(state.rows(), state.bias if equations.bias else None)
    if atol is None:
        atol = 0.1 * rtol * _smallest_scale(state)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(_vector_field),
        solver,
        t0=0.0,
        t1=times[-1],
        dt0=None,
        y0=y0,
        args=equations,
        saveat=diffrax.SaveAt(
            subs=[
                diffrax.SubSaveAt(ts=times, fn=_save),
                diffrax.SubSaveAt(t1=True, fn=_is_huge),
            ]
        ),
        # The smallest step is only there to end a solve whose every step is NaN. Coefficients:
        # at equal error 15 % faster than diffrax's default, as hardly a step is rejected.
        stepsize_controller=diffrax.PIDController(
            rtol=rtol, atol=atol, norm=_max_norm, pcoeff=0.4, icoeff=0.3,
            dtmin=1e-100 * times[-1], force_dtmin=False,
        ),
        event=diffrax.Event(_stop),
        max_steps=max_steps,
        throw=False,
        adjoint=adjoint,
        progress_meter=progress,
    )  # fmt: skip
    assert solution.ys is not None
    assert solution.ts is not None
    (parameters, bias, saved), (is_huge,) = solution.ys
    reached, (stop_time,) = jnp.isfinite(solution.ts[0]), solution.ts[1]  # never saved: infinite
    result = solution.result
    event = result == diffrax.RESULTS.event_occurred
    status = jnp.select(
        [
            result == diffrax.RESULTS.successful,
            result == diffrax.RESULTS.max_steps_reached,
            event & ~is_huge,
        ],
        [Status.OK, Status.BUDGET, Status.UNRESOLVED],
        Status.DIVERGED,
    )
    parameters, bias, saved = jax.tree.map(
        lambda x: jnp.where(reached.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.nan),
        (parameters, bias, saved),
    )
    error = jax.vmap(
        lambda total, b: generalisation_error(
            equations.activation, total, b if equations.bias else None, equations.trace
        )
    )(parameters.total(), bias)
    return parameters, bias, saved, error, status, stop_time


@in_float64
def predict(
    problem: Problem,
    state: State,
    times: Any,
    rtol: Any = 1e-6,
    atol: Any = None,
    throw: bool = True,
    solver: diffrax.AbstractSolver | None = None,
    max_steps: int | None = None,
    densities: bool = False,
    *,
    adjoint: diffrax.AbstractAdjoint | None = None,
    progress: bool = False,
) -> Trajectory:
    """Integrate the closed equations of motion from `state` at t = 0 and save at `times`.

    `times` (T,): steps/D, increasing, from 0 on. `rtol`, `atol`: tolerances per entry of the rows,
    in the largest norm; `atol` defaults to rtol × 0.1 × the smallest scale of the initial rows.
    `solver`: any diffrax ODE solver, Tsit5 by default. `densities`: also save the densities.
    `adjoint`: how to differentiate, diffrax's reverse mode by default (`diffrax.ForwardMode()`
    for jvp). `progress`: a bar on stderr.

    Pure JAX: `jit`, `vmap` and `grad` go through it. A single problem that fails raises
    `RuntimeError` saying when and why, unless `throw=False`; the part of the curve that was
    reached is kept, with NaN after it, and `status` and `stop_time` say so. Batches never raise.

    Source: docs/theory.md §4 (Refinetti & Goldt 2022).
    """
    check_state(problem, state)
    times = save_times(times)
    rtol = scalar("rtol", rtol, above=0.0)
    if not is_traced(rtol) and rtol > 0.1:
        raise ValueError(f"`rtol` must be at most 0.1, got {float(rtol):g}")
    atol = None if atol is None else scalar("atol", atol, above=0.0)
    if solver is None:
        solver = diffrax.Tsit5()
    elif not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise ValueError(
            "`solver` must be a diffrax solver that estimates its error, such as diffrax.Dopri8() "
            f"or diffrax.Kvaerno5(), got {solver!r}"
        )
    max_steps = MAX_STEPS if max_steps is None else whole("max_steps", max_steps)
    full, autoencoder = problem.spectrum, problem.autoencoder
    spectrum = Spectrum(full.spikes, full.bulk, full.multiplicity)  # nothing of size D
    equations = _Equations(
        problem.rule,
        autoencoder.activation,
        spectrum.row_eigenvalues(autoencoder.hidden),
        spectrum.trace,
        autoencoder.bias,
        spectrum if densities else None,
    )
    parameters, bias, saved, error, status, stop_time = _solve(
        equations,
        state,
        times,
        rtol,
        atol,
        solver,
        max_steps,
        diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint,
        diffrax.TqdmProgressMeter() if progress else diffrax.NoProgressMeter(),
    )
    if is_traced((status, problem)):  # a batch must not copy a basis for every lane
        problem = eqx.tree_at(lambda p: p.spectrum, problem, spectrum)
    elif throw and (ended := Status(int(status))) is not Status.OK:
        message = ended.message(float(stop_time))
        raise RuntimeError(f"the solve {message}. In Python throw=False keeps the part before")
    return Trajectory(
        times,
        error,
        parameters,
        bias,
        status,
        stop_time,
        problem,
        densities=saved,
        initial=state,
        settings=settings_json(
            rtol=rtol, atol=atol, solver=type(solver).__name__, max_steps=max_steps
        ),
    )


def _smallest_scale(state: State):
    """Smallest non-zero root mean square among the parts of the rows, at most 1.

    Rows of a trained network are of order one, however large they began.
    """
    parts = [part for part in jax.tree.leaves((state.spikes, state.bulk)) if part.size]
    sizes = jnp.stack([jnp.sqrt(jnp.mean(jnp.square(part))) for part in parts])
    return jax.lax.stop_gradient(jnp.min(jnp.where(sizes > 0, sizes, 1.0), initial=1.0))
