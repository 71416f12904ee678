"""Many small problems of one shape at once: every lane has its own time, step and fate.

A solve of one small problem spends its time between instructions, not in them. Here the same
numbers of different problems (lanes) lie side by side, so that one vector instruction serves many,
while each lane takes the steps that it would take alone: step control, acceptance, failure and
saving are its own. A fixed number of slots is served from a queue: when a lane ends, the next one
takes its slot, so that no lane waits for a stiffer one. As no number of a lane depends on another
lane, its curve is the same, to the last bit, whoever its neighbours are.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from odeae.averages.closed import Erf, Linear, ReLU
from odeae.base.compiler import computed_once, loop_as_one_kernel
from odeae.base.precision import Real
from odeae.base.status import Status
from odeae.model.errors import excess_error, generalisation_error
from odeae.model.schedules import longest_step
from odeae.model.state import HUGE, Overlaps, State, total_overlaps
from odeae.theory.equations import LOST, Equations, mode_sizes, surroundings, vector_field
from odeae.theory.step_control import SMALLEST, StepControl, pid, tolerance

# What can be saved beside the error.
QUANTITIES = ("error", "excess", "error_clean", "Q1", "R1", "T1", "T0", "Q0", "bias")
# Numbers that slots hold on a CPU: XLA's cost per operation is small, and the stages of a step
# still fit into a core's cache. Larger problems are better solved one after another.
NUMBERS = 4096
FEWEST_SLOTS, MOST_SLOTS = 16, 64
ROUND = 8  # steps that all slots try for one round of diffrax's own book-keeping
# Rounds that lanes take together, unless one ends, before they queue: to save a time costs the same
# for one lane or all, and early steps pass many (they are usually spaced evenly in log t).
FIRST_ROUNDS = 16
IN_WORK = -1  # beside the values of `Status`
# A lane that after so many steps has more than so many before it, by its own step, is stiff. It
# keeps all slots waiting at the end: it's better off alone, or with an implicit solver.
PATIENCE, TOO_MANY = 256, 4096


class Lane(NamedTuple):
    """Where lanes stand, beside their rows: leaves (…, S), the lane axis last."""

    equations: Any
    t: Real
    k: Real  # (numbers, S) drift at t
    dt: Real  # next step
    control: Any  # of diffrax's step control
    atol: Real
    steps: Real  # steps tried
    saved: Real  # how many times are saved
    measured: Any  # leaves (T, …, S)
    status: Real


class Slots(NamedTuple):
    """Lanes in work, and the queue they come from: all n lanes, and the first that waits."""

    work: Lane  # S lanes
    number: Real = None  # (S,) which; n for none
    rows: Real = None  # (numbers, n)
    lanes: Lane | None = None  # n lanes
    waiting: Real = None


class Common(NamedTuple):
    """What all lanes share."""

    times: Real
    rtol: Real
    max_steps: Any
    too_many: Any = np.inf  # steps before a lane, when it leaves


class Here(NamedTuple):
    """Arguments of the vector field: whose it is and when, as diffrax knows no times of lanes."""

    equations: Any
    t: Real
    common: Common | None = None


def _field(_, y, here: Here):
    """The drift of every lane's rows y (numbers, S) at its own time."""
    equations, rule, factor = here.equations, here.equations.rule, 1.0
    if rule.schedule is not None:
        factor = jax.vmap(lambda schedule, t: schedule(t), in_axes=(-1, 0))(rule.schedule, here.t)
    unknowns = equations.unknowns(y)
    return equations.vector(rule.drift(equations.network, equations.inputs, unknowns, factor))


