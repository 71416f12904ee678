"""Plateaus, drawn."""

from typing import Any

import numpy as np

from odeae.analysis.plateaus import Plateau, one_curve, plateaus
from odeae.base.checks import flag
from odeae.plotting.levels import draw_levels
from odeae.plotting.style import COLOURS, Axes, log_scale, single_axes
from odeae.results.trajectory import Trajectory


def plot_plateaus(
    trajectory: Trajectory,
    ax: Axes | None = None,
    which: int | None = None,
    labels: bool = True,
) -> Axes:
    """Draw sequential learning: the curve, its plateaus shaded, the PCA levels with their ranks.

    The figure shows the error above the PCA error of rank K against time. Each plateau has a label
    with its rank, its level (above the PCA error of rank K) and its residual, each escape (dotted)
    a label with its time. A label without room is left out; `odeae.plateaus` has the numbers.

    Args:
        trajectory: The curve, as for `odeae.plateaus`.
        ax: Axes to draw on; None makes a figure.
        which: The run, member or lane, if the trajectory holds several curves.
        labels: Whether to write the labels.

    Returns:
        The Axes.

    Raises:
        ValueError: As `odeae.plateaus`.

    Source: docs/theory.md 8.

    Example:
        >>> odeae.plot_plateaus(theory).figure.savefig("plateaus.png")
    """
    labels = flag("labels", labels)
    found = plateaus(trajectory, which)
    times, error, levels, noisy = one_curve(trajectory, which)
    ax = single_axes(ax, figsize=(7.2, 4.6))
    excess, rungs = error - levels[-1], levels - levels[-1]
    curve = ax.plot(times, excess, color=COLOURS[0], lw=1.8, zorder=3)[0]
    _limits(ax, times, excess, rungs)
    draw_levels(ax, [(level, rank, None) for rank, level in enumerate(rungs)])
    left, right = ax.get_xlim()
    for i, plateau in enumerate(found):
        span = (max(plateau.start, left), min(plateau.end, right))
        ax.axvspan(*span, color=COLOURS[i % 4], alpha=0.13, lw=0, zorder=0)
        if left < plateau.escape_time < right:
            ax.axvline(plateau.escape_time, color="0.4", lw=0.9, ls=":", zorder=1)
    ax.set_xlabel("time  t = steps / D")
    what = "best map" if noisy else "PCA"
    ax.set_ylabel(f"error above {what}, rank {len(levels) - 1}")
    if labels:
        _write(ax, curve, found, levels[-1])
    return ax


def _limits(ax: Axes, times: np.ndarray, excess: np.ndarray, rungs: np.ndarray) -> None:
    """Set limits, and logarithmic axes where times or heights span several decades."""
    first = times[times > 0][0]
    if times[-1] > 20.0 * first:
        log_scale(ax, "x")
        times, excess = times[times >= first], excess[times >= first]
    ax.set_xlim(times[0], times[-1])
    top, bottom = max(excess.max(), rungs[0]), excess.min()
    # Power laws are shown to their end. The excess of a linear network falls exponentially, without
    # an end, and is cut off at the floor.
    floor = 0.02 * rungs[rungs > 1e-4 * rungs[0]][-1]
    below = times[excess < floor]
    slow = len(below) > 0 and times[-1] > 100.0 * below[0] and bottom > 1e-10 * top
    shown = bottom if slow else max(bottom, floor)
    if top > 20.0 * shown:
        log_scale(ax, "y")
        ax.set_ylim(shown * (shown / top) ** 0.12, top * (top / shown) ** 0.12)
    else:
        margin = 0.12 * (top - bottom)
        ax.set_ylim(bottom - margin, top + margin)


def _write(ax: Axes, curve: Any, found: tuple[Plateau, ...], floor: float) -> None:
    """Write ranks and heights over the plateaus, times beside the escapes, where there is room."""
    from matplotlib.path import Path

    figure: Any = ax.figure
    figure.draw_without_rendering()  # the layout must move the axes before measuring
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    inside, taken = ax.get_window_extent(), []
    points = np.clip(curve.get_xydata(), (left, low), (right, high))
    points = ax.transData.transform(points)

    def place(text: str, at: tuple[float, float], **style: Any) -> None:
        label: Any = ax.annotate(text, at, textcoords="offset points", fontsize=7.5, **style)
        if label.get_va() == "baseline":  # to be lifted above the curve
            box = label.get_window_extent()
            under = (points[:, 0] >= box.x0 - 4) & (points[:, 0] <= box.x1)
            lift = points[under, 1].max(initial=box.y0) - box.y0
            label.xyann = (3, 6 + 72.0 * lift / ax.figure.dpi)
        box = label.get_window_extent()
        fits = np.all(inside.min <= box.min) and np.all(box.max <= inside.max)
        hit = any(box.overlaps(other) for other in taken)
        if not fits or hit or Path(points).intersects_bbox(box, filled=False):
            label.remove()
        else:
            taken.append(box)

    for plateau in found:
        text = f"rank {plateau.rank}\n{plateau.pca_error - floor:.4g}"
        if abs(plateau.residual) > 1e-7 * plateau.pca_error:
            text += f" {'+' if plateau.residual > 0 else '−'} {abs(plateau.residual):.2g}"
        at = (max(plateau.start, left), max(plateau.height - floor, low))
        place(text, at, xytext=(3, 4), va="baseline")
    for plateau in found:
        if left < plateau.escape_time < right:
            style = {"rotation": 90, "ha": "right", "va": "bottom", "color": "0.3"}
            text = f"escape t = {plateau.escape_time:.4g}"
            at = (plateau.escape_time, 0.0)  # in units of the axes' height, which may change later
            place(
                text,
                at,
                xytext=(-2, 4),
                xycoords=ax.get_xaxis_transform(),
                annotation_clip=True,
                **style,
            )
