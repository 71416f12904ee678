"""Plateaus: closed forms, invariances, the numbers that sequential learning predicts, the plot."""

import equinox as eqx
import jax
import matplotlib.pyplot as plt
import numpy as np
import plain
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import odeae
from odeae.analysis.plateaus import Plateau, plateaus
from odeae.plotting.plateaus import plot_plateaus

SPIKES = (1.0, 0.1, 0.01)
DENSE = odeae.log_times(1e4, 3201, start=1.0)
TIMES = np.append(0.0, DENSE[1::8])


def problem(activation="linear", hidden=3, spikes=SPIKES, dim=1000, bulk=1.0, rule=None):
    network = odeae.Autoencoder(hidden, activation)
    return odeae.Problem(odeae.Spectrum.spiked(spikes, dim, bulk), network, rule)


def curve(activation="linear", hidden=3, seed=0, std=0.01, times=TIMES, **options):
    p = problem(activation, hidden, **options)
    return odeae.predict(p, odeae.random_state(p, std, std, seed=seed), times)


@pytest.fixture(autouse=True, scope="module")
def _linear_curves():
    """Solved where these tests run, not where they are collected."""
    global LINEAR_DENSE, LINEAR, FLOOR
    LINEAR_DENSE = curve(times=DENSE)
    LINEAR = with_curve(np.append(LINEAR_DENSE.error[0], LINEAR_DENSE.error[1::8]))
    FLOOR = float(LINEAR_DENSE.pca_levels()[-1])


def with_curve(error, times=TIMES, trajectory=None):
    """A trajectory with another curve."""
    trajectory = LINEAR_DENSE if trajectory is None else trajectory
    where = (lambda t: t.times, lambda t: t.error)
    for get, values in zip(where, (times, error), strict=True):
        trajectory = eqx.tree_at(get, trajectory, np.asarray(values, float))
    return trajectory


def aligned_curve(times, rho, error):
    """A trajectory with this curve, of as many linear neurons as modes `rho`, without a bulk."""
    p = problem(hidden=len(rho), spikes=rho, dim=len(rho), bulk=0.0)
    return with_curve(error, times, eqx.tree_at(lambda t: t.problem, LINEAR_DENSE, p))


def aligned(times, rho, start, rate=1.0):
    """Error of aligned linear modes that begin at w = u = `start`: logistic (docs/theory.md 7)."""
    rho = np.asarray(rho)[:, None]
    with np.errstate(over="ignore", under="ignore"):
        square = 1.0 / (1.0 + (start**-2 - 1.0) * np.exp(-2.0 * rate * rho * np.asarray(times)))
        return 0.5 * np.sum(rho * (1.0 - square) ** 2, axis=0)


def escape(rho, start):
    """When such a mode's error has fallen by half: (1 − a²)² = 1/2."""
    half = 1.0 - 0.5**0.5
    return np.log((start**-2 - 1.0) / (1.0 / half - 1.0)) / (2.0 * rho)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("dim", [100, 1000, 10**6])
def test_linear_plateaus_are_at_the_pca_errors(dim, seed):
    trajectory = curve(dim=dim, seed=seed)
    found, levels = plateaus(trajectory), trajectory.pca_levels()
    assert [p.rank for p in found] == [0, 1, 2, 3]
    heights = np.array([p.height for p in found]) - levels[-1]
    assert_allclose(heights[:3], levels[:3] - levels[-1], rtol=0.025)
    assert_allclose(heights[:3], [0.555, 0.055, 0.005], rtol=0.025)
    assert 0.0 <= heights[3] < 1e-4  # what the bulk's encoder leaves, at most, at this time
    assert [p.left for p in found] == [True, True, True, False]
    assert found[-1].end == found[-1].escape_time == np.inf
    for plateau, level in zip(found, levels, strict=True):
        assert plateau.pca_error == pytest.approx(level, rel=1e-12)
        assert plateau.residual == pytest.approx(plateau.height - level, abs=1e-12)


