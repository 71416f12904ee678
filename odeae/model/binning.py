"""Many eigenvalues as few bins that keep their moments."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from odeae.base.checks import array, warn, whole
from odeae.base.precision import Real, is_traced


def lump(values: np.ndarray, bins: int, rounding: float) -> tuple[np.ndarray, tuple[int, ...]]:
    """Mean eigenvalue and number of modes of at most `bins` bins of the descending `values`.

    Values that differ by no more than `grain_of` share a bin. If more are left, edges are
    equidistant in ∫ density^{1/3}, which makes the summed variance within bins minimal for many
    bins (Panter and Dite 1951).
    """
    if values.size == 0:
        return values, ()
    label = np.concatenate([[0], np.cumsum(values[:-1] - values[1:] > rounding)])
    if label[-1] >= bins:
        count = np.bincount(label)
        level = values[np.cumsum(count) - count]
        weight = np.cbrt(0.5 * (count[1:] + count[:-1])) * np.cbrt(level[:-1] - level[1:]) ** 2
        position = np.concatenate([[0.0], np.cumsum(weight)]) / np.sum(weight)
        bin_of = np.minimum((position * bins).astype(int), bins - 1)
        label = np.unique(bin_of, return_inverse=True)[1][label]  # without empty bins
    count = np.bincount(label)
    largest = values[np.cumsum(count) - count]  # offsets from it keep equal values exact
    bulk = largest + np.bincount(label, values - largest[label]) / count
    return bulk, tuple(int(n) for n in count)


def power_sums(first: np.ndarray, count: np.ndarray, exponent: Real) -> Real:
    """Σ τ^(−exponent) over each range first … first + count − 1.

    Short ranges are summed, long ones by the midpoint Euler–Maclaurin formula; those begin beyond
    τ = 64, where its remainder is below 1e-12 of the sum over all τ ≥ 1.
    """
    cut = np.clip(64 - first + 1, 0, count)  # terms to be summed one by one
    terms = np.arange(1.0, 65.0)
    inside = (terms >= first[:, None]) & (terms < (first + cut)[:, None])
    head = inside.astype(float) @ terms**-exponent
    low, high = first + cut - 0.5, first + count - 0.5
    log_ratio, slope = np.log(high / low), 1.0 - exponent
    integral = low**slope * log_ratio * _expm1_ratio(slope * log_ratio)
    s = exponent
    first_order = s * (high ** (-s - 1.0) - low ** (-s - 1.0)) / 24.0
    third = s * (s + 1.0) * (s + 2.0) * (high ** (-s - 3.0) - low ** (-s - 3.0))
    return head + jnp.where(count > cut, integral + first_order - 7.0 / 5760.0 * third, 0.0)


def _expm1_ratio(y: Real) -> Real:
    """(eʸ − 1)/y, by its series near 0, where the quotient and its derivative would cancel."""
    small = jnp.abs(y) < 0.1
    series = 1.0
    for n in range(11, 1, -1):
        series = 1.0 + jnp.where(small, y, 0.0) / n * series
    large = jnp.where(small, 1.0, y)
    return jnp.where(small, series, jnp.expm1(large) / large)


def dimension_of(dim: Any, at_least: int = 1) -> int:
    """Return the input dimension as an int; sums of float64 count modes exactly up to 2^53."""
    dim = whole("dim", dim, at_most=2**53)
    if dim < at_least:
        raise ValueError(f"`dim` must be at least the number of spikes, {at_least}, got {dim}")
    return dim


def eigenvalues_of(
    name: str, values: Any, *, may_be_empty: bool = False, grain: float = np.finfo(float).eps
) -> Real:
    """Return finite, non-negative eigenvalues as a float64 vector; rounding below 0 becomes 0.

    `grain`: relative rounding of what they were computed from, `grain_of`.
    """
    values = array(name, values, (None,))
    if values.size == 0 and not may_be_empty:
        raise ValueError(f"`{name}` must hold at least one eigenvalue, got an empty list")
    if is_traced(values) or values.size == 0 or values.min() >= 0.0:
        return values
    single, double = float(np.finfo(np.float32).eps), float(np.finfo(float).eps)
    size = values.size * np.abs(values).max()
    i = int(np.argmin(values))
    if values[i] < -max(grain, 100.0 * double) * size or values.max() <= 0.0:
        hint = ""
        if -single * size <= values[i] and values.max() > 0.0:
            hint = "; if it is float32's rounding, pass float32 numbers, and it is set to 0"
        raise ValueError(f"`{name}` must not be negative, got {values[i]:g} at index {i}{hint}")
    warn(
        f"{int(np.sum(values < 0))} values of `{name}` are negative by rounding (down to "
        f"{values[i]:.2g}, {-values[i] / values.max():.2g} of the largest) and were set to 0"
    )
    return np.maximum(values, 0.0)
