"""The theory: one problem and one state in, one curve out, through diffrax."""

from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from odeae.base.checks import flag, scalar, whole
from odeae.base.messages import explains_arguments, shortened
from odeae.base.precision import Real, in_float64, is_traced, to_numpy
from odeae.base.status import Status
from odeae.base.times import save_times
from odeae.model.errors import excess_error, generalisation_error
from odeae.model.gradient_noise import refusal
from odeae.model.problem import Problem, check_state, leading_spikes
from odeae.model.schedules import check_schedule, jumps_before, longest_step
from odeae.model.spectrum import Spectrum
from odeae.model.state import (
    Components,
    OrderParameters,
    State,
    densities,
    field_variances,
    order_parameters,
)
from odeae.results.trajectory import Trajectory, settings_json
from odeae.theory.equations import (
    Equations,
    equations_of,
    is_huge,
    mode_sizes,
    surroundings,
    vector_field,
)
from odeae.theory.lanes import in_lanes, named_quantities, solve_lane
from odeae.theory.regime import warn_outside
from odeae.theory.regrowth import time_of_regrowth
from odeae.theory.resolvent import implicit_steps_pay, resolvent_of
from odeae.theory.rosenbrock import Rodas4
from odeae.theory.step_control import ROUNDING, ROUNDING_IMPLICIT, SMALLEST, StepControl

MAX_STEPS = 100_000
# A thousand implicit steps reach any time, and each costs as much as some 10 explicit ones, in wide
# networks as K²/3 (20 at K = 8, 75 at K = 16). By changing after about that cost, one pays a few
# times what the better choice would have at most.
EXPLICIT_STEPS, EXPLICIT_STEPS_BY_PAIRS = 10_000, 300
EXPLICIT = diffrax.Tsit5()
# Where it takes over by itself, Rodas4 follows a mode to this part of its size at that time.
FOLLOWED = 1e-3
LOST = 1e-140  # below this a mode counts as lost: no tolerance reaches further


class Solution(NamedTuple):
    """What a solve saved at its times, NaN where it did not come, and where it ended."""

    parameters: OrderParameters
    bias: Any
    densities: Any
    components: Any
    error: Any
    excess: Any
    sizes: Any  # (T, rows) largest weight of each row, None where there are very many
    status: Any
    stop_time: Any
    last: Any  # packed rows where the solver stopped, at `last_time`
    last_time: Any


def _measure(equations: Equations, y) -> tuple:
    """What a Solution begins with, at rows y; but for densities also of lanes."""
    state, inputs = equations.state(y), equations.inputs
    saved = along = None
    if equations.bins is not None:
        saved = densities(state, equations.bins, equations.network.width)
    if equations.components is not None:
        which = equations.components[:, None]
        w, u = state.spikes.encoder, state.spikes.decoder
        along = Components(*(jnp.take_along_axis(x, which, axis=0) for x in (w, u)))
    above = jnp.nan
    if equations.leading is not None:
        above = excess_error(
            equations.network, equations.inputs, equations.leading, equations.unknowns(y)
        )
    parameters = order_parameters(state, inputs)
    error = generalisation_error(equations.network, parameters.total(), state.bias, inputs.trace)
    sizes = mode_sizes(equations, jnp.abs(y)) if _is_small(y) else None
    return parameters, state.bias, saved, along, error, above, sizes


def _measured(equations: Equations, saved, times, reached, status, stop_time, last) -> Solution:
    """Solution of rows (T, numbers), or of what `_measure` made of them where they are many."""

    def where(kept, values, otherwise):
        return jax.tree.map(
            lambda x: jnp.where(kept.reshape(-1, *[1] * (x.ndim - 1)), x, otherwise), values
        )

    if _is_small(last):  # nothing is computed from what was not reached: its derivative is NaN
        saved = jax.vmap(lambda y: _measure(equations, y))(where(reached, saved, 0.0))
    # What can't be measured ends the curve, even if the solver found its rows in order.
    error = saved[Solution._fields.index("error")]
    good = reached & (jnp.cumsum(reached & ~jnp.isfinite(error)) == 0)
    broken = jnp.any(reached & ~good)
    ended = jnp.where(broken & (status == Status.OK), Status.DIVERGED, status)
    end = jnp.where(broken, jnp.max(jnp.where(good, times, 0.0)), stop_time)
    return Solution._make([*where(good, saved, jnp.nan), ended, end, last, stop_time])