def test_the_numbers_of_the_sequential_picture():
    """D = 1000, seed 0: 0.05505 and 0.0051 above the bulk's share, for 0.055 and 0.005."""
    first, second = plateaus(LINEAR)[1:3]
    assert first.height - FLOOR == pytest.approx(0.05505, abs=2e-5)
    assert second.height - FLOOR == pytest.approx(0.0051, abs=6e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_erf_is_higher_by_the_residual_of_its_nonlinearity(seed):
    trajectory = curve("erf", seed=seed)
    found = plateaus(trajectory)
    assert [p.rank for p in found] == [0, 1, 2, 3]
    floor = trajectory.pca_levels()[-1]
    assert_allclose([p.pca_error - floor for p in found[1:3]], [0.055, 0.005], rtol=1e-9)
    # It falls from 0.068 to 0.057 while it lasts, as the encoder shrinks along the valley of 8.
    assert 0.058 < found[1].height - floor < 0.062
    assert 0.0056 < found[2].height - floor < 0.0066
    assert all(p.residual > 0 for p in found[1:])


def test_relu_learns_pairs():
    """Four neurons are two linear units: ranks 1 and 2, and no more without biases."""
    trajectory = curve("relu", hidden=4)
    found = plateaus(trajectory)
    assert [p.rank for p in found] == [0, 1, 2]
    assert not found[-1].left
    floor = trajectory.pca_levels()[-1]  # a mode of the bulk below the linear ones' floor
    assert_allclose([p.height - floor for p in found[1:]], [0.0555, 0.0055], rtol=0.02)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    ratios=st.lists(st.floats(3.0, 20.0), min_size=1, max_size=4),
    start=st.floats(1e-4, 0.1),
    unit=st.floats(1e-3, 1e3),
    uneven=st.booleans(),
)
def test_aligned_modes_in_closed_form(ratios, start, unit, uneven):
    rho = unit / np.cumprod([1.0, *ratios])
    end = 10.0 * escape(rho[-1], start)
    count = 100 * int(np.log10(end * rho[0]) + 3)
    times = np.geomspace(1e-2 / rho[0], end, count)
    if uneven:  # up to twice as dense here as there
        times = times ** (1.0 + 0.02 * np.sin(np.arange(count) / 40.0))
        times = np.unique(times)
    found = plateaus(aligned_curve(times, rho, aligned(times, rho, start)))
    ranks = [p.rank for p in found]
    assert ranks == sorted(set(ranks))
    assert ranks[-1] == len(rho)
    # Modes of close eigenvalues that start large are learnt without a pause.
    long = [k for k in range(1, len(rho)) if escape(rho[k], start) > 12 * escape(rho[k - 1], start)]
    assert set(long) <= set(ranks)
    levels = np.append(0.5 * np.cumsum(rho[::-1])[::-1], 0.0)
    for p in found:
        gap = rho[p.rank - 1] if p.rank else rho[0]
        assert abs(p.residual) < 0.13 * gap
        if p.rank < len(rho) and p.rank in long:
            assert p.escape_time == pytest.approx(escape(rho[p.rank], start), rel=0.05)
            assert p.height == pytest.approx(levels[p.rank], rel=0.05)
            assert p.start < p.end < p.escape_time


@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-5])
def test_levels_are_told_apart_as_far_as_the_curve_can(noise):
    """Gaps down to 1e-8 of the staircase are seen without noise, those above the noise with it."""
    rho, start = 10.0 ** -np.array([0.0, 2.0, 4.0, 8.0]), 0.03
    times = np.geomspace(1e-2, 10.0 * escape(rho[-1], start), 1200)
    jitter = noise * np.random.default_rng(0).standard_normal(len(times))
    found = plateaus(aligned_curve(times, rho, aligned(times, rho, start) + jitter))
    last = {0.0: 4, 1e-9: 3, 1e-5: 2}[noise]
    assert [p.rank for p in found] == list(range(last + 1))


