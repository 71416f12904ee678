"""Plots: each takes Axes or makes them, returns them, and never shows anything."""

import functools
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from odeae.base.messages import explains_arguments, one_of
from odeae.plotting.labels import Curve, curves_of, grouped, names_of
from odeae.results.trajectory import ENSEMBLE, Trajectory

if TYPE_CHECKING:
    import xarray

    from odeae.model.spectrum import Spectrum

_COLOURS = ("#1f4e79", "#c55a11", "#548235", "#7030a0", "#0b8f9c", "#b0246a")
_MARKERS = "os^Dv"
# More names than these are a colour bar if they are numbers.
_MOST_NAMES = 8


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

    letters = int(ax.bbox.height / ax.figure.dpi / 0.075)  # as many as fit beside the axes
    label = textwrap.fill(label, max(letters, 12))
    bar = ax.figure.colorbar(colours, ax=ax, label=label)
    if isinstance(colours.norm, LogNorm):
        bar.formatter, bar.minorformatter = _short_numbers(), _short_numbers()


def _axes(ax: Any, **size: Any) -> Any:
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.subplots(layout="constrained", **size)[1]
    if not hasattr(ax, "transData"):
        raise ValueError(f"`ax` must be one Axes, such as axes[0], got {type(ax).__name__}")
    return ax


def _time_axis(ax: Any, times: np.ndarray, label: str = "time  t = steps / D") -> None:
    """Scale the time axis: logarithmic, without t = 0, unless times span less than a factor 20."""
    positive = times[times > 0]
    if positive.size and times.max() > 20.0 * positive.min():
        _log(ax, "x")
        ax.set_xlim(positive.min(), times.max())
    ax.set_xlabel(label)


def _colour_map() -> Any:
    """Viridis without its end, a yellow too light for lines."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.92, 256)))


def _palette(count: int, taken: Iterable[Any] = ()) -> list[Any]:
    """Distinct colours for `count` curves, none of those `taken` while there are others."""
    from matplotlib.colors import to_hex

    free = [colour for colour in _COLOURS if colour not in set(taken)]
    if count <= len(free):
        return free[:count]
    return [to_hex(colour) for colour in _colour_map()(np.linspace(0.0, 1.0, count))]


def _mapped(values: np.ndarray, log: bool | None = None) -> Any:
    """Colours by number, with what a colour bar needs."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize

    log = _is_log(values) if log is None else log
    return ScalarMappable(
        (LogNorm if log else Normalize)(values.min(), values.max()), _colour_map()
    )


