"""Plots: each takes Axes or makes them, returns them, and never shows anything."""

from typing import TYPE_CHECKING, Any

import numpy as np

from odeae.trajectory import ENSEMBLE
from odeae.words import one_of

if TYPE_CHECKING:
    from odeae.spectrum import Spectrum
    from odeae.trajectory import Trajectory

_COLOURS = ("#1f4e79", "#c55a11", "#548235", "#7030a0", "#7f7f7f")
_MARKERS = "os^Dv"


def _axes(ax: Any, **size: Any) -> Any:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained", **size)[1]


def plot(
    *trajectories: "Trajectory",
    ax: Any = None,
    labels: list[str] | None = None,
    quantity: str | None = None,
    levels: bool = True,
) -> Any:
    """Draw error curves: theory as lines, simulations as points with standard errors.

    Of an ensemble, the mean and a band that holds the middle 80 % of its members at each time.
    `levels`: PCA errors of rank 0 … K of the first trajectory as thin lines. `quantity`: what to
    draw of simulations, `error` or `test_error`; default: `test_error` for real inputs. The time
    axis is logarithmic (t = 0 is left out) unless times span less than a factor of 20. Returns the
    Axes.
    """
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
            curves = np.asarray(trajectory.error)[np.asarray(trajectory.status) == 0]
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
            curves = np.asarray(trajectory.error).reshape(-1, len(times))
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
            values = getattr(trajectory, one_of("quantity", shown, ["error", "test_error"]))
            values = np.asarray(values)[np.asarray(trajectory.status) == 0]
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
        ax.set_xscale("log")
        ax.set_xlim(first, last)
    pca = trajectories[0].pca_levels() if levels else None
    if pca is not None:
        low, high = min(low, pca[-1]), max(high, pca[-1])
    logarithmic = low > 0 and high > 20.0 * low
    if logarithmic:
        ax.set_yscale("log")
        margin = (high / low) ** 0.05
        ax.set_ylim(low / margin, high * margin)
    else:
        margin = 0.05 * (high - low or 1.0)
        ax.set_ylim(low - margin, high + margin)
    if pca is not None:
        _draw_levels(ax, pca)
    ax.set_xlabel("time  t = steps / D")
    ax.set_ylabel("generalisation error  ‖x − x̂‖² / 2D")
    ax.legend(frameon=True, framealpha=0.9, edgecolor="none", loc="best")
    return ax


def _draw_levels(ax: Any, pca: np.ndarray) -> None:
    """PCA levels as thin lines; their ranks at the right edge where there is room."""
    transform = ax.transData
    taken = -np.inf
    for rank in range(len(pca) - 1, -1, -1):  # the level of rank K is always named
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

    Diagonal entries have a colour per neuron, the others are grey; runs of a simulation (and lanes)
    are averaged. `axes`: four Axes, or None for a new 2 × 2 figure. Returns them as an array, so
    that `axes[0, 0].figure` is the figure.
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
                label = f"k = l = {k}" if own else "k ≠ l" if (k, m) == (0, 1) else None
                ax.plot(times, values[:, k, m], label=label, zorder=2 if own else 1, **style)
        if positive.size and times[-1] > 20.0 * positive[0]:
            ax.set_xscale("log")
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
    last = panels[shown]
    for values, style, name in (
        (overlaps.subspace_decoder, {"lw": 1.5}, "decoders"),
        (overlaps.subspace_encoder, {"lw": 1.0, "ls": "--"}, "encoders"),
    ):
        last.plot(times, mean(values, 1), color="k", label=name, **style)
    last.set_title(f"share of the first {min(K, n)} spanned", fontsize=10)
    positive = times[times > 0]
    for ax in panels[: shown + 1]:
        ax.set_ylim(-0.02, 1.02)
        if positive.size and times[-1] > 20.0 * positive[0]:
            ax.set_xscale("log")
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
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("rank")
    zeros = int(np.sum(~positive))
    ax.set_ylabel("eigenvalue ρ" + (f"  ({zeros} of 0 not shown)" if zeros else ""))
    ax.legend(frameon=False)
    return ax