def _is_small(y0) -> bool:
    """Whether rows are saved and measured at the end; many small matrices a save are slower."""
    return y0.shape[0] <= 2**16


def _save(t, y, equations: Equations):
    return y if _is_small(y) else _measure(equations, y)


def _whole(t, y, equations: Equations):
    return y


def _stop(t, y, equations: Equations, **kwargs):
    q = field_variances(equations.unknowns(y), equations.inputs)
    # A step can't end where the averages are not resolved, so stop just before.
    return ~equations.network.activation.resolves(1.001 * q) | is_huge(y)


def status_of(result: diffrax.RESULTS, last: Any) -> Any:
    """What became of a solve with events as `_stop`: of its result and its last unknowns."""
    return jnp.select(
        [
            result == diffrax.RESULTS.successful,
            result == diffrax.RESULTS.max_steps_reached,
            (result == diffrax.RESULTS.event_occurred) & ~is_huge(last),
        ],
        [Status.OK, Status.BUDGET, Status.UNRESOLVED],
        Status.DIVERGED,
    )


def solve_one(
    equations: Equations,
    y0: Any,
    t0: Any,
    times: Any,
    rtol: Any,
    atol: Any,
    solver: diffrax.AbstractSolver,
    max_steps: int,
    adjoint: diffrax.AbstractAdjoint | None = None,
    progress: diffrax.AbstractProgressMeter | None = None,
) -> Solution:
    """Solve from rows y0 at t0 by diffrax; of `times` (T,), those before t0 are not reached."""
    schedule, implicit = equations.rule.schedule, isinstance(solver, Rodas4)
    atol = SMALLEST * rtol if atol is None else atol
    if solver == Rodas4():
        solver = Rodas4(resolvent_of(equations))
    rounding = ROUNDING_IMPLICIT if implicit else ROUNDING
    longest = longest_step(schedule, times[-1])
    controller = StepControl(
        rtol=rtol,
        atol=atol,
        end=times[-1],
        longest=longest,
        around=surroundings,
        rounding=rounding,
    )
    jumps = jumps_before(schedule, times[-1])
    linear = solver.interpolation_cls is diffrax.LocalLinearInterpolation
    if linear or jumps is not None:
        controller = diffrax.ClipStepSizeController(
            controller, step_ts=times if linear else None, jump_ts=jumps
        )
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(vector_field),
        solver,
        t0=t0,
        t1=times[-1],
        dt0=None,
        y0=y0,
        args=equations,
        saveat=diffrax.SaveAt(
            subs=[
                diffrax.SubSaveAt(ts=jnp.maximum(times, t0), fn=_save),
                diffrax.SubSaveAt(t1=True, fn=_whole),
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
    saved, (last,) = solution.ys
    reached, (stop_time,) = jnp.isfinite(solution.ts[0]), solution.ts[1]  # never saved: infinite
    status = status_of(solution.result, last)
    reached = reached & (times >= t0)
    return _measured(equations, saved, times, reached, status, stop_time, last)


@eqx.filter_jit
def _solve(equations, state, start, times, rtol, atol, *how) -> Solution:
    return solve_one(equations, equations.pack(state), start, times, rtol, atol, *how)


@eqx.filter_jit
def _solve_as_lane(equations, state, start, times, rtol, atol, max_steps) -> Solution:
    """The same for a small problem without densities, faster, without derivatives."""
    saved, *ended = solve_lane(equations, state, start, times, rtol, atol, max_steps, _measure)
    status, stop_time, last = ended
    return Solution._make([*saved, status, stop_time, last, stop_time])


@eqx.filter_jit
def _go_on(equations, first: Solution, times, rtol, atol, max_steps) -> Solution:
    """Take up an explicit solve where it spent its steps, by an L-stable method.

    At equal error Rodas4 is as fast as Kvaerno5 with a new Jacobian for each Newton iteration; with
    the usual chord iterations that spends 20,000 steps by t = 1e7 (docs/theory.md 8).
    """
    rest = solve_one(equations, first.last, first.stop_time, times, rtol, atol, Rodas4(), max_steps)

    def joined(a, b):
        return jnp.where((times <= first.stop_time).reshape(-1, *[1] * (a.ndim - 1)), a, b)

    saved = Solution._fields[: Solution._fields.index("status")]
    parts = {
        name: jax.tree.map(joined, getattr(first, name), getattr(rest, name)) for name in saved
    }
    return rest._replace(**parts)


def _named(names, equations: Equations, done: Solution) -> tuple[dict[str, Real], Real]:
    """What is called for by name, (T, …), and the final excess."""
    values = jax.vmap(lambda total, bias: named_quantities(names, equations, total, bias))(
        done.parameters.total(), done.bias
    )
    return values | ({"excess": done.excess} if "excess" in names else {}), done.excess[-1]


@eqx.filter_jit
def solve_each(
    equations: Equations,
    states: State,
    times: Real,
    rtol: Real,
    atol: Real | None,
    solver: diffrax.AbstractSolver,
    max_steps: int,
    names: tuple[str, ...] = (),
) -> tuple[dict[str, Real], Real, Real, Real, Real]:
    """What `solve_lanes` returns, for any problems: one after another, as `predict` does."""

    def one(lane):
        equations, state = lane
        rows, start = equations.pack(state), state.start
        done = solve_one(equations, rows, start, times, rtol, atol, solver, max_steps)
        before, after = (mode_sizes(equations, jnp.abs(y)) for y in (rows, done.last))
        lost = jnp.any((before >= LOST) & (after < LOST))
        return *_named(names, equations, done), done.status, done.stop_time, lost

    first = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (equations, states))
    return jax.lax.map(one, first)


def solve_alone(
    equations: Equations, state: State, times: Real, rtol: Real, atol: Real | None,
    solver: diffrax.AbstractSolver | None, max_steps: int, names: tuple[str, ...] = (),
) -> tuple[dict[str, Real], Real, Real, Real]:  # fmt: skip
    """The same for one problem, as `predict` solves it, with an end where a mode was lost."""
    given = equations, state, state.start, times, rtol, atol
    done, _ = _solved(*given, solver, max_steps, None, None)
    return *eqx.filter_jit(_named)(names, equations, done), done.status, done.stop_time


def start_of(state: State, start_time: Any, times: Any) -> Real:
    """Return the time at which a solve of `state` starts.

    Raises `ValueError` if `times` begin before it.
    """
    start = state.start if start_time is None else scalar("start_time", start_time, at_least=0.0)
    if not is_traced((start, times)) and times[0] < start:
        whose = "`start_time`" if start_time is not None else "the state, which a curve ended in"
        raise ValueError(
            f"`times` must not begin before t={float(start):.6g}, the time of {whose}, got "
            f"{float(times[0]):.6g}; give later times, or start_time=0 to count anew"
        )
    return start


def check_solver(solver: Any) -> diffrax.AbstractSolver:
    """Return a solver that estimates its error, Tsit5 for None."""
    if solver is None:
        return EXPLICIT
    if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise ValueError(
            "`solver` must be odeae.Rodas4() or a diffrax solver that estimates its error, such as "
            f"diffrax.Dopri8(), got {shortened(solver)}"
        )
    return solver


def _without_basis(spectrum: Spectrum) -> Spectrum:
    """Return the same without what has the size of D."""
    return Spectrum(spectrum.spikes, spectrum.bulk, spectrum.multiplicity)


def explicit_steps(equations: Equations, max_steps: int) -> int:
    """How many of `max_steps` the explicit solver has before an implicit one takes over."""
    steps = max(EXPLICIT_STEPS, EXPLICIT_STEPS_BY_PAIRS * equations.network.hidden**2)
    return min(max_steps, steps) if implicit_steps_pay(equations) else max_steps


@in_float64
def _solved(
    equations, state, start, times, rtol, atol, solver, max_steps, adjoint, progress
) -> tuple[Solution, str]:
    """Solve, explicitly as long as that pays unless `solver` says how; and by which solvers."""
    given = equations, state.without_time(), start, times, rtol, atol

    def by(solver, budget):
        how = solver, budget, adjoint, progress
        return _solve(*given, *how), type(solver).__name__

    budget = explicit_steps(equations, max_steps)
    if solver is not None or is_traced(given):
        return _checked(equations, times, *by(EXPLICIT if solver is None else solver, max_steps))
    # With biases, one kernel compiles twice as long, and ReLU gains nothing by it.
    small = in_lanes(equations, EXPLICIT) and not equations.network.bias
    if small and all(x is None for x in (equations.bins, adjoint, progress)):
        done, name = _solve_as_lane(*given, np.asarray(budget)), type(EXPLICIT).__name__
    else:
        done, name = by(EXPLICIT, budget)
    if is_traced(done.status):  # nothing given is, but a caller is being traced
        return by(EXPLICIT, max_steps)
    if int(done.status) == Status.BUDGET and budget < max_steps:
        name = f"{name}, Rodas4 from t={float(done.stop_time):.4g}"
        first, rest = done, max_steps - budget
        size, floor = jnp.abs(first.last), atol
        if atol is None:
            # Most modes decay for ever, and to follow all of them takes 3 to 6 times the steps.
            floor = SMALLEST + rtol * FOLLOWED * surroundings(equations, size)
        done = _go_on(equations, first, times, rtol, floor, rest)
        limits = FOLLOWED * mode_sizes(equations, size)
        if atol is None and _regrown(equations, times, done, limits) is not None:
            done = _go_on(equations, first, times, rtol, SMALLEST * rtol, rest)
    return _checked(equations, times, done, name)


def _regrown(equations, times, done: Solution, limits) -> float | None:
    if done.sizes is None:
        return None
    parameters = done.parameters.total()
    return time_of_regrowth(equations, parameters, done.bias, times, done.sizes, limits)


def _checked(equations, times, done: Solution, name: str) -> tuple[Solution, str]:
    """Take back what a solve says of times at which it had lost a mode that would have grown."""
    if is_traced((done.status, equations, times)) or done.sizes is None:
        return done, name
    began = np.nanmax(np.asarray(done.sizes), axis=0, initial=0.0) > LOST
    if np.nanmin(np.asarray(done.sizes), initial=np.inf) >= LOST:
        return done, name
    t = _regrown(equations, times, done, np.where(began, LOST, 0.0))
    if t is None:
        return done, name

    def reached(x):
        return np.where((times <= t).reshape(-1, *[1] * (np.ndim(x) - 1)), x, np.nan)

    saved = Solution._fields[: Solution._fields.index("status")]
    parts = {name: jax.tree.map(reached, getattr(done, name)) for name in saved}
    parts |= {"status": np.asarray(int(Status.REGROWN)), "stop_time": np.asarray(t)}
    return done._replace(**parts), name


@explains_arguments
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
    start_time: Any = None,
    *,
    diffusion: bool = False,
    adjoint: diffrax.AbstractAdjoint | None = None,
    progress: bool = False,
) -> Trajectory:
    """Integrate the closed equations of motion from `state` and save at `times`.

    Pure JAX: `jit`, `vmap` and `grad` go through it. A single problem that fails raises
    `RuntimeError` saying when and why, unless `throw=False`; the part of the curve that was
    reached is kept, with NaN after it, and `status` and `stop_time` say so. Batches never raise.

    Example:
        `theory = odeae.predict(problem, odeae.random_state(problem), odeae.log_times(200))`; then
        `odeae.predict(problem, theory.final, [300.0, 400.0])` goes on from t = 200.

    Args:
        problem: What is trained, on what, how.
        state: Where it starts. The `final` state of another curve goes on from that curve's end,
            with the schedule at that time.
        times: (T,), steps/D, increasing, from `start_time` on.
        rtol: Error that a step may make in each entry of the rows, relative to the entry itself.
        atol: The same as an absolute error, which ends a plateau too early where a mode has decayed
            to that size; by default 1e-150 `rtol`. A mode that falls below the numbers of double
            precision and would grow again ends the curve with status REGROWN.
        throw: Whether a single problem that fails raises.
        solver: Any diffrax ODE solver that estimates its error. By default Tsit5, for a single
            curve up to 10,000 steps (300 K² if that is more); where more are needed `Rodas4` goes
            on, up to 16 neurons and, for K = 3, 8, 16 of them, 180,000, 13,000, 1800 modes (with
            diffusion 600 numbers). Under a transformation it is Tsit5 alone: for long times give
            `odeae.Rodas4()`.
        max_steps: Of all solvers together, 100,000 by default.
        densities: Whether to save the densities too.
        start_time: Time at which `state` stands, in steps/D; by default its own, 0 for a fresh one.
        diffusion: Whether to follow what the noise of SGD's steps adds to the encoder, which is of
            leading order where the input is corrupted at s² = O(D); without it that is the limit of
            small rates.
        adjoint: How to differentiate, diffrax's reverse mode by default (`diffrax.ForwardMode()`
            for jvp).
        progress: Whether to draw a bar on stderr, which costs the fast path and any cache on disk.

    Returns:
        The curve.

    Raises:
        ValueError: For arguments of wrong kinds or shapes.
        RuntimeError: If a single problem fails, unless `throw=False`.

    Source: docs/theory.md 4 and 5 (Refinetti & Goldt 2022).
    """
    # What is checked and made here, outside of double precision, must be NumPy's.
    if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((problem, state))):
        problem, state = to_numpy((problem, state))
    throw, densities = flag("throw", throw), flag("densities", densities)
    diffusion, progress = flag("diffusion", diffusion), flag("progress", progress)
    state = check_state(problem, state, diffusion)
    if diffusion and (reason := refusal(problem.autoencoder)):
        raise ValueError(reason)
    begin = state
    if diffusion and state.diffusion is None:
        none = np.zeros((problem.autoencoder.hidden,) * 2)
        begin = State(state.spikes, state.bulk, state.bias, none, state.time)
    times = save_times(times)
    start = start_of(state, start_time, times)
    rtol = scalar("rtol", rtol, above=0.0)
    if not is_traced(rtol) and rtol > 0.1:
        raise ValueError(f"`rtol` must be at most 0.1, got {float(rtol):g}")
    atol = None if atol is None else scalar("atol", atol, above=0.0)
    if solver is not None:
        check_solver(solver)
    max_steps = MAX_STEPS if max_steps is None else whole("max_steps", max_steps)
    check_schedule(problem.rule.schedule, times[-1])
    warn_outside(problem, times[-1], diffusion)
    bins = _without_basis(problem.spectrum) if densities else None
    equations = equations_of(problem, bins, leading_spikes(problem), diffusion)
    done, name = _solved(
        equations, begin, start, times, rtol, atol, solver, max_steps,
        adjoint, diffrax.TqdmProgressMeter() if progress else None,
    )  # fmt: skip
    status, stop_time = done.status, done.stop_time
    if is_traced((status, done.error)):  # a batch must not copy a basis for every lane
        spectrum = _without_basis(problem.spectrum)
        problem = eqx.tree_at(lambda p: p.spectrum, problem, spectrum)
    elif throw and (ended := Status(int(status))) is not Status.OK:
        message = ended.message(float(stop_time))
        raise RuntimeError(f"the solve {message}. In Python throw=False keeps the part before")
    return Trajectory(
        times,
        done.error,
        done.parameters,
        done.bias,
        status,
        stop_time,
        problem,
        densities=done.densities,
        components=done.components,
        above_pca=done.excess,
        initial=state,
        final=eqx.tree_at(
            lambda s: s.time,
            equations.state(done.last),
            done.last_time,
            is_leaf=lambda x: x is None,
        ),
        settings=settings_json(
            rtol=rtol,
            atol=atol,
            solver=name,
            max_steps=max_steps,
            diffusion=diffusion,
        ),
    )
