"""Power laws: exponents of curves with error bars, and the local slopes that justify them."""

import operator
from typing import Any, NamedTuple

import numpy as np

from odeae.base.checks import numbers, scalar
from odeae.base.messages import shortened
from odeae.base.precision import is_traced
from odeae.base.status import Status
from odeae.base.times import save_times

# Of a window's ends: times that were made by geomspace miss a round number by rounding.
_ROUNDING = 1e-9


class PowerLaw(NamedTuple):
    """y ≈ `prefactor` · t^`exponent` over `window` (docs/theory.md 8), t in steps/D.

    `exponent_error`² = `statistical`² + `systematic`². `statistical`: standard error of the slope,
    from the scatter about a parabola in log-log axes, points taken as independent. `systematic`:
    how far the local slope at either end of the window is from `exponent`, half of what it drifts
    over the window; it says how much of a power law this is, and covers the exponent at t → ∞ only
    where corrections to scaling die out within the window. `prefactor_error`: of both, as the
    prefactor is an extrapolation to t = 1. `points` of the curve are in the `window` (start, end).

    All but `window` and `points` have the shape of the fitted variable without its axis of times:
    an entry per run, member or lane, and per component.
    """

    exponent: np.ndarray
    exponent_error: np.ndarray
    statistical: np.ndarray
    systematic: np.ndarray
    prefactor: np.ndarray
    prefactor_error: np.ndarray
    window: tuple[float, float]
    points: int

    def over_runs(self) -> "PowerLaw":
        """Return the mean over the first axis (runs, members) with its standard error.

        Runs scatter independently, so `statistical` is their standard deviation/√n; what the local
        slope drifts they have in common, so `systematic` is the mean. The prefactor's mean is
        geometric. Raises `ValueError` for fewer than two runs.
        """
        runs = self.exponent.shape[0] if self.exponent.ndim else 1
        if runs < 2:
            raise ValueError(f"a standard error over runs needs at least two of them, got {runs}")
        logs = np.log(self.prefactor)
        scatter = np.std(self.exponent, axis=0, ddof=1) / np.sqrt(runs)
        scatter_of_logs = np.std(logs, axis=0, ddof=1) / np.sqrt(runs)
        drift, prefactor = np.mean(self.systematic, axis=0), np.exp(np.mean(logs, axis=0))
        lever = abs(_centre(self.window))
        return PowerLaw(
            np.mean(self.exponent, axis=0),
            np.hypot(scatter, drift),
            scatter,
            drift,
            prefactor,
            prefactor * np.hypot(scatter_of_logs, lever * drift),
            self.window,
            self.points,
        )

    def __repr__(self):
        where = f"over t = {self.window[0]:.4g} … {self.window[1]:.4g} ({self.points} points)"
        if self.exponent.ndim:
            low, high = np.min(self.exponent), np.max(self.exponent)
            return (
                f"PowerLaw: {self.exponent.shape} exponents from {low:.5g} to {high:.5g}, {where}"
            )
        return (
            f"PowerLaw: {self.prefactor:.5g} t^({self.exponent:.5g} ± {self.exponent_error:.2g}) "
            f"{where}; error: statistical {self.statistical:.2g}, systematic {self.systematic:.2g}"
        )


class LocalSlopes(NamedTuple):
    """d ln y/d ln t at `times` (n,): `slopes` has the variable's shape."""

    times: np.ndarray
    slopes: np.ndarray

    def __repr__(self):
        return (
            f"LocalSlopes: shape {self.slopes.shape}, {np.min(self.slopes):.5g} to "
            f"{np.max(self.slopes):.5g}, over t = {self.times[0]:.4g} … {self.times[-1]:.4g}"
        )


def fit_power_law(
    curve: Any, values: Any = "excess", start: Any = None, end: Any = None
) -> PowerLaw:
    """Fit y = A t^p by least squares of ln y in ln t over the window `start` ≤ t ≤ `end` (steps/D).

    `curve`: a `Trajectory`, of theory or of runs, an `AlignedTrajectory`, anything with `times`, or
    times (T,) themselves. `values`: the name of one of its variables ("excess", "error", "T0",
    "components.encoder") or an array of that layout (*runs, T, ...), such as neurons' own entries
    `np.diagonal(theory.components.encoder, axis1=-2, axis2=-1)`; beside bare times (..., T). Every
    run and component is fitted on its own; `over_runs` averages them. The window ends at the last
    time and is a decade long unless given.

    Raises `ValueError` for values in the window that are not positive (pass their absolute value if
    a sign is all that is wrong), NaN after a solve stopped, a window beyond the curve, and fewer
    than four points.
    """
    t, y, axis, window = _window(curve, values, start, end)
    if len(t) < 4:
        raise ValueError(
            f"a power law with error bars needs at least 4 times in the window, got {len(t)} in "
            f"t = {window[0]:.4g} … {window[1]:.4g}; widen `start` … `end` or save more times"
        )
    x, y = np.log(t), np.moveaxis(np.log(y), axis, -1)
    centre, length = np.mean(x), x[-1] - x[0]
    x = x - centre
    square = np.sum(x * x)
    level, exponent = np.mean(y, axis=-1), y @ x / square
    bend = x * x - np.mean(x * x) - x * (np.sum(x**3) / square)  # orthogonal to 1 and x
    curvature = y @ bend / np.sum(bend * bend)
    fitted = level[..., None] + exponent[..., None] * x + curvature[..., None] * bend
    scatter = np.sqrt(np.sum((y - fitted) ** 2, axis=-1) / (len(t) - 3))
    statistical, systematic = scatter / np.sqrt(square), np.abs(curvature) * length
    error = np.hypot(statistical, systematic)
    prefactor = np.exp(level - exponent * centre)
    in_logs = np.hypot(scatter / np.sqrt(len(t)), error * centre)
    return PowerLaw(
        np.asarray(exponent),
        np.asarray(error),
        np.asarray(statistical),
        np.asarray(systematic),
        np.asarray(prefactor),
        np.asarray(prefactor * in_logs),
        window,
        len(t),
    )


