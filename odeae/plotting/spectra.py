"""A spectrum, drawn."""

import numpy as np

from odeae.model.spectrum import Spectrum
from odeae.plotting.legends import add_legend
from odeae.plotting.style import COLOURS, Axes, log_scale, single_axes


def plot_spectrum(spectrum: Spectrum, ax: Axes | None = None) -> Axes:
    """Draw eigenvalues ρ (not scaled) against rank: spikes, the bulk and its bins.

    Args:
        spectrum: Any `Spectrum`; `spectrum.plot()` draws the same.
        ax: Axes to draw on; None makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: For anything but a spectrum, and for lanes of several spectra.

    Example:
        >>> odeae.plot_spectrum(odeae.Spectrum.from_data(x)).figure.savefig("spectrum.png")
    """
    if not hasattr(spectrum, "eigenvalues"):
        raise ValueError(
            f"plot_spectrum takes an odeae Spectrum, got {type(spectrum).__name__}; such as "
            "Spectrum.from_data(x) or trajectory.problem.spectrum"
        )
    ax = single_axes(ax, figsize=(6.4, 4.2))
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
        ax.plot(rank[:count], spikes, "o", mfc="white", color=COLOURS[1], ms=4.5, label=label)
    if len(spectrum.bulk):
        edges = count + np.cumsum([0, *spectrum.multiplicity])
        shown = np.asarray(spectrum.bulk) > 0
        ax.hlines(
            np.asarray(spectrum.bulk)[shown],
            (edges[:-1] + 1)[shown],
            edges[1:][shown],
            color=COLOURS[0],
            lw=2.0,
            label=f"{len(spectrum.bulk)} bulk bin{'s' * (len(spectrum.bulk) != 1)}",
        )
    log_scale(ax, "x")
    log_scale(ax, "y")
    ax.set_xlabel("rank")
    ax.set_ylabel("eigenvalue ρ")
    add_legend(ax)
    return ax
