"""The theory: one problem and one state in, one curve out, through diffrax."""

from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from odeae.checks import save_times, scalar, whole
from odeae.diffusion import refusal
from odeae.equations import (
    Equations,
    default_atol,
    equations_of,
    is_huge,
    max_norm,
    vector_field,
)
from odeae.excess import excess_error
from odeae.lanes import in_lanes, named_quantities, solve_lane
from odeae.precision import Real, in_float64, is_traced, to_numpy
from odeae.problem import Problem, check_state, leading_spikes
from odeae.resolvent import implicit_steps_pay, resolvent_of
from odeae.rosenbrock import Rodas4
from odeae.rules import generalisation_error
from odeae.schedules import check_schedule, jump_times, longest_step
from odeae.spectrum import Spectrum
from odeae.state import (
    Components,
    OrderParameters,
    State,
    densities,
    field_variances,
    order_parameters,
)
from odeae.trajectory import Status, Trajectory, settings_json

MAX_STEPS = 100_000
# A thousand implicit steps reach any time, and each costs as much as some 10 explicit ones, in wide
# networks as K²/3 (20 at K = 8, 75 at K = 16). By changing after about that cost, one pays a few
# times what the better choice would have at most.
EXPLICIT_STEPS, EXPLICIT_STEPS_BY_PAIRS = 10_000, 300
EXPLICIT = diffrax.Tsit5()


class Solution(NamedTuple):
    """What a solve saved at its times, NaN where it did not come, and where it ended."""

    parameters: OrderParameters
    bias: Any
    densities: Any
    components: Any
    error: Any
    excess: Any
    status: Any
    stop_time: Any
    last: Any  # packed rows at `stop_time`


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
    return parameters, state.bias, saved, along, error, above


def _measured(equations: Equations, saved, reached, status, stop_time, last) -> Solution:
    """Solution of rows (T, numbers), or of what `_measure` made of them where they are many."""

    def where_reached(values, otherwise):
        return jax.tree.map(
            lambda x: jnp.where(reached.reshape(-1, *[1] * (x.ndim - 1)), x, otherwise), values
        )

    if _is_small(last):  # nothing is computed from what was not reached: its derivative is NaN
        saved = jax.vmap(lambda y: _measure(equations, y))(where_reached(saved, 0.0))
    return Solution._make([*where_reached(saved, jnp.nan), status, stop_time, last])


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
    schedule = equations.rule.schedule
    if solver == Rodas4():
        solver = Rodas4(resolvent_of(equations))
    # The smallest step is only there to end a solve whose every step is NaN. Coefficients: at
    # equal error 15 % faster than diffrax's default, as hardly a step is rejected.
    controller = diffrax.PIDController(
        rtol=rtol, atol=atol, norm=max_norm, pcoeff=0.4, icoeff=0.3,
        dtmin=1e-100 * times[-1], force_dtmin=False, dtmax=longest_step(schedule, times[-1]),
    )  # fmt: skip
    jumps = jump_times(schedule)
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
    return _measured(equations, saved, reached & (times >= t0), status, stop_time, last)


@eqx.filter_jit
def _solve(equations, state, times, rtol, atol, *how) -> Solution:
    atol = default_atol(state, rtol) if atol is None else atol
    return solve_one(equations, equations.pack(state), 0.0, times, rtol, atol, *how)


@eqx.filter_jit
def _solve_as_lane(equations, state, times, rtol, atol, max_steps) -> Solution:
    """The same for a small problem without densities, faster, without derivatives."""
    saved, *ended = solve_lane(equations, state, times, rtol, atol, max_steps, _measure)
    return Solution(*saved, *ended)


@eqx.filter_jit
def _go_on(equations, state, first: Solution, times, rtol, atol, max_steps) -> Solution:
    """Take up an explicit solve from `state` where it spent its steps, by an L-stable method.

    At equal error Rodas4 is as fast as Kvaerno5 with a new Jacobian for each Newton iteration; with
    the usual chord iterations that spends 20,000 steps by t = 1e7 (docs/theory.md §8).
    """
    atol = default_atol(state, rtol) if atol is None else atol
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
) -> tuple[dict[str, Real], Real, Real, Real]:
    """What `solve_lanes` returns, for any problems: one after another, as `predict` does."""

    def one(lane):
        equations, state = lane
        floor = default_atol(state, rtol) if atol is None else atol
        start = equations.pack(state)
        done = solve_one(equations, start, 0.0, times, rtol, floor, solver, max_steps)
        return *_named(names, equations, done), done.status, done.stop_time

    first = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (equations, states))
    return jax.lax.map(one, first)


