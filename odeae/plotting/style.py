"""One style for all figures: colours, axes, scales."""

import textwrap
from collections.abc import Iterable
from typing import Any

import numpy as np

from odeae.base.messages import shortened

COLOURS = ("#1f4e79", "#c55a11", "#548235", "#7030a0", "#0b8f9c", "#b0246a")


MARKERS = "os^Dv"


# More names than these are a colour bar if they are numbers.
MOST_NAMES = 8


def log_scale(ax: Any, which: str) -> None:
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


def colour_bar(ax: Any, colours: Any, label: str) -> None:
    """Put a colour bar beside the axes, with ticks at round numbers."""
    from matplotlib.colors import LogNorm

    letters = int(ax.bbox.height / ax.figure.dpi / 0.075)  # as many as fit beside the axes
    label = textwrap.fill(label, max(letters, 12))
    bar = ax.figure.colorbar(colours, ax=ax, label=label)
    if isinstance(colours.norm, LogNorm):
        bar.formatter, bar.minorformatter = _short_numbers(), _short_numbers()


def single_axes(ax: Any, **size: Any) -> Any:
    """Return `ax`, or the Axes of a new figure; raise `ValueError` for what is no Axes."""
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.subplots(layout="constrained", **size)[1]
    if not hasattr(ax, "transData"):
        raise ValueError(f"`ax` must be one Axes, such as axes[0], got {type(ax).__name__}")
    return ax


def panel_axes(axes: Any, count: int) -> list[Any]:
    """Return `axes`, one of them or arrays or lists of them, as a flat list of at least `count`."""
    try:
        panels = list(np.ravel(np.asarray(axes, dtype=object)))
    except ValueError:  # a ragged list
        panels = []
    if len(panels) < count or not all(hasattr(ax, "transData") for ax in panels):
        raise ValueError(
            f"`axes` must hold at least {count} Axes, as of plt.subplots, got {shortened(axes)}"
        )
    return panels


def time_axis(ax: Any, times: np.ndarray, label: str = "time  t = steps / D") -> None:
    """Scale the time axis: logarithmic, without t = 0, unless times span less than a factor 20."""
    positive = times[times > 0]
    if positive.size and times.max() > 20.0 * positive.min():
        log_scale(ax, "x")
        ax.set_xlim(positive.min(), times.max())
    ax.set_xlabel(label)


def _colour_map() -> Any:
    """Viridis without its end, a yellow too light for lines."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.92, 256)))


def palette(count: int, taken: Iterable[Any] = ()) -> list[Any]:
    """Distinct colours for `count` curves, none of those `taken` while there are others."""
    from matplotlib.colors import to_hex

    free = [colour for colour in COLOURS if colour not in set(taken)]
    if count <= len(free):
        return free[:count]
    return [to_hex(colour) for colour in _colour_map()(np.linspace(0.0, 1.0, count))]


def mapped_colours(values: np.ndarray, log: bool | None = None) -> Any:
    """Colours by number, with what a colour bar needs."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize

    log = is_log(values) if log is None else log
    return ScalarMappable(
        (LogNorm if log else Normalize)(values.min(), values.max()), _colour_map()
    )


def shades_of(count: int) -> list[Any]:
    """A colour for each neuron or mode."""
    return [f"C{k}" for k in range(count)] if count <= 10 else palette(count)


def is_log(values: np.ndarray) -> bool:
    """Whether values lie more evenly on a logarithmic axis than on a linear one."""
    values = np.unique(values)
    if len(values) < 2 or values[0] <= 0 or values[-1] < 5.0 * values[0]:
        return False
    gaps, ratios = np.diff(values), np.diff(np.log(values))
    if len(values) == 2:
        return bool(values[1] >= 10.0 * values[0])
    return bool(ratios.std() / ratios.mean() <= gaps.std() / gaps.mean())


ERROR_LABEL = "error  ‖x − x̂‖² / 2D"
