"""Sums over modes and over neurons, of one problem or of lanes of them.

Arrays of one problem end in modes and neurons, (N, K) or (K, K). A batch of small problems, called
lanes, adds one axis at the end, (N, K, L). Neighbours in memory are then the same number of
different problems. Elementwise formulas serve both layouts; these functions do the other sums. One
problem uses matrix products. Lanes are summed neuron by neuron, because the compiler turns such
sums into vector instructions over lanes, which it does not do for small batched matrix products.
"""

import jax.numpy as jnp
import numpy as np

from odeae.base.precision import Real


def diagonal(pairs: Real) -> Real:
    """Return the entries (k, k) of pairs (K, K) as (K,)."""
    if pairs.ndim == 2:
        return jnp.diagonal(pairs)
    return jnp.stack([pairs[k, k] for k in range(pairs.shape[0])])


def gram(a: Real, b: Real, weights: Real | None = None) -> Real:
    """Return Σ_n weights_n a_nk b_nl of rows (N, K) and (N, L), as (K, L)."""
    weighted = a if weights is None else weights[:, None] * a
    if a.ndim == 2:
        return weighted.T @ b
    return jnp.stack([jnp.sum(weighted[:, k, None] * b, axis=0) for k in range(a.shape[1])])


def mixed(rows: Real, pairs: Real) -> Real:
    """Return Σ_a rows_na pairs_ka of rows (N, K) and pairs (K, K), as (N, K)."""
    if rows.ndim == 2:
        return rows @ pairs.T
    return sum(rows[:, a, None] * pairs[None, :, a] for a in range(rows.shape[1]))


def on_diagonal(values: Real) -> Real:
    """Return pairs (K, K) with `values` (K,) on the diagonal and 0 elsewhere."""
    eye = np.eye(values.shape[0])
    return eye.reshape(eye.shape + (1,) * (values.ndim - 1)) * values[None]


def lower(pairs: Real) -> Real:
    """Return pairs (K, K) with 0 above the diagonal."""
    mask = np.tril(np.ones(pairs.shape[:2], bool))
    return jnp.where(mask.reshape(mask.shape + (1,) * (pairs.ndim - 2)), pairs, 0.0)
