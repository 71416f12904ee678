"""Curves that are told apart in one plot, and neurons as images in input space."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

import odeae
from odeae.model.state import OrderParameters, Overlaps

TIMES = odeae.log_times(60.0, 20)


def curve(source="theory", lr=0.5, hidden=2, runs=None):
    """A made-up trajectory of a problem of rank `hidden`, which takes no compilation."""
    spectrum = odeae.Spectrum.spiked([1.0, 0.6, 0.3, 0.2], dim=400)
    problem = odeae.Problem(spectrum, odeae.Autoencoder(hidden), odeae.SGD(lr))
    levels = np.asarray(problem.spectrum.pca_errors(hidden))
    error = levels[-1] + (levels[0] - levels[-1]) / (1.0 + (lr * TIMES / 3.0) ** 2)
    shape = () if runs is None else (runs,)
    error = np.broadcast_to(error, (*shape, len(TIMES)))
    if runs is not None:
        error = error + 0.01 * np.arange(runs)[:, None]
    batch = (*shape, len(TIMES))
    return odeae.Trajectory(
        times=TIMES,
        error=error,
        order_parameters=OrderParameters(*[Overlaps(*np.zeros((5, *batch, hidden, hidden)))] * 2),
        bias=np.zeros((*batch, hidden)),
        status=np.zeros(shape, int),
        stop_time=np.full(shape, TIMES[-1]),
        problem=problem,
        source=source,
    )


GAUSSIAN = "SGD on Gaussian inputs"


def solid(ax):
    return [
        line for line in ax.lines if len(line.get_xdata()) == len(TIMES) and line.get_ls() == "-"
    ]


def names(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_theories_have_colours_names_and_pca_levels_of_their_own():
    theories = [curve(hidden=K) for K in (1, 2, 4)]
    ax = odeae.plot(theories)
    lines = solid(ax)
    colours = [line.get_color() for line in lines]
    assert len(set(colours)) == 3
    assert names(ax) == ["K = 1", "K = 2", "K = 4"]
    for K, colour in zip((1, 2, 4), colours, strict=True):
        (level,) = (x for x in ax.lines if x.get_ls() == "--" and x.get_color() == colour)
        error = theories[0].problem.spectrum.pca_errors(K)[-1]
        np.testing.assert_allclose(level.get_ydata(), error, rtol=1e-12)
    assert names(odeae.plot(*(curve(lr=lr) for lr in (0.1, 0.5)))) == ["lr = 0.1", "lr = 0.5"]
    chosen = odeae.plot(theories, colors=["red", "black", "blue"], legend=False)
    assert [line.get_color() for line in solid(chosen)] == ["red", "black", "blue"]
    assert chosen.get_legend() is None


def test_runs_have_the_colour_of_their_theory():
    ax = odeae.plot(
        *(curve(hidden=K) for K in (1, 2, 4)),
        *(curve(GAUSSIAN, hidden=K, runs=3) for K in (4, 1, 2)),
    )
    first, second, third = (line.get_color() for line in solid(ax)[:3])
    points = [container.lines[0].get_color() for container in ax.containers]
    assert points == [third, first, second]
    assert names(ax) == ["K = 1", "K = 2", "K = 4", f"{GAUSSIAN}, 3 runs"]


def test_many_curves_and_many_neurons_are_named():
    ax = odeae.plot([curve(lr=lr) for lr in np.linspace(0.1, 1.2, 12)])
    assert len({line.get_color() for line in solid(ax)}) == 12
    assert ax.figure.axes[1].get_ylabel() == "lr"
    panels = curve(hidden=12).plot_order_parameters()
    assert panels[0, 0].figure.axes[-1].get_ylabel() == "neuron"
    with pytest.raises(ValueError, match="`ax` must be one Axes, such as axes"):
        odeae.plot(curve(), ax=panels)


@pytest.mark.parametrize("width", [3.4, 6.4])
def test_the_legend_covers_no_curve(width):
    figure, ax = plt.subplots(figsize=(width, 0.7 * width), layout="constrained")
    odeae.plot([curve(hidden=K) for K in (1, 2, 4)], curve(GAUSSIAN, runs=3), ax=ax)
    figure.canvas.draw()
    box = ax.get_legend().get_window_extent()
    for line in ax.lines:
        if line.get_ls() != "--" and len(line.get_xdata()) == len(TIMES):
            points = ax.transData.transform(line.get_xydata())
            assert not np.any(np.all((points > box.min) & (points < box.max), axis=1))
    frame = figure.bbox
    for text in (ax.yaxis.label, ax.xaxis.label):
        cut = text.get_window_extent()
        assert min(cut.x0 - frame.x0, cut.y0 - frame.y0, frame.y1 - cut.y1) >= 0


def test_neurons_of_the_theory_are_those_of_sgd():
    spectrum = odeae.Spectrum.from_data(odeae.natural_patches(8, 24))
    problem = odeae.Problem(spectrum, odeae.Autoencoder(2))
    state = odeae.random_state(problem)
    times = odeae.log_times(40.0, 10)
    theory = odeae.predict(problem, state, times)
    runs = odeae.simulate(problem, state, times, runs=2)
    own = odeae.neurons(theory)
    assert own.shape == (2, 64)
    for which in (0, 1):
        of_run = odeae.neurons(runs, which=which)
        cosine = (
            (own * of_run).sum(1) / np.linalg.norm(own, axis=1) / np.linalg.norm(of_run, axis=1)
        )
        assert cosine.mean() > 0.9  # not |cosine|: signs and order are those of the start
    encoder, of_run = odeae.neurons(theory, "encoder"), odeae.neurons(runs, "encoder")
    cosine = (encoder * of_run).sum(1)
    cosine /= np.linalg.norm(encoder, axis=1) * np.linalg.norm(of_run, axis=1)
    assert cosine.mean() > 0.9
    axes = odeae.plot_neurons(theory, runs)
    assert axes.shape == (2, 2)
    np.testing.assert_array_equal(axes[0, 1].images[0].get_array(), own[1].reshape(8, 8))
    with pytest.raises(ValueError, match="`shape` must have 64 pixels, got 8 × 9"):
        odeae.plot_neurons(theory, shape=(8, 9))


def test_neurons_need_a_basis():
    with pytest.raises(ValueError, match="need a spectrum with a basis: build it with Spectrum"):
        odeae.neurons(curve())
