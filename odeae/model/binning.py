"""Eigenvalues as spikes and a few bins that keep the mean; spectra given by a law; PCA errors."""

import jax
import jax.numpy as jnp
import numpy as np

from odeae.base.checks import array, warn, whole
from odeae.base.messages import counted, shortened
from odeae.base.precision import ArrayLike, Real, in_float64, is_known, is_traced

# Eigenvalues that differ by less, relative to the largest, count as equal: eigh tears them apart.
_ROUNDING = 1e-13


def lump(values: np.ndarray, bins: int, rounding: float) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return the mean eigenvalue and the number of modes of at most `bins` bins.

    `values` fall. Neighbours that differ by no more than `rounding` share a bin. If more different
    values are left than bins, edges are equidistant in ∫ density^{1/3}, which makes the summed
    variance within bins minimal for many bins (Panter and Dite 1951).
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


def spikes_and_bins(
    rho: Real, spikes: int | None, bins: int
) -> tuple[Real, Real, tuple[int, ...], Real | None]:
    """Return spikes ρ/D, bulk ρ, multiplicities and the order of eigenvalues ρ.

    `spikes` and `bins` mean the same as in `Spectrum.from_eigenvalues`. The order is None if ρ
    falls.
    """
    dim, bins = rho.shape[0], whole("bins", bins)
    if is_traced(rho):
        if spikes != dim:
            raise ValueError(
                f"under jit, vmap or grad `spikes` must be {dim}, the number of eigenvalues "
                f"(bins depend on the values), got {spikes}"
            )
        order = jnp.argsort(-rho)
        return rho[order] / dim, np.zeros(0), (), order
    rounding = _ROUNDING * rho.max()
    if spikes is None:
        lower, upper = np.quantile(rho, [0.25, 0.75])
        spikes = int(np.sum(rho > upper + 3.0 * (upper - lower) + rounding))
    spikes = whole("spikes", spikes, at_least=0)
    if spikes > dim:
        raise ValueError(f"`spikes` must be at most the number of eigenvalues, {dim}, got {spikes}")
    order = np.argsort(-rho, kind="stable")
    values = rho[order]
    bulk, multiplicity = lump(values[spikes:], bins, rounding)
    falling = np.array_equal(order, np.arange(dim))
    return values[:spikes] / dim, bulk, multiplicity, None if falling else order


def power_law_bins(
    dim: int, exponent: Real, variance: Real, spikes: int, bins: int
) -> tuple[Real, Real, tuple[int, ...]]:
    """Return spikes ρ/D, bulk ρ and multiplicities of ρ_τ ∝ τ^(−exponent) of mean `variance`."""
    edges = np.unique(np.geomspace(spikes + 1, dim + 1, bins + 1).round().astype(np.int64))
    first, count = edges[:-1], np.diff(edges)
    single = jnp.arange(1.0, spikes + 1.0) ** -exponent
    total = power_sums(first, count, exponent)
    norm = variance * dim / (single.sum() + total.sum())
    return norm * single / dim, norm * total / count, tuple(int(n) for n in count)


