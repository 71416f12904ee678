"""Weights as images in input space: the pattern that a neuron looks for, and the one it paints."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from odeae.base.checks import whole
from odeae.base.messages import one_of
from odeae.base.precision import in_float64, is_traced
from odeae.base.status import Status
from odeae.model.initial import draw_weights
from odeae.model.state import State
from odeae.results.trajectory import Trajectory
from odeae.simulation.sources import START


@in_float64
def neurons(
    trajectory: Trajectory, part: str = "decoder", which: int = 0, seed: int | None = 0
) -> Float[np.ndarray, "hidden dim"]:
    """Return the weights of each neuron at the end of a curve, in input space.

    A simulation has the weights of one run. The theory has a final state: along the spikes its
    weights are known exactly; in the bulk only their Gram matrix is known. Bulk weights are
    therefore drawn as `simulate` draws the start of a run. Training only turns the rows of a bin,
    so `neurons(theory)` and `neurons(runs)` are the same up to the noise of SGD. (On 32×32 patches
    of photographs, K = 8, t = 200, their cosines are 0.985 to 0.995 for decoders and 0.996 to 1.000
    for encoders, which without weight decay keep most of their random start.)

    Args:
        trajectory: A result of `predict`, `ensemble` or `simulate`, for a problem whose spectrum
            has a basis: from `Spectrum.from_data` or `from_covariance`. Runs on real inputs need
            no basis.
        part: "decoder" (v_k, the pattern that neuron k paints) or "encoder" (w_k, the pattern that
            it looks for).
        which: The run, member or lane; for a single theory, the run whose draw is taken.
        seed: The seed of the runs to compare with; None leaves out the bulk of the theory.

    Returns:
        Entries of W or V, not scaled, (K, D). Signs and the order of neurons come from the start.

    Raises:
        ValueError: For a spectrum without a basis, and a curve without final weights.

    Example:
        >>> spectrum = odeae.Spectrum.from_data(x)  # x (samples, 64): patches of 8 × 8 pixels
        >>> problem = odeae.Problem(spectrum, odeae.Autoencoder(4))
        >>> theory = odeae.predict(problem, odeae.random_state(problem), odeae.log_times(100))
        >>> images = odeae.neurons(theory).reshape(4, 8, 8)
    """
    if not isinstance(trajectory, Trajectory):
        raise ValueError(
            f"neurons takes a result of predict or simulate, got {type(trajectory).__name__}"
        )
    if is_traced(trajectory):
        raise ValueError("`trajectory` must be concrete: neurons are drawn outside jit and vmap")
    one_of("part", part, ["decoder", "encoder"])
    shape = np.shape(trajectory.status)
    most = {"at_most": int(np.prod(shape)) - 1} if shape else {}
    if trajectory.weights is not None:
        most = {"at_most": len(trajectory.weights.weights.decoder) - 1}
    which = whole("which", which, at_least=0, **most)
    seed = None if seed is None else whole("seed", seed, at_least=0)
    checkpoint, basis = trajectory.weights, trajectory.problem.spectrum.basis
    if checkpoint is not None and "real" in checkpoint.source:
        rows = np.asarray(getattr(checkpoint.weights, part))[which]
    elif basis is None:
        raise ValueError(
            "neurons in input space need a spectrum with a basis: build it with Spectrum.from_data "
            "or from_covariance (files don't keep it: predict or simulate again, or pass weights)"
        )
    elif checkpoint is not None:
        rows = np.asarray(getattr(checkpoint.weights, part))[which] @ basis.T
    else:
        rows = _drawn(trajectory, part, which, seed) @ basis.T
    if not np.isfinite(rows).all():
        status = Status(int(np.ravel(trajectory.status)[which if shape else 0]))
        stop = float(np.ravel(trajectory.stop_time)[which if shape else 0])
        raise ValueError(f"the weights at the end are not finite: {status.message(stop)}")
    return rows


def _drawn(trajectory: Trajectory, part: str, which: int, seed: int | None) -> np.ndarray:
    """Return weights of the final state of a theory, in the eigenbasis."""
    if np.ndim(trajectory.status):
        trajectory = trajectory[which]
    problem, state = trajectory.problem, trajectory.final
    if state is None:
        raise ValueError("`trajectory` has no `final` state to draw weights of: predict it again")
    if state.diffusion is not None and part == "encoder":
        raise ValueError(
            "encoders that the noise of the steps has moved (`diffusion=True`) are not known row "
            'by row: take part="decoder"'
        )
    bulk = state.bulk if seed is not None else jax.tree.map(np.zeros_like, state.bulk)
    state = State(state.spikes, bulk, state.bias)
    weights = draw_weights(problem, state, [seed or 0, which, START])
    return np.asarray(getattr(weights, part))


def plot_neurons(
    *trajectories: Trajectory,
    shape: tuple[int, int] | None = None,
    axes: Any = None,
    labels: Sequence[str] | None = None,
    part: str = "decoder",
    which: int = 0,
    seed: int | None = 0,
) -> Any:
    """Draw the neurons of each curve as a row of images, in input space (see `odeae.neurons`).

    Red is positive, blue negative, white zero; the scale is each neuron's own. Theory and runs from
    one state, in one figure, show the same neurons one below the other.

    Args:
        *trajectories: Results of `predict`, `ensemble` or `simulate`.
        shape: (height, width) of an image; by default square, if D is a square number.
        axes: An array or a list of as many Axes as there are neurons of all curves; None makes a
            figure.
        labels: A name for each curve.
        part: "decoder" or "encoder".
        which: The run, member or lane.
        seed: The seed of the runs that theory is compared with; None leaves out its bulk.

    Returns:
        The array of Axes: one row of at most eight columns, or more, for each curve.

    Raises:
        ValueError: For a shape that doesn't have D pixels, and as `odeae.neurons`.

    Example:
        >>> problem = odeae.Problem(odeae.Spectrum.from_data(x), odeae.Autoencoder(2))
        >>> theory = odeae.predict(problem, odeae.random_state(problem), [0.0, 1.0])
        >>> axes = odeae.plot_neurons(theory, shape=(8, 8))  # x (samples, 64)
    """
    if not trajectories:
        raise ValueError("plot_neurons takes trajectories, such as plot_neurons(theory, runs)")
    if labels is not None and len(labels) != len(trajectories):
        raise ValueError(f"`labels` must have {len(trajectories)} entries, got {len(labels)}")
    images = [neurons(one, part, which, seed) for one in trajectories]
    shapes = [_shape(shape, rows.shape[1]) for rows in images]
    most = max(len(rows) for rows in images)
    columns = min(most, 8)
    lines = -(-most // columns)
    if axes is None:
        import matplotlib.pyplot as plt

        height = lines * len(images)
        size = (0.4 + 1.0 * columns, 0.25 + 1.0 * height)
        axes = plt.subplots(height, columns, figsize=size, layout="constrained", squeeze=False)[1]
        for ax in np.ravel(axes):
            ax.set_axis_off()
        panels = [list(np.ravel(part)) for part in np.split(axes, len(images))]
    else:
        flat, count = list(np.ravel(axes)), sum(len(rows) for rows in images)
        if len(flat) < count:
            raise ValueError(f"`axes` must hold at least {count} Axes, got {len(flat)}")
        ends = np.cumsum([len(rows) for rows in images])
        panels = [flat[end - len(rows) : end] for rows, end in zip(images, ends, strict=True)]
    for i, (one, rows, own) in enumerate(zip(trajectories, images, panels, strict=True)):
        for k, (ax, row) in enumerate(zip(own, rows, strict=False)):
            largest = np.abs(row).max() or 1.0
            style = {
                "cmap": "RdBu_r",
                "vmin": -largest,
                "vmax": largest,
                "interpolation": "nearest",
            }
            ax.imshow(row.reshape(shapes[i]), **style)
            ax.set_axis_on()
            ax.set(xticks=[], yticks=[])
            if i == 0:
                ax.set_title(str(k + 1), fontsize=8, pad=2)
        text = one.source if labels is None else labels[i]
        own[0].set_ylabel(textwrap.fill(text, 16), fontsize=8)
    return axes


def _shape(shape: tuple[int, int] | None, dim: int) -> tuple[int, int]:
    side = math.isqrt(dim)
    if shape is None and side**2 != dim:
        raise ValueError(f"give `shape`, (height, width) of an image: D = {dim} is no square")
    height, width = (side, side) if shape is None else (whole("shape", n) for n in shape)
    if height * width != dim:
        raise ValueError(f"`shape` must have {dim} pixels, got {height} × {width}")
    return height, width
