"""A sweep, drawn: maps, families of curves, numbers against a parameter."""

from typing import TYPE_CHECKING, Any

import numpy as np

from odeae.base.checks import entries, flag, scalar
from odeae.base.messages import one_of, shortened
from odeae.plotting.legends import add_legend, legend_above
from odeae.plotting.style import (
    COLOURS,
    ERROR_LABEL,
    colour_bar,
    is_log,
    log_scale,
    mapped_colours,
    single_axes,
    time_axis,
)

if TYPE_CHECKING:
    import xarray


def plot_sweep(
    dataset: "xarray.Dataset",
    x: str | None = None,
    y: str | None = None,
    ax: Any = None,
    *,
    value: str | None = None,
    time: float | None = None,
    select: dict[str, Any] | None = None,
    mean: Any = (),
    levels: bool = True,
) -> Any:
    """Draw a sweep: curves over one parameter `x`, or a heat map over two, `x` and `y`.

    `value`: what a heat map shows, or what is drawn against `x` instead of curves: a variable with
    one number per curve (`final_excess` by default), or `error` or `error_clean` at the saved time
    next to `time` (default: the last). Curves are `error`, with their PCA errors dashed (`levels`).
    All other parameters with more than one value must be in `select`, {name: value}, or `mean`, a
    list of names to average over (the curves that finished). Parameters may be left out if the
    choice is clear. A zipped sweep gives curves or, over two parameters, points. Curves that failed
    are crosses or hatched cells. Returns the Axes.

    Raises `ValueError` for parameters that aren't there and for a choice that isn't clear.
    """
    if "status" not in getattr(dataset, "variables", ()):
        raise ValueError(f"plot_sweep takes the dataset of odeae.sweep, got {dataset!r:.60}")
    zipped = dataset["status"].dims == ("lane",)
    averaged = [mean] if isinstance(mean, str) else entries("mean", mean)
    if not (select is None or isinstance(select, dict)):
        raise ValueError(f'`select` must be a dict such as {{"seed": 0}}, got {shortened(select)}')
    time = None if time is None else float(scalar("time", time))
    levels = flag("levels", levels)
    data, title = _selected(dataset, select or {}, averaged, zipped)
    names = _parameters(data)
    if zipped and averaged:
        raise ValueError("`mean` is for crossed parameters; select values of a zipped sweep")
    for name in [n for n in (x, y, *averaged) if n is not None]:
        one_of("parameter", name, names)
    free = [n for n in names if n not in averaged and (zipped or data.sizes[n] > 1)]
    free = [n for n in free if not zipped or len(np.unique(data[n])) > 1]
    if x is None and y is None:
        free = free or [n for n in names if n not in averaged][:1]
        if not 1 <= len(free) <= 2:
            raise ValueError(f"the sweep has parameters {', '.join(free)}: {_HOW}")
        x, y = (*free, None)[:2]
    elif x is None or x == y:
        raise ValueError(f"`x` and `y` must be two parameters in this order, got {x!r} and {y!r}")
    left = [n for n in free if n not in (x, y)]
    if left and not zipped:
        raise ValueError(f"{', '.join(left)} must be chosen as well: {_HOW}")
    if both := [n for n in averaged if n in (x, y)]:
        raise ValueError(f"`mean` must hold other parameters than the axes, got {both[0]!r}")
    if not zipped:
        data = data.squeeze([n for n in names if n not in (x, y, *averaged)])
    title += [f"mean over {name} ({data.sizes[name]})" for name in averaged]
    ax = single_axes(ax, figsize=(6.4, 4.6))
    if y is None and value is None and time is None:
        _family(ax, data, x, averaged, levels)
    else:
        numbers, label = _numbers(data, value, time)
        (_against if y is None else _points if zipped else _heat_map)(
            ax, data, numbers, label, x, y, averaged
        )
    if title:
        ax.set_title(", ".join(title), fontsize=10, loc="left", pad=18 if y else 6)
    return ax


_HOW = 'name one or two as x and y, and the others in select={"name": value} or mean=["name"]'


