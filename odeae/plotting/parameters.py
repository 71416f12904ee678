"""Order parameters and overlaps, drawn."""

from typing import Any

import numpy as np

from odeae.plotting.legends import add_legend
from odeae.plotting.style import Axes, Colour, mapped_colours, panel_axes, shades_of, time_axis
from odeae.results.trajectory import Trajectory


def plot_order_parameters(trajectory: Trajectory, axes: Any = None) -> Any:
    """Draw the entries of Q1, R1, T1 and T0 against time in four panels.

    Entries of a neuron with itself have the neuron's colour, the other entries are grey. Runs of a
    simulation (and lanes) are averaged.

    Args:
        trajectory: The curve.
        axes: An array or a list of four Axes; None makes a 2 × 2 figure.

    Returns:
        The Axes as an array: `axes[0, 0].figure` is the figure.
    """
    if axes is None:
        import matplotlib.pyplot as plt

        axes = plt.subplots(2, 2, figsize=(8.0, 5.6), sharex=True, layout="constrained")[1]
    panels = panel_axes(axes, 4)[:4]
    times, colours = trajectory.shared_times(), shades_of(trajectory.bias.shape[-1])
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
        time_axis(ax, times, "" if ax in panels[:2] else "time  t = steps / D")
        ax.set_title(f"{name} = {formula}", fontsize=9)
    _name_neurons(panels, colours)
    return axes


def _name_neurons(panels: list[Axes], colours: list[Colour]) -> None:
    """Draw a legend of neurons, or a colour bar beside all panels if they are many."""
    if len(colours) <= 10:
        add_legend(panels[0])
    else:
        mapped = mapped_colours(np.arange(1.0, len(colours) + 1.0), log=False)
        panels[0].figure.colorbar(mapped, ax=list(panels), label="neuron")


def plot_overlaps(trajectory: Trajectory, axes: Any = None) -> Any:
    """Draw |cos| of each neuron with each principal component against time.

    Each of the first panels shows one of the leading components (at most eight): decoders as solid
    lines, encoders, within the span of the components, as dashed lines. The last panel shows the
    share of the first K components that decoders (solid) and encoders (dashed) span. Runs and
    members that finished are averaged.

    Args:
        trajectory: The curve.
        axes: An array or a list of as many Axes as there are panels; None makes a figure.

    Returns:
        The Axes as an array.

    Raises:
        ValueError: If there are several runs and none finished.
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
    panels = panel_axes(axes, shown + 1)
    colours = shades_of(K)
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
        time_axis(ax, times, "t = steps / D")
    panels[0].set_ylabel("|cosine|")
    _name_neurons(panels[: shown + 1], colours)
    add_legend(last)
    return axes
