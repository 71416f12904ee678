"""The validation matrix, drawn."""

import numpy as np

from odeae.analysis.validation import Result
from odeae.plotting.style import Figure


def figure(results: list[Result]) -> Figure:
    """Return a panel per row: theory as a line, SGD at the largest D as points, PCA levels."""
    import matplotlib.pyplot as plt

    columns = min(4, len(results))
    rows = -(-len(results) // columns)
    size = (2.6 * columns, 1.9 * rows + 0.4)
    fig, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for ax in np.ravel(axes)[len(results) :]:
        ax.set_axis_off()
    for ax, r in zip(np.ravel(axes), results, strict=False):
        levels = r.theory.pca_levels()
        for level in () if levels is None else levels:
            ax.axhline(level, color="0.6", lw=0.6, ls=(0, (4, 3)))
        ax.plot(r.theory.times, r.theory.error, color="#1f4e79", lw=1.5)
        mean = r.runs.error.mean(axis=0)
        spread = r.runs.error.std(axis=0, ddof=1) / np.sqrt(len(r.runs.error))
        ax.errorbar(r.runs.times, mean, spread, fmt="o", ms=2.5, color="#c55a11", lw=0.8)
        ax.set_title(r.row.name, fontsize=8.5)
        text = f"D → ∞: {r.limit / r.limit_error:+.1f} s.e."
        ax.text(0.96, 0.9, text, transform=ax.transAxes, ha="right", va="top", fontsize=7.5)
        ax.tick_params(labelsize=7)
    fig.supxlabel("time  t = steps / D", fontsize=9)
    fig.supylabel("generalisation error  ‖x − x̂‖² / 2D", fontsize=9)
    return fig
