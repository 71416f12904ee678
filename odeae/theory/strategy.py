"""Which solver solves what, for how many steps, and when another goes on."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from odeae.base.messages import shortened
from odeae.base.precision import Real, in_float64, is_traced
from odeae.base.status import Status
from odeae.model.state import State
from odeae.theory.equations import LOST, Equations, mode_sizes, surroundings
from odeae.theory.quantities import named_quantities
from odeae.theory.queue import in_lanes, solve_lane
from odeae.theory.regrowth import time_of_regrowth
from odeae.theory.resolvent import implicit_steps_pay
from odeae.theory.rosenbrock import Rodas4
from odeae.theory.solve import Solution, measure, solve_one
from odeae.theory.step_control import SMALLEST

MAX_STEPS = 100_000


# A thousand implicit steps reach any time, and each costs as much as some 10 explicit ones, in wide
# networks as K²/3 (20 at K = 8, 75 at K = 16). By changing after about that cost, one pays a few
# times what the better choice would have at most.
EXPLICIT_STEPS, EXPLICIT_STEPS_BY_PAIRS = 10_000, 300


EXPLICIT = diffrax.Tsit5()


# Where it takes over by itself, Rodas4 follows a mode to this part of its size at that time.
FOLLOWED = 1e-3


@eqx.filter_jit
def _solve(equations, state, start, times, rtol, atol, *how) -> Solution:
    return solve_one(equations, equations.layout.pack(state), start, times, rtol, atol, *how)


@eqx.filter_jit
def _solve_as_lane(equations, state, start, times, rtol, atol, max_steps) -> Solution:
    """The same for a small problem without densities, faster, without derivatives."""
    saved, *ended = solve_lane(equations, state, start, times, rtol, atol, max_steps, measure)
    status, stop_time, last, steps = ended
    return Solution._make([*saved, status, stop_time, last, stop_time, steps])


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
    return rest._replace(**parts, steps=first.steps + rest.steps)


def _named(names, equations: Equations, done: Solution) -> tuple[dict[str, Real], Real]:
    """Return the requested quantities, each (T, …), and the excess at the last time."""
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
        rows, start = equations.layout.pack(state), state.start
        done = solve_one(equations, rows, start, times, rtol, atol, solver, max_steps)
        before, after = (mode_sizes(equations, jnp.abs(y)) for y in (rows, done.last))
        lost = jnp.any((before >= LOST) & (after < LOST))
        return *_named(names, equations, done), done.status, done.stop_time, lost

    first = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (equations, states))
    return jax.lax.map(one, first)


def solve_alone(
    equations: Equations, state: State, times: Real, rtol: Real, atol: Real | None,
    solver: diffrax.AbstractSolver[Any] | None, max_steps: int, names: tuple[str, ...] = (),
) -> tuple[dict[str, Real], Real, Real, Real]:  # fmt: skip
    """Solve one problem as `predict` does; a curve that lost a growing mode ends there."""
    given = equations, state, state.start, times, rtol, atol
    done, _ = solved_by_strategy(*given, solver, max_steps, None, None)
    return *eqx.filter_jit(_named)(names, equations, done), done.status, done.stop_time


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


def explicit_steps(equations: Equations, max_steps: int) -> int:
    """How many of `max_steps` the explicit solver has before an implicit one takes over."""
    steps = max(EXPLICIT_STEPS, EXPLICIT_STEPS_BY_PAIRS * equations.network.hidden**2)
    return min(max_steps, steps) if implicit_steps_pay(equations) else max_steps


@in_float64
def solved_by_strategy(
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
