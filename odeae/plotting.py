"""Plots: each takes Axes or makes them, returns them, and never shows anything."""

from typing import TYPE_CHECKING, Any

import numpy as np

from odeae.trajectory import ENSEMBLE
from odeae.words import explains_arguments, one_of

if TYPE_CHECKING:
    import xarray

    from odeae.spectrum import Spectrum
    from odeae.trajectory import Trajectory

_COLOURS = ("#1f4e79", "#c55a11", "#548235", "#7030a0", "#7f7f7f")
_MARKERS = "os^Dv"


def _log(ax: Any, which: str) -> None:
    """Make the x or y axis logarithmic, with 0.6 for 6×10⁻¹ where all of its numbers are short."""
    getattr(ax, f"set_{which}scale")("log")
    axis = getattr(ax, f"{which}axis")
    axis.set_major_formatter(_short_numbers())
    axis.set_minor_formatter(_short_numbers())


def _short_numbers() -> Any:
    """What labels a logarithmic axis: matplotlib's choice of ticks, as plain numbers if short."""
    from matplotlib.ticker import LogFormatterSciNotation

    class ShortNumbers(LogFormatterSciNotation):
        def __call__(self, x, pos=None):
            text = super().__call__(x, pos)
            assert self.axis is not None
            low, high = sorted(self.axis.get_view_interval())
            return f"{x:g}" if text and low >= 5e-4 and high <= 2e4 else text

    return ShortNumbers()


def _colour_bar(ax: Any, colours: Any, label: str) -> None:
    from matplotlib.colors import LogNorm

    bar = ax.figure.colorbar(colours, ax=ax, label=label)
    if isinstance(colours.norm, LogNorm):
        bar.formatter, bar.minorformatter = _short_numbers(), _short_numbers()


def _axes(ax: Any, **size: Any) -> Any:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained", **size)[1]


