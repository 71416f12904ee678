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

from odeae.base.compiler import computed_once, loop_as_one_kernel
from odeae.base.precision import Real
from odeae.base.status import Status
from odeae.model.schedules import longest_step
from odeae.model.state import HUGE
from odeae.theory.equations import surroundings
from odeae.theory.step_control import pid, tolerance

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
    """Arguments of the vector field, with each lane's own time: diffrax has one for all lanes."""

    equations: Any
    t: Real
    common: Common | None = None


def lane_field(_, y, here: Here):
    """The drift of every lane's rows y (numbers, S) at its own time."""
    equations, rule, factor = here.equations, here.equations.rule, 1.0
    if rule.schedule is not None:
        factor = jax.vmap(lambda schedule, t: schedule(t), in_axes=(-1, 0))(rule.schedule, here.t)
    layout = equations.layout
    return layout.pack(rule.drift(equations.network, equations.inputs, layout.unpack(y), factor))


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
        # A solver can't report an event, so `max_steps_reached` ends diffrax's loop.
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


ROUND = 8  # steps that all slots try for one round of diffrax's own book-keeping


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
        # If none waits, the slot gets a finished copy of the last lane, which does nothing.
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
