"""Many small problems, solved in the slots of one batch; who is done makes room."""

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from odeae.base.precision import Real
from odeae.base.status import Status
from odeae.model.schedules import longest_step
from odeae.model.state import State
from odeae.theory.equations import LOST, Equations, mode_sizes, surroundings, vector_field
from odeae.theory.lanes import FIRST_ROUNDS, IN_WORK, Common, Here, Lane, Lanes, Slots, lane_field
from odeae.theory.quantities import quantities
from odeae.theory.step_control import SMALLEST, StepControl

# Numbers that slots hold on a CPU: XLA's cost per operation is small, and the stages of a step
# still fit into a core's cache. Larger problems are better solved one after another.
NUMBERS = 4096


FEWEST_SLOTS, MOST_SLOTS = 16, 64


def _begin(equations: Equations, state: State, start, common: Common, atol, pair, measure):
    """One lane at t = `start`: its rows, and where it stands."""
    y, end = equations.layout.pack(state), common.times[-1]
    if atol is None:
        atol = SMALLEST * common.rtol
    terms = diffrax.ODETerm(vector_field)
    longest = longest_step(equations.rule.schedule, end)
    first, control = StepControl(
        rtol=common.rtol, atol=atol, end=end, longest=longest, around=surroundings
    ).init(terms, start, end, y, None, equations, pair.func, pair.error_order(terms))
    first = jnp.maximum(first - start, jnp.spacing(start))
    now = measure(equations, y)
    at_start = (jnp.arange(common.times.shape[0]) == 0) & (common.times[0] == start)

    def saved_at_start(x):
        return jnp.where(at_start.reshape(-1, *[1] * x.ndim), x[None], jnp.nan)

    lane = Lane(
        equations=equations,
        t=start,
        k=vector_field(start, y, equations),
        dt=first,
        control=control,
        atol=jnp.asarray(atol, float),
        steps=jnp.zeros((), int),
        saved=at_start[0].astype(int),
        measured=jax.tree.map(saved_at_start, now),
        # Where rows or rates are not finite there is no first step.
        status=jnp.select(
            [end == start, ~jnp.isfinite(first)], [Status.OK, Status.DIVERGED], IN_WORK
        ),
    )
    return y, lane


def _columns(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda x: x[..., index], tree)


