"""The theory: one problem and one state in, one curve out, through diffrax."""

import dataclasses
from typing import Any

import diffrax
import jax
import numpy as np

from odeae.base.checks import flag, scalar, tolerance, whole
from odeae.base.messages import explains_arguments
from odeae.base.precision import ArrayLike, Real, is_traced, to_numpy
from odeae.base.status import Status
from odeae.base.times import save_times
from odeae.model.gradient_noise import refusal
from odeae.model.problem import Problem, check_state, leading_spikes
from odeae.model.schedules import check_schedule
from odeae.model.state import State
from odeae.results.trajectory import Trajectory, settings_json
from odeae.theory.equations import equations_of
from odeae.theory.regime import warn_outside
from odeae.theory.strategy import MAX_STEPS, check_solver, solved_by_strategy


def start_of(state: State, start_time: ArrayLike | None, times: Real) -> Real:
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


@explains_arguments
def predict(
    problem: Problem,
    state: State,
    times: ArrayLike,
    rtol: ArrayLike = 1e-6,
    atol: ArrayLike | None = None,
    throw: bool = True,
    solver: diffrax.AbstractSolver[Any] | None = None,
    max_steps: int | None = None,
    densities: bool = False,
    start_time: ArrayLike | None = None,
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
        begin = dataclasses.replace(state, diffusion=none)
    saved = save_times(times)
    start = start_of(state, start_time, saved)
    relative = tolerance(rtol)
    absolute = None if atol is None else scalar("atol", atol, above=0.0)
    if solver is not None:
        check_solver(solver)
    max_steps = MAX_STEPS if max_steps is None else whole("max_steps", max_steps)
    check_schedule(problem.rule.schedule, saved[-1])
    warn_outside(problem, saved[-1], diffusion)
    bins = problem.without_basis().spectrum if densities else None
    equations = equations_of(problem, bins, leading_spikes(problem), diffusion)
    done, name = solved_by_strategy(
        equations, begin, start, saved, relative, absolute, solver, max_steps,
        adjoint, diffrax.TqdmProgressMeter() if progress else None,
    )  # fmt: skip
    status, stop_time = done.status, done.stop_time
    if is_traced((status, done.error)):  # a batch must not copy a basis for every lane
        problem = problem.without_basis()
    elif throw and (ended := Status(int(status))) is not Status.OK:
        message = ended.message(float(stop_time))
        raise RuntimeError(f"the solve {message}. In Python throw=False keeps the part before")
    return Trajectory(
        saved,
        done.error,
        done.parameters,
        done.bias,
        status,
        stop_time,
        problem,
        densities=done.densities,
        components=done.components,
        above_pca=done.excess,
        steps=done.steps,
        initial=state,
        final=dataclasses.replace(equations.layout.unpack(done.last), time=done.last_time),
        settings=settings_json(
            rtol=relative,
            atol=absolute,
            solver=name,
            max_steps=max_steps,
            diffusion=diffusion,
        ),
    )