@explains_arguments
def plot(
    *trajectories: Any,
    ax: Any = None,
    labels: Sequence[str] | None = None,
    colors: Sequence[Any] | None = None,
    quantity: str | None = None,
    levels: bool = True,
    legend: bool | str = True,
) -> Any:
    """Draw error curves: theory as lines, simulations as points with standard errors.

    Several curves are told apart by colour and called by what differs between their problems
    (K = 1, K = 2; erf, relu), else by their starts; where many differ in one number, a colour bar
    says it. Runs have the colour of the theory of the same problem where there are several
    theories. Of an ensemble, the mean and a band that holds the middle 80 % of its members at each
    time. (A few late starts can pull the mean out of it.) Lanes of one `vmap` count as several
    curves if their problems differ. The time axis is logarithmic (t = 0 is left out) unless times
    span less than a factor of 20.

    Args:
        *trajectories: What `predict`, `ensemble` or `simulate` return, one by one or in a list.
        ax: Axes to draw on, which may hold curves already; None makes a figure.
        labels: A name for each trajectory, in place of those above.
        colors: A colour for each trajectory, in place of those above.
        quantity: `error`, `error_clean`, `excess` (above the PCA error of rank K) or `test_error`,
            which only simulations have: theory is its `error` then. By default `error`, of
            simulations on real inputs `test_error`.
        levels: Whether to draw PCA errors as thin lines: those of rank 0 … K if the curves share
            a spectrum, that of its own rank in the colour of each curve; else the latter alone.
        legend: Whether to draw a legend, where it covers no curve; a word such as "upper right"
            says where else.

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
    for name, values in (("labels", labels), ("colors", colors)):
        if values is not None and (isinstance(values, str) or len(values) != len(given)):
            got = repr(values) if isinstance(values, str) else len(values)
            raise ValueError(f"`{name}` must have {len(given)} entries, got {got}")
    ax = _axes(ax, figsize=(6.4, 4.2))
    before = (ax.get_xlim(), ax.get_ylim()) if ax.has_data() else None
    whole = labels is not None or colors is not None
    curves = [curve for one in given for curve in ([Curve(one)] if whole else curves_of(one))]
    group = grouped(curves)
    leaders = [group.index(i) for i in range(max(group) + 1)]
    names = names_of([curves[i] for i in leaders])
    bar = None
    if colors is not None:
        shades = [colors[i] for i in leaders]
    elif names.values is not None and len(leaders) > _MOST_NAMES and labels is None:
        bar = _mapped(names.values)
        shades = [tuple(shade) for shade in bar.to_rgba(names.values)]
    else:
        shades = _palette(len(leaders), [line.get_color() for line in ax.lines])

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
            marker = _MARKERS[among.index(kinds[i] if named else i) % len(_MARKERS)]
        colour = shades[group[i]] if colors is None else colors[i]
        drawn.append(_draw_curve(ax, curve, quantity, colour, marker, label, names.texts[group[i]]))
        times.append(curve.trajectory.shared_times())
    if named:
        _name_kinds(ax, curves, kinds, among)
    rungs = _rungs([curves[i] for i in leaders], shades, quantity == "excess") if levels else []
    _frame(ax, drawn, rungs, np.concatenate(times), before)
    _draw_levels(ax, rungs)
    ax.set_ylabel("error above the PCA error" if quantity == "excess" else _ERROR)
    if bar is not None:
        _colour_bar(ax, bar, names.quantity or "")
    if legend:
        _legend(ax, place=legend)
    return ax


_ERROR = "error  ‖x − x̂‖² / 2D"


def _flat(trajectories: Sequence[Any]) -> list[Trajectory]:
    """What was given, one by one or in lists."""
    flat = []
    for one in trajectories:
        flat += one if isinstance(one, list | tuple) and type(one) in (list, tuple) else [one]
    if not flat or not all(isinstance(one, Trajectory) for one in flat):
        got = ", ".join(type(one).__name__ for one in flat) or "nothing"
        raise ValueError(
            f"plot takes trajectories, such as plot(theory, runs) or plot(curves), got {got}"
        )
    return flat


def _kind(curve: Curve, quantity: str | None, describe: bool) -> tuple[str, str]:
    """What a curve is, and of how many: ("theory", ""), ("SGD on Gaussian inputs", "8 runs")."""
    source = curve.trajectory.source
    if source == "theory":
        return "theory", ""
    count = int(np.sum(np.asarray(curve.trajectory.status) == 0))
    if source == ENSEMBLE:
        return "", f"mean of {count} starts, and their middle 80 %"
    own = " (test error)" if "real" in source and quantity is None and describe else ""
    return source + own, f"{count} run{'s' * (count != 1)}"


def _name_kinds(ax: Any, curves: list[Curve], kinds: list[tuple[str, str]], among: list) -> None:
    """Say in grey what lines, bands and points are, where colours say of which problem."""
    bands = any(curve.trajectory.source == ENSEMBLE for curve in curves)
    for kind in dict.fromkeys(kinds):
        label = ", ".join(filter(None, kind))
        if kind in among:
            marker = _MARKERS[among.index(kind) % len(_MARKERS)]
            ax.plot([], [], marker, color="0.3", mfc="white", mew=1.2, ms=4.5, label=label)
        elif bands:
            ax.plot([], [], color="0.3", lw=1.8, label=label)


def _draw_curve(ax, curve, quantity, colour, marker, label, name) -> np.ndarray:
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
        style = {"lw": 1.8, "alpha": max(0.15, len(values) ** -0.5), "zorder": 2}
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
    style = {"mfc": "white", "mew": 1.2, "ms": 4.5, "lw": 1.0}
    style["zorder"] = 3 if len(times) <= 40 else 1.5
    ax.errorbar(times, mean, spread, fmt=marker, color=colour, label=label, **style)
    return mean[None]


def _frame(ax, drawn, rungs, times, before) -> None:
    """Limits and scales that show what was drawn, and what the axes held before."""
    low = min([np.nanmin(values) for values in drawn] + [level for level, *_ in rungs])
    high = max([np.nanmax(values) for values in drawn])
    high = max([high] + [level for level, _, colour in rungs if colour is not None])
    if before is not None:
        (first, last), (lower, upper) = before
        times = np.concatenate([times, [first, last]])
        low, high = min(low, lower), max(high, upper)
    _time_axis(ax, times)
    if before is not None and ax.get_xscale() == "linear":
        ax.set_xlim(times.min(), times.max())
    if low > 0 and high > 20.0 * low:
        _log(ax, "y")
        margin = (high / low) ** 0.05
        ax.set_ylim(low / margin, high * margin)
    else:
        margin = 0.05 * (high - low or 1.0)
        ax.set_ylim(low - margin, high + margin)


def _rungs(leaders: list[Curve], shades: list[Any], excess: bool) -> list[tuple]:
    """PCA levels, their ranks and colours: of all ranks if curves share them, else their own.

    The level of its own rank has the colour of a curve, unless others end on it as well.
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

    def same(a, b):
        return a.shape == b.shape and np.allclose(a, b, rtol=1e-9, atol=0.0)

    shared = all(same(levels, ladder[: len(levels)]) for levels, _ in known)
    if all(same(levels, ladder) for levels, _ in known):
        return [(level, rank, None) for rank, level in enumerate(ladder)]
    if excess:
        return []
    own: list[tuple] = []
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


