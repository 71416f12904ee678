"""Fits of power laws: exact laws, laws with corrections, noise of known size, bad windows."""

import types

import equinox as eqx
import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import odeae
from odeae.analysis.power_laws import fit_power_law, local_slopes
from odeae.theory.aligned import predict_aligned

TIMES = np.geomspace(1e-1, 1e4, 101)


def curve(error, times=TIMES, **parts):
    """The least that a curve has."""
    return types.SimpleNamespace(times=times, error=error, excess=error, **parts)


@pytest.mark.parametrize("exponent", [-2 / 3, 0.0, 1.7])
def test_exact_laws(exponent):
    fit = fit_power_law(TIMES, 3.0 * TIMES**exponent)
    assert_allclose(fit.exponent, exponent, atol=1e-13)
    assert_allclose(fit.prefactor, 3.0, rtol=1e-12)
    assert 0 <= fit.exponent_error < 1e-13
    assert fit.window == (1e3, 1e4)
    assert fit.points == 21
    assert_allclose(local_slopes(TIMES, 3.0 * TIMES**exponent).slopes, exponent, atol=1e-12)


def test_the_slope_is_that_of_a_textbook_fit():
    rng = np.random.default_rng(0)
    t = np.linspace(2.0, 90.0, 40)
    y = t**-0.5 * np.exp(0.1 * rng.standard_normal(40))
    fit = fit_power_law(t, y, 5, 80)
    inside = (t >= 5) & (t <= 80)
    slope, level = np.polyfit(np.log(t[inside]), np.log(y[inside]), 1)
    assert_allclose([fit.exponent, np.log(fit.prefactor)], [slope, level], rtol=1e-10)
    x = np.log(t[inside]) - np.log(t[inside]).mean()
    bend, _, _ = np.polyfit(x, np.log(y[inside]), 2)
    left = np.log(y[inside]) - np.polyval(np.polyfit(x, np.log(y[inside]), 2), x)
    noise = np.sqrt(np.sum(left**2) / (inside.sum() - 3))
    assert_allclose(fit.statistical, noise / np.sqrt(np.sum(x**2)), rtol=1e-10)
    # the parabola's slope changes by 2 bend (x[-1] − x[0]), by twice the systematic error
    assert_allclose(fit.systematic, abs(bend) * (x[-1] - x[0]), rtol=1e-10)
    assert_allclose(fit.exponent_error, np.hypot(fit.statistical, fit.systematic))


def test_statistical_errors_are_as_large_as_they_say():
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((4000, len(TIMES)))
    fits = fit_power_law(TIMES, TIMES**-0.7 * np.exp(0.05 * noise), 1.0, 1e4)
    pull = (fits.exponent + 0.7) / fits.statistical
    assert fits.exponent.shape == (4000,)
    assert abs(np.mean(pull)) < 0.06
    assert_allclose(np.std(pull), 1.0, atol=0.05)
    assert np.mean(np.abs(fits.exponent + 0.7) < fits.exponent_error) > 0.68
    logs = np.log(fits.prefactor)
    assert np.mean(np.abs(logs) < fits.prefactor_error / fits.prefactor) > 0.68


@pytest.mark.parametrize(("amplitude", "correction"), [(0.5, 0.5), (-0.4, 0.3), (2.0, 1.0)])
def test_systematic_errors_cover_the_ends_of_the_window(amplitude, correction):
    """t^(−1/2) (1 + a t^(−δ)): no noise, so all error is that of corrections to scaling."""
    y = TIMES**-0.5 * (1 + amplitude * TIMES**-correction)
    fit = fit_power_law(TIMES, y, 10.0, 1e4)

    def slope(t):
        x = amplitude * t**-correction
        return -0.5 - correction * x / (1 + x)

    assert slope(10.0) != pytest.approx(slope(1e4), abs=1e-3)
    inside = slope(1e3)
    assert abs(fit.exponent - inside) < fit.exponent_error
    assert abs(fit.exponent - slope(1e4)) < 1.5 * fit.exponent_error
    later = fit_power_law(TIMES, y, 1e3, 1e4)
    assert later.systematic < 0.7 * fit.systematic
    assert abs(later.exponent + 0.5) < abs(fit.exponent + 0.5)
    got = local_slopes(TIMES, y)
    want = np.array([slope(t) for t in got.times])
    assert_allclose(got.slopes[got.times > 1], want[got.times > 1], atol=3e-3)
    fine = np.geomspace(1e-1, 1e4, 1001)
    finer = local_slopes(fine, fine**-0.5 * (1 + amplitude * fine**-correction)).slopes[::10]
    gaps = [np.max(np.abs(slopes[1:-1] - want[1:-1])) for slopes in (got.slopes, finer)]
    assert gaps[1] < 0.02 * gaps[0]  # second order: a hundredth


