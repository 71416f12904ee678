"""Plots of curves. Each plot takes Axes or makes them, returns them, and never shows them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from odeae.base.checks import entries
from odeae.base.messages import explains_arguments, one_of
from odeae.plotting.labels import Curve, curves_of, grouped, names_of
from odeae.plotting.legends import add_legend
from odeae.plotting.levels import Rung, draw_levels
from odeae.plotting.style import (
    ERROR_LABEL,
    MARKERS,
    MOST_NAMES,
    Axes,
    Colour,
    colour_bar,
    log_scale,
    mapped_colours,
    palette,
    single_axes,
    time_axis,
)
from odeae.results.several import ENSEMBLE
from odeae.results.trajectory import Trajectory


@explains_arguments
def plot(
    *trajectories: Trajectory | Sequence[Trajectory],
    ax: Axes | None = None,
    labels: Sequence[str] | None = None,
    colors: Sequence[Colour] | None = None,
    quantity: str | None = None,
    levels: bool = True,
    legend: bool | str = True,
) -> Axes:
    """Draw error curves: theory as lines, simulations as points with standard errors.

    Several curves have different colours, and names from the difference between their problems
    (K = 1, K = 2; erf, relu), else between their starts. If many differ in one number, a colour bar
    shows it. If there are several theories, runs have the colour of the theory of the same problem.
    An ensemble is its mean, with a band that holds the middle 80 % of its members at each time. (A
    few late starts can pull the mean out of the band.) Lanes of one `vmap` count as several curves
    if their problems differ. The time axis is logarithmic (without t = 0) unless times span less
    than a factor of 20.

    Args:
        *trajectories: Results of `predict`, `ensemble` or `simulate`, one by one or in lists.
        ax: Axes to draw on, which may hold curves already; None makes a figure.
        labels: A name for each trajectory, in place of the names above.
        colors: A colour for each trajectory, in place of the colours above.
        quantity: `error`, `error_clean`, `excess` (above the PCA error of rank K) or `test_error`,
            which only simulations have; theory then shows its `error`. The default is `error`, for
            simulations on real inputs `test_error`.
        levels: Whether to draw PCA errors as thin lines: of rank 0 … K if the curves share a
            spectrum, and of its own rank in the colour of each curve; else only the latter.
        legend: Whether to draw a legend, in a place where it covers no curve; a word such as "upper
            right" names another place.

    Returns:
        The Axes.

    Raises:
        ValueError: For anything but trajectories, and for curves without a value to draw.

    Example:
        >>> curves = []
        >>> for K in (1, 2, 4):
        ...     problem = odeae.Problem(spectrum, odeae.Autoencoder(K))
        ...     curves.append(odeae.predict(problem, odeae.random_state(problem), times))
        >>> odeae.plot(curves).figure.savefig("curves.png")
    """
    if quantity is not None:
        one_of("quantity", quantity, ["error", "error_clean", "excess", "test_error"])
    given = _flat(trajectories)
    if labels is not None:
        labels = [str(label) for label in entries("labels", labels, len(given))]
    if colors is not None:
        colors = entries("colors", colors, len(given))
    ax = single_axes(ax, figsize=(6.4, 4.2))
    before = (ax.get_xlim(), ax.get_ylim()) if ax.has_data() else None
    whole = labels is not None or colors is not None
    curves = [curve for one in given for curve in ([Curve(one)] if whole else curves_of(one))]
    group = grouped(curves)
    leaders = [group.index(i) for i in range(max(group) + 1)]
    names = names_of([curves[i] for i in leaders])
    bar = None
    if colors is not None:
        shades = [colors[i] for i in leaders]
    elif names.values is not None and len(leaders) > MOST_NAMES and labels is None:
        bar = mapped_colours(names.values)
        shades = [tuple(shade) for shade in bar.to_rgba(names.values)]
    else:
        shades = palette(len(leaders), [line.get_color() for line in ax.lines])

    kinds = [_kind(curve, quantity, labels is None) for curve in curves]
    named = labels is None and any(names.texts)
    simulated = [i for i, curve in enumerate(curves) if not curve.is_theory]
    among: list[Any] = list(dict.fromkeys(kinds[i] for i in simulated)) if named else simulated
    drawn, times = [], []
    for i, curve in enumerate(curves):
        what, count = kinds[i]
        if labels is not None:
            joint = ": " if curve.trajectory.source == ENSEMBLE else ", "
            label = joint.join(filter(None, (labels[i], count)))
        elif named:
            text = names.texts[group[i]] or what or count
            label = text if i in leaders and bar is None else None
        else:
            label = ", ".join(filter(None, (what, count)))
        marker = None
        if not curve.is_theory:
            marker = MARKERS[among.index(kinds[i] if named else i) % len(MARKERS)]
        colour = shades[group[i]] if colors is None else colors[i]
        drawn.append(_draw_curve(ax, curve, quantity, colour, marker, label, names.texts[group[i]]))
        times.append(curve.trajectory.shared_times())
    if named:
        _name_kinds(ax, curves, kinds, among)
    rungs = _rungs([curves[i] for i in leaders], shades, quantity == "excess") if levels else []
    _frame(ax, drawn, rungs, np.concatenate(times), before)
    draw_levels(ax, rungs)
    ax.set_ylabel("error above the PCA error" if quantity == "excess" else ERROR_LABEL)
    if bar is not None:
        colour_bar(ax, bar, names.quantity or "")
    if legend:
        add_legend(ax, place=legend)
    return ax


def _flat(trajectories: Sequence[Any]) -> list[Trajectory]:
    """Return the trajectories, which were given one by one or in lists."""
    flat: list[Any] = []
    for one in trajectories:
        flat += one if isinstance(one, list | tuple) and type(one) in (list, tuple) else [one]
    if not flat or not all(isinstance(one, Trajectory) for one in flat):
        got = ", ".join(type(one).__name__ for one in flat) or "nothing"
        raise ValueError(
            f"plot takes trajectories, such as plot(theory, runs) or plot(curves), got {got}"
        )
    return flat


def _kind(curve: Curve, quantity: str | None, describe: bool) -> tuple[str, str]:
    """Return the kind of a curve and a count: ("SGD on Gaussian inputs", "8 runs")."""
    source = curve.trajectory.source
    if source == "theory":
        return "theory", ""
    count = int(np.sum(np.asarray(curve.trajectory.status) == 0))
    if source == ENSEMBLE:
        return "", f"mean of {count} starts, and their middle 80 %"
    own = " (test error)" if "real" in source and quantity is None and describe else ""
    return source + own, f"{count} run{'s' * (count != 1)}"


def _name_kinds(
    ax: Axes, curves: list[Curve], kinds: list[tuple[str, str]], among: list[Any]
) -> None:
    """Name lines, bands and points in grey, where colours stand for problems."""
    bands = any(curve.trajectory.source == ENSEMBLE for curve in curves)
    for kind in dict.fromkeys(kinds):
        label = ", ".join(filter(None, kind))
        if kind in among:
            marker = MARKERS[among.index(kind) % len(MARKERS)]
            ax.plot([], [], marker, color="0.3", mfc="white", mew=1.2, ms=4.5, label=label)
        elif bands:
            ax.plot([], [], color="0.3", lw=1.8, label=label)


def _draw_curve(
    ax: Axes,
    curve: Curve,
    quantity: str | None,
    colour: Colour,
    marker: str | None,
    label: str | None,
    name: str,
) -> np.ndarray:
    """Draw one curve and return its values."""
    trajectory, times = curve.trajectory, curve.trajectory.shared_times()
    name = label or name or trajectory.source
    finished = np.ravel(trajectory.status) == 0
    if curve.is_theory:
        values = np.asarray(
            getattr(trajectory, "error" if quantity in (None, "test_error") else quantity)
        )
    else:
        real = "real" in trajectory.source
        values = np.asarray(getattr(trajectory, quantity or ("test_error" if real else "error")))
    values = values.reshape(-1, len(times)) if curve.lane is None else curve.own(values, 1)[None]
    if trajectory.source != "theory":
        values = values[finished]
        if len(values) == 0:
            what = "member" if curve.is_theory else "run"
            raise ValueError(f"no {what} of {name!r} finished: see its `status`")
    if not np.isfinite(values).any():
        raise ValueError(f"the curve {name!r} has no finite value to draw: see its `status`")
    if trajectory.source == "theory":
        style: dict[str, Any] = {"lw": 1.8, "alpha": max(0.15, len(values) ** -0.5), "zorder": 2}
        for j, one in enumerate(values):
            ax.plot(times, one, color=colour, label=None if j else label, **style)
        return values
    mean = values.mean(axis=0)
    if curve.is_theory:
        band = np.quantile(values, [0.1, 0.9], axis=0)
        ax.fill_between(times, *band, color=colour, alpha=0.2, lw=0)
        ax.plot(times, mean, color=colour, lw=1.8, label=label)
        return np.vstack([band, mean])
    spread = values.std(axis=0, ddof=1) / len(values) ** 0.5 if len(values) > 1 else None
    # Points so dense that they touch lie below the line of the theory.
    style: dict[str, Any] = {"mfc": "white", "mew": 1.2, "ms": 4.5, "lw": 1.0}
    style["zorder"] = 3 if len(times) <= 40 else 1.5
    ax.errorbar(times, mean, spread, fmt=marker or "", color=colour, label=label, **style)
    return mean[None]


def _frame(
    ax: Axes,
    drawn: list[np.ndarray],
    rungs: list[Rung],
    times: np.ndarray,
    before: tuple[tuple[float, float], tuple[float, float]] | None,
) -> None:
    """Set limits and scales that show the new curves and the earlier ones on the Axes."""
    low = min([np.nanmin(values) for values in drawn] + [level for level, *_ in rungs])
    high = max([np.nanmax(values) for values in drawn])
    high = max([high] + [level for level, _, colour in rungs if colour is not None])
    if before is not None:
        (first, last), (lower, upper) = before
        times = np.concatenate([times, [first, last]])
        low, high = min(low, lower), max(high, upper)
    time_axis(ax, times)
    if before is not None and ax.get_xscale() == "linear":
        ax.set_xlim(times.min(), times.max())
    if low > 0 and high > 20.0 * low:
        log_scale(ax, "y")
        margin = (high / low) ** 0.05
        ax.set_ylim(low / margin, high * margin)
    else:
        margin = 0.05 * (high - low or 1.0)
        ax.set_ylim(low - margin, high + margin)


def _rungs(leaders: list[Curve], shades: list[Colour], excess: bool) -> list[Rung]:
    """Return PCA levels with ranks and colours: all ranks if curves share them, else the own ones.

    The level of a curve's own rank has the colour of the curve, unless other curves end on it, too.
    """
    known = [
        (curve.levels(), shade)
        for curve, shade in zip(leaders, shades, strict=True)
        if curve.lane is not None or curve.trajectory.pca_levels() is not None
    ]
    if excess:
        known = [(levels[:-1] - levels[-1], None) for levels, _ in known]
    if not known:
        return []
    ladder = max((levels for levels, _ in known), key=len)

    def same(a: np.ndarray, b: np.ndarray) -> bool:
        return a.shape == b.shape and np.allclose(a, b, rtol=1e-9, atol=0.0)

    shared = all(same(levels, ladder[: len(levels)]) for levels, _ in known)
    if all(same(levels, ladder) for levels, _ in known):
        return [(level, rank, None) for rank, level in enumerate(ladder)]
    if excess:
        return []
    own: list[Rung] = []
    for levels, shade in known:
        level, rank = levels[-1], len(levels) - 1
        others = [i for i, rung in enumerate(own) if np.isclose(rung[0], level, rtol=1e-9)]
        if others:
            own[others[0]] = (level, own[others[0]][1], None)
        else:
            own.append((level, rank, shade))
    rest = [(level, rank, None) for rank, level in enumerate(ladder)] if shared else []
    taken = {rank for _, rank, _ in own}
    return own + [rung for rung in rest if rung[1] not in taken]