@pytest.mark.parametrize("seed", range(5))
def test_a_curve_that_is_all_noise_has_no_plateau(seed):
    error = LINEAR.error[0] + np.random.default_rng(seed).standard_normal(len(TIMES))
    assert plateaus(with_curve(error)) == ()


def test_prediction_and_closed_form_agree():
    p = problem(dim=3, bulk=0.0)
    state = odeae.aligned_state(p, encoder=0.01, decoder=0.01)
    found = plateaus(odeae.predict(p, state, TIMES, rtol=1e-9, atol=1e-12))
    assert [q.rank for q in found] == [0, 1, 2, 3]
    times = [q.escape_time for q in found[:3]]
    assert_allclose(times, [escape(rho, 0.01) for rho in SPIKES], rtol=2e-3)


@pytest.mark.parametrize("unit", [1e-6, 1e5])
def test_the_unit_of_time_does_not_matter(unit):
    """A rate common to all parts only rescales time (docs/theory.md 4)."""
    want = plateaus(LINEAR)
    got = plateaus(with_curve(LINEAR.error, unit * TIMES))
    for a, b in zip(want, got, strict=True):
        assert b.height == a.height
        assert_allclose([b.start, b.end, b.escape_time], unit * np.array([a[0], a[1], a[6]]))


@pytest.mark.parametrize("every", [1, 4, 16])
def test_the_density_of_times_does_not_matter(every):
    times, error = (np.append(x[0], x[1::every]) for x in (DENSE, LINEAR_DENSE.error))
    want, got = plateaus(LINEAR), plateaus(with_curve(error, times))
    assert [p.rank for p in got] == [p.rank for p in want]
    for a, b in zip(want, got, strict=True):
        assert b.height - FLOOR == pytest.approx(a.height - FLOOR, rel=5e-3, abs=1e-8)
        assert b.escape_time == pytest.approx(a.escape_time, rel=5e-3)
        assert b.end == pytest.approx(a.end, rel=0.1)