@pytest.fixture(scope="module")
def valley():
    spectrum = odeae.Spectrum.spiked([1.0], dim=1000, bulk=0.0)
    p = odeae.Problem(spectrum, odeae.Autoencoder(1))
    times = np.concatenate([[0.0], np.geomspace(1e-2, 1e9, 111)])
    return predict_aligned(p, times, 1.0, 0.5)


def test_the_valley_of_section_8(valley):
    for name, exponent, prefactor in (
        ("excess", -2 / 3, (np.pi / 4) ** (2 / 3) / 12),
        ("encoder", -1 / 6, (4 / np.pi) ** (-1 / 6)),
        ("decoder", 1 / 6, np.sqrt(np.pi / 2) * (4 / np.pi) ** (1 / 6)),
    ):
        fit = fit_power_law(valley, name)
        assert fit.window == (1e8, 1e9)
        assert_allclose(fit.exponent, exponent, atol=1e-3)
        assert_allclose(fit.prefactor, prefactor, rtol=1e-2)
        early = fit_power_law(valley, name, 1e2, 1e5)
        assert np.all(early.exponent_error > fit.exponent_error)
        assert np.all(np.abs(early.exponent - exponent) < 3.0 * early.exponent_error)
    assert "t^(-0.66667 ± " in repr(fit_power_law(valley))
    assert "(1,) exponents" in repr(fit_power_law(valley, "encoder"))


def test_trajectories_of_theory_and_of_runs():
    spectrum = odeae.Spectrum.spiked([1.0, 0.5], dim=60)
    p = odeae.Problem(spectrum, odeae.Autoencoder(2))
    state = odeae.random_state(p, 0.5, 0.5)
    times = np.linspace(1.0, 5.0, 8)
    theory = odeae.predict(p, state, times)
    by_name = fit_power_law(theory, "error", 1, 5)
    assert_array_equal(by_name.exponent, fit_power_law(times, theory.error, 1, 5).exponent)
    assert_array_equal(by_name.exponent, fit_power_law(theory, theory.error, 1, 5).exponent)
    pairs = fit_power_law(theory, "Q1", 1, 5) if np.all(theory.Q1 > 0) else None
    squares = fit_power_law(theory, theory.T0**2, 1, 5)
    assert squares.exponent.shape == (2, 2)
    entry = fit_power_law(theory, theory.T0[:, 0, 1] ** 2, 1, 5)
    assert_allclose(squares.exponent[0, 1], entry.exponent, rtol=1e-12)
    assert pairs is None or pairs.exponent.shape == (2, 2)
    rows = fit_power_law(theory, theory.components.decoder**2, 1, 5)
    assert rows.exponent.shape == (2, 2)

    runs = odeae.simulate(p, state, times, runs=3)
    fits = fit_power_law(runs, "error", 1, 5)
    assert fits.exponent.shape == (3,)
    alone = fit_power_law(runs.times, runs.error[1], 1, 5)
    assert_allclose(fits.exponent[1], alone.exponent, rtol=1e-12)
    assert_allclose(fits.prefactor_error[1], alone.prefactor_error, rtol=1e-10)
    mean = fits.over_runs()
    assert_allclose(mean.exponent, np.mean(fits.exponent))
    assert_allclose(mean.statistical, np.std(fits.exponent, ddof=1) / np.sqrt(3))
    assert_allclose(mean.systematic, np.mean(fits.systematic))
    assert_allclose(mean.exponent_error, np.hypot(mean.statistical, mean.systematic))
    assert_allclose(np.log(mean.prefactor), np.mean(np.log(fits.prefactor)))
    with pytest.raises(ValueError, match="needs at least two of them, got 1"):
        mean.over_runs()
    slopes = local_slopes(runs, runs.T0**2)
    assert slopes.slopes.shape == (3, 8, 2, 2)
    lanes = jax.tree.map(lambda *parts: np.stack(parts), theory, theory)  # as from jax.vmap
    twice = fit_power_law(lanes, "error", 1).exponent  # sums depend on where arrays lie in memory
    assert_allclose(twice, 2 * [by_name.exponent], rtol=1e-12)