@explains_arguments
def plot(
    *trajectories: "Trajectory",
    ax: Any = None,
    labels: list[str] | None = None,
    quantity: str | None = None,
    levels: bool = True,
) -> Any:
    """Draw error curves: theory as lines, simulations as points with standard errors.

    Of an ensemble, the mean and a band that holds the middle 80 % of its members at each time.
    (A few late starts can pull the mean out of it.) `levels`: PCA errors of rank 0 … K of the first
    trajectory as thin lines. `quantity`: `error`, `error_clean`, `excess` (above the level of rank
    K) or `test_error`, which only simulations have: theory is its `error` then; default: `error`,
    of real inputs `test_error`. The time axis is logarithmic (t = 0 is left out) unless times span
    less than a factor of 20. Returns the Axes.
    """
    if quantity is not None:
        one_of("quantity", quantity, ["error", "error_clean", "excess", "test_error"])
    of_theory = "error" if quantity in (None, "test_error") else quantity
    kinds = [type(trajectory).__name__ for trajectory in trajectories]
    if not kinds or set(kinds) != {"Trajectory"}:
        got = ", ".join(kinds) or "nothing"
        raise ValueError(f"plot takes trajectories, such as plot(theory, runs), got {got}")
    ax = _axes(ax, figsize=(6.4, 4.2))
    if labels is not None and len(labels) != len(trajectories):
        raise ValueError(f"`labels` must have {len(trajectories)} entries, got {len(labels)}")
    low, high, first, last = np.inf, -np.inf, np.inf, 0.0
    simulated = bands = 0
    for i, trajectory in enumerate(trajectories):
        times = trajectory.shared_times()
        first, last = min(first, times[times > 0].min(initial=np.inf)), max(last, times[-1])
        name = trajectory.source if labels is None else labels[i]
        if trajectory.source == ENSEMBLE:
            curves = np.asarray(getattr(trajectory, of_theory))
            curves = curves[np.asarray(trajectory.status) == 0]
            if len(curves) == 0:
                raise ValueError(f"no member of {name!r} finished: see its `status`")
            values = np.quantile(curves, [0.1, 0.9], axis=0)
            named = "" if labels is None else f"{name}: "
            named += f"mean of {len(curves)} starts, and their middle 80 %"
            colour = _COLOURS[bands % 5]
            ax.fill_between(times, *values, color=colour, alpha=0.2, lw=0)
            ax.plot(times, curves.mean(axis=0), color=colour, lw=1.8, label=named)
            bands += 1
        elif trajectory.source == "theory":
            curves = np.asarray(getattr(trajectory, of_theory)).reshape(-1, len(times))
            for j, curve in enumerate(curves):
                ax.plot(
                    times,
                    curve,
                    color=_COLOURS[0],
                    lw=1.8,
                    alpha=max(0.15, len(curves) ** -0.5),
                    zorder=2,
                    label=name if j == 0 else None,
                )
            values = curves
        else:
            real = "real" in trajectory.source
            own = " (test error)" if real and quantity is None and labels is None else ""
            shown = quantity or ("test_error" if real else "error")
            values = np.asarray(getattr(trajectory, shown))[np.asarray(trajectory.status) == 0]
            runs = values.shape[0]
            if runs == 0:
                raise ValueError(f"no run of {name!r} finished: see its `status`")
            spread = values.std(axis=0, ddof=1) / runs**0.5 if runs > 1 else None
            simulated += 1
            colour = _COLOURS[1 + (simulated - 1) % 4]
            ax.errorbar(
                times,
                values.mean(axis=0),
                spread,
                color=colour,
                mfc="white",
                mew=1.2,
                fmt=_MARKERS[simulated % 5 - 1],
                ms=4.5,
                lw=1.0,
                zorder=3,
                label=f"{name}{own}, {runs} runs",
            )
            values = values.mean(axis=0)
        if not np.isfinite(values).any():
            raise ValueError(f"the curve {name!r} has no finite value to draw: see its `status`")
        low, high = min(low, np.nanmin(values)), max(high, np.nanmax(values))
    if last > 20.0 * first:
        _log(ax, "x")
        ax.set_xlim(first, last)
    pca = trajectories[0].pca_levels() if levels else None
    if pca is not None and quantity == "excess":
        pca = pca[:-1] - pca[-1]
    if pca is not None:
        low, high = min(low, pca[-1]), max(high, pca[-1])
    logarithmic = low > 0 and high > 20.0 * low
    if logarithmic:
        _log(ax, "y")
        margin = (high / low) ** 0.05
        ax.set_ylim(low / margin, high * margin)
    else:
        margin = 0.05 * (high - low or 1.0)
        ax.set_ylim(low - margin, high + margin)
    if pca is not None:
        _draw_levels(ax, pca)
    ax.set_xlabel("time  t = steps / D")
    above = "error above the PCA error of rank K  (‖x − x̂‖² / 2D)"
    ax.set_ylabel(above if quantity == "excess" else "generalisation error  ‖x − x̂‖² / 2D")
    ax.legend(frameon=True, framealpha=0.9, edgecolor="none", loc="best")
    return ax


def _draw_levels(ax: Any, pca: np.ndarray) -> None:
    """PCA levels as thin lines; their ranks at the right edge where there is room."""
    transform = ax.transData
    taken = -np.inf
    for rank in range(len(pca) - 1, -1, -1):  # the lowest is always named
        if not ax.get_ylim()[0] <= pca[rank] <= ax.get_ylim()[1]:
            continue
        ax.axhline(pca[rank], color="0.55", lw=0.7, ls=(0, (4, 3)), zorder=1)
        height = transform.transform((ax.get_xlim()[1], pca[rank]))[1]
        if height - taken > 0.14 * ax.figure.dpi:
            ax.annotate(
                f"PCA {rank}",
                (1.0, pca[rank]),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                color="0.35",
                annotation_clip=False,
            )
            taken = height


