"""Legends that cover no curve."""

import textwrap
from typing import Any

import numpy as np

from odeae.plotting.style import Axes


def occupied(ax: Axes) -> tuple[np.ndarray, list[Any]]:
    """Return points on lines and error bars, in pixels, and the outlines of bands."""
    from matplotlib.collections import LineCollection, PolyCollection

    data = ax.transData
    paths = [data.transform_path(x.get_path()) for x in ax.lines if x.get_transform() == data]
    of = [(part, data.transform_path(path)) for part in ax.collections for path in part.get_paths()]
    paths += [path for part, path in of if isinstance(part, LineCollection)]
    points = [np.zeros((0, 2))]
    for path in paths:
        vertices = np.asarray(path.vertices, float)
        if len(vertices) == 1:
            points.append(vertices)
        start, way = vertices[:-1], np.diff(vertices, axis=0)
        seen = np.isfinite(start).all(1) & np.isfinite(way).all(1)
        steps = int(min(np.abs(way[seen]).max(initial=0.0) / 3.0, 400.0)) + 2
        parts = np.linspace(0.0, 1.0, steps)[:, None, None]
        points.append((start[seen] + parts * way[seen]).reshape(-1, 2))
    return np.concatenate(points), [path for part, path in of if isinstance(part, PolyCollection)]


def is_hit(box: Any, points: np.ndarray, filled: list[Any]) -> bool:
    """Return whether a box on the screen covers any of the points or crosses a filled area."""
    inside = np.all((points > box.min) & (points < box.max), axis=1)
    return bool(inside.any()) or any(path.intersects_bbox(box) for path in filled)


# Curves are compressed to no less than this part of the height; larger legends cover them.
_SMALLEST = 0.3


_PLACES = (
    "upper right", "upper left", "lower left", "lower right",
    "center right", "center left", "lower center", "upper center", "center",
)  # fmt: skip


def _inside(ax: Axes, *args: Any, **options: Any) -> Any:
    """Draw and return a legend that doesn't change the size of the axes, even in small figures."""
    legend = ax.legend(*args, **options)
    legend.set_in_layout(False)
    return legend


def add_legend(ax: Axes, handles: list[Any] | None = None, place: bool | str = True) -> None:
    """Draw a legend where it covers no curve; without such a place, the axes make room for it.

    `handles` are the artists to name, by default all that have a label. `place` may be the name of
    a place that the user has chosen.
    """
    if handles is None:
        handles, texts = ax.get_legend_handles_labels()
    else:
        texts = [handle.get_label() for handle in handles]
    if not handles:
        return
    style: dict[str, Any] = {"frameon": True, "framealpha": 0.9, "edgecolor": "none", "fontsize": 8}
    if isinstance(place, str):
        _inside(ax, handles, texts, loc=place, **style)
        return
    root: Any = ax.figure.canvas.figure
    if root.get_layout_engine() is not None:  # the layout must move the axes before measuring
        root.get_layout_engine().execute(root)
    inside, margin = ax.get_window_extent(), 3.0 * root.dpi / 72.0
    points, filled = occupied(ax)
    roomy: tuple[Any, ...] = (0.0,)
    for size in (8, 7, 6):
        style["fontsize"] = size
        for columns in range(1, len(handles) + 1):
            legend = _inside(ax, handles, texts, loc="upper right", ncols=columns, **style)
            width = legend.get_window_extent().width
            if columns == 1 and width > inside.width:  # for narrow axes, lines of fewer letters
                most = int(max(map(len, texts)) * inside.width / width) - 6
                texts = [textwrap.fill(text, max(most, 12)) for text in texts]
                legend = _inside(ax, handles, texts, loc="upper right", **style)
            elif columns > 1 and width > inside.width:
                break
            for where in _PLACES:
                legend.set_loc(where)
                if not is_hit(legend.get_window_extent().padded(margin), points, filled):
                    return
            roomy = max(roomy, (*_room(ax, legend, points, margin), columns))
        if roomy[0] > 0.6:
            break
    part, where, columns = roomy
    _inside(ax, handles, texts, loc=where, ncols=columns, **style)
    low, high = ax.yaxis.get_transform().transform(np.asarray(ax.get_ylim()))
    if where.startswith("upper"):
        high = low + (high - low) / part
    else:
        low = high - (high - low) / part
    ax.set_ylim(*ax.yaxis.get_transform().inverted().transform(np.asarray([low, high])))


def _room(ax: Axes, legend: Any, points: np.ndarray, margin: float) -> tuple[float, str]:
    """Return the largest part of the height that a legend leaves to the curves, and its place."""
    inside = ax.get_window_extent()
    seen = points[np.all((points >= inside.min) & (points <= inside.max), axis=1)]
    parts = []
    for where in (place for place in _PLACES if not place.startswith("center")):
        legend.set_loc(where)
        box = legend.get_window_extent().padded(2.0 * margin)
        near = seen[(seen[:, 0] > box.x0) & (seen[:, 0] < box.x1), 1]
        up = where.startswith("upper")
        way = (near - inside.y0) if up else (inside.y1 - near)
        room = (box.y0 - inside.y0) if up else (inside.y1 - box.y1)
        parts.append((max(room / way.max(initial=1.0), _SMALLEST), where))
    return max(parts)


def legend_above(ax: Axes, handles: list[Any]) -> None:
    """Put a legend of `handles` in one line above the axes."""
    if handles:
        style = {"frameon": False, "fontsize": 8, "borderaxespad": 0.2, "ncols": len(handles)}
        ax.legend(handles=handles, loc="lower right", bbox_to_anchor=(1.0, 1.0), **style)
