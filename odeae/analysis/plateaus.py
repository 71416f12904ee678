"""Plateaus of a learning curve: when they start and end, their heights and their PCA levels.

Sequential learning, one principal component after the other, is a staircase: on plateau k the
network reconstructs k components, so the error stands at the PCA error of rank k plus a residual
(docs/theory.md 6 to 8).
"""

from typing import Any, NamedTuple

import numpy as np

from odeae.base.checks import whole
from odeae.base.messages import shortened
from odeae.base.precision import is_traced
from odeae.base.status import Status
from odeae.results.trajectory import Trajectory

# Largest slope |dr/dx| of a plateau: at this slope the next rank takes a factor e² of time.
_FLAT = 0.5
# A plateau spans at most this part of the way from rank to rank; anything steeper is a slope.
_SPAN = 0.5
# After a plateau that is shorter than _LONG in x, the error must fall faster, per time, than on the
# plateau, by the factor _ESCAPE. A longer one is a plateau in any case.
_ESCAPE = 1.5
_LONG = 1.0
# Slopes are taken over this much of x on either side. Drops, however fast, take several times that.
_WINDOW = 0.05
# Levels closer than this many jitters of the curve, or than the rounding of the first, are one.
_JITTERS = 10.0
_ROUNDING = 1e-15


class Plateau(NamedTuple):
    """One plateau of a learning curve, from `plateaus`.

    Source: docs/theory.md 6 to 8.

    Attributes:
        start: Time in steps/D at which the curve becomes flat.
        end: Time in steps/D at which the curve stops being flat; infinite if it never does.
        height: The error at the slowest moment, closest to a fixed point (de/dt = −|∇e|² at unit
            rates).
        rank: k of the nearest PCA error, in units of the gaps between PCA errors.
        pca_error: The PCA error of rank k. With noise, where the curve is the error on corrupted
            inputs, the error of the best linear map of rank k,
            ½ Σ_{i≤k} ρ̃ε/(ρ̃ + ε) + ½ Σ_{i>k} ρ̃ with ε = s²/D.
        residual: height − pca_error, which non-linearity, bulk and decay add.
        escape_time: Time in steps/D at which the curve has fallen from `height` by half the gap
            between the PCA errors of rank k and k + 1; infinite if it never falls so far, and on
            the last level.
        left: Whether the curve leaves the plateau.

    Example:
        >>> first = odeae.plateaus(theory)[0]
        >>> print(first.rank, first.left)
        0 True
    """

    start: float
    end: float
    height: float
    rank: int
    pca_error: float
    residual: float
    escape_time: float
    left: bool

    def __repr__(self) -> str:
        height = f"{self.height:.6g} = {self.pca_error:.6g} {self.residual:+.3g}"
        fate = f"escape at t = {self.escape_time:.4g}" if self.left else "never left"
        return f"Plateau(rank {self.rank}, t = {self.start:.4g} … {self.end:.4g}, {height}, {fate})"


def plateaus(trajectory: Trajectory, which: int | None = None) -> tuple[Plateau, ...]:
    """Find the plateaus of a learning curve, from the first to the last.

    The error is expressed as a height r in ranks, which is k at the PCA error of rank k (k = 0 … K)
    and linear in between, and time as x = ln(1 + t |dr/dt|_max). A plateau is a stretch with
    |dr/dx| < 1/2 that covers less than half a rank; where it covers more, its flatter parts are
    taken, with 1/2 halved as often as needed. After a plateau the curve must fall faster, or the
    plateau must last longer than one unit of x, because a fall that slows down passes levels too.
    Both scales come from the curve, so there is nothing to tune. Stretches of one rank that are
    separated by a wiggle are one plateau. Components of equal eigenvalues are learnt in one drop,
    so ranks may be skipped. Levels closer than ten times the curve's mean jitter below them count
    as one level, of the smallest rank.

    Args:
        trajectory: The curve. A curve that stopped early is used as far as it goes. Saved times
            need not be evenly spaced, but must be dense enough to show a drop: some 50 per decade.
        which: The run, member or lane, if the trajectory holds several curves.

    Returns:
        The plateaus, in the order of time.

    Raises:
        ValueError: For a curve that reached fewer than three times, for several curves without
            `which`, and under jit, vmap and grad.

    Source: docs/theory.md 6 to 8.

    Example:
        >>> [plateau.rank for plateau in odeae.plateaus(theory)]
        [0, ...]
    """
    times, error, levels, _ = one_curve(trajectory, which)
    ranks, distinct = _distinct(levels, error)
    r = _in_ranks(error, distinct)
    x = np.log1p(times * _fastest(times, r))
    rate, stretches = _rate(times, error, x), _stretches(x, r)
    kept = [
        (a, b)
        for i, (a, b) in enumerate(stretches)
        if x[b] - x[a] > _LONG or _is_left_faster(rate, stretches, i)
    ]
    return tuple(_plateau(times, error, rate, a, b, ranks, distinct) for a, b in kept)


