"""One style for all figures: colours, axes, scales."""

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from odeae.base.messages import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure as Figure
else:
    Axes = Figure = ScalarMappable = Any  # matplotlib is imported late

Colour: TypeAlias = Any  # whatever matplotlib accepts: a name, a hex text, a tuple

COLOURS = ("#1f4e79", "#c55a11", "#548235", "#7030a0", "#0b8f9c", "#b0246a")


MARKERS = "os^Dv"


# More names than this become a colour bar, if they are numbers.
MOST_NAMES = 8


def log_scale(ax: Axes, which: str) -> None:
    """Make the x or y axis logarithmic, with 0.6 for 6×10⁻¹ where all its numbers are short."""
    getattr(ax, f"set_{which}scale")("log")
    axis = getattr(ax, f"{which}axis")
    axis.set_major_formatter(_short_numbers())
    axis.set_minor_formatter(_short_numbers())


def _short_numbers() -> Any:
    """Return a formatter of logarithmic axes: matplotlib's ticks, as plain numbers if short."""
    from matplotlib.ticker import LogFormatterSciNotation

    class ShortNumbers(LogFormatterSciNotation):
        def __call__(self, x, pos=None):
            text = super().__call__(x, pos)
            assert self.axis is not None
            low, high = sorted(self.axis.get_view_interval())
            return f"{x:g}" if text and low >= 5e-4 and high <= 2e4 else text

    return ShortNumbers()


def colour_bar(ax: Axes, colours: ScalarMappable, label: str) -> None:
    """Put a colour bar beside the axes, with ticks at round numbers."""
    from matplotlib.colors import LogNorm

    letters = int(ax.bbox.height / ax.figure.dpi / 0.075)  # the number that fits beside the axes
    label = textwrap.fill(label, max(letters, 12))
    bar = ax.figure.colorbar(colours, ax=ax, label=label)
    if isinstance(colours.norm, LogNorm):
        bar.formatter, bar.minorformatter = _short_numbers(), _short_numbers()


def single_axes(ax: Axes | None, **size: Any) -> Axes:
    """Return `ax`, or the Axes of a new figure for None; raise `ValueError` for anything else."""
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.subplots(layout="constrained", **size)[1]
    if not hasattr(ax, "transData"):
        raise ValueError(f"`ax` must be one Axes, such as axes[0], got {type(ax).__name__}")
    return ax


def panel_axes(axes: Any, count: int) -> list[Axes]:
    """Return one Axes, or arrays or lists of Axes, as a flat list of at least `count`."""
    try:
        panels = list(np.ravel(np.asarray(axes, dtype=object)))
    except ValueError:  # a ragged list
        panels = []
    if len(panels) < count or not all(hasattr(ax, "transData") for ax in panels):
        raise ValueError(
            f"`axes` must hold at least {count} Axes, such as plt.subplots returns, got "
            f"{shortened(axes)}"
        )
    return panels


def time_axis(ax: Axes, times: np.ndarray, label: str = "time  t = steps / D") -> None:
    """Scale the time axis: logarithmic, without t = 0, unless times span less than a factor 20."""
    positive = times[times > 0]
    if positive.size and times.max() > 20.0 * positive.min():
        log_scale(ax, "x")
        ax.set_xlim(positive.min(), times.max())
    ax.set_xlabel(label)


def _colour_map() -> Any:
    """Return viridis without its end, a yellow too light for lines."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.92, 256)))


def palette(count: int, taken: Iterable[Colour] = ()) -> list[Colour]:
    """Return distinct colours for `count` curves, other than `taken` while there are others."""
    from matplotlib.colors import to_hex

    free = [colour for colour in COLOURS if colour not in set(taken)]
    if count <= len(free):
        return free[:count]
    return [to_hex(colour) for colour in _colour_map()(np.linspace(0.0, 1.0, count))]


def mapped_colours(values: np.ndarray, log: bool | None = None) -> ScalarMappable:
    """Return the mapping from numbers to colours, which a colour bar needs."""
    from matplotlib import cm
    from matplotlib.colors import LogNorm, Normalize

    log = is_log(values) if log is None else log
    return cm.ScalarMappable(
        (LogNorm if log else Normalize)(values.min(), values.max()), _colour_map()
    )


def shades_of(count: int) -> list[Colour]:
    """Return a colour for each neuron or mode."""
    return [f"C{k}" for k in range(count)] if count <= 10 else palette(count)


def is_log(values: np.ndarray) -> bool:
    """Return whether values lie more evenly on a logarithmic axis than on a linear one."""
    values = np.unique(values)
    if len(values) < 2 or values[0] <= 0 or values[-1] < 5.0 * values[0]:
        return False
    gaps, ratios = np.diff(values), np.diff(np.log(values))
    if len(values) == 2:
        return bool(values[1] >= 10.0 * values[0])
    return bool(ratios.std() / ratios.mean() <= gaps.std() / gaps.mean())


ERROR_LABEL = "error  ‖x − x̂‖² / 2D"
