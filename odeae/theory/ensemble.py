"""Ensembles: the same problem from many initial states, as a spectrum alone leaves them open."""

import dataclasses
import json
from typing import Any

import diffrax
import equinox as eqx
import jax
import numpy as np

from odeae.base.checks import flag, whole
from odeae.base.messages import explains_arguments
from odeae.base.precision import ArrayLike, in_float64, is_traced
from odeae.base.times import save_times
from odeae.model.initial import random_state
from odeae.model.problem import Problem, sizes
from odeae.results.several import ENSEMBLE, SHARED
from odeae.results.trajectory import Trajectory
from odeae.theory.predict import predict


@explains_arguments
@in_float64
def ensemble(
    problem: Problem,
    times: ArrayLike,
    members: int = 32,
    encoder_std: ArrayLike | None = None,
    decoder_std: ArrayLike = 0.1,
    bias: ArrayLike = 0.0,
    seed: int = 0,
    *,
    rtol: ArrayLike = 1e-6,
    atol: ArrayLike | None = None,
    solver: diffrax.AbstractSolver[Any] | None = None,
    max_steps: int | None = None,
    densities: bool = False,
    diffusion: bool = False,
) -> Trajectory:
    """Predict the curves of `members` random initial states; `odeae.plot` draws mean and band.

    The rows of the spikes are O(1) random numbers that don't average out, so that a spectrum alone
    fixes the distribution of curves (docs/theory.md 2). Each member is solved as `predict` solves
    it, also over long times. Members that fail don't raise: look at `status`.

    Example:
        `odeae.plot(odeae.ensemble(problem, odeae.log_times(200), members=64))`

    Args:
        problem: What is trained, on what, how.
        times: (T,), steps/D.
        members: How many; member i starts from `random_state(problem, encoder_std, decoder_std,
            bias, seed + i)`.
        encoder_std: As in `random_state`; so are `decoder_std`, `bias` and `seed`.
        decoder_std: As in `random_state`.
        bias: As in `random_state`.
        seed: Of the first member.
        rtol: As in `predict`; so are the other arguments.
        atol: As in `predict`.
        solver: As in `predict`.
        max_steps: As in `predict`.
        densities: As in `predict`.
        diffusion: As in `predict`.

    Returns:
        A `Trajectory` with a leading axis of members everywhere but in `times`.

    Raises:
        ValueError: For arguments of wrong kinds or shapes.
    """
    sizes(problem)
    members = whole("members", members)
    seed = whole("seed", seed, at_least=0, at_most=2**63 - members)
    densities, diffusion = flag("densities", densities), flag("diffusion", diffusion)
    times = save_times(times)
    need = 8 * members * np.size(times) * 10 * problem.autoencoder.hidden**2
    if need > 16 * 2**30:
        raise ValueError(
            f"`members` = {members} curves of {np.size(times)} times need about "
            f"{need / 2**30:.0f} GiB; give fewer, or sweep over `seed` with a store"
        )
    options = {
        "rtol": rtol, "atol": atol, "solver": solver, "max_steps": max_steps,
        "densities": densities, "diffusion": diffusion, "throw": False,
    }  # fmt: skip

    def member(seed):
        state = random_state(problem, encoder_std, decoder_std, bias, seed)
        return predict(problem, state, times, **options)

    def parts(curve):
        names = [field.name for field in dataclasses.fields(curve) if field.name not in SHARED]
        return {name: getattr(curve, name) for name in names}

    seeds = range(seed, seed + members)
    if is_traced((problem, times, encoder_std, decoder_std, bias, rtol, atol)):
        first, solvers = eqx.filter_vmap(member)(np.array(seeds)), {}
        stacked = parts(first)
        times = first.times[0]
    else:  # one by one, as only then a solve may change its solver, and no slower
        curves = [member(i) for i in seeds]
        first, times = curves[0], curves[0].times
        stacked = jax.tree.map(lambda *x: np.stack(x), *map(parts, curves))
        own = [curve.stats["solver"] for curve in curves]
        solvers = {"solver": own} if len(set(own)) > 1 else {}
    known = json.loads(first.settings) | {"members": members, "seed": seed} | solvers
    return Trajectory(
        times=times, problem=problem, source=ENSEMBLE, settings=json.dumps(known), **stacked
    )
