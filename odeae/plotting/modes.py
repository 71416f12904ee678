"""Maps of the modes, drawn."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from odeae.analysis.mode_map import ModeDynamics
from odeae.base.checks import entries, wholes
from odeae.base.messages import counted
from odeae.plotting.legends import add_legend
from odeae.plotting.style import MARKERS, Axes, shades_of, single_axes, time_axis

_DASHES = ("-", "--", ":", "-.")


def plot_mode_dynamics(
    *dynamics: ModeDynamics,
    ax: Axes | None = None,
    labels: Sequence[str] | None = None,
    modes: Iterable[int] | None = None,
) -> Axes:
    """Draw the map ρ̂_j/ρ_j of each mode against time, with a colour for each mode.

    Theory is drawn as lines (all lanes), with different dashes for different theories; simulations
    as points with the standard errors of their mean; estimates from samples as points with their
    own standard errors. Curves that failed are left out. The time axis is logarithmic (without
    t = 0) unless times span less than a factor of 20.

    Args:
        *dynamics: Results of `mode_map` or `estimate_mode_map`, with times.
        ax: Axes to draw on; None makes a figure.
        labels: A name for each of them.
        modes: Indices of the modes to draw, by default the first eight. The legend has their
            eigenvalues, from the first argument.

    Returns:
        The Axes.

    Raises:
        ValueError: For other arguments, maps without times, modes that don't exist, and curves of
            which none finished.

    Source: docs/theory.md 9.

    Example:
        >>> ax = odeae.plot_mode_dynamics(odeae.mode_map(theory))
        >>> ax.figure.savefig("modes.png")
    """
    from matplotlib.lines import Line2D

    if not dynamics or not all(isinstance(part, ModeDynamics) for part in dynamics):
        raise ValueError("plot_mode_dynamics takes results of mode_map and estimate_mode_map")
    if labels is not None:
        labels = [str(label) for label in entries("labels", labels, len(dynamics))]
    if any(part.times is None for part in dynamics):
        raise ValueError("`dynamics` without times: give `times` to estimate_mode_map")
    first = dynamics[0]
    count = min(part.map.shape[-1] for part in dynamics)
    shown = list(range(min(8, count))) if modes is None else wholes("modes", modes, at_least=0)
    if not set(shown) <= set(range(count)):
        raise ValueError(f"`modes` must be among 0 … {count - 1}, got {shown}")
    ax = single_axes(ax, figsize=(6.4, 4.2))
    eigenvalues = np.reshape(first.eigenvalues, (-1, first.map.shape[-1]))[0]
    handles = [
        Line2D([], [], color=colour, lw=3.0, label=f"ρ = {eigenvalues[j]:.4g}")
        for colour, j in zip(shades_of(len(shown)), shown, strict=True)
    ]
    lines, markers = iter(_DASHES * len(dynamics)), iter(MARKERS * len(dynamics))
    for i, part in enumerate(dynamics):
        style: dict[str, Any] = {"lw": 1.6, "ls": ""}
        style |= {"ls": next(lines)} if "theory" in part.source else {"marker": next(markers)}
        name = _draw(ax, part, shown, style)
        label = name if labels is None else labels[i]
        handles.append(Line2D([], [], color="0.3", mfc="white", label=label, **style))
    time_axis(ax, np.concatenate([np.asarray(part.times) for part in dynamics]))
    ax.axhline(1.0, color="0.55", lw=0.7, ls=(0, (4, 3)), zorder=1)
    ax.set_ylabel("map of the mode  ρ̂ / ρ")
    add_legend(ax, handles)
    return ax


def _draw(ax: Axes, part: ModeDynamics, shown: list[int], style: dict[str, Any]) -> str:
    """Draw the modes `shown` of the curves that finished, and return a name for them."""
    curves = np.asarray(part.map).reshape(-1, *part.map.shape[-2:])
    if part.status is not None:
        curves = curves[np.ravel(part.status) == 0]
    many, error, times = len(curves), part.standard_error, np.asarray(part.times)
    if many == 0:
        raise ValueError(f"nothing of {part.source!r} finished: see its `status`")
    name = part.source
    if "marker" in style:
        name += "" if error is not None else f", {counted(many, 'run')}"
        error = None if error is None else np.reshape(error, (-1, *curves.shape[1:]))[0]
        error = curves.std(axis=0, ddof=1) / many**0.5 if many > 1 else error
        curves = curves.mean(axis=0, keepdims=True)
        style = style | {"ms": 4.5, "mfc": "white", "mew": 1.2, "elinewidth": 1.0, "zorder": 3}
    for color, j in zip(shades_of(len(shown)), shown, strict=True):
        for curve in curves:
            if "marker" in style:
                spread = None if error is None else error[:, j]
                ax.errorbar(times, curve[:, j], spread, color=color, **style)
            else:
                alpha = max(0.15, many**-0.5)
                ax.plot(times, curve[:, j], color=color, alpha=alpha, **style)
    return name