def one_curve(
    trajectory: Trajectory, which: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """Return one curve of a trajectory.

    Returns times and errors as far as the curve goes, the levels of rank 0 … K, and whether inputs
    are noisy.
    """
    if not isinstance(trajectory, Trajectory):
        raise ValueError(
            f"`trajectory` must be an odeae Trajectory, got {type(trajectory).__name__}"
        )
    if is_traced(trajectory):
        raise ValueError("`trajectory` must be concrete: plateaus are found outside jit and vmap")
    batch = trajectory.error.shape[:-1]
    name = trajectory.batch_name
    if len(batch) > 1:
        raise ValueError(f"`trajectory` must have one leading axis at most, got shape {batch}")
    if not batch and which is not None:
        raise ValueError(f"`which` must be None for a single curve, got {shortened(which)}")
    if batch and which is None:
        raise ValueError(
            f"`trajectory` holds {batch[0]} curves; choose a {name}, which=0 to {batch[0] - 1}"
        )
    at = () if not batch else (whole("which", which, at_least=0, at_most=batch[0] - 1),)

    def own(values: Any, ndim: int) -> np.ndarray:
        values = np.asarray(values)
        return values[at] if values.ndim > ndim else values

    times, error = own(trajectory.times, 1), own(trajectory.error, 1)
    hidden = trajectory.problem.autoencoder.hidden
    spectrum = trajectory.problem.spectrum
    levels = own(spectrum.pca_errors(hidden), 1)
    noise = own(trajectory.problem.noise, 0)
    if noise > 0.0:
        levels = _with_noise(levels, noise / spectrum.dim)
    reached = int(np.sum(np.cumprod(np.isfinite(error))))
    if reached < 3:
        status = Status(int(own(trajectory.status, 0)))
        how = (
            f"the curve {status.message(float(own(trajectory.stop_time, 0)))}"
            if status
            else "save more"
        )
        raise ValueError(f"`trajectory` must have reached at least 3 times, got {reached}; {how}")
    return times[:reached], error[:reached], levels, bool(noise > 0.0)


def _with_noise(levels: np.ndarray, noise: Any) -> np.ndarray:
    """Return levels of linear maps on noisy inputs: mode i gains ½ρ̃²/(ρ̃ + ε), not ½ρ̃."""
    gaps = levels[:-1] - levels[1:]
    gain = gaps * 2.0 * gaps / (2.0 * gaps + noise)
    return levels[0] - np.concatenate([[0.0], np.cumsum(gain)])


def _distinct(levels: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ranks whose levels the curve can tell from the level before, and these levels.

    The jitter of the curve below the middle of a gap must be small compared with the gap. A curve
    of the theory shows gaps down to rounding, a curve of SGD only gaps above its own noise.
    """
    jitter = np.abs(np.diff(error, 2)) * (np.diff(error)[1:] * np.diff(error)[:-1] < 0.0)
    ranks = [0]
    for rank in range(1, len(levels)):
        gap = levels[ranks[-1]] - levels[rank]
        below = np.cumsum(error[1:-1] < levels[ranks[-1]] - 0.5 * gap) > 0
        noise = jitter[below].mean() if below.any() else 0.0
        if gap > _JITTERS * noise + _ROUNDING * levels[0]:
            ranks.append(rank)
    if len(ranks) == 1:  # nothing but noise: the staircase as a whole remains
        ranks.append(int(np.argmin(levels)))
    return np.array(ranks), levels[ranks]


def _in_ranks(error: np.ndarray, distinct: np.ndarray) -> np.ndarray:
    """Return the height in ranks: i at level i, linear between, extrapolated from the last gap."""
    rising, places = distinct[::-1], np.arange(len(distinct))[::-1]
    r = np.interp(error, rising, places.astype(float))
    above, below = distinct[0] - error, distinct[-1] - error
    r = np.where(above < 0, above / (distinct[0] - distinct[1]), r)
    return np.where(below > 0, places[0] + below / (distinct[-2] - distinct[-1]), r)


def _fastest(times: np.ndarray, r: np.ndarray) -> float:
    """Return the curve's largest |dr/dt|, or any positive number if the curve never moves."""
    fastest = float(np.max(np.abs(np.diff(r) / np.diff(times))))
    return fastest if fastest > 0.0 else 1.0 / times[-1]


def _runs(flat: np.ndarray) -> np.ndarray:
    """Return the first and last index of each run of true values, (runs, 2)."""
    edges = np.diff(np.concatenate([[0], flat.astype(int), [0]]))
    return np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1], axis=1)


