"""One solve by diffrax: what it saves, where it stops, what its end means."""

from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp

from odeae.base.status import Status
from odeae.model.errors import excess_error, generalisation_error
from odeae.model.schedules import jumps_before, longest_step
from odeae.model.state import (
    Components,
    OrderParameters,
    densities,
    field_variances,
    order_parameters,
)
from odeae.theory.equations import Equations, is_huge, mode_sizes, surroundings, vector_field
from odeae.theory.resolvent import resolvent_of
from odeae.theory.rosenbrock import Rodas4
from odeae.theory.step_control import ROUNDING, ROUNDING_IMPLICIT, SMALLEST, StepControl


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
    steps: Any  # that were tried


def measure(equations: Equations, y) -> tuple:
    """Measure the first fields of `Solution` at a packed state; of lanes without densities too."""
    state, inputs = equations.layout.unpack(y), equations.inputs
    saved = along = None
    if equations.bins is not None:
        saved = densities(state, equations.bins, equations.network.width)
    if equations.components is not None:
        which = equations.components[:, None]
        w, u = state.rows.encoder, state.rows.decoder
        along = Components(*(jnp.take_along_axis(x, which, axis=0) for x in (w, u)))
    above = jnp.nan
    if equations.leading is not None:
        above = excess_error(equations.network, inputs, equations.leading, state)
    parameters = order_parameters(state, inputs)
    error = generalisation_error(equations.network, parameters.total(), state.bias, inputs.trace)
    sizes = mode_sizes(equations, jnp.abs(y)) if _is_small(y) else None
    return parameters, state.bias, saved, along, error, above, sizes


def _measured(
    equations: Equations, saved, times, reached, status, stop_time, last, steps
) -> Solution:
    """Build the Solution. `saved`: packed states (T, numbers) if they are small, else measured."""

    def where(kept, values, otherwise):
        return jax.tree.map(
            lambda x: jnp.where(kept.reshape(-1, *[1] * (x.ndim - 1)), x, otherwise), values
        )

    if _is_small(last):  # nothing is computed from what was not reached: its derivative is NaN
        saved = jax.vmap(lambda y: measure(equations, y))(where(reached, saved, 0.0))
    # What can't be measured ends the curve, even if the solver found its rows in order.
    error = saved[Solution._fields.index("error")]
    good = reached & (jnp.cumsum(reached & ~jnp.isfinite(error)) == 0)
    broken = jnp.any(reached & ~good)
    ended = jnp.where(broken & (status == Status.OK), Status.DIVERGED, status)
    end = jnp.where(broken, jnp.max(jnp.where(good, times, 0.0)), stop_time)
    ends = (ended, end, last, stop_time, steps)
    return Solution._make([*where(good, saved, jnp.nan), *ends])


def _is_small(y0) -> bool:
    """Whether rows are saved and measured at the end; many small matrices a save are slower."""
    return y0.shape[0] <= 2**16


def _save(t, y, equations: Equations):
    return y if _is_small(y) else measure(equations, y)


def _whole(t, y, equations: Equations):
    return y


def _stop(t, y, equations: Equations, **kwargs):
    q = field_variances(equations.layout.unpack(y), equations.inputs)
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
    steps = solution.stats["num_steps"]
    return _measured(equations, saved, times, reached, status, stop_time, last, steps)
