"""Power laws: exponents of curves with error bars, and local slopes."""

import operator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from odeae.base.checks import numbers, scalar
from odeae.base.messages import shortened
from odeae.base.precision import ArrayLike, is_traced
from odeae.base.status import Status
from odeae.base.times import save_times

if TYPE_CHECKING:

    class HasTimes(Protocol):
        """Any curve with times and errors, such as a Trajectory."""

        @property
        def times(self) -> Any:
            """Times in steps/D, (T,)."""
            ...

        @property
        def error(self) -> Any:
            """Errors, (*runs, T)."""
            ...

    Curve = HasTimes | ArrayLike
else:
    Curve = Any  # the errors of this module, which are written for people, come first

# Tolerance at the ends of a window, because times from geomspace miss round numbers by rounding.
_ROUNDING = 1e-9


class PowerLaw(NamedTuple):
    """A power law y ≈ `prefactor` · t^`exponent` with error bars, t in steps/D.

    All arrays have the shape of the fitted variable without its axis of times: an entry for each
    run, member or lane, and for each component.

    Source: docs/theory.md 8.

    Attributes:
        exponent: The fitted exponent.
        exponent_error: Its error, √(statistical² + systematic²).
        statistical: Standard error of the slope, from the scatter about a parabola in log-log axes;
            points count as independent.
        systematic: How far the local slope at either end of the window is from `exponent`: half of
            its drift over the window. It says how well the curve is a power law, and covers the
            exponent at t → ∞ only if corrections to scaling die out within the window.
        prefactor: The fitted value at t = 1.
        prefactor_error: Its error from both sources, because it is an extrapolation to t = 1.
        window: First and last time of the fit, in steps/D.
        points: Number of times in the window.

    Example:
        >>> float(odeae.fit_power_law([1, 2, 4, 8], [3, 6, 12, 24], start=1).exponent.round(6))
        1.0
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

        Runs scatter independently, so `statistical` is their standard deviation/√n. The drift of
        the local slope is common to all runs, so `systematic` is its mean. The mean of the
        prefactor is geometric.

        Returns:
            The power law, without the first axis.

        Raises:
            ValueError: For fewer than two runs.
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

    def __repr__(self) -> str:
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
    """Local slopes d ln y/d ln t of a curve, from `local_slopes`.

    Attributes:
        times: Times of the window in steps/D, (n,).
        slopes: d ln y/d ln t, of the shape of the variable, with n times.

    Example:
        >>> odeae.local_slopes([1, 2, 4], [3, 6, 12]).slopes.round(6).tolist()
        [1.0, 1.0, 1.0]
    """

    times: np.ndarray
    slopes: np.ndarray

    def __repr__(self) -> str:
        return (
            f"LocalSlopes: shape {self.slopes.shape}, {np.min(self.slopes):.5g} to "
            f"{np.max(self.slopes):.5g}, over t = {self.times[0]:.4g} … {self.times[-1]:.4g}"
        )


def fit_power_law(
    curve: Curve,
    values: str | ArrayLike = "excess",
    start: ArrayLike | None = None,
    end: ArrayLike | None = None,
) -> PowerLaw:
    """Fit y = A t^p by least squares of ln y in ln t over a window of times.

    Each run and each component is fitted on its own; `PowerLaw.over_runs` averages them.

    Args:
        curve: A `Trajectory` of theory or of runs, an `AlignedTrajectory`, any object with `times`
            and `error`, or times (T,) in steps/D.
        values: The name of a variable of the curve ("excess", "error", "T0", "components.encoder"),
            or an array with the same layout (*runs, T, ...), such as the neurons' own entries
            `np.diagonal(theory.components.encoder, axis1=-2, axis2=-1)`. With bare times, an array
            (..., T).
        start: First time of the window, in steps/D; by default a tenth of `end`.
        end: Last time of the window, in steps/D; by default the last time of the curve.

    Returns:
        Exponent and prefactor with error bars.

    Raises:
        ValueError: For values in the window that are not positive (pass the absolute value of
            negative ones), for NaN after a solve stopped, for a window beyond the curve, for fewer
            than four times in the window, and under jit, vmap and grad.

    Source: docs/theory.md 8.

    Example:
        >>> law = odeae.fit_power_law(theory, "excess", start=50.0)
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
    curve: Curve,
    values: str | ArrayLike = "excess",
    start: ArrayLike | None = None,
    end: ArrayLike | None = None,
) -> LocalSlopes:
    """Return the local slopes d ln y/d ln t of a curve, by differences of second order.

    Args:
        curve: As for `fit_power_law`.
        values: As for `fit_power_law`.
        start: First time of the window, in steps/D; by default the first positive time.
        end: Last time of the window, in steps/D; by default the last time of the curve.

    Returns:
        The slope at each time of the window.

    Raises:
        ValueError: As for `fit_power_law`, but three times are enough.

    Source: docs/theory.md 8.

    Example:
        >>> slopes = odeae.local_slopes(theory, "excess", start=10.0).slopes
    """
    t, y, axis, window = _window(curve, values, start, end, whole=True)
    if len(t) < 3:
        raise ValueError(
            f"local slopes need at least 3 times in the window, got {len(t)} in "
            f"t = {window[0]:.4g} … {window[1]:.4g}"
        )
    return LocalSlopes(t, np.gradient(np.log(y), np.log(t), axis=axis, edge_order=2))


def _centre(window: tuple[float, float]) -> float:
    return 0.5 * float(np.log(window[0]) + np.log(window[1]))


def _window(
    curve: Curve,
    given: str | ArrayLike,
    from_time: ArrayLike | None,
    to_time: ArrayLike | None,
    whole: bool = False,
) -> tuple[np.ndarray, np.ndarray, int, tuple[float, float]]:
    """Return times (n,), positive values and their axis of times in the window, and its ends."""
    times, values, axis, name = _variable(curve, given)
    last = float(times[-1])
    end = last if to_time is None else float(scalar("end", to_time, above=0.0))
    positive = times[times > 0]
    first = float(positive[0]) if len(positive) else last
    default = first if whole else max(first, end / 10.0)
    start = float(scalar("start", default if from_time is None else from_time, above=0.0))
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


def _variable(curve: Any, given: str | ArrayLike) -> tuple[np.ndarray, np.ndarray, int, str]:
    """Return times (T,), values, the axis of times in the values, and the name for messages."""
    name = given if isinstance(given, str) else None
    if not hasattr(curve, "times"):
        times = save_times(curve)
        if name is not None:
            raise ValueError(
                f"`values` must be an array beside bare times, got the name "
                f"{shortened(name)}; a name needs a Trajectory"
            )
        values = numbers("values", given)
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
        values = numbers("values", given if name is None else _named(curve, name))
    _refuse_traced((times, values))
    if values.ndim <= axis or axis < 0 or values.shape[axis] != len(times):
        layout = "(..., T)" if not hasattr(curve, "times") else "(*runs, T, ...)"
        raise ValueError(
            f"`values` must have the shape {layout} with T = {len(times)} times, got {values.shape}"
        )
    return times, values, axis, name or "values"


def _named(curve: Any, name: str) -> Any:
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


def _refuse_traced(tree: object) -> None:
    if is_traced(tree):
        raise ValueError("fits need concrete values: fit outside of jit, vmap and grad")


def _check_positive(
    times: np.ndarray, values: np.ndarray, axis: int, name: str, curve: Any
) -> None:
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