def _slope(x: np.ndarray, r: np.ndarray) -> np.ndarray:
    low, high = np.maximum(x - _WINDOW, x[0]), np.minimum(x + _WINDOW, x[-1])
    return np.abs(np.interp(high, x, r) - np.interp(low, x, r)) / (high - low)


def _stretches(x: np.ndarray, r: np.ndarray) -> list[tuple[int, int]]:
    """Return the first and last index of each flat stretch, in order."""
    slope = _slope(x, r)

    def within(first: int, last: int, limit: float) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for a, b in _runs(slope[first : last + 1] < limit) + first:
            if found and np.ptp(r[found[-1][0] : b + 1]) < _SPAN:
                a = found.pop()[0]  # a wiggle, an overshoot or noise separates them
            found.append((int(a), int(b)))
        kept = []
        for a, b in found:
            steep = np.ptp(r[a : b + 1]) > _SPAN
            if steep and limit > 1e-3 * _FLAT:  # below, it is noise from one saved time to the next
                kept += within(a, b, 0.5 * limit)
            elif not steep and b > a:
                kept.append((a, b))
        return kept

    found = within(0, len(x) - 1, _FLAT)
    if found and x[-1] - x[found[-1][1]] < 2.0 * _WINDOW and np.ptp(r[found[-1][0] :]) < _SPAN:
        found[-1] = found[-1][0], len(x) - 1  # too close to the end to tell a fall from noise
    return found


def _rate(times: np.ndarray, error: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the path length of the error, up and down, per time, around each time."""
    way = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(error)))])
    low, high = np.maximum(x - _WINDOW, x[0]), np.minimum(x + _WINDOW, x[-1])
    path = np.interp(high, x, way) - np.interp(low, x, way)
    return path / (np.interp(high, x, times) - np.interp(low, x, times))


def _is_left_faster(rate: np.ndarray, stretches: list[tuple[int, int]], i: int) -> bool:
    """Return whether a stretch ends with an escape: a slowing descent passes levels as well."""
    a, b = stretches[i]
    if b == len(rate) - 1:
        return True
    until = stretches[i + 1][0] if i + 1 < len(stretches) else len(rate)
    return bool(rate[b : until + 1].max() > _ESCAPE * rate[a : b + 1].min())


def _plateau(
    times: np.ndarray,
    error: np.ndarray,
    rate: np.ndarray,
    a: int,
    b: int,
    ranks: np.ndarray,
    distinct: np.ndarray,
) -> Plateau:
    """Return the plateau of the flat stretch from index a to b."""
    slowest = a + int(np.argmin(rate[a : b + 1]))
    height = float(error[slowest])
    place = round(float(np.clip(_in_ranks(np.array(height), distinct), 0, len(distinct) - 1)))
    left, escape = b < len(times) - 1, np.inf
    if place < len(distinct) - 1:
        low = height - 0.5 * (distinct[place] - distinct[place + 1])
        after = np.flatnonzero(error[slowest:] <= low) + slowest
        if len(after):
            i = after[0]
            part = (error[i - 1] - low) / (error[i - 1] - error[i])
            escape = float(times[i - 1] + part * (times[i] - times[i - 1]))
    level = float(distinct[place])
    end = float(times[b]) if left else np.inf
    return Plateau(
        float(times[a]), end, height, int(ranks[place]), level, height - level, escape, left
    )
