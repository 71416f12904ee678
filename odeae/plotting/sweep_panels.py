"""The kinds of plots of a sweep, each drawn on given Axes."""

from typing import TYPE_CHECKING, Any

import numpy as np

from odeae.plotting.legends import add_legend, legend_above
from odeae.plotting.style import (
    COLOURS,
    ERROR_LABEL,
    Axes,
    colour_bar,
    is_log,
    log_scale,
    mapped_colours,
    time_axis,
)

if TYPE_CHECKING:
    from xarray import DataArray as DataArray
    from xarray import Dataset as Dataset
else:
    DataArray = Dataset = Any  # xarray is imported late


def text_of(value: Any) -> str:
    """Return the value of a parameter as a short text."""
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


def _mean(numbers: Any, data: Dataset, averaged: list[str]) -> tuple[Any, Any, Any]:
    """Return the mean of the finite numbers, where all are missing, and where only some are."""
    known = np.isfinite(numbers)
    count, all_of = known.sum(averaged), int(np.prod([data.sizes[n] for n in averaged], dtype=int))
    average = numbers.where(known, 0.0).sum(averaged) / count.where(count > 0)
    return average, count == 0, (count > 0) & (count < all_of)


def _failures(data: Dataset, missing: DataArray) -> str:
    """Return how the missing curves ended: 3 diverged, 1 budget."""
    attributes = data["status"].attrs
    codes = zip(
        np.ravel(attributes["flag_values"]), attributes["flag_meanings"].split(), strict=True
    )
    status = data["status"].values[np.asarray(missing.values, bool)]
    counts = [(int(np.sum(status == code)), name) for code, name in codes if code != 0]
    return ", ".join(f"{n} {name.replace('_', ' ')}" for n, name in counts if n)