class Lanes(diffrax.AbstractSolver):
    """An explicit Runge-Kutta pair for lanes; diffrax's "time" counts rounds of steps.

    `pair`: the diffrax solver whose tableau and interpolation it takes. `measure` maps equations
    and rows (numbers, S) to what is saved, leaves (…, S).
    """

    pair: Any
    measure: Callable = eqx.field(static=True)

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar = diffrax.LocalLinearInterpolation

    def order(self, terms):
        """Return the order of the pair."""
        return self.pair.order(terms)

    def init(self, terms, t0, t1, y0, args):
        """Refuse: lanes begin where `solve_lanes` says."""
        raise NotImplementedError

    def func(self, terms, t0, y0, args):
        """Return the drift of the rows."""
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """Let every lane in work try `ROUND` steps, then serve the queue, if there is one."""
        if _is_alone(y0):
            y, slots = self._to_the_end(terms, y0, solver_state, args.common)
        else:

            def attempt(_, carry):
                y, work = carry
                return self._attempt(terms, y, work, args.common)

            y, work = jax.lax.fori_loop(0, ROUND, attempt, (y0, solver_state.work))
            slots: Slots = solver_state._replace(work=work)
        if slots.lanes is not None:
            y, slots = _serve(y, slots)
            done = jnp.all(slots.work.status != IN_WORK)
        else:  # the first that ends, ends the rounds together
            begun = solver_state.work.status == IN_WORK
            done = ~jnp.any(begun) | jnp.any(begun & (slots.work.status != IN_WORK))
        # Of the results that end a solve, events are found outside of the solver alone.
        results = diffrax.RESULTS
        result = results.where(done, results.max_steps_reached, results.successful)
        return y, None, dict(y0=y0, y1=y), slots, result

    def _to_the_end(self, terms, y, slots, common: Common):
        """Let a single lane try all its steps."""

        def going_on(carry):
            return carry[1].status[0] == IN_WORK

        def body(fixed, carry):
            (equations, common), (y, moving) = fixed, carry
            y, lane = self._attempt(terms, y, moving._replace(equations=equations), common)
            return y, lane._replace(equations=None)

        lane, moving = slots.work, slots.work._replace(equations=None)
        y, moving = loop_as_one_kernel(going_on, body, (lane.equations, common), (y, moving))
        return y, slots._replace(work=moving._replace(equations=lane.equations))

    def _attempt(self, terms, y, lane: Lane, common: Common):
        tableau, end = self.pair.tableau, common.times[-1]
        h = jnp.minimum(lane.dt, end - lane.t)
        new_t = jnp.where(h < lane.dt, end, lane.t + h)
        y1, stages = self._stages(terms, y, lane, h)
        error = h * _combined(tableau.b_error, stages)
        size = jnp.maximum(jnp.abs(y), jnp.abs(y1))
        around = surroundings(lane.equations, size)
        error = _largest(jnp.abs(error) / tolerance(size, around, common.rtol, lane.atol))
        keep, dt, control, alive = self._control(lane, new_t, error, end)
        finite = _largest(size) < HUGE
        accept = (lane.status == IN_WORK) & keep & finite
        measured, saved = self._save(y, lane, h, new_t, stages, accept, common.times)
        t, steps = jnp.where(accept, new_t, lane.t), lane.steps + 1
        leaves = (steps >= PATIENCE) & (end - t > common.too_many * dt)
        status = jnp.select(
            [accept & (t >= end), ~alive | (keep & ~finite), steps >= common.max_steps, leaves],
            [Status.OK, Status.DIVERGED, Status.BUDGET, Status.BUDGET],
            IN_WORK,
        )
        lane = lane._replace(
            t=t,
            k=jnp.where(accept, stages[-1], lane.k),
            dt=dt,
            control=control,
            steps=steps,
            saved=saved,
            measured=measured,
            status=jnp.where(lane.status == IN_WORK, status, lane.status),
        )
        return jnp.where(accept, y1, y), lane

    def _stages(self, terms, y, lane: Lane, h):
        """Return rows after a step h, and the drift at each of its stages."""
        tableau = self.pair.tableau
        if not _is_alone(y):
            y1, stages = y, [lane.k]
            for c, row in zip(tableau.c, tableau.a_lower, strict=True):
                y1 = _advanced(y, h, row, stages)
                stages.append(terms.vf(0.0, y1, Here(lane.equations, lane.t + c * h)))
            return y1, stages
        # For a single lane a loop is as fast as six copies, and compiles in a third of the time; 64
        # lanes would be slower by a seventh.
        count = len(tableau.c)
        matrix = jnp.asarray([np.pad(row, (0, count - len(row))) for row in tableau.a_lower])

        def stage(i, carry):
            _, stages = carry
            weights = jax.lax.dynamic_index_in_dim(matrix, i, 0, False)
            y1 = y + h * sum(weights[j] * stages[j] for j in range(count))
            c = jnp.asarray(tableau.c)[i]
            k = terms.vf(0.0, y1, Here(lane.equations, lane.t + c * h))
            return y1, jax.lax.dynamic_update_slice_in_dim(stages, k[None], i + 1, 0)

        stages = jnp.zeros((count + 1, *y.shape)).at[0].set(lane.k)
        y1, stages = jax.lax.fori_loop(0, count, stage, (y, stages))
        return y1, list(stages)

    def _control(self, lane: Lane, new_t, error, end):
        """Return what diffrax's own step control says to each lane's scaled error."""

        def of_lane(schedule, t, new_t, error, control):
            controller, zero = pid(0.0, 1.0, end, longest_step(schedule, end)), jnp.zeros(())
            order = self.pair.error_order(None)
            keep, t0, t1, _, control, result = controller.adapt_step_size(
                t, new_t, zero, zero, None, error, order, control
            )
            return keep, t1 - t0, control, result == diffrax.RESULTS.successful

        schedule = lane.equations.rule.schedule
        return jax.vmap(of_lane, in_axes=(-1, 0, 0, 0, 0))(
            schedule, lane.t, new_t, error, lane.control
        )

    def _save(self, y, lane: Lane, h, new_t, stages, accept, times):
        """Measure the lanes whose step passed a time, until none has passed another."""
        count, slot = times.shape[0], jnp.arange(h.shape[0])

        def due(saved):
            next_time = times[jnp.minimum(saved, count - 1)]
            return accept & (saved < count) & (next_time <= new_t), next_time

        def save(carry):
            measured, saved = carry
            is_due, next_time = due(saved)
            weights = _interpolation(self.pair, (next_time - lane.t) / h)
            at_time = _advanced(y, h, weights, stages)
            row = jnp.where(is_due, saved, count)

            def put(old, new):
                new = jnp.moveaxis(new, -1, 0)
                if _is_alone(y):  # and so it's due; a loop with a scatter can't be one kernel
                    new = jnp.moveaxis(new[None], 1, -1)
                    return jax.lax.dynamic_update_slice_in_dim(old, new, saved[0], 0)
                return old.at[row, ..., slot].set(new, mode="drop")

            new = self.measure(lane.equations, at_time)
            return jax.tree.map(put, measured, new), saved + is_due

        return jax.lax.while_loop(
            lambda carry: jnp.any(due(carry[1])[0]), save, (lane.measured, lane.saved)
        )


