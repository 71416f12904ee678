"""Where simulated runs stand, to go on from."""

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np

from odeae.base.messages import counted
from odeae.base.precision import ArrayLike
from odeae.model.autoencoder import Weights


class Checkpoint(eqx.Module):
    """Where simulated runs stand: weights (runs, K, D), steps done, seed, kind of inputs.

    Pass it to `simulate(..., weights=...)` to go on exactly as if the runs had not been stopped.
    The weights are in the eigenbasis for Gaussian inputs; for real inputs in input space, because
    an eigenbasis that is computed again may have other signs. `about`: what the runs belong to,
    as JSON: their problem and data in few numbers, by which `simulate` knows them again.
    """

    weights: Weights
    step: int = eqx.field(static=True)
    seed: int = eqx.field(static=True)
    source: str = eqx.field(static=True)
    about: str = eqx.field(static=True, default="{}")

    def of_runs(self, index: int | slice) -> "Checkpoint":
        """The weights of one run (or of a slice of them), which `simulate` doesn't go on with.

        What a run draws depends on its place among the runs.
        """
        part = index if isinstance(index, slice) else slice(index, index + 1 or None)
        weights = jax.tree.map(lambda x: x[part], self.weights)
        about = json.dumps(json.loads(self.about) | {"part": str(index)})
        return dataclasses.replace(self, weights=weights, about=about)

    def __repr__(self):
        runs, hidden, dim = np.shape(self.weights.decoder)
        return (
            f"Checkpoint({counted(runs, 'run')} of {self.source}, K={hidden}, D={dim}, after "
            f"{counted(self.step, 'step')}, seed {self.seed})"
        )


if TYPE_CHECKING:
    GivenWeights = Checkpoint | tuple[ArrayLike | None, ...]  # Weights are such a tuple
else:
    GivenWeights = Any  # our own errors, which are written for people, come first