_VALUES = {
    "final_excess": "error above the PCA error, at t = {t}",
    "error": "generalisation error at t = {t}",
    "error_clean": "error on clean inputs at t = {t}",
    "stop_time": "time that was reached,  steps / D",
    "status": "status",
}


def _parameters(data: Any) -> list[str]:
    dims = data["status"].dims
    if dims == ("lane",):
        return [str(name) for name, values in data.coords.items() if values.dims == dims]
    return list(dims)


def _selected(data: Any, select: dict[str, Any], averaged: list, zipped: bool) -> tuple[Any, list]:
    """The part of a sweep at the selected values, and how the title calls them."""
    title = []
    for name, want in select.items():
        values = data[one_of("parameter", name, _parameters(data))].values
        if name in averaged:
            raise ValueError(f"{name!r} is both in `select` and in `mean`")
        number = values.dtype.kind in "iuf" and isinstance(want, int | float | np.number)
        same = np.isclose(values, want, rtol=1e-9, atol=0.0) if number else values == want
        places = np.flatnonzero(same)
        if not len(places):
            some = ", ".join(map(_text, values[:8])) + (", …" if len(values) > 8 else "")
            raise ValueError(f"`select[{name!r}]` must be one of {some}, got {want!r}")
        data = data.isel(lane=places) if zipped else data.isel({name: places[:1]})
        title.append(f"{name} = {_text(values[places[0]])}")
    return data, title


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


def _numbers(data: Any, value: str | None, time: float | None) -> tuple[Any, str]:
    """One number per curve, and what it is."""
    scalars = [n for n in data.data_vars if data[n].dims == data["status"].dims]
    curves = [n for n in ("error", "error_clean") if n in data]
    value = value or ("final_excess" if time is None else "error")
    value = one_of("value", value, [*scalars, *curves])
    numbers, times = data[value], data["time"].values
    t = times[-1]
    if value in curves:
        if time is not None and not times[0] <= time <= times[-1]:
            raise ValueError(f"`time` must be from {times[0]:g} to {times[-1]:g}, got {time:g}")
        at = len(times) - 1 if time is None else int(np.argmin(np.abs(times - time)))
        numbers, t = numbers.isel(time=at), times[at]
    elif time is not None:
        raise ValueError(f"`time` is for error and error_clean, {value!r} has none")
    return numbers, _VALUES.get(value, value).format(t=f"{t:.4g}")


def _mean(numbers: Any, data: Any, averaged: list[str]) -> tuple[Any, Any, Any]:
    """The mean of what there is, and where nothing is and where something is missing."""
    known = np.isfinite(numbers)
    count, all_of = known.sum(averaged), int(np.prod([data.sizes[n] for n in averaged], dtype=int))
    average = numbers.where(known, 0.0).sum(averaged) / count.where(count > 0)
    return average, count == 0, (count > 0) & (count < all_of)


def _failures(data: Any, missing: Any) -> str:
    """How the curves ended of which nothing is shown: 3 diverged, 1 budget."""
    attributes = data["status"].attrs
    codes = zip(
        np.ravel(attributes["flag_values"]), attributes["flag_meanings"].split(), strict=True
    )
    status = data["status"].values[np.asarray(missing.values, bool)]
    counts = [(int(np.sum(status == code)), name) for code, name in codes if code != 0]
    return ", ".join(f"{n} {name.replace('_', ' ')}" for n, name in counts if n)


