"""Times in steps/D."""

import numpy as np

from odeae.base.checks import array, scalar, whole
from odeae.base.precision import ArrayLike, Real, is_traced


def log_times(
    end: float, count: int = 200, start: float | None = None, dim: int | None = None
) -> np.ndarray:
    """Return the time 0 and logarithmically spaced times from `start` to `end`, `count` in all.

    Plateaus need some 50 times per decade.

    Args:
        end: The last time, in steps/D.
        count: How many times there are, with time 0.
        start: The first time after 0, in steps/D. The default is end/10⁴, but 0.1 at most, because
            the first components are learnt at times of order 1.
        dim: The input dimension D. If it is given, times are rounded to whole steps at this D, so
            that theory and simulation have values at exactly the same times. Times that coincide
            after rounding are kept once, so there may be fewer than `count`.

    Returns:
        Times in steps/D, increasing from 0, of shape (count,) or shorter with `dim`.

    Raises:
        ValueError: If `end` or `start` is not positive, `start` is not below `end`, `count` is
            below 2, or `dim` is no whole number of at least 1.

    Example:
        >>> odeae.log_times(100, count=4, start=1)
        array([  0.,   1.,  10., 100.])
    """
    count = whole("count", count, at_least=2)
    end = float(scalar("end", end, above=0.0))
    start = min(end * 1e-4, 0.1) if start is None else float(scalar("start", start, above=0.0))
    if start >= end:
        raise ValueError(f"`start` must be below `end`, got {start:g} and {end:g}")
    times = np.concatenate([[0.0], np.geomspace(start, end, count - 1)])
    if dim is None:
        return times
    return np.unique(np.round(times * whole("dim", dim))) / dim


# A solver's first steps are tiny parts of the last time. XLA replaces numbers below 2.2e-308 by 0,
# and a step of 0 makes NaN.
_SHORTEST = 1e-290


def save_times(times: ArrayLike) -> Real:
    """Return increasing, non-negative, finite times (steps/D) as a float64 array (T,)."""
    if isinstance(times, int | float | np.number):
        times = scalar("times", times)
        raise ValueError(
            f"`times` must be a list of times (steps/D), got the number {times:g}; write "
            f"np.linspace(0, {times:g}, 101), or odeae.log_times({times:g}) for a logarithmic axis"
        )
    values = array("times", times, (None,))
    if values.size == 0:
        raise ValueError("`times` must hold at least one time (steps/D), got an empty list")
    if is_traced(values):
        return values
    if values[0] < 0:
        raise ValueError(f"`times` must not be negative, got {values[0]:g} at index 0")
    if 0 < values[-1] < _SHORTEST:
        raise ValueError(
            f"`times` must end at {_SHORTEST:g} at least (or at 0), got {values[-1]:g}: the steps "
            "of a solver would be below the smallest numbers of double precision"
        )
    step = np.diff(values)
    if np.any(step <= 0):
        i = int(np.argmax(step <= 0))
        raise ValueError(
            f"`times` must increase, got {values[i + 1]:g} after {values[i]:g} at index {i + 1}"
        )
    return values