def _draw_levels(ax: Any, rungs: Iterable[tuple]) -> None:
    """PCA levels as thin lines, their ranks at the right edge where there is room.

    Those with a colour are named first, then from the lowest.
    """
    low, high = ax.get_ylim()
    for level, rank, colour in sorted(rungs, key=lambda rung: (rung[2] is None, rung[0])):
        if not low <= level <= high:
            continue
        style = {"lw": 0.7 if colour is None else 0.9, "ls": (0, (4, 3)), "zorder": 1}
        ax.axhline(level, color=colour or "0.55", **style)
        ax.add_artist(_level_name()(f"PCA {rank}", level, ax, colour or "0.35"))


@functools.cache
def _level_name() -> Any:
    """What names a level at the right edge of the axes; matplotlib is imported late."""
    from matplotlib.text import Annotation

    class LevelName(Annotation):
        """Placed when it is drawn, as the layout and the size of the figure aren't known before.

        All names of an Axes stand beside it, or within if there is no room beside. One that would
        cover another, or a curve, is left out: see `shown`.
        """

        def __init__(self, text, level, ax, colour):
            super().__init__(
                text,
                (1.0, level),
                (4, 0),
                xycoords=ax.get_yaxis_transform(),
                textcoords="offset points",
                fontsize=7.5,
                color=colour,
                annotation_clip=False,
                clip_on=False,
            )
            self.shown = True
            self._beside()

        def _beside(self):
            self.set(ha="left", va="center_baseline", position=(4, 0))

        def _within(self):
            self.set(ha="right", va="bottom", position=(-3, 1))

        def draw(self, renderer):
            ax: Any = self.axes
            names = [text for text in ax.texts if isinstance(text, LevelName)]
            if self is names[0]:
                for name in names:
                    name._beside()
                if any(self._is_cut(name.get_window_extent(renderer)) for name in names):
                    for name in names:
                        name._within()
            box = self.get_window_extent(renderer).padded(1.0)
            before = names[: names.index(self)]
            self.shown = not any(
                name.shown and box.overlaps(name.get_window_extent(renderer)) for name in before
            ) and not _is_hit(box, *_occupied(ax))
            if self.shown:
                super().draw(renderer)

        def _is_cut(self, box):
            """Whether this lies beyond the figure, or on other axes with their labels."""
            own: Any = self.axes
            frame = own.figure.bbox
            if box.x1 > frame.x1:
                return True
            others = (ax for ax in own.figure.axes if ax is not own)
            return any(
                box.overlaps(ax.get_tightbbox())
                for ax in others
                if ax.bbox.x0 >= own.bbox.x1 and ax.bbox.y0 < box.y1 and box.y0 < ax.bbox.y1
            )

    return LevelName


def _occupied(ax: Any) -> tuple[np.ndarray, list[Any]]:
    """What curves cover, in pixels: points on lines and error bars, and the outlines of bands."""
    from matplotlib.collections import LineCollection, PolyCollection

    data = ax.transData
    paths = [data.transform_path(x.get_path()) for x in ax.lines if x.get_transform() == data]
    of = [(part, data.transform_path(path)) for part in ax.collections for path in part.get_paths()]
    paths += [path for part, path in of if isinstance(part, LineCollection)]
    points = [np.zeros((0, 2))]
    for path in paths:
        if len(path.vertices) == 1:
            points.append(path.vertices)
        start, way = path.vertices[:-1], np.diff(path.vertices, axis=0)
        seen = np.isfinite(start).all(1) & np.isfinite(way).all(1)
        steps = int(min(np.abs(way[seen]).max(initial=0.0) / 3.0, 400.0)) + 2
        parts = np.linspace(0.0, 1.0, steps)[:, None, None]
        points.append((start[seen] + parts * way[seen]).reshape(-1, 2))
    return np.concatenate(points), [path for part, path in of if isinstance(part, PolyCollection)]


