"""A comparison of theory with runs, drawn."""

from typing import TYPE_CHECKING

import numpy as np

from odeae.plotting.style import COLOURS, Axes, log_scale, single_axes

if TYPE_CHECKING:
    from odeae.analysis.compare import Comparison


def plot_comparison(comparison: "Comparison", ax: Axes | None = None) -> Axes:
    """Draw the deviation of the runs' mean from the theory; `Comparison.plot`.

    Bars are standard errors. The dark band is the noise that the runs may have, the light band the
    noise and the finite-size allowance together: points outside of it deviate.
    """
    ax = single_axes(ax, figsize=(6.4, 3.6))
    late = comparison.times > 0.0
    times, deviation = comparison.times[late], comparison.deviation[late]
    noise, allowed = comparison.noise[late], comparison.noise[late] + comparison.allowance
    finite = f"and finite size ({comparison.allowance:.2g})"
    ax.fill_between(times, -allowed, allowed, color="0.9", lw=0, label=finite)
    label = f"noise of {comparison.runs} runs (|z| < {comparison.threshold:.1f})"
    ax.fill_between(times, -noise, noise, color="0.78", lw=0, label=label)
    ax.axhline(0.0, color="0.3", lw=0.8)
    ax.errorbar(
        times, deviation, comparison.standard_error[late], fmt="o", ms=4, lw=1,
        color=COLOURS[1], label="runs − theory, ± standard error",
    )  # fmt: skip
    if len(times) > 1 and times[0] < 0.1 * times[-1]:
        log_scale(ax, "x")
    reach = np.maximum(np.abs(deviation) + comparison.standard_error[late], allowed)
    most = 1.1 * np.max(reach, initial=1e-300)
    ax.set_ylim(-most, 1.8 * most)  # room for the legend
    ax.set_xlabel("time  t = steps / D")
    ax.set_ylabel(f"deviation of the {comparison.on.replace('_', ' ')}")
    verdict = {True: "agrees", False: "deviates", None: "can't tell"}[comparison.agrees]
    why = f": {comparison.verdict}" if comparison.verdict != verdict else ""
    ax.set_title(f"{verdict}{why}, {comparison.source}", fontsize=10)
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], labels[::-1], loc="upper left", frameon=False, fontsize=8)
    return ax