def plot_order_parameters(trajectory: "Trajectory", axes: Any = None) -> Any:
    """Draw the entries of Q1, R1, T1 and T0 against time in four panels.

    Entries of a neuron with itself have its colour, the others are grey; runs of a simulation (and
    lanes) are averaged. `axes`: four Axes, or None for a new 2 × 2 figure. Returns them as an
    array, so that `axes[0, 0].figure` is the figure.
    """
    if axes is None:
        import matplotlib.pyplot as plt

        axes = plt.subplots(2, 2, figsize=(8.0, 5.6), sharex=True, layout="constrained")[1]
    panels = np.ravel(axes)
    times = trajectory.shared_times()
    positive = times[times > 0]
    formulas = ("W Ω Wᵀ / D", "V Ω Wᵀ / D$^{3/2}$", "V Ω Vᵀ / D²", "V Vᵀ / D")
    for ax, name, formula in zip(panels, ("Q1", "R1", "T1", "T0"), formulas, strict=True):
        values = np.asarray(getattr(trajectory, name))
        values = values.reshape(-1, *values.shape[-3:]).mean(axis=0)
        for k in range(values.shape[-1]):
            for m in range(values.shape[-1]):
                own = k == m
                style = {"color": f"C{k % 10}", "lw": 1.5} if own else {"color": "0.6", "lw": 0.7}
                label = f"neuron {k + 1}" if own else None
                ax.plot(times, values[:, k, m], label=label, zorder=2 if own else 1, **style)
        if values.shape[-1] > 1:
            ax.plot([], [], color="0.6", lw=0.7, label="two neurons")
        if positive.size and times[-1] > 20.0 * positive[0]:
            _log(ax, "x")
            ax.set_xlim(positive[0], times[-1])
        ax.set_title(f"{name} = {formula}", fontsize=10)
    for ax in panels[2:]:
        ax.set_xlabel("time  t = steps / D")
    if trajectory.bias.shape[-1] <= 10:
        panels[0].legend(frameon=False, fontsize=7.5)
    return axes