def _is_alone(y) -> bool:
    return y.shape[-1] == 1


def _interpolation(pair, theta):
    """Weights (stages, S) of the stages at fractions theta (S,) of a step."""
    stages = len(pair.tableau.b_sol)
    zero = jnp.zeros(stages)

    def weights(theta):
        unit = pair.interpolation_cls(t0=0.0, t1=1.0, y0=zero, y1=zero, k=jnp.eye(stages))
        return unit.evaluate(theta)

    return jax.vmap(weights, out_axes=-1)(theta)


def _advanced(y, h, weights, stages):
    """y + h Σ_i weights_i k_i."""
    return computed_once(lambda: y + h * _combined(weights, stages), y)


def _combined(weights, stages):
    """Σ_i weights_i k_i without the terms that are known to be 0."""
    return sum(
        weight * stage
        for weight, stage in zip(weights, stages, strict=True)
        if np.ndim(weight) or weight != 0.0
    )


def _largest(values):
    """Largest entry of each lane; NaN counts as infinite."""
    # XLA on a CPU reduces more than 32 rows by a slow detour.
    parts = [jnp.max(values[i : i + 32], axis=0) for i in range(0, values.shape[0], 32)]
    largest = jnp.max(jnp.stack(parts), axis=0)  # NaN if there is one
    return jnp.where(jnp.isnan(largest), jnp.inf, largest)


