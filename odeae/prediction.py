"""The theory: one problem and one state in, one curve out, through diffrax."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from odeae.autoencoder import Autoencoder
from odeae.checks import save_times, scalar, whole
from odeae.diffusion import refusal
from odeae.precision import Real, in_float64, is_traced
from odeae.problem import Problem, check_state, leading_spikes
from odeae.rules import AbstractRule, generalisation_error
from odeae.schedules import check_schedule, jump_times, longest_step
from odeae.spectrum import Spectrum
from odeae.state import (
    Components,
    Inputs,
    OrderParameters,
    State,
    densities,
    field_variances,
    order_parameters,
)
from odeae.trajectory import Status, Trajectory, settings_json

MAX_STEPS = 100_000
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

    def pack(self, state: State) -> jax.Array:
        """The flat vector that diffrax integrates (one leaf is fastest)."""
        parts = [self.network.pack(state.rows())]
        if self.network.bias:
            parts.append(state.bias)
        if state.diffusion is not None:
            parts.append(state.diffusion.ravel())
        return jnp.concatenate(parts) if len(parts) > 1 else parts[0]

    def state(self, y) -> State:
        """Return the state of what `pack` made."""
        hidden, width = self.network.hidden, self.network.width
        split = self.inputs.spikes.shape[0]
        rows = split + self.inputs.bulk.shape[0]
        modes = self.network.unpack(y[: rows * width], rows)
        rest = y[rows * width :]
        bias = rest[:hidden] if self.network.bias else jnp.zeros((hidden, *y.shape[1:]))
        added = rest[-(hidden**2) :].reshape(hidden, hidden) if self.diffusion else None
        return State.from_rows(modes, split, bias, added)


# Module-level functions: a fresh lambda per call would make every call compile again.
def vector_field(t, y, equations: Equations):
    """Return the drift of packed rows at time t."""
    rule = equations.rule
    drift = rule.drift(equations.network, equations.inputs, equations.state(y), rule.factor(t))
    return equations.pack(drift)


def _measure(y, equations: Equations):
    state = equations.state(y)
    saved = along = None
    if equations.bins is not None:
        saved = densities(state, equations.bins, equations.network.width)
    if equations.components is not None:
        which = equations.components
        along = Components(state.spikes.encoder[which], state.spikes.decoder[which])
    return order_parameters(state, equations.inputs), state.bias, saved, along


def _is_small(y0) -> bool:
    """Whether rows are saved and measured at the end; many small matrices a save are slower."""
    return y0.shape[0] <= 2**16


def _save(t, y, equations: Equations):
    return y if _is_small(y) else _measure(y, equations)


def _is_huge(t, y, equations: Equations):
    return ~(jnp.max(jnp.abs(y)) < HUGE)


def _stop(t, y, equations: Equations, **kwargs):
    q = field_variances(equations.state(y), equations.inputs)
    # A step can't end where the averages are not resolved, so stop just before.
    return ~equations.network.activation.resolves(1.001 * q) | _is_huge(t, y, equations)


def max_norm(y):
    """Return the largest entry, infinite if there is a NaN."""
    # An RMS norm would be diluted by the passive rows of the bulk. NaN must count as infinite:
    # the next step would be NaN too, and no step after it would ever be accepted.
    return jnp.max(jnp.where(jnp.isnan(y), jnp.inf, jnp.abs(y)))


def solve_one(
    equations: Equations,
    state: State,
    times: Any,
    rtol: Any,
    atol: Any,
    solver: diffrax.AbstractSolver,
    max_steps: int,
    adjoint: diffrax.AbstractAdjoint | None = None,
    progress: diffrax.AbstractProgressMeter | None = None,
) -> tuple[OrderParameters, Any, Any, Any, Any, Any, Any]:
    """One solve: order parameters, biases, densities, components, error, status, stop time."""
    y0, schedule = equations.pack(state), equations.rule.schedule
    if atol is None:
        atol = 0.1 * rtol * smallest_scale(state)
    # The smallest step is only there to end a solve whose every step is NaN. Coefficients: at
    # equal error 15 % faster than diffrax's default, as hardly a step is rejected.
    controller = diffrax.PIDController(
        rtol=rtol, atol=atol, norm=max_norm, pcoeff=0.4, icoeff=0.3,
        dtmin=1e-100 * times[-1], force_dtmin=False, dtmax=longest_step(schedule, times[-1]),
    )  # fmt: skip
    jumps = jump_times(schedule)
    if jumps is not None:
        controller = diffrax.ClipStepSizeController(controller, jump_ts=jumps)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(vector_field),
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
        stepsize_controller=controller,
        event=diffrax.Event(_stop),
        max_steps=max_steps,
        throw=False,
        adjoint=diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint,
        progress_meter=diffrax.NoProgressMeter() if progress is None else progress,
    )
    assert solution.ys is not None
    assert solution.ts is not None
    saved, (is_huge,) = solution.ys
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

    def where_reached(values, otherwise):
        return jax.tree.map(
            lambda x: jnp.where(reached.reshape(-1, *[1] * (x.ndim - 1)), x, otherwise), values
        )

    if _is_small(y0):  # nothing is computed from what was not reached: its derivative would be NaN
        saved = jax.vmap(lambda y: _measure(y, equations))(where_reached(saved, 0.0))
    parameters, bias, at_modes, along = where_reached(saved, jnp.nan)
    error = jax.vmap(
        lambda total, b: generalisation_error(equations.network, total, b, equations.inputs.trace)
    )(parameters.total(), bias)
    return parameters, bias, at_modes, along, error, status, stop_time


@eqx.filter_jit
def _solve(*args):
    return solve_one(*args)


def check_solver(solver: Any) -> diffrax.AbstractSolver:
    """Return a solver that estimates its error, Tsit5 for None."""
    if solver is None:
        return diffrax.Tsit5()
    if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise ValueError(
            "`solver` must be a diffrax solver that estimates its error, such as diffrax.Dopri8() "
            f"or diffrax.Kvaerno5(), got {solver!r}"
        )
    return solver


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
    diffusion: bool = False,
    adjoint: diffrax.AbstractAdjoint | None = None,
    progress: bool = False,
) -> Trajectory:
    """Integrate the closed equations of motion from `state` at t = 0 and save at `times`.

    `times` (T,): steps/D, increasing, from 0 on. `rtol`, `atol`: tolerances per entry of the rows,
    in the largest norm; `atol` defaults to rtol × 0.1 × the smallest scale of the initial rows.
    `solver`: any diffrax ODE solver, Tsit5 by default. `densities`: also save the densities.
    `diffusion`: also follow what the noise of SGD's steps adds to the encoder, which is of leading
    order where the input is corrupted at s² = O(D); without it that is the limit of small rates.
    `adjoint`: how to differentiate, diffrax's reverse mode by default (`diffrax.ForwardMode()`
    for jvp). `progress`: a bar on stderr.

    Pure JAX: `jit`, `vmap` and `grad` go through it. A single problem that fails raises
    `RuntimeError` saying when and why, unless `throw=False`; the part of the curve that was
    reached is kept, with NaN after it, and `status` and `stop_time` say so. Batches never raise.

    Source: docs/theory.md §4 and §5 (Refinetti & Goldt 2022).
    """
    check_state(problem, state)
    if diffusion and (reason := refusal(problem.autoencoder)):
        raise ValueError(reason)
    hidden = problem.autoencoder.hidden
    begin = State(
        state.spikes, state.bulk, state.bias, np.zeros((hidden,) * 2) if diffusion else None
    )
    times = save_times(times)
    rtol = scalar("rtol", rtol, above=0.0)
    if not is_traced(rtol) and rtol > 0.1:
        raise ValueError(f"`rtol` must be at most 0.1, got {float(rtol):g}")
    atol = None if atol is None else scalar("atol", atol, above=0.0)
    solver = check_solver(solver)
    max_steps = MAX_STEPS if max_steps is None else whole("max_steps", max_steps)
    check_schedule(problem.rule.schedule, times[-1])
    full = problem.spectrum
    spectrum = Spectrum(full.spikes, full.bulk, full.multiplicity)  # nothing of size D
    equations = Equations(
        problem.rule,
        problem.autoencoder,
        problem.inputs(),
        spectrum if densities else None,
        leading_spikes(problem),
        diffusion,
    )
    parameters, bias, saved, along, error, status, stop_time = _solve(
        equations,
        begin,
        times,
        rtol,
        atol,
        solver,
        max_steps,
        adjoint,
        diffrax.TqdmProgressMeter() if progress else None,
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
        components=along,
        initial=state,
        settings=settings_json(
            rtol=rtol,
            atol=atol,
            solver=type(solver).__name__,
            max_steps=max_steps,
            diffusion=diffusion,
        ),
    )


def smallest_scale(state: State):
    """Smallest non-zero root mean square among the parts of the rows, at most 1.

    Rows of a trained network are of order one, however large they began.
    """
    parts = [part for part in jax.tree.leaves((state.spikes, state.bulk)) if part.size]
    sizes = jnp.stack([jnp.sqrt(jnp.mean(jnp.square(part))) for part in parts])
    return jax.lax.stop_gradient(jnp.min(jnp.where(sizes > 0, sizes, 1.0), initial=1.0))