def plot_overlaps(trajectory: "Trajectory", axes: Any = None) -> Any:
    """Draw |cos| of each neuron with each principal component against time, a panel per component.

    Solid: decoders; dashed: encoders, within the span of the components. The first panels show the
    leading components (at most eight), the last one the share of the first K that decoders (solid)
    and encoders (dashed) span. Runs and members that finished are averaged. `axes`: as many Axes as
    there are panels, or None for a new figure. Returns them as an array.
    """
    overlaps, times = trajectory.overlaps, trajectory.shared_times()
    K, n = overlaps.decoder.shape[-2:]
    shown = min(n, 8)

    good = np.ravel(trajectory.status) == 0
    if not good.any() and good.size > 1:
        raise ValueError(f"nothing of {trajectory.source!r} finished: see its `status`")

    def mean(values: Any, ndim: int) -> np.ndarray:
        curves = np.asarray(values).reshape(-1, *values.shape[-ndim:])
        return curves[good].mean(axis=0) if good.any() else curves[0]

    decoder, encoder = (
        mean(np.abs(values), 3) for values in (overlaps.decoder, overlaps.encoder_within)
    )
    if axes is None:
        import matplotlib.pyplot as plt

        columns = int(np.ceil((shown + 1) ** 0.5))
        rows = -(-(shown + 1) // columns)
        size = {"figsize": (3.2 * columns, 2.6 * rows), "sharey": True}
        axes = plt.subplots(rows, columns, layout="constrained", squeeze=False, **size)[1]
        for ax in np.ravel(axes)[shown + 1 :]:
            ax.set_axis_off()
    panels: list[Any] = list(np.ravel(axes))
    if len(panels) <= shown:
        raise ValueError(f"`axes` must hold at least {shown + 1} Axes, got {len(panels)}")
    for i, ax in enumerate(panels[:shown]):
        for k in range(K):
            colour = f"C{k % 10}"
            ax.plot(times, decoder[:, k, i], color=colour, lw=1.5, label=f"neuron {k + 1}")
            ax.plot(times, encoder[:, k, i], color=colour, lw=1.0, ls="--")
        ax.set_title(f"component {i + 1}", fontsize=10)
    panels[0].plot([], [], color="0.4", lw=1.0, ls="--", label="encoder, within spikes")
    last = panels[shown]
    for values, style, name in (
        (overlaps.subspace_decoder, {"lw": 1.5}, "decoders"),
        (overlaps.subspace_encoder, {"lw": 1.0, "ls": "--"}, "encoders, in all D"),
    ):
        last.plot(times, mean(values, 1), color="k", label=name, **style)
    last.set_title(f"share of the first {min(K, n)} spanned", fontsize=10)
    positive = times[times > 0]
    for ax in panels[: shown + 1]:
        ax.set_ylim(-0.02, 1.02)
        if positive.size and times[-1] > 20.0 * positive[0]:
            _log(ax, "x")
            ax.set_xlim(positive[0], times[-1])
        ax.set_xlabel("t = steps / D")
    panels[0].set_ylabel("|cosine|")
    if K <= 10:
        panels[0].legend(frameon=False, fontsize=7.5)
    last.legend(frameon=False, fontsize=7.5)
    return axes


def plot_spectrum(spectrum: "Spectrum", ax: Any = None) -> Any:
    """Draw eigenvalues against rank, spikes apart from the bulk and its bins; returns the Axes."""
    ax = _axes(ax, figsize=(6.4, 4.2))
    count = len(spectrum.spikes)
    values = np.sort(np.asarray(spectrum.eigenvalues()))[::-1]
    rank = np.arange(1, len(values) + 1)
    positive = values > 0
    ax.plot(
        rank[positive], values[positive], ".", color="0.6", ms=4, label=f"{len(values)} eigenvalues"
    )
    ax.plot(
        rank[:count],
        np.sort(np.asarray(spectrum.spikes) * spectrum.dim)[::-1],
        "o",
        mfc="white",
        color=_COLOURS[1],
        ms=4.5,
        label=f"{count} spikes",
    )
    if len(spectrum.bulk):
        edges = count + np.cumsum([0, *spectrum.multiplicity])
        shown = np.asarray(spectrum.bulk) > 0
        ax.hlines(
            np.asarray(spectrum.bulk)[shown],
            (edges[:-1] + 1)[shown],
            edges[1:][shown],
            color=_COLOURS[0],
            lw=2.0,
            label=f"{len(spectrum.bulk)} bulk bins",
        )
    _log(ax, "x")
    _log(ax, "y")
    ax.set_xlabel("rank")
    zeros = int(np.sum(~positive))
    ax.set_ylabel("eigenvalue ρ" + (f"  ({zeros} of 0 not shown)" if zeros else ""))
    ax.legend(frameon=False)
    return ax


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
    averaged = [mean] if isinstance(mean, str) else list(mean)
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
    ax = _axes(ax, figsize=(6.4, 4.6))
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


def _is_log(values: np.ndarray) -> bool:
    """Whether values lie more evenly on a logarithmic axis than on a linear one."""
    values = np.unique(values)
    if len(values) < 2 or values[0] <= 0 or values[-1] < 5.0 * values[0]:
        return False
    gaps, ratios = np.diff(values), np.diff(np.log(values))
    if len(values) == 2:
        return bool(values[1] >= 10.0 * values[0])
    return bool(ratios.std() / ratios.mean() <= gaps.std() / gaps.mean())


def _place(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Places of sorted values on an axis, edges of their cells, and linear, log or names."""
    if values.dtype.kind in "iuf":
        log = _is_log(values)
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
        _log(ax, axis)
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


def _legend_above(ax: Any, handles: list) -> None:
    if handles:
        style = {"frameon": False, "fontsize": 8, "borderaxespad": 0.2, "ncols": len(handles)}
        ax.legend(handles=handles, loc="lower right", bbox_to_anchor=(1.0, 1.0), **style)


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
    _colour_bar(ax, drawn, f"mean {label}" if averaged else label)
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
    _legend_above(ax, handles)


def _colours(ax: Any, name: str, values: np.ndarray) -> tuple[Any, bool]:
    """A colour for each value, and whether a colour bar (drawn here) names them, not a legend."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize

    if values.dtype.kind not in "iuf" or len(np.unique(values)) <= 6:
        distinct, which = np.unique(values, return_inverse=True)
        norm = Normalize(0.0, len(distinct) - 0.5)  # viridis ends in a yellow too light for lines
        return ScalarMappable(norm, "viridis").to_rgba(which), False
    norm = (LogNorm if _is_log(values) else Normalize)(values.min(), values.max())
    mapped = ScalarMappable(norm, "viridis")
    _colour_bar(ax, mapped, name)
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
    positive = times[times > 0]
    if positive.size and times[-1] > 20.0 * positive[0]:
        _log(ax, "x")
        ax.set_xlim(positive[0], times[-1])
    if low > 0:
        _log(ax, "y")
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
    ax.set_xlabel("time  t = steps / D")
    ax.set_ylabel("mean error" if averaged else "generalisation error  ‖x − x̂‖² / 2D")
    style = {"frameon": True, "framealpha": 0.9, "edgecolor": "none", "fontsize": 8}
    ax.legend(handles=handles, loc="best", ncols=1 if len(handles) <= 10 else 2, **style)


def _against(ax, data, numbers, label, x, y, averaged) -> None:
    """One number per curve against one parameter; what failed is a cross at the lower edge."""
    data, numbers = data.sortby(x), numbers.sortby(x)
    average, empty, partly = (part.values for part in _mean(numbers, data, averaged))
    values = data[x].values
    places, _, kind = _place(values) if len(np.unique(values)) == len(values) else (values, 0, "")
    ax.plot(places, average, "o-", color=_COLOURS[0], lw=1.2, ms=4.5)
    if np.any(partly):
        style = {"mfc": "white", "label": "mean without those that failed"}
        ax.plot(places[partly], average[partly], "o", color=_COLOURS[0], ms=4.5, **style)
    _scale(ax, "x", x, values, kind)
    known = average[np.isfinite(average)]
    if known.size and known.min() > 0 and known.max() >= 10.0 * known.min():
        _log(ax, "y")
    if empty.any():
        failures = _failures(data, numbers.isnull()) or "not computed"
        edge = {"transform": ax.get_xaxis_transform(), "clip_on": False, "label": failures}
        ax.plot(places[empty], np.zeros(int(empty.sum())), "X", color=_COLOURS[1], **edge)
    ax.set_ylabel(f"mean {label}" if averaged else label)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=8)


def _points(ax, data, numbers, label, x, y, averaged) -> None:
    """The curves of a zipped sweep as points over two of its parameters."""
    places = []
    for axis, name in (("x", x), ("y", y)):
        values, which = np.unique(data[name].values, return_inverse=True)
        at, _, kind = _place(values) if values.dtype.kind not in "iuf" else (values, 0, "")
        kind = "log" if not kind and _is_log(values) else kind
        _scale(ax, axis, name, values, kind)
        places.append(at[which])
    known = np.isfinite(numbers.values)
    x_at, y_at = places
    style = {"norm": _norm(numbers.values), "cmap": "viridis", "s": 45, "ec": "0.3", "lw": 0.5}
    drawn = ax.scatter(x_at[known], y_at[known], c=numbers.values[known], **style)
    _colour_bar(ax, drawn, label)
    if not known.all():
        failures = _failures(data, numbers.isnull()) or "not computed"
        failed = ax.scatter(
            x_at[~known], y_at[~known], marker="X", color="0.55", s=45, label=failures
        )
        _legend_above(ax, [failed])