def _serve(y, slots: Slots) -> tuple[Real, Slots]:
    """Put back every lane that has ended, and give its slot to the next that waits."""
    assert slots.lanes is not None
    n = slots.rows.shape[-1]

    def ended(slots):
        return (slots.work.status != IN_WORK) & (slots.number < n)

    def serve(carry):
        y, slots = carry
        slot = jnp.argmax(ended(slots))
        number, waiting = slots.number[slot], slots.waiting

        def move(source, i, target, j):  # column i to column j
            def one(source, target):
                column = jax.lax.dynamic_index_in_dim(source, i, -1)
                return jax.lax.dynamic_update_slice_in_dim(target, column, j, -1)

            return jax.tree.map(one, source, target)

        lanes = move(slots.work, slot, slots.lanes, number)
        # Where none waits, the last lane comes again, as one that has ended.
        work = move(lanes, waiting, slots.work, slot)
        idle = jnp.where(waiting < n, work.status[slot], Status.OK)
        served = slots._replace(
            rows=move(y, slot, slots.rows, number),
            work=work._replace(status=work.status.at[slot].set(idle)),
            number=slots.number.at[slot].set(jnp.minimum(waiting, n)),
            lanes=lanes,
            waiting=waiting + 1,
        )
        return move(slots.rows, waiting, y, slot), served

    return jax.lax.while_loop(lambda carry: jnp.any(ended(carry[1])), serve, (y, slots))


def _begin(equations: Equations, state: State, start, common: Common, atol, pair, measure):
    """One lane at t = `start`: its rows, and where it stands."""
    y, end = equations.pack(state), common.times[-1]
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
        diffrax.ODETerm(_field),
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
) -> tuple[Any, Real, Real, Real]:  # fmt: skip
    """Integrate one problem as a single lane from t = `start`: `measure` of it at `times` (T, …).

    NaN where it did not come; then status, stop_time and the last rows (numbers,).
    """
    pair, common = diffrax.Tsit5(), Common(times, rtol, jnp.asarray(max_steps))
    with jax.numpy_rank_promotion("allow"):  # the lane axis aligns at the end
        begin = _begin(equations, state, start, common, atol, pair, measure)
        y, lane = jax.tree.map(lambda x: jnp.asarray(x)[..., None], begin)
        y, slots = _solve(pair, measure, y, Slots(lane), common, 1.0)
    lane = slots.work
    return _columns(lane.measured, 0), lane.status[0], lane.t[0], y[:, 0]


def in_lanes(equations: Equations, solver: Any) -> bool:
    """Whether such problems are solved side by side: small ones with closed averages."""
    network, rule = equations.network, equations.rule
    rows = equations.inputs.spikes.shape[0] + equations.inputs.bulk.shape[0]
    return (
        type(solver) is diffrax.Tsit5
        and network.hidden <= 8
        and rows * network.width <= NUMBERS // 8
        and isinstance(network.activation, Erf | ReLU | Linear)  # whose averages are by lanes
        and getattr(rule.schedule, "jumps", None) is None
        and not equations.diffusion
    )


def _slots(equations: Equations, n: int) -> int:
    """How many lanes are in work at once: whole vectors, as last bits would depend on parts."""
    if jax.default_backend() != "cpu":
        return -(-n // FEWEST_SLOTS) * FEWEST_SLOTS
    rows = equations.inputs.spikes.shape[0] + equations.inputs.bulk.shape[0]
    fit = NUMBERS // (rows * equations.network.width)
    return min(MOST_SLOTS, max(FEWEST_SLOTS, 1 << (fit.bit_length() - 1)))


def quantities(names: tuple[str, ...], equations: Equations, y: Real) -> dict[str, Real]:
    """The error and what else `names` says at rows y, of one problem or of lanes."""
    unknowns = equations.unknowns(y)
    total = total_overlaps(unknowns, equations.inputs)
    values = named_quantities(names, equations, total, unknowns.bias)
    if "excess" in names:
        assert equations.leading is not None
        values["excess"] = excess_error(
            equations.network, equations.inputs, equations.leading, unknowns
        )
    return values


def named_quantities(names, equations: Equations, total: Overlaps, bias) -> dict[str, Real]:
    """The same from order parameters, but for the excess."""
    network, inputs = equations.network, equations.inputs
    clean = eqx.tree_at(lambda o: o.Q1, total, total.Q1 - inputs.noise * inputs.dim * total.Q0)
    values = {"error": generalisation_error(network, total, bias, inputs.trace)}
    for name in names:
        if name == "error_clean":
            values[name] = generalisation_error(network, clean, bias, inputs.trace)
        elif name != "excess":
            values[name] = bias if name == "bias" else getattr(total, name)
    return values