def local_slopes(
    curve: Any, values: Any = "excess", start: Any = None, end: Any = None
) -> LocalSlopes:
    """Return d ln y/d ln t at every time of the window, by differences of second order.

    Arguments and errors as for `fit_power_law`, but the window is the whole curve unless given, and
    three times are enough.
    """
    t, y, axis, window = _window(curve, values, start, end, whole=True)
    if len(t) < 3:
        raise ValueError(
            f"local slopes need at least 3 times in the window, got {len(t)} in "
            f"t = {window[0]:.4g} … {window[1]:.4g}"
        )
    return LocalSlopes(t, np.gradient(np.log(y), np.log(t), axis=axis, edge_order=2))


def _centre(window) -> float:
    return 0.5 * float(np.log(window[0]) + np.log(window[1]))


def _window(curve, values, start, end, whole=False):
    """Times (n,), positive values and their axis of times within a checked window, and its ends."""
    times, values, axis, name = _variable(curve, values)
    last = float(times[-1])
    end = last if end is None else float(scalar("end", end, above=0.0))
    positive = times[times > 0]
    if start is None:
        first = float(positive[0]) if len(positive) else last
        start = first if whole else max(first, end / 10.0)
    start = float(scalar("start", start, above=0.0))
    if start >= end:
        raise ValueError(f"`start` must be before `end`, got {start:g} and {end:g}")
    for what, value, inside in (
        ("start", start, start >= times[0] * (1.0 - _ROUNDING)),
        ("end", end, end <= last * (1.0 + _ROUNDING)),
    ):
        if not inside:
            raise ValueError(
                f"`{what}` must be within the curve's times, {times[0]:g} … {last:g}, got {value:g}"
            )
    kept = (times >= start * (1.0 - _ROUNDING)) & (times <= end * (1.0 + _ROUNDING))
    kept &= times > 0
    values = np.compress(kept, values, axis=axis)
    _check_positive(times[kept], values, axis, name, curve)
    return times[kept], values, axis, (start, end)


def _variable(curve, values):
    """Times (T,), values, which axis of theirs is that of times, and the name for messages."""
    name = values if isinstance(values, str) else None
    if not hasattr(curve, "times"):
        times = save_times(curve)
        if name is not None:
            raise ValueError(
                f"`values` must be an array beside bare times, got the name "
                f"{shortened(name)}; a name needs a Trajectory"
            )
        values = numbers("values", values)
        axis = values.ndim - 1
    elif not hasattr(curve, "error"):
        raise ValueError(
            f"`curve` must be a Trajectory or bare times, got {type(curve).__name__}; for other "
            "arrays give their times, and `values`"
        )
    else:
        _refuse_traced(curve)
        times = curve.shared_times() if hasattr(curve, "shared_times") else np.asarray(curve.times)
        times = save_times(times)
        axis = np.ndim(curve.error) - 1
        values = numbers("values", _named(curve, name) if name is not None else values)
    _refuse_traced((times, values))
    if values.ndim <= axis or axis < 0 or values.shape[axis] != len(times):
        layout = "(..., T)" if not hasattr(curve, "times") else "(*runs, T, ...)"
        raise ValueError(
            f"`values` must have the shape {layout} with T = {len(times)} times, got {values.shape}"
        )
    return times, values, axis, name or "values"


def _named(curve, name):
    try:
        found = operator.attrgetter(name)(curve)
    except AttributeError as error:
        raise ValueError(
            f"`values` {shortened(name)} is no variable of this curve; try 'excess', 'error', 'T0' "
            "or 'components.encoder'"
        ) from error
    if not hasattr(found, "shape"):
        raise ValueError(
            f"`values` {shortened(name)} is no array of this curve, but {type(found).__name__}; "
            "try 'excess', 'error', 'T0' or 'components.encoder'"
        )
    return found


def _refuse_traced(tree):
    if is_traced(tree):
        raise ValueError("fits need concrete values: fit outside of jit, vmap and grad")


def _check_positive(times, values, axis, name, curve):
    """Raise `ValueError` at the first time of the window at which a logarithm doesn't exist."""
    bad = np.moveaxis(~(values > 0) | ~np.isfinite(values), axis, 0)
    if not np.any(bad):
        return
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    value, t = np.moveaxis(values, axis, 0)[where], times[where[0]]
    entry = f" (entry {where[1:] if len(where) > 2 else where[1]})" if len(where) > 1 else ""
    if np.isnan(value):
        stopped = hasattr(curve, "status") and np.any(np.asarray(curve.status) != Status.OK)
        hint = "the curve stopped before: " if stopped else ""
        raise ValueError(
            f"`{name}` is NaN at t={t:.4g}{entry}; {hint}give an `end` before, or leave this out"
        )
    own = values.ndim - axis == 3 and values.shape[-1] == values.shape[-2]
    own = "the diagonal alone (np.diagonal(…, axis1=-2, axis2=-1)), " if own else ""
    raise ValueError(
        f"`{name}` must be positive and finite to have a logarithm, got {value:.4g} at "
        f"t={t:.4g}{entry}; choose another window, or pass {own}its absolute value or its "
        "difference from where it ends"
    )
