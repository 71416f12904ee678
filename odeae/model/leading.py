"""The modes that PCA keeps, and the rows that stand for the bulk."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.base.precision import Real, is_traced
from odeae.model.spectrum import Spectrum


class Leading(NamedTuple):
    """The spikes among the modes that PCA keeps.

    Attributes:
        index: Indices of the largest spikes, (n,), with n at most the rank.
        rest: How much modes of the bulk would raise the sum of the spikes' ρ̃ if they took the
            places of smaller spikes; 0 if these spikes are the largest modes of all.
    """

    index: Real
    rest: Real


def bulk_rows(spectrum: Spectrum, width: int) -> tuple[int, ...]:
    """Return how many rows stand for each bin: its modes, or `width` virtual rows if fewer.

    `width` is the number of independent columns of a row, `Autoencoder.width`.
    """
    return tuple(min(m, width) for m in spectrum.multiplicity)


def bulk_eigenvalues(spectrum: Spectrum, width: int) -> Float[Real, " rows"]:
    """Return the scaled eigenvalue ρ̃ = ρ/D of every row of the bulk, at most `width` per bin."""
    rows = bulk_rows(spectrum, width)
    return spectrum.bulk[np.repeat(np.arange(len(rows)), rows)] / spectrum.dim


def leading_modes(spectrum: Spectrum, rank: int) -> Leading:
    """Return the spikes among the modes that PCA of rank `rank` keeps."""
    xp = jnp if is_traced((spectrum.spikes, spectrum.bulk)) else np  # NumPy is faster for one call
    spikes, bins = xp.asarray(spectrum.spikes), bulk_eigenvalues(spectrum, rank)
    largest_first = xp.argsort(-spikes, stable=True)[:rank]
    chosen = xp.concatenate([spikes[largest_first], np.zeros(rank)])[:rank]
    best = -xp.sort(-xp.concatenate([spikes, bins, np.zeros(rank)]))[:rank]
    return Leading(largest_first, xp.sum(best - chosen))


def beyond_first_spikes(spectrum: Spectrum, rank: int) -> tuple[Real, Real]:
    """Return what a perfect map of the first `rank` spikes leaves, as an error and above PCA's.

    The second is exactly 0 where these spikes are the largest eigenvalues of all.
    """
    spikes, bulk = jnp.asarray(spectrum.spikes), jnp.asarray(spectrum.bulk) / spectrum.dim
    modes = np.asarray(spectrum.multiplicity, float)
    others = 0.5 * (jnp.sum(spikes[rank:]) + jnp.sum(bulk * modes))
    kept, leading = spikes[:rank], leading_modes(spectrum, rank)
    above = jnp.sum(-jnp.sort(-spikes)[:rank] + jnp.sort(-kept)) + leading.rest
    return others, 0.5 * above