def test_what_the_errors_of_the_mean_mean():
    """Over many experiments of 8 noisy runs each, the mean is off by its statistical error."""
    rng = np.random.default_rng(2)
    y = TIMES**-0.7 * np.exp(0.05 * rng.standard_normal((500, 8, len(TIMES))))
    means = [fit_power_law(TIMES, runs, 1.0).over_runs() for runs in y]
    pull = np.array([(mean.exponent + 0.7) / mean.statistical for mean in means])
    assert_allclose(np.std(pull), np.sqrt(7 / 5), atol=0.15)  # Student's t of 7 degrees


def test_a_curve_that_stopped():
    y = 1.0 / TIMES
    y[90:] = np.nan
    stopped = curve(y, status=np.array(odeae.Status.DIVERGED))
    with pytest.raises(
        ValueError, match=r"`excess` is NaN at t=3162.*curve stopped .*`end` before"
    ):
        fit_power_law(stopped)
    assert_allclose(fit_power_law(stopped, end=2000.0).exponent, -1.0, rtol=1e-12)


BAD = {
    "zero": (lambda y: (TIMES, 0 * y, 1, 10), "`values` must be positive .* got 0 at t=1"),
    "negative": (
        lambda y: (TIMES, np.stack([y, np.where(TIMES > 5, -y, y)]), 1, 10),
        r"must be positive .* got -\S+ at t=5.\S+ \(entry 1\)",
    ),
    "infinite": (lambda y: (TIMES, y / 0.0, 1, 10), "must be positive and finite .* got inf"),
    "nan": (lambda y: (TIMES, y * np.nan, 1, 10), "`values` is NaN at t=1"),
    "few": (lambda y: (TIMES, y, 1, 1.3), "at least 4 times in the window, got 3"),
    "early": (lambda y: (TIMES, y, 1e-3, 10), "`start` must be within the curve's times, 0.1 … 10"),
    "late": (lambda y: (TIMES, y, 1, 1e5), "`end` must be within the curve's times"),
    "turned": (lambda y: (TIMES, y, 10, 1), "`start` must be before `end`, got 10 and 1"),
    "not positive": (lambda y: (TIMES, y, 0.0, 1), "`start` must be positive"),
    "length": (lambda y: (TIMES, y[1:]), r"shape \(\.\.\., T\) with T = 101 times, got \(100,\)"),
    "number": (lambda y: (TIMES, 1.0), r"must have the shape \(\.\.\., T\)"),
    "bare name": (lambda y: (TIMES, "excess"), "must be an array beside bare times, got the name"),
    "no name": (lambda y: (curve(y), "exces"), "`values` 'exces' is no variable"),
    "no array": (lambda y: (curve(y, extra={}), "extra"), "'extra' is no array .* but dict"),
    "layout": (lambda y: (curve(y[None]), y), r"shape \(\*runs, T, \.\.\.\)"),
    "order": (lambda y: (TIMES[::-1], y), "`times` must not be negative|`times` must increase"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        fit_power_law(*call(1.0 / TIMES))


def test_local_slopes_need_three_times():
    with pytest.raises(ValueError, match="at least 3 times in the window, got 2"):
        local_slopes(TIMES, 1.0 / TIMES, 1.0, 1.2)


def test_no_fits_of_traced_values():
    with pytest.raises(ValueError, match="fits need concrete values"):
        jax.jit(lambda y: fit_power_law(TIMES, y).exponent)(1.0 / TIMES)


def test_windows_end_where_geomspace_does():
    t = np.geomspace(1e-3, 1e3, 61)
    assert fit_power_law(t, 1.0 / t, 1.0, 1e3).points == 31
    assert eqx.tree_equal(fit_power_law(t, 1 / t, 100.0), fit_power_law(t, 1 / t))
