"""Ensembles: the same problem from many initial states, as a spectrum alone leaves them open."""

import json
from typing import Any

import equinox as eqx
import numpy as np

from odeae.checks import whole
from odeae.initial import random_state
from odeae.precision import in_float64
from odeae.prediction import predict
from odeae.problem import Problem
from odeae.trajectory import ENSEMBLE, Trajectory
from odeae.words import explains_arguments


@explains_arguments
@in_float64
def ensemble(
    problem: Problem,
    times: Any,
    members: int = 32,
    encoder_std: Any = None,
    decoder_std: Any = 0.1,
    bias: Any = 0.0,
    seed: int = 0,
    **options: Any,
) -> Trajectory:
    """Predict the curves of `members` random initial states; `odeae.plot` draws mean and band.

    The rows of the spikes are O(1) random numbers that don't average out, so that a spectrum alone
    fixes the distribution of curves (docs/theory.md §2). Member i starts from
    `random_state(problem, encoder_std, decoder_std, bias, seed + i)`. `options` are those of
    `predict`. Members that fail don't raise: look at `status`.

    Returns a `Trajectory` with a leading axis of members everywhere but in `times`.
    """
    members, seed = whole("members", members), whole("seed", seed, at_least=0)

    def member(seed):
        state = random_state(problem, encoder_std, decoder_std, bias, seed)
        return predict(problem, state, times, **options)

    curves = eqx.filter_vmap(member)(np.arange(seed, seed + members))
    known = json.loads(curves.settings) | {"members": members, "seed": seed}
    return Trajectory(
        curves.times[0],  # vmap gives every member its own copy of what they share
        curves.error,
        curves.order_parameters,
        curves.bias,
        curves.status,
        curves.stop_time,
        problem,
        densities=curves.densities,
        components=curves.components,
        initial=curves.initial,
        final=curves.final,
        source=ENSEMBLE,
        settings=json.dumps(known),
        above_pca=curves.above_pca,
    )