def _solve(pair, measure, y, slots: Slots, common: Common, rounds) -> tuple[Real, Slots]:
    """Integrate the lanes in work: for some rounds, or until the queue is empty."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lane_field),
        Lanes(pair, measure),
        t0=0.0,
        t1=rounds,
        dt0=1.0,
        y0=y,
        args=Here(slots.work.equations, slots.work.t, common),
        solver_state=slots,
        saveat=diffrax.SaveAt(t1=True, solver_state=True),
        stepsize_controller=diffrax.ConstantStepSize(),
        max_steps=None,
        adjoint=diffrax.ForwardMode(),
        throw=False,
    )
    assert solution.ys is not None
    assert solution.solver_state is not None
    return solution.ys[0], solution.solver_state


def solve_lanes(
    equations: Equations,
    states: State,
    count: Any,
    times: Real,
    rtol: Real,
    atol: Real | None,
    max_steps: Any,
    names: tuple[str, ...] = (),
    slots: int | None = None,
    too_many: Any = np.inf,
) -> tuple[dict[str, Real], Real, Real, Real, Real]:
    """Integrate lanes of one shape and measure each at `times` (T,), each from its state's time.

    Leaves of `equations` and `states` have the lane axis, of size n, last; lanes from `count` on
    only fill up the size that is compiled. `names`: what is saved beside the error. `too_many`: a
    lane with so many steps before it leaves as one that has spent its steps. Returns what is saved,
    each (n, T, …), NaN where a lane did not come; final excess, status and stop_time (n,); and
    whether a mode has decayed to less than `LOST` (n,), so that the curve can't be trusted unless
    `time_of_regrowth` finds that it would not have come back.
    """
    pair, common = diffrax.Tsit5(), Common(times, rtol, max_steps, too_many)
    n = jax.tree.leaves(states)[0].shape[-1]
    slots = _slots(equations, n) if slots is None else min(n, slots)

    def measure(equations, y):
        return quantities(names, equations, y)

    with jax.numpy_rank_promotion("allow"):  # the lane axis aligns at the end
        y, lanes = jax.vmap(
            lambda equations, state: _begin(
                equations, state, jnp.asarray(state.start, float), common, atol, pair, measure
            ),
            in_axes=-1,
            out_axes=-1,
        )(equations, states)
        # The last group is made full by lanes that have ended already.
        groups = -(-n // slots)
        padding = jnp.minimum(jnp.arange(groups * slots), n - 1)
        began = y
        y, lanes = _columns((y, lanes), padding)
        extra = jnp.arange(padding.shape[0]) >= jnp.minimum(count, n)
        lanes = lanes._replace(status=jnp.where(extra, Status.OK, lanes.status))

        def first_rounds(group):
            y, slots = _solve(pair, measure, group[0], Slots(group[1]), common, float(FIRST_ROUNDS))
            return y, slots.work

        def grouped(x):
            return jnp.moveaxis(x.reshape(*x.shape[:-1], groups, slots), -2, 0)

        def joined(x):
            return jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], groups * slots)

        y, lanes = jax.tree.map(
            joined, jax.lax.map(first_rounds, jax.tree.map(grouped, (y, lanes)))
        )
        # Long ones first, so that no slot works alone at the end; those that have ended, last.
        ahead = jnp.where(lanes.status == IN_WORK, (times[-1] - lanes.t) / lanes.dt, -1.0)
        order = jnp.argsort(-ahead)
        y, lanes = _columns((y, lanes), order)
        number = jnp.arange(slots)
        queue = Slots(_columns(lanes, number), number, y, lanes, jnp.asarray(slots))
        _, queue = _solve(pair, measure, y[:, number], queue, common, 1e15)
    assert queue.lanes is not None
    rows, lanes = _columns((queue.rows, queue.lanes), jnp.argsort(order)[:n])
    values = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), lanes.measured)
    with jax.numpy_rank_promotion("allow"):
        final = quantities(("excess",), equations, rows)["excess"]
        before, after = (mode_sizes(equations, jnp.abs(x)) for x in (began, rows))
    lost = jnp.any((before >= LOST) & (after < LOST), axis=0)
    final = jnp.where(lanes.status == Status.OK, final, jnp.nan)
    return values, final, lanes.status, lanes.t, lost


def solve_lane(
    equations: Equations, state: State, start: Any, times: Any, rtol: Any, atol: Any,
    max_steps: Any, measure: Callable,
) -> tuple[Any, Real, Real, Real, Real]:  # fmt: skip
    """Integrate one problem as a single lane from t = `start`: `measure` of it at `times` (T, …).

    NaN where it did not come; then status, stop_time, the last rows (numbers,) and steps tried.
    """
    pair, common = diffrax.Tsit5(), Common(times, rtol, jnp.asarray(max_steps))
    with jax.numpy_rank_promotion("allow"):  # the lane axis aligns at the end
        begin = _begin(equations, state, start, common, atol, pair, measure)
        y, lane = jax.tree.map(lambda x: jnp.asarray(x)[..., None], begin)
        y, slots = _solve(pair, measure, y, Slots(lane), common, 1.0)
    lane = slots.work
    return _columns(lane.measured, 0), lane.status[0], lane.t[0], y[:, 0], lane.steps[0]


def in_lanes(equations: Equations, solver: Any) -> bool:
    """Whether such problems are solved side by side: small ones with closed averages."""
    network, rule = equations.network, equations.rule
    return (
        type(solver) is diffrax.Tsit5
        and network.hidden <= 8
        and equations.layout.numbers <= NUMBERS // 8
        and network.activation.by_lanes
        and getattr(rule.schedule, "jumps", None) is None
        and not equations.diffusion
    )


def _slots(equations: Equations, n: int) -> int:
    """How many lanes are in work at once: whole vectors, as last bits would depend on parts."""
    if jax.default_backend() != "cpu":
        return -(-n // FEWEST_SLOTS) * FEWEST_SLOTS
    fit = NUMBERS // equations.layout.numbers
    return min(MOST_SLOTS, max(FEWEST_SLOTS, 1 << (fit.bit_length() - 1)))