def _is_hit(box: Any, points: np.ndarray, filled: list[Any]) -> bool:
    inside = np.all((points > box.min) & (points < box.max), axis=1)
    return bool(inside.any()) or any(path.intersects_bbox(box) for path in filled)


# Curves are pressed to this part of the height at most; a legend that needs more covers them.
_SMALLEST = 0.3
_PLACES = (
    "upper right", "upper left", "lower left", "lower right",
    "center right", "center left", "lower center", "upper center", "center",
)  # fmt: skip


def _legend(ax: Any, handles: list[Any] | None = None, place: bool | str = True) -> None:
    """A legend where it covers no curve; if there is no such place, the axes make room for it.

    `handles`: what to name, by default all that has a label. `place`: a place of the user's own.
    """
    if handles is None:
        handles, texts = ax.get_legend_handles_labels()
    else:
        texts = [handle.get_label() for handle in handles]
    if not handles:
        return
    style: dict[str, Any] = {"frameon": True, "framealpha": 0.9, "edgecolor": "none", "fontsize": 8}
    if isinstance(place, str):
        ax.legend(handles, texts, loc=place, **style)
        return
    root = ax.figure.canvas.figure
    if root.get_layout_engine() is not None:  # it moves the axes before they are measured
        root.get_layout_engine().execute(root)
    inside, margin = ax.get_window_extent(), 3.0 * root.dpi / 72.0
    points, filled = _occupied(ax)
    roomy: tuple = (0.0,)
    for size in (8, 7, 6):
        style["fontsize"] = size
        for columns in range(1, len(handles) + 1):
            legend = ax.legend(handles, texts, loc="upper right", ncols=columns, **style)
            width = legend.get_window_extent().width
            if columns == 1 and width > inside.width:  # narrow axes: in lines of fewer letters
                most = int(max(map(len, texts)) * inside.width / width) - 6
                texts = [textwrap.fill(text, max(most, 12)) for text in texts]
                legend = ax.legend(handles, texts, loc="upper right", **style)
            elif columns > 1 and width > inside.width:
                break
            for where in _PLACES:
                legend.set_loc(where)
                if not _is_hit(legend.get_window_extent().padded(margin), points, filled):
                    return
            roomy = max(roomy, (*_room(ax, legend, points, margin), columns))
        if roomy[0] > 0.6:
            break
    part, where, columns = roomy
    ax.legend(handles, texts, loc=where, ncols=columns, **style)
    low, high = ax.yaxis.get_transform().transform(np.asarray(ax.get_ylim()))
    if where.startswith("upper"):
        high = low + (high - low) / part
    else:
        low = high - (high - low) / part
    ax.set_ylim(*ax.yaxis.get_transform().inverted().transform(np.asarray([low, high])))


def _room(ax: Any, legend: Any, points: np.ndarray, margin: float) -> tuple[float, str]:
    """To which part curves must be pressed to make room for a legend, and where that is most."""
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
    times, colours = trajectory.shared_times(), _shades(trajectory.bias.shape[-1])
    formulas = ("W Ω Wᵀ / D", "V Ω Wᵀ / D$^{3/2}$", "V Ω Vᵀ / D²", "V Vᵀ / D")
    for ax, name, formula in zip(panels, ("Q1", "R1", "T1", "T0"), formulas, strict=True):
        values = np.asarray(getattr(trajectory, name))
        values = values.reshape(-1, *values.shape[-3:]).mean(axis=0)
        for k in range(values.shape[-1]):
            for m in range(values.shape[-1]):
                own = k == m
                style = {"color": colours[k], "lw": 1.5} if own else {"color": "0.6", "lw": 0.7}
                label = f"neuron {k + 1}" if own else None
                ax.plot(times, values[:, k, m], label=label, zorder=2 if own else 1, **style)
        if values.shape[-1] > 1:
            ax.plot([], [], color="0.6", lw=0.7, label="two neurons")
        _time_axis(ax, times, "" if ax in panels[:2] else "time  t = steps / D")
        ax.set_title(f"{name} = {formula}", fontsize=9)
    _name_neurons(panels, colours)
    return axes