def _place(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Places of sorted values on an axis, edges of their cells, and linear, log or names."""
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


def _scale(ax: Any, axis: str, name: str, values: np.ndarray, kind: str) -> None:
    """Scale and label an axis over the values of a parameter."""
    getattr(ax, f"set_{axis}label")(name)
    if kind == "log":
        log_scale(ax, axis)
        return
    if kind == "names" or (values.dtype.kind in "iu" and len(values) <= 12):
        shown = np.arange(0, len(values), -(-len(values) // 24))
        places = shown if kind == "names" else values[shown]
        labels = [_text(value) for value in values[shown]]
        long = axis == "x" and sum(map(len, labels)) > 60
        ticks = getattr(ax, f"set_{axis}ticks")
        ticks(places, labels, **({"rotation": 30, "ha": "right"} if long else {}))


def _norm(values: Any) -> Any:
    from matplotlib.colors import LogNorm, Normalize

    known = np.asarray(values)[np.isfinite(values)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    return (LogNorm if low > 0 and high >= 10.0 * low else Normalize)(low, high)


def _heat_map(ax, data, numbers, label, x, y, averaged) -> None:
    """Colours over two parameters; what failed is grey and hatched."""
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Patch

    data, numbers = data.sortby([x, y]), numbers.sortby([x, y])
    average, empty, partly = (
        part.transpose(y, x).values for part in _mean(numbers, data, averaged)
    )
    edges = []
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


def _colours(ax: Any, name: str, values: np.ndarray) -> tuple[Any, bool]:
    """A colour for each value, and whether a colour bar (drawn here) names them, not a legend."""
    if values.dtype.kind not in "iuf" or len(np.unique(values)) <= 6:
        distinct, which = np.unique(values, return_inverse=True)
        return mapped_colours(np.arange(len(distinct)), log=False).to_rgba(which), False
    mapped = mapped_colours(values)
    colour_bar(ax, mapped, name)
    return mapped.to_rgba(values), True


def _family(ax, data, x, averaged, levels) -> None:
    """Curves over one parameter, coloured by its value, with crosses where they failed."""
    from matplotlib.lines import Line2D

    data, times = data.sortby(x), data["time"].values
    values, status = data[x].values, data["status"]
    dim = next(name for name in status.dims if name not in averaged)
    error, floor = data["error"], data["error"].isel(time=-1) - data["final_excess"]
    if averaged:
        error = error.where(status == 0)  # not for a while: a mean would jump where one ends
    curves, _, some = (part.transpose(dim, "time").values for part in _mean(error, data, averaged))
    floor, _, _ = _mean(floor, data, averaged)
    floor = floor.values
    known = np.isfinite(curves)
    if not known.any():
        raise ValueError("none of these curves has a finite value to draw: see `status`")
    colours, bar = _colours(ax, x, values)
    handles, seen = [], set()
    for value, curve, colour, dashed in zip(values, curves, colours, some.any(1), strict=True):
        line = ax.plot(times, curve, color=colour, lw=1.5, ls="--" if dashed else "-")[0]
        if not (bar or value in seen):
            seen.add(value)
            handles.append(Line2D([], [], color=colour, lw=1.5, label=f"{x} = {_text(value)}"))
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


def _against(ax, data, numbers, label, x, y, averaged) -> None:
    """One number per curve against one parameter; what failed is a cross at the lower edge."""
    data, numbers = data.sortby(x), numbers.sortby(x)
    average, empty, partly = (part.values for part in _mean(numbers, data, averaged))
    values = data[x].values
    places, _, kind = _place(values) if len(np.unique(values)) == len(values) else (values, 0, "")
    ax.plot(places, average, "o-", color=COLOURS[0], lw=1.2, ms=4.5)
    if np.any(partly):
        style = {"mfc": "white", "label": "mean without those that failed"}
        ax.plot(places[partly], average[partly], "o", color=COLOURS[0], ms=4.5, **style)
    _scale(ax, "x", x, values, kind)
    known = average[np.isfinite(average)]
    if known.size and known.min() > 0 and known.max() >= 10.0 * known.min():
        log_scale(ax, "y")
    if empty.any():
        failures = _failures(data, numbers.isnull()) or "not computed"
        edge = {"transform": ax.get_xaxis_transform(), "clip_on": False, "label": failures}
        ax.plot(places[empty], np.zeros(int(empty.sum())), "X", color=COLOURS[1], **edge)
    ax.set_ylabel(f"mean {label}" if averaged else label)
    add_legend(ax)


def _points(ax, data, numbers, label, x, y, averaged) -> None:
    """The curves of a zipped sweep as points over two of its parameters."""
    places = []
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
