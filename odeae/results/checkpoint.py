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
    """Where simulated runs stand.

    Pass it to `simulate(..., weights=...)` to go on exactly as if the runs had not been stopped.

    Attributes:
        weights: W and V (runs, K, D), biases (runs, K), output bias (runs, D) or None: in the
            eigenbasis for Gaussian inputs; for real inputs in input space, because an eigenbasis
            that is computed again may have other signs.
        step: Steps done.
        seed: Seed of inputs and initial weights.
        source: The kind of inputs.
        about: The problem and the data in few numbers, as JSON, by which `simulate` knows the runs
            again.

    Example:
        >>> later = odeae.simulate(problem, None, [21.0, 25.0], weights=runs.weights)
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
        runs = list(range(len(self.weights.bias)))
        if runs[part] == runs:
            return self
        about = json.dumps(json.loads(self.about) | {"part": runs[part]})
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
