"""Plateaus, drawn."""

from typing import TYPE_CHECKING, Any

import numpy as np

from odeae.analysis.plateaus import Plateau, one_curve, plateaus
from odeae.base.checks import flag
from odeae.plotting.levels import draw_levels
from odeae.plotting.style import COLOURS, log_scale, single_axes
from odeae.results.trajectory import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_plateaus(
    trajectory: Trajectory, ax: Any = None, which: int | None = None, labels: bool = True
) -> "Axes":
    """Draw sequential learning: the curve, its plateaus shaded, the PCA levels named by rank.

    The error above the PCA error of rank K against time. Each plateau is labelled with its rank,
    its level (as drawn, above that of rank K) and its residual, each escape with its time (dotted).
    `which`: the run, member or lane. `labels`: whether to write them. A label without room is left
    out; `odeae.plateaus` has the numbers. Returns the Axes. Raises the errors of `odeae.plateaus`.
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


def _limits(ax: Any, times: np.ndarray, excess: np.ndarray, rungs: np.ndarray) -> None:
    """Logarithmic axes where there is something to see on them."""
    first = times[times > 0][0]
    if times[-1] > 20.0 * first:
        log_scale(ax, "x")
        times, excess = times[times >= first], excess[times >= first]
    ax.set_xlim(times[0], times[-1])
    top, bottom = max(excess.max(), rungs[0]), excess.min()
    # Power laws are shown to their end; a linear network's excess falls exponentially, without one.
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


def _write(ax: Any, curve: Any, found: tuple[Plateau, ...], floor: float) -> None:
    """Ranks and heights over the plateaus, times beside the escapes, wherever there is room."""
    from matplotlib.path import Path

    ax.figure.draw_without_rendering()  # constrained layout moves the axes before they are measured
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    inside, taken = ax.get_window_extent(), []
    points = np.clip(curve.get_xydata(), (left, low), (right, high))
    points = ax.transData.transform(points)

    def place(text: str, at: tuple, **style: Any) -> None:
        label = ax.annotate(text, at, textcoords="offset points", fontsize=7.5, **style)
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
            at = (plateau.escape_time, 0.0)  # of the axes' height, which may be changed later
            place(
                text,
                at,
                xytext=(-2, 4),
                xycoords=ax.get_xaxis_transform(),
                annotation_clip=True,
                **style,
            )