def _place(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Return places of sorted values on an axis, edges of their cells, and linear, log or names."""
    if values.dtype.kind in "iuf":
        log = is_log(values)
        at = np.log(values) if log else values.astype(float)
        gaps = np.diff(at)
        if len(at) > 1 and gaps.max() <= 4.0 * gaps.min():
            middle = 0.5 * (at[1:] + at[:-1])
            edges = np.concatenate([[2 * at[0] - middle[0]], middle, [2 * at[-1] - middle[-1]]])
            return (values, np.exp(edges), "log") if log else (values, edges, "linear")
    places = np.arange(len(values), dtype=float)
    return places, np.arange(len(values) + 1) - 0.5, "names"


def _scale(ax: Axes, axis: str, name: str, values: np.ndarray, kind: str) -> None:
    """Scale and label an axis over the values of a parameter."""
    getattr(ax, f"set_{axis}label")(name)
    if kind == "log":
        log_scale(ax, axis)
        return
    if kind == "names" or (values.dtype.kind in "iu" and len(values) <= 12):
        shown = np.arange(0, len(values), -(-len(values) // 24))
        places = shown if kind == "names" else values[shown]
        labels = [text_of(value) for value in values[shown]]
        long = axis == "x" and sum(map(len, labels)) > 60
        ticks = getattr(ax, f"set_{axis}ticks")
        ticks(places, labels, **({"rotation": 30, "ha": "right"} if long else {}))


def _norm(values: Any) -> Any:
    from matplotlib.colors import LogNorm, Normalize

    known = np.asarray(values)[np.isfinite(values)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    return (LogNorm if low > 0 and high >= 10.0 * low else Normalize)(low, high)


def draw_heat_map(
    ax: Axes, data: Dataset, numbers: DataArray, label: str, x: Any, y: Any, averaged: list[str]
) -> None:
    """Draw colours over two parameters; failed curves are grey and hatched."""
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Patch

    data, numbers = data.sortby([x, y]), numbers.sortby([x, y])
    average, empty, partly = (
        part.transpose(y, x).values for part in _mean(numbers, data, averaged)
    )
    edges: list[Any] = []
    for axis, name in (("x", x), ("y", y)):
        values = data[name].values
        _, cells, kind = _place(values)
        _scale(ax, axis, name, values, kind)
        edges.append(cells)
    shown = np.ma.masked_invalid(average)
    drawn = ax.pcolormesh(*edges, shown, norm=_norm(average), cmap="viridis", rasterized=True)
    colour_bar(ax, drawn, f"mean {label}" if averaged else label)
    computed = data["status"] >= 0
    waiting = empty & ~computed.any(averaged).transpose(y, x).values
    failures = _failures(data, numbers.isnull() & computed)
    handles = []
    marked: list[tuple[np.ndarray, str, dict[str, Any]]] = [
        (empty & ~waiting, failures, {"facecolor": "0.88", "hatch": "////"}),
        (partly, "mean without those that failed", {"facecolor": "none", "hatch": ".."}),
        (waiting, "not computed", {"facecolor": "w"}),
    ]
    for chosen, text, style in marked:
        if chosen.any():
            style |= {"edgecolor": "0.5", "label": text}
            (left, right), (low, high) = ((e[:-1], e[1:]) for e in edges)
            corners = [
                [(left[j], low[i]), (right[j], low[i]), (right[j], high[i]), (left[j], high[i])]
                for i, j in np.argwhere(chosen)
            ]
            ax.add_collection(PolyCollection(corners, lw=0.0, **style), autolim=False)
            handles.append(Patch(lw=0.5, **style))
    legend_above(ax, handles)


def _colours(ax: Axes, name: str, values: np.ndarray) -> tuple[Any, bool]:
    """Return a colour for each value, and whether a colour bar (drawn here) explains them."""
    if values.dtype.kind not in "iuf" or len(np.unique(values)) <= 6:
        distinct, which = np.unique(values, return_inverse=True)
        return mapped_colours(np.arange(len(distinct)), log=False).to_rgba(which), False
    mapped = mapped_colours(values)
    colour_bar(ax, mapped, name)
    return mapped.to_rgba(values), True


def draw_family(ax: Axes, data: Dataset, x: Any, averaged: list[str], levels: bool) -> None:
    """Draw curves over one parameter, coloured by its value, with crosses where they failed."""
    from matplotlib.lines import Line2D

    data, times = data.sortby(x), data["time"].values
    values, status = data[x].values, data["status"]
    dim = next(name for name in status.dims if name not in averaged)
    error, floor = data["error"], data["error"].isel(time=-1) - data["final_excess"]
    if averaged:
        error = error.where(status == 0)  # leave out stopped curves: a mean would jump at their end
    curves, _, some = (part.transpose(dim, "time").values for part in _mean(error, data, averaged))
    floor, _, _ = _mean(floor, data, averaged)
    floor = floor.values
    known = np.asarray(np.isfinite(curves))
    if not known.any():
        raise ValueError("none of these curves has a finite value to draw: see `status`")
    colours, bar = _colours(ax, x, values)
    handles, seen = [], set()
    for value, curve, colour, dashed in zip(values, curves, colours, some.any(1), strict=True):
        line = ax.plot(times, curve, color=colour, lw=1.5, ls="--" if dashed else "-")[0]
        if not (bar or value in seen):
            seen.add(value)
            handles.append(Line2D([], [], color=colour, lw=1.5, label=f"{x} = {text_of(value)}"))
            line.set_label(handles[-1].get_label())
    finished = known[:, -1]
    ends = np.concatenate([curves[finished].ravel(), curves[known[:, 0], 0]])
    ends = ends[np.isfinite(ends)] if finished.any() else curves[known]
    low, high = ends.min(), ends.max()
    levels = levels and bool(np.isfinite(floor).any())
    if levels:
        low = min(low, np.nanmin(floor))
    time_axis(ax, times)
    if low > 0:
        log_scale(ax, "y")
        margin = (high / low) ** 0.06
        ax.set_ylim(low / margin, high * margin)
    else:
        margin = 0.06 * (high - low or 1.0)
        ax.set_ylim(low - margin, high + margin)
    if levels:
        style = {"lw": 0.9, "ls": (0, (4, 3)), "zorder": 1}
        shared = np.nanmax(floor) - np.nanmin(floor) <= 1e-9 * abs(np.nanmax(floor))
        lines = [(np.nanmax(floor), "0.45")] if shared else list(zip(floor, colours, strict=True))
        for level, colour in lines:
            if np.isfinite(level):
                ax.axhline(level, color=colour, **style)
        label = "PCA error" if shared else f"PCA error at each {x}"
        handles.append(Line2D([], [], color="0.45", label=label, **style))
    if averaged and some.any():
        handles.append(Line2D([], [], color="0.3", ls="--", label="mean without those that failed"))
    last = [(i, np.flatnonzero(known[i])[-1]) for i in np.flatnonzero(~finished & known.any(1))]
    if last:
        cross = {"marker": "X", "ls": "", "ms": 8, "mec": "w", "mew": 0.7}
        for i, j in last:
            height = np.clip(curves[i, j], *ax.get_ylim())
            ax.plot(times[j], height, color=colours[i], clip_on=False, zorder=4, **cross)
        label = "stopped: " + _failures(data, status > 0)
        handles.append(Line2D([], [], color="0.3", label=label, **cross))
    ax.set_ylabel("mean error" if averaged else ERROR_LABEL)
    add_legend(ax, handles)


def draw_against(
    ax: Axes, data: Dataset, numbers: DataArray, label: str, x: Any, y: Any, averaged: list[str]
) -> None:
    """Draw one number per curve against one parameter; failed curves are crosses at the edge."""
    data, numbers = data.sortby(x), numbers.sortby(x)
    average, empty, partly = (part.values for part in _mean(numbers, data, averaged))
    values = data[x].values
    places, _, kind = _place(values) if len(np.unique(values)) == len(values) else (values, 0, "")
    ax.plot(places, average, "o-", color=COLOURS[0], lw=1.2, ms=4.5)
    if np.any(partly):
        style: dict[str, Any] = {"mfc": "white", "label": "mean without those that failed"}
        ax.plot(places[partly], average[partly], "o", color=COLOURS[0], ms=4.5, **style)
    _scale(ax, "x", x, values, kind)
    known = average[np.isfinite(average)]
    if known.size and known.min() > 0 and known.max() >= 10.0 * known.min():
        log_scale(ax, "y")
    if empty.any():
        failures = _failures(data, numbers.isnull()) or "not computed"
        edge: dict[str, Any] = {
            "transform": ax.get_xaxis_transform(),
            "clip_on": False,
            "label": failures,
        }
        ax.plot(places[empty], np.zeros(int(empty.sum())), "X", color=COLOURS[1], **edge)
    ax.set_ylabel(f"mean {label}" if averaged else label)
    add_legend(ax)


def draw_points(
    ax: Axes, data: Dataset, numbers: DataArray, label: str, x: Any, y: Any, averaged: list[str]
) -> None:
    """Draw the curves of a zipped sweep as points over two of its parameters."""
    places: list[Any] = []
    for axis, name in (("x", x), ("y", y)):
        values, which = np.unique(data[name].values, return_inverse=True)
        at, _, kind = _place(values) if values.dtype.kind not in "iuf" else (values, 0, "")
        kind = "log" if not kind and is_log(values) else kind
        _scale(ax, axis, name, values, kind)
        places.append(at[which])
    known = np.isfinite(numbers.values)
    x_at, y_at = places
    style = {"norm": _norm(numbers.values), "cmap": "viridis", "s": 45, "ec": "0.3", "lw": 0.5}
    drawn = ax.scatter(x_at[known], y_at[known], c=numbers.values[known], **style)
    colour_bar(ax, drawn, label)
    if not known.all():
        failures = _failures(data, numbers.isnull()) or "not computed"
        failed = ax.scatter(
            x_at[~known], y_at[~known], marker="X", color="0.55", s=45, label=failures
        )
        legend_above(ax, [failed])