def solve_alone(
    equations: Equations, state: State, times: Real, rtol: Real, atol: Real | None, max_steps: int,
    names: tuple[str, ...] = (),
) -> tuple[dict[str, Real], Real, Real, Real]:  # fmt: skip
    """The same for one problem, by the solvers that `predict` chooses."""
    done, _ = _solved(equations, state, times, rtol, atol, None, max_steps, None, None)
    return *eqx.filter_jit(_named)(names, equations, done), done.status, done.stop_time


def check_solver(solver: Any) -> diffrax.AbstractSolver:
    """Return a solver that estimates its error, Tsit5 for None."""
    if solver is None:
        return EXPLICIT
    if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise ValueError(
            "`solver` must be odeae.Rodas4() or a diffrax solver that estimates its error, such as "
            f"diffrax.Dopri8(), got {solver!r}"
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
    equations, state, times, rtol, atol, solver, max_steps, adjoint, progress
) -> tuple[Solution, str]:
    """Solve, explicitly as long as that pays unless `solver` says how; and by which solvers."""

    def by(solver, budget):
        done = _solve(equations, state, times, rtol, atol, solver, budget, adjoint, progress)
        return done, type(solver).__name__

    given = equations, state, times, rtol, atol
    budget = explicit_steps(equations, max_steps)
    if solver is not None or is_traced(given):
        return by(EXPLICIT if solver is None else solver, max_steps)
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
        done = _go_on(equations, state, done, times, rtol, atol, max_steps - budget)
    return done, name


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
    `solver`: any diffrax ODE solver that estimates its error. By default Tsit5, for a single curve
    up to 10,000 steps (300 K² if that is more); where more are needed `Rodas4` goes on, up to 16
    neurons and, for K = 3, 8, 16 of them, 180,000, 13,000, 1800 modes (with diffusion 600 numbers).
    Under a transformation it is Tsit5 alone: for long times give `odeae.Rodas4()`. `max_steps`: of
    all solvers together, 100,000 by default. `densities`: also save the densities.
    `diffusion`: also follow what the noise of SGD's steps adds to the encoder, which is of leading
    order where the input is corrupted at s² = O(D); without it that is the limit of small rates.
    `adjoint`: how to differentiate, diffrax's reverse mode by default (`diffrax.ForwardMode()`
    for jvp). `progress`: a bar on stderr, which costs the fast path and any cache on disk.

    `final` of the result goes on: as `state` of another call, whose times count from there, and
    those of its schedule.

    Pure JAX: `jit`, `vmap` and `grad` go through it. A single problem that fails raises
    `RuntimeError` saying when and why, unless `throw=False`; the part of the curve that was
    reached is kept, with NaN after it, and `status` and `stop_time` say so. Batches never raise.

    Source: docs/theory.md §4 and §5 (Refinetti & Goldt 2022).
    """
    # What is checked and made here, outside of double precision, must be NumPy's.
    if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((problem, state))):
        problem, state = to_numpy((problem, state))
    check_state(problem, state, diffusion)
    if diffusion and (reason := refusal(problem.autoencoder)):
        raise ValueError(reason)
    begin = state
    if diffusion and state.diffusion is None:
        none = np.zeros((problem.autoencoder.hidden,) * 2)
        begin = State(state.spikes, state.bulk, state.bias, none)
    times = save_times(times)
    rtol = scalar("rtol", rtol, above=0.0)
    if not is_traced(rtol) and rtol > 0.1:
        raise ValueError(f"`rtol` must be at most 0.1, got {float(rtol):g}")
    atol = None if atol is None else scalar("atol", atol, above=0.0)
    if solver is not None:
        check_solver(solver)
    max_steps = MAX_STEPS if max_steps is None else whole("max_steps", max_steps)
    check_schedule(problem.rule.schedule, times[-1])
    bins = _without_basis(problem.spectrum) if densities else None
    equations = equations_of(problem, bins, leading_spikes(problem), diffusion)
    done, name = _solved(
        equations, begin, times, rtol, atol, solver, max_steps,
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
        final=equations.state(done.last),
        settings=settings_json(
            rtol=rtol,
            atol=atol,
            solver=name,
            max_steps=max_steps,
            diffusion=diffusion,
        ),
    )
