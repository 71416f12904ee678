"""Plots of sweeps: heat maps, families of curves, numbers against a parameter."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from odeae.base.checks import entries, flag, scalar
from odeae.base.messages import one_of, shortened
from odeae.plotting.style import Axes, single_axes
from odeae.plotting.sweep_panels import (
    DataArray,
    Dataset,
    draw_against,
    draw_family,
    draw_heat_map,
    draw_points,
    text_of,
)


def plot_sweep(
    dataset: Dataset,
    x: str | None = None,
    y: str | None = None,
    ax: Axes | None = None,
    *,
    value: str | None = None,
    time: float | None = None,
    select: dict[str, Any] | None = None,
    mean: str | Sequence[str] = (),
    levels: bool = True,
) -> Axes:
    """Draw a sweep: curves over one parameter, or a heat map over two parameters.

    A zipped sweep gives curves or, over two parameters, points. Curves that failed are crosses or
    hatched cells.

    Args:
        dataset: The result of `odeae.sweep` or `odeae.open_sweep`.
        x: The parameter of the curves or of the horizontal axis. Parameters may be left out if the
            choice is clear.
        y: The parameter of the vertical axis of a heat map.
        ax: Axes to draw on; None makes a figure.
        value: The variable of a heat map, or the variable to draw against `x` instead of curves:
            one with one number per curve (`final_excess` by default), or `error` or `error_clean`.
        time: The time in steps/D for `error` and `error_clean`; the nearest saved time is taken, by
            default the last.
        select: Values of other parameters, {name: value}. Each other parameter with more than one
            value must be in `select` or in `mean`.
        mean: Name or names of other parameters, over which the curves that finished are averaged.
        levels: Whether to draw the PCA errors of curves as dashed lines.

    Returns:
        The Axes.

    Raises:
        ValueError: For parameters that don't exist, for a choice that isn't clear, and for anything
            but the dataset of a sweep.

    Example:
        >>> build = lambda lr: (odeae.Problem(spectrum, odeae.Autoencoder(3), odeae.SGD(lr)), state)
        >>> table = odeae.sweep(build, {"lr": [0.5, 1.0]}, [0.0, 1.0, 2.0])
        >>> odeae.plot_sweep(table, "lr").figure.savefig("sweep.png")
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
        draw_family(ax, data, x, averaged, levels)
    else:
        numbers, label = _numbers(data, value, time)
        (draw_against if y is None else draw_points if zipped else draw_heat_map)(
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


def _parameters(data: Dataset) -> list[str]:
    dims = data["status"].dims
    if dims == ("lane",):
        return [str(name) for name, values in data.coords.items() if values.dims == dims]
    return [str(name) for name in dims]


def _selected(
    data: Dataset, select: dict[str, Any], averaged: list[str], zipped: bool
) -> tuple[Dataset, list[str]]:
    """Return the part of a sweep at the selected values, and the words for the title."""
    title: list[str] = []
    for name, want in select.items():
        values = data[one_of("parameter", name, _parameters(data))].values
        if name in averaged:
            raise ValueError(f"{name!r} is both in `select` and in `mean`")
        number = values.dtype.kind in "iuf" and isinstance(want, int | float | np.number)
        same = np.isclose(values, want, rtol=1e-9, atol=0.0) if number else values == want
        places = np.flatnonzero(same)
        if not len(places):
            some = ", ".join(map(text_of, values[:8])) + (", …" if len(values) > 8 else "")
            raise ValueError(f"`select[{name!r}]` must be one of {some}, got {want!r}")
        data = data.isel(lane=places) if zipped else data.isel({name: places[:1]})
        title.append(f"{name} = {text_of(values[places[0]])}")
    return data, title


def _numbers(data: Dataset, value: str | None, time: float | None) -> tuple[DataArray, str]:
    """Return one number per curve, and its label."""
    scalars = [str(n) for n in data.data_vars if data[n].dims == data["status"].dims]
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