def _shades(count: int) -> list[Any]:
    """A colour for each neuron or mode."""
    return [f"C{k}" for k in range(count)] if count <= 10 else _palette(count)


def _name_neurons(panels: Any, colours: list[Any]) -> None:
    """A legend of neurons; a colour bar beside all panels where they are many."""
    if len(colours) <= 10:
        _legend(panels[0])
    else:
        mapped = _mapped(np.arange(1.0, len(colours) + 1.0), log=False)
        panels[0].figure.colorbar(mapped, ax=list(panels), label="neuron")


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
    colours = _shades(K)
    for i, ax in enumerate(panels[:shown]):
        for k, colour in enumerate(colours):
            ax.plot(times, decoder[:, k, i], color=colour, lw=1.5, label=f"neuron {k + 1}")
            ax.plot(times, encoder[:, k, i], color=colour, lw=1.0, ls="--")
        ax.set_title(f"component {i + 1}", fontsize=9)
    panels[0].plot([], [], color="0.4", lw=1.0, ls="--", label="encoder, within spikes")
    last = panels[shown]
    for values, style, name in (
        (overlaps.subspace_decoder, {"lw": 1.5}, "decoders"),
        (overlaps.subspace_encoder, {"lw": 1.0, "ls": "--"}, "encoders, in all D"),
    ):
        last.plot(times, mean(values, 1), color="k", label=name, **style)
    last.set_title(f"share of the first {min(K, n)} spanned", fontsize=9)
    for ax in panels[: shown + 1]:
        ax.set_ylim(-0.02, 1.02)
        _time_axis(ax, times, "t = steps / D")
    panels[0].set_ylabel("|cosine|")
    _name_neurons(panels[: shown + 1], colours)
    _legend(last)
    return axes


def plot_spectrum(spectrum: "Spectrum", ax: Any = None) -> Any:
    """Draw eigenvalues ρ (not scaled) against rank, spikes apart from the bulk and its bins.

    Args:
        spectrum: Any `Spectrum`; `spectrum.plot()` is the same.
        ax: Axes to draw on; None makes a figure.

    Returns:
        The Axes.

    Example:
        >>> odeae.plot_spectrum(odeae.Spectrum.from_data(x)).figure.savefig("spectrum.png")
    """
    if not hasattr(spectrum, "eigenvalues"):
        raise ValueError(
            f"plot_spectrum takes an odeae Spectrum, got {type(spectrum).__name__}; such as "
            "Spectrum.from_data(x) or trajectory.problem.spectrum"
        )
    ax = _axes(ax, figsize=(6.4, 4.2))
    count = len(spectrum.spikes)
    values = np.sort(np.asarray(spectrum.eigenvalues()))[::-1]
    rank = np.arange(1, len(values) + 1)
    seen = values > 0
    zeros = int(np.sum(~seen))
    label = f"{len(values)} eigenvalues" + (f", {zeros} of them 0" if zeros else "")
    ax.plot(rank[seen], values[seen], ".", color="0.6", ms=4, label=label)
    if count:
        spikes = np.sort(np.asarray(spectrum.spikes) * spectrum.dim)[::-1]
        label = f"{count} spike{'s' * (count != 1)}"
        ax.plot(rank[:count], spikes, "o", mfc="white", color=_COLOURS[1], ms=4.5, label=label)
    if len(spectrum.bulk):
        edges = count + np.cumsum([0, *spectrum.multiplicity])
        shown = np.asarray(spectrum.bulk) > 0
        ax.hlines(
            np.asarray(spectrum.bulk)[shown],
            (edges[:-1] + 1)[shown],
            edges[1:][shown],
            color=_COLOURS[0],
            lw=2.0,
            label=f"{len(spectrum.bulk)} bulk bin{'s' * (len(spectrum.bulk) != 1)}",
        )
    _log(ax, "x")
    _log(ax, "y")
    ax.set_xlabel("rank")
    ax.set_ylabel("eigenvalue ρ")
    _legend(ax)
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
    if values.dtype.kind not in "iuf" or len(np.unique(values)) <= 6:
        distinct, which = np.unique(values, return_inverse=True)
        return _mapped(np.arange(len(distinct)), log=False).to_rgba(which), False
    mapped = _mapped(values)
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
    _time_axis(ax, times)
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
    ax.set_ylabel("mean error" if averaged else _ERROR)
    _legend(ax, handles)


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
    _legend(ax)


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