def marchenko_pastur_bins(
    modes: int, gamma: float, bins: int
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return bulk and multiplicities of the Marchenko–Pastur law of variance 1, for `modes` modes.

    ρ = 1 + γ + 2√γ cos φ turns the law into 2 sin²φ/(πρ) dφ on [0, π]. The trace up to φ is then
    (φ − sin φ cos φ)/π, and the number of modes is a sum over 64 points per bin.
    """
    phi = np.linspace(0.0, np.pi, 64 * bins + 1)
    middle = 0.5 * (phi[1:] + phi[:-1])
    density = np.sin(middle) ** 2 / (1.0 + gamma + 2.0 * np.sqrt(gamma) * np.cos(middle))
    share = np.concatenate([[0.0], np.cumsum(density)]) / np.sum(density)
    trace = (phi - np.sin(phi) * np.cos(phi)) / np.pi
    positive = max(1, round(modes * min(1.0, 1.0 / gamma)))
    cut = np.unique(np.round(positive * share[::64]).astype(np.int64))
    bulk = modes * np.diff(np.interp(cut / positive, share, trace)) / np.diff(cut)
    multiplicity = [int(n) for n in np.diff(cut)]
    if positive < modes:
        bulk, multiplicity = np.append(bulk, 0.0), [*multiplicity, modes - positive]
    return bulk, tuple(multiplicity)


def power_sums(first: np.ndarray, count: np.ndarray, exponent: Real) -> Real:
    """Return Σ τ^(−exponent) over each range first … first + count − 1.

    Terms up to τ = 64 are summed one by one. Beyond, the midpoint Euler–Maclaurin formula is used,
    whose remainder there is below 1e-12 of the sum over all τ ≥ 1.
    """
    cut = np.clip(64 - first + 1, 0, count)  # terms that are summed one by one
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
    """Return (eʸ − 1)/y, by its series near 0, where the quotient and its derivative cancel."""
    small = jnp.abs(y) < 0.1
    series = 1.0
    for n in range(11, 1, -1):
        series = 1.0 + jnp.where(small, y, 0.0) / n * series
    large = jnp.where(small, 1.0, y)
    return jnp.where(small, series, jnp.expm1(large) / large)


@in_float64
def pca_errors(spikes: Real, bulk: Real, multiplicity: tuple[int, ...], ranks: np.ndarray) -> Real:
    """Return the PCA errors ½ Σ_{τ>k} ρ_τ/D of `ranks` k, with an axis in front for lanes."""
    dim = spikes.shape[-1] + sum(multiplicity)

    def one(spikes: Real, bulk: Real) -> Real:
        values = jnp.concatenate([spikes, bulk / dim])
        counts = jnp.asarray([1] * spikes.shape[0] + list(multiplicity), float)
        largest_first = jnp.argsort(-values)
        values, counts = values[largest_first], counts[largest_first]
        before = jnp.cumsum(counts) - counts
        left = jnp.clip((before + counts)[None] - ranks[:, None], 0.0, counts[None])
        return 0.5 * left @ values

    for _ in range(np.ndim(spikes) - 1):  # lanes that came out of vmap
        one = jax.vmap(one)
    return one(spikes, bulk)


def modes_in_words(
    spikes: Real, bulk: Real, multiplicity: tuple[int, ...]
) -> list[tuple[str, str]]:
    """Return rows of texts: the number of modes of each kind, and their eigenvalues."""
    known = is_known((spikes, bulk))
    single, many = spikes.shape[-1], sum(multiplicity)
    lanes = spikes.shape[:-1] or bulk.shape[:-1]
    if not known or lanes:
        what = f"of {' × '.join(map(str, lanes))} lanes" if known else "not known yet"
        kinds = [(single, "spike"), (many, "bulk mode")]
        return [(counted(number, kind), what) for number, kind in kinds if number]
    rows: list[tuple[str, str]] = []
    if single:
        head = ", ".join(f"{value:.3g}" for value in spikes[:4])
        more = ", …" if single > 4 else ""
        rows.append((counted(single, "spike"), f"ρ/D = [{head}{more}]"))
    if many:
        low, high = float(np.min(bulk)), float(np.max(bulk))
        span = f"ρ = {low:.3g}" if low == high else f"ρ from {low:.3g} to {high:.3g}"
        rows.append((counted(many, "bulk mode"), f"in {counted(len(bulk), 'bin')}, {span}"))
    trace = float(np.sum(spikes) + bulk @ np.asarray(multiplicity, float) / (single + many))
    return [*rows, ("tr Ω/D", f"= {trace:.4g}")]


def order_of(order: ArrayLike, dim: int) -> Real:
    """Return the order of modes as whole numbers; raise `ValueError` if it is no permutation."""
    if is_traced(order):
        return order
    places = array("order", order, (dim,))
    if not np.array_equal(np.sort(places), np.arange(dim)):
        raise ValueError(f"`order` must be a permutation of 0 … {dim - 1}, got {shortened(order)}")
    return places.astype(int)


def dimension_of(dim: object, at_least: int = 1) -> int:
    """Return the input dimension as an int of at most 2^53: float64 counts modes exactly so far."""
    dim = whole("dim", dim, at_most=2**53)
    if dim < at_least:
        raise ValueError(f"`dim` must be at least the number of spikes, {at_least}, got {dim}")
    return dim


def eigenvalues_of(
    name: str, values: object, *, may_be_empty: bool = False, grain: float = np.finfo(float).eps
) -> Real:
    """Return finite, non-negative eigenvalues as a float64 vector; rounding below 0 becomes 0.

    `grain` is the relative rounding (`grain_of`) of the numbers that they were computed from.
    """
    rho = array(name, values, (None,))
    if rho.size == 0 and not may_be_empty:
        raise ValueError(f"`{name}` must hold at least one eigenvalue, got an empty list")
    if is_traced(rho) or rho.size == 0 or rho.min() >= 0.0:
        return rho
    single, double = float(np.finfo(np.float32).eps), float(np.finfo(float).eps)
    size = rho.size * np.abs(rho).max()
    i = int(np.argmin(rho))
    if rho[i] < -max(grain, 100.0 * double) * size or rho.max() <= 0.0:
        hint = ""
        if -single * size <= rho[i] and rho.max() > 0.0:
            hint = "; if it is float32's rounding, pass float32 numbers, and it is set to 0"
        raise ValueError(f"`{name}` must not be negative, got {rho[i]:g} at index {i}{hint}")
    warn(
        f"{int(np.sum(rho < 0))} values of `{name}` are negative by rounding (down to "
        f"{rho[i]:.2g}, {-rho[i] / rho.max():.2g} of the largest) and were set to 0"
    )
    return np.maximum(rho, 0.0)