def test_evenly_spaced_times():
    rho = np.array([1.0, 0.2])
    times = np.linspace(0.0, 80.0, 1000)
    found = plateaus(aligned_curve(times, rho, aligned(times, rho, 0.01)))
    assert [p.rank for p in found] == [0, 1, 2]
    assert_allclose([p.escape_time for p in found[:2]], escape(rho, 0.01), rtol=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_noise_of_runs_neither_splits_nor_makes_plateaus(seed):
    rng = np.random.default_rng(seed)
    noisy = LINEAR.error + 3e-4 * rng.standard_normal(len(TIMES)) * (LINEAR.error - FLOOR)
    found = plateaus(with_curve(noisy))
    assert [p.rank for p in found] == [0, 1, 2, 3]
    assert_allclose([p.height - FLOOR for p in found[:3]], [0.555, 0.055, 0.005], rtol=0.025)


@pytest.mark.parametrize("seed", range(8))
def test_noise_that_does_not_fall_with_the_error(seed):
    """Runs of SGD once split the last plateau, or lost it: 0.03 ranks of noise on a slope of it."""
    rng = np.random.default_rng(seed)
    slope = 5e-3 * (0.2 - 0.06 * np.log(np.maximum(TIMES, 200.0) / 200.0))
    error = np.maximum(LINEAR.error, FLOOR + slope) + 1.5e-4 * rng.standard_normal(len(TIMES))
    found = plateaus(with_curve(error))
    assert [p.rank for p in found] == [0, 1, 2, 3]
    assert [p.left for p in found] == [True, True, True, False]


@pytest.mark.parametrize("end", [3e2, 1e3, 1e4, 1e6])
def test_a_plateau_does_not_depend_on_how_long_the_curve_is(end):
    """One neuron more than spikes: what its bulk modes decay by once hid the spike's plateau."""
    trajectory = curve(hidden=2, spikes=(1.0,), std=0.03, times=odeae.log_times(end, 400, 0.1))
    found = plateaus(trajectory)
    assert [p.rank for p in found] == [0, 1, 2][: 2 + (end > 1e3)]
    assert found[1].start == pytest.approx(4.5, rel=0.1)
    assert found[1].end > 290.0
    assert found[1].left == (end > 3e2)


@pytest.mark.parametrize("noise", [3.0, 30.0, 300.0])
def test_with_noise_levels_are_those_of_the_best_linear_maps(noise):
    rho, eps = np.array(SPIKES), noise / 1000
    network = odeae.Autoencoder(3, "linear")
    spectrum = odeae.Spectrum.spiked(SPIKES, 1000)
    p = odeae.Problem(spectrum, network, noise=noise)
    theory = odeae.predict(p, odeae.aligned_state(p, 0.01, 0.01), TIMES)
    found = plateaus(theory)
    best = 0.5 * np.cumsum(np.append(rho.sum() + 0.997, -(rho**2) / (rho + eps)))
    assert [q.rank for q in found] == [0, 1, 2, 3]
    assert_allclose([q.pca_error for q in found], best, rtol=1e-9)
    assert_allclose([q.height for q in found], best, rtol=1e-3)
    ax = plot_plateaus(theory)
    assert ax.get_ylabel() == "error above best map, rank 3"
    plt.close(ax.figure)


def test_an_overshoot_belongs_to_its_plateau():
    """Truncated SGD and Sanger's rule come down too far, rise a little and then stand."""
    x = np.log(np.maximum(TIMES, 1e-9) / 8.0)
    bump = 0.03 * np.exp(-((x / 0.25) ** 2))
    found = plateaus(with_curve(LINEAR.error + bump))
    assert [p.rank for p in found] == [0, 1, 2, 3]
    assert found[1].height - FLOOR == pytest.approx(0.055, rel=0.025)


def test_a_curve_that_rises_before_it_falls():
    """The escape is looked for after the slowest moment: from the start it was found before 0."""
    t = np.linspace(0.0, 1000.0, 4001)
    rise, fall = 0.06 - 0.026 * np.exp(-t / 50.0), np.maximum(0.06 - 0.05 * (t - 500.0), 0.005)
    first = plateaus(with_curve(FLOOR + np.where(t < 500.0, rise, fall), t))[0]
    assert (first.rank, first.start) == (1, 0.0)
    assert first.escape_time == pytest.approx(500.5, abs=0.1)


def test_equal_eigenvalues_are_learnt_at_once():
    found = plateaus(curve(spikes=(1.0, 1.0, 0.01)))
    assert [p.rank for p in found] == [0, 2, 3]


def test_a_curve_that_starts_in_the_fall_has_no_first_plateau():
    fall = FLOOR + 0.555 * np.exp(-0.5 * TIMES)
    assert [p.rank for p in plateaus(with_curve(fall))] == [3]


def test_a_slope_is_no_plateau():
    """A rank per e-fold of time, without a stop: flat only before the start and after the end."""
    r = np.clip(np.log(np.maximum(TIMES, 1e-9) / 10.0), 0.0, 3.0)
    error = np.interp(r, [0, 1, 2, 3], LINEAR.pca_levels())
    assert [p.rank for p in plateaus(with_curve(error))] == [0, 3]


def test_a_shelf_after_a_gentle_slope_starts_where_it_is_flat():
    """Less than half a rank per e-fold, but more than half a rank in all, isn't one plateau."""
    x = np.log(np.maximum(TIMES, 1e-9))
    r = np.interp(x, [0.0, 1.0, 5.0, 9.3], [0.0, 0.6, 2.0, 2.04])
    found = plateaus(with_curve(np.interp(r, [0, 1, 2, 3], LINEAR.pca_levels())))
    assert [p.rank for p in found] == [2]
    assert found[0].start == pytest.approx(np.exp(5.0), rel=0.1)


@pytest.mark.parametrize("level", [0.3, 1.0, 2.2])
def test_a_curve_that_stands_still_is_one_plateau(level):
    error = np.full(len(TIMES), np.interp(level, [0, 1, 2, 3], LINEAR.pca_levels()))
    (found,) = plateaus(with_curve(error))
    assert found[:3] == (0.0, np.inf, error[0])
    assert found.rank == round(level)
    assert not found.left


def test_a_curve_that_stopped_is_taken_as_far_as_it_went():
    error = np.where(TIMES < 200.0, LINEAR.error, np.nan)
    cut, whole = plateaus(with_curve(error)), plateaus(LINEAR)
    assert len(cut) == 3
    for a, b in zip(cut[:2], whole[:2], strict=True):
        assert_allclose(a, b)
    assert (cut[2].rank, cut[2].left, cut[2].end, cut[2].escape_time) == (2, False, np.inf, np.inf)


def test_one_of_several_curves():
    slow = with_curve(np.interp(0.5 * TIMES, TIMES, LINEAR.error))
    curves = [LINEAR, slow, with_curve(LINEAR.error + 0.01)]
    many = with_curve(np.stack([c.error for c in curves]))
    assert [plateaus(many, which=i) for i in range(3)] == [plateaus(c) for c in curves]
    assert plateaus(many, which=2) != plateaus(many, which=0)


def test_levels_that_coincide_have_the_smallest_rank():
    """A mode without variance adds no level."""
    trajectory = curve(spikes=(1.0, 0.1, 0.0), bulk=0.0)
    assert [p.rank for p in plateaus(trajectory)] == [0, 1, 2]


SETUP = """
import equinox as eqx, numpy as np, odeae
from odeae.analysis.plateaus import plateaus
from odeae.plotting.plateaus import plot_plateaus
spectrum, linear = odeae.Spectrum.spiked([1.0, 0.1], 2, 0.0), odeae.Autoencoder(2, "linear")
p = odeae.Problem(spectrum, linear, odeae.SGD(0.5))
state = odeae.aligned_state(p, 0.01, 0.01)
one = odeae.predict(p, state, odeae.log_times(500.0, 50))
many, failed, short = (
    eqx.tree_at(lambda t: (t.times, t.error, t.status, t.stop_time), one, values)
    for values in (
        (one.times, np.stack([one.error, one.error]), np.zeros(2, int), np.full(2, 500.0)),
        (one.times, np.full(50, np.nan), np.asarray(1), np.asarray(0.5)),
        (one.times[:2], one.error[:2], one.status, one.times[1]),
    )
)
"""
BAD = {
    "plateaus(1.0)": "`trajectory` must be an odeae Trajectory, got float",
    "plateaus(p)": "`trajectory` must be an odeae Trajectory, got Problem",
    "plateaus(many)": "holds 2 curves; choose a lane, which=0 to 1",
    "plateaus(many, 2)": "`which` must be at most 1, got 2",
    "plateaus(many, -1)": "`which` must be at least 0, got -1",
    "plateaus(many, 'a')": "`which` must be a whole number, got 'a'",
    "plateaus(one, 0)": "`which` must be None for a single curve, got 0",
    "plateaus(short)": "must have reached at least 3 times, got 2; save more",
    "plateaus(failed)": "at least 3 times, got 0; the curve stopped at t=0.5: diverged",
    "plot_plateaus(None)": "`trajectory` must be an odeae Trajectory, got NoneType",
    "plot_plateaus(many)": "choose a lane, which=0 to 1",
}


GOOD = "[p.rank for p in plateaus(one)]"
BAD[GOOD] = "no error"


@pytest.mark.parametrize("line", [line for line in BAD if line != GOOD])
def test_bad_input(said, line):
    plain.named_in_one_line(said[line], BAD[line])


def test_plain_scripts(said):
    assert said[GOOD] == "no error, but [0, 1, 2]"  # the same with x64 off


def test_traced_and_nested_curves_are_refused():
    with pytest.raises(ValueError, match="`trajectory` must be concrete"):
        jax.jit(lambda e: plateaus(eqx.tree_at(lambda t: t.error, LINEAR, e))[0].height)(
            LINEAR.error
        )
    with pytest.raises(ValueError, match=r"one leading axis at most, got shape \(2, 2\)"):
        plateaus(batch((2, 2)), 0)


def batch(shape=(2,)):
    return with_curve(np.broadcast_to(LINEAR.error, (*shape, len(TIMES))))


def boxes(ax):
    return [text.get_window_extent() for text in ax.texts if not text.get_text().startswith("PCA")]


PLOTS = {
    "linear": lambda: LINEAR,
    "erf": lambda: curve("erf"),
    "relu": lambda: curve("relu", hidden=4),
    "many": lambda: curve(hidden=7, spikes=0.5 ** np.arange(7), dim=10**5, std=0.001),
}


@pytest.mark.parametrize(
    "name", ["linear", "erf", "relu", pytest.param("many", marks=pytest.mark.slow)]
)
def test_plot(name):
    trajectory = PLOTS[name]()
    found = plateaus(trajectory)
    ax = plot_plateaus(trajectory)
    try:
        shaded = [(p.get_x(), p.get_x() + p.get_width()) for p in ax.patches]
        assert len(shaded) == len(found)
        for (left, right), p in zip(shaded, found, strict=True):
            assert_allclose(left, max(p.start, TIMES[1]))
            assert_allclose(right, min(p.end, TIMES[-1]))
        words = [text.get_text() for text in ax.texts]
        named = [word for word in words if word.startswith("rank")]
        assert [int(word.split()[1]) for word in named] == [p.rank for p in found]
        escapes = [p.escape_time for p in found if np.isfinite(p.escape_time)]
        written = [float(word.split()[-1]) for word in words if word.startswith("escape")]
        assert_allclose(written, escapes, rtol=1e-3)
        ax.figure.draw_without_rendering()
        all_boxes, inside = boxes(ax), ax.get_window_extent()
        for i, box in enumerate(all_boxes):
            assert inside.x0 <= box.x0 < box.x1 <= inside.x1
            assert inside.y0 <= box.y0 < box.y1 <= inside.y1
            assert not any(box.overlaps(other) for other in all_boxes[i + 1 :])
    finally:
        plt.close(ax.figure)


def test_the_plot_shows_a_power_law_to_its_end_and_keeps_its_labels():
    p = problem("erf", dim=3, bulk=0.0)
    state = odeae.aligned_state(p, 0.03, 0.03)
    trajectory = odeae.predict(p, state, np.append(0.0, np.geomspace(1.0, 1e7, 400)))
    ax = plot_plateaus(trajectory)
    try:
        assert ax.get_ylim()[0] < trajectory.excess[-1]
        ax.set_ylim(1e-3, 1.0)
        ax.figure.draw_without_rendering()
        inside = ax.get_window_extent()
        escapes = [t for t in ax.texts if t.get_text().startswith("escape")]
        assert len(escapes) == 3
        assert all(inside.contains(*t.get_window_extent().min) for t in escapes)
    finally:
        plt.close(ax.figure)


def test_plot_on_given_axes():
    figure, axes = plt.subplots(1, 2, figsize=(5, 2.2), layout="constrained")
    try:
        assert plot_plateaus(LINEAR, ax=axes[0]) is axes[0]
        assert plot_plateaus(batch(), which=1, labels=False, ax=axes[1]) is axes[1]
        assert not [t for t in axes[1].texts if t.get_text().startswith(("rank", "escape"))]
        assert_array_equal(axes[1].lines[0].get_ydata(), LINEAR.error - FLOOR)
        figure.draw_without_rendering()
    finally:
        plt.close(figure)


def test_plot_of_a_short_linear_curve_needs_no_logarithm():
    times = np.linspace(1.0, 10.0, 60)
    ax = plot_plateaus(with_curve(FLOOR + 0.555 - 0.01 * times, times))
    try:
        assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "linear")
    finally:
        plt.close(ax.figure)


def test_a_plateau_is_plain_data():
    p = plateaus(LINEAR)[0]
    assert isinstance(p, Plateau)
    assert [type(value) for value in p] == [float] * 3 + [int] + [float] * 3 + [bool]
