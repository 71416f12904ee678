"""The modes that PCA keeps, and what becomes of the bulk's rows."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.base.precision import Real, is_traced
from odeae.model.spectrum import Spectrum


class Leading(NamedTuple):
    """Of the modes that PCA keeps: `index` (n,) of the largest spikes, n at most the rank.

    `rest`: by how much modes of the bulk would raise the sum of their ρ̃; 0 if these are the
    largest of all.
    """

    index: Real
    rest: Real


def bulk_rows(spectrum: Spectrum, width: int) -> tuple[int, ...]:
    """Rows that stand for each bin: its modes, or `width` virtual ones where those are fewer.

    `width`: how many independent columns a row has, `Autoencoder.width`.
    """
    return tuple(min(m, width) for m in spectrum.multiplicity)


def bulk_eigenvalues(spectrum: Spectrum, width: int) -> Float[Real, " rows"]:
    """Scaled eigenvalue ρ̃ = ρ/D of every row of the bulk, at most `width` of each bin."""
    rows = bulk_rows(spectrum, width)
    return spectrum.bulk[np.repeat(np.arange(len(rows)), rows)] / spectrum.dim


def leading_modes(spectrum: Spectrum, rank: int) -> Leading:
    """The spikes among the modes that PCA of rank `rank` keeps."""
    xp = jnp if is_traced((spectrum.spikes, spectrum.bulk)) else np  # NumPy's is faster at once
    spikes, bins = xp.asarray(spectrum.spikes), bulk_eigenvalues(spectrum, rank)
    largest_first = xp.argsort(-spikes, stable=True)[:rank]
    chosen = xp.concatenate([spikes[largest_first], np.zeros(rank)])[:rank]
    best = -xp.sort(-xp.concatenate([spikes, bins, np.zeros(rank)]))[:rank]
    return Leading(largest_first, xp.sum(best - chosen))
