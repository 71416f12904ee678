"""Times in steps/D."""

from typing import Any

import numpy as np

from odeae.base.checks import array, scalar, whole
from odeae.base.precision import Real, is_traced


def log_times(
    end: float, count: int = 200, start: float | None = None, dim: int | None = None
) -> np.ndarray:
    """0 and log-spaced times (steps/D) from `start` to `end`, `count` in all.

    `start`: by default end/10⁴, but 0.1 at most, as the first components are learnt at times of
    order 1. Plateaus want some 50 times per decade. With `dim` times are rounded to whole steps of
    that D (and fewer, where several would coincide): theory and simulation then stand at exactly
    the same times.
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


# A solver's first steps are tiny parts of the last time. XLA takes numbers below 2.2e-308 for 0,
# and a step of 0 makes NaN.
_SHORTEST = 1e-290


def save_times(times: Any) -> Real:
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
