"""What decays grows again from what is left of it: no tolerance may end a plateau too early.

Every wrong value named here had status OK: tolerances were absolute, at a tenth of the scale of the
initial rows, and modes that had decayed below it grew again from the solver's own errors.
"""

import jax.numpy as jnp
import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose

import odeae
import odeae.theory.strategy
from odeae.base.status import Status
from odeae.theory.equations import equations_of, surroundings

DIM = 30
RHO = np.concatenate([DIM * np.array([1.0, 0.6, 0.3]), np.ones(DIM - 3)])
SPECTRUM = odeae.Spectrum.spiked([1.0, 0.6, 0.3], DIM)


def exactly(problem, W, V, times, **options):
    """The curve of all weights by SciPy, with a tolerance that is relative to every weight."""
    activation = type(problem.autoencoder.activation).__name__.lower()
    got = reference.integrate(
        activation, RHO, W, V, np.zeros(len(V)), times, rtol=1e-10, atol=1e-120, **options
    )
    return got["error"]


def test_a_plateau_after_weights_that_were_too_large():
    """The curve left its plateau at t = 240 where the right one leaves at 620: 0.8 of 1.7 off."""
    network = odeae.Autoencoder(3, "linear", tied=True)
    p = odeae.Problem(SPECTRUM, network)
    V = 8.0 * np.random.default_rng(0).standard_normal((3, DIM))
    times = np.linspace(0.0, 40.0, 41)
    want = exactly(p, None, V, times, tied="full")
    got = odeae.predict(p, odeae.state_from_weights(p, None, V), times)
    plateau = np.abs(want - 1.355) < 0.015
    assert 5 < plateau.sum() < 35  # it's there, and is left
    assert_allclose(got.error[1:], want[1:], atol=1e-6)


def test_the_plateau_of_a_thousand_dimensions():
    """As it was found: the plateau was left near t = 240 instead of 520."""
    network = odeae.Autoencoder(3, "linear", tied=True)
    p = odeae.Problem(odeae.Spectrum.spiked([1.0, 0.6, 0.3], 1000), network)
    state = odeae.random_state(p, decoder_std=3.0)
    got = odeae.predict(p, state, np.linspace(0.0, 700.0, 41))
    left = got.times[np.argmax((got.times > 0) & (got.error < 1.2))]
    assert 500.0 < left < 550.0
    tight = odeae.predict(p, state, got.times, rtol=1e-9)
    assert_allclose(got.error[1:], tight.error[1:], atol=2e-6)


def test_weights_that_decay_while_the_rates_are_zero():
    """The error was 0.583 for 0.815 at t = 500."""
    schedule = odeae.StepSchedule([20.0, 160.0], [0.0, 1.0])
    p = odeae.Problem(
        SPECTRUM, odeae.Autoencoder(2), odeae.SGD(weight_decay=0.25, schedule=schedule)
    )
    W, V = 0.1 * np.random.default_rng(0).standard_normal((2, 2, DIM))
    times = np.array([0.0, 10.0, 20.0, 160.0, 200.0, 210.0, 220.0, 230.0, 240.0, 260.0])
    factor = {"schedule": lambda t: float(not 20.0 <= t < 160.0), "jumps": (20.0, 160.0)}
    want = exactly(p, W, V, times, decay=0.25, **factor)
    got = odeae.predict(p, odeae.state_from_weights(p, W, V), times)
    assert np.ptp(want[4:]) > 0.1  # they have grown again, from 1e-15
    assert_allclose(got.error, want, atol=1e-6)


TWO = odeae.Problem(
    odeae.Spectrum.spiked([1.0, 0.5], 1000, bulk=0.0), odeae.Autoencoder(2, "linear")
)


def logistic(eps, times, rho=0.5):
    """Error of w = u = eps in mode 2 alone: s = w u follows ds/dt = 2 ρ̃ s (1 − s)."""
    s = 1.0 / (1.0 + np.expm1(-2.0 * np.log(eps)) * np.exp(-2.0 * rho * times))
    return 0.5 * rho * (1.0 - s) ** 2


def around_escape(eps, count=24):
    """Times before, at and after the escape from the saddle, which takes −2 ln(eps) for ρ̃ = ½."""
    return np.append(0.0, -2.0 * np.log(eps) + np.linspace(-8.0, 8.0, count))


@pytest.mark.parametrize("eps", [1e-2, 1e-8, 1e-10, 1e-20, 1e-30, 1e-40])
def test_escapes_from_a_saddle_over_forty_decades(eps):
    """5e-3 off at eps = 1e-8, 0.086 at 1e-10."""
    times = around_escape(eps)
    got = odeae.predict(TWO, odeae.aligned_state(TWO, [1.0, eps], [1.0, eps]), times)
    assert_allclose(got.error, logistic(eps, times), atol=1e-6)
    reduced = odeae.predict_aligned(TWO, times, [1.0, eps], [1.0, eps])
    assert_allclose(reduced.error, logistic(eps, times), atol=1e-6)


def test_a_small_neuron_beside_a_large_one():
    """The tolerance follows each neuron too: here both have a part in both modes."""
    eps, small = 1e-20, np.array([[1.0, 0.3], [1e-20, -2e-20]])
    V = np.sqrt(1000.0) * np.pad(small, ((0, 0), (0, 998)))
    state = odeae.state_from_weights(TWO, np.pad(small, ((0, 0), (0, 998))), V)
    times = around_escape(eps)
    got = odeae.predict(TWO, state, times)
    tight = odeae.predict(TWO, state, times, rtol=1e-11)
    assert np.ptp(tight.error[1:]) > 0.1
    assert_allclose(got.error, tight.error, atol=2e-6)


def test_sweeps_and_ensembles_of_saddles():
    """`sweep` had it too."""

    def build(n):
        return TWO, odeae.aligned_state(TWO, jnp.stack([1.0, 10.0**n]), jnp.stack([1.0, 10.0**n]))

    eps = np.array([-8.0, -10.0, -30.0])
    times = np.unique(np.concatenate([around_escape(10.0**n, 8) for n in eps]))
    table = odeae.sweep(build, {"n": eps}, times)
    for n in eps:
        assert_allclose(table.error.sel(n=n), logistic(10.0**n, times), atol=1e-6)


def test_what_the_tolerance_does_not_ask():
    """Below rounding of the terms that an entry's rate of change is a sum of, nothing is asked."""
    p = odeae.Problem(SPECTRUM, odeae.Autoencoder(2, "linear"))
    equations = equations_of(p)
    modes = np.array([[3.0, 1e-9], [1e-5, 1e-12]])  # two spikes, each with its two neurons
    rows = np.zeros((3 + 4, 2))
    rows[:2] = modes
    y = np.concatenate([rows.ravel(), 0.0 * rows.ravel()])
    around = np.asarray(surroundings(equations, jnp.asarray(y)))[: rows.size].reshape(-1, 2)
    share = modes.max(axis=0) / modes.max()
    assert_allclose(around[:2], modes + modes.max(axis=1)[:, None] * share)
    assert not around[2:].any()


def switched_off(until, decay=0.1):
    """Weights of size 1 that decay from t = 1 until the rate is switched on again."""
    schedule = odeae.StepSchedule([1.0, until], [0.0, 1.0])
    rule = odeae.SGD(weight_decay=decay, schedule=schedule)
    p = odeae.Problem(TWO.spectrum, TWO.autoencoder, rule)
    return p, odeae.aligned_state(p, [1.0, 0.9], [1.0, 0.9])


def test_what_an_implicit_solver_loses_is_found_and_followed(monkeypatch):
    """Its long steps damp what they can't follow too much: the error stayed at 0.75 for 0.255."""
    (p, state), times = switched_off(400.0), np.linspace(0.0, 700.0, 36)
    want = odeae.predict(p, state, times, rtol=1e-8)
    assert want.error[20] > 0.74
    assert want.error[-1] < 0.1
    rodas = odeae.predict(p, state, times, solver=odeae.Rodas4())
    assert_allclose(rodas.error, want.error, atol=2e-6)
    # What takes over by itself follows modes less far first, and then finds what it has lost.
    monkeypatch.setattr(odeae.theory.strategy, "EXPLICIT_STEPS", 15)
    monkeypatch.setattr(odeae.theory.strategy, "EXPLICIT_STEPS_BY_PAIRS", 1)
    got = odeae.predict(p, state, times)
    assert "Rodas4 from t=" in got.settings
    assert_allclose(got.error, want.error, atol=2e-6)
    monkeypatch.setattr(odeae.theory.strategy, "_regrown", lambda *_: None)
    wrong = odeae.predict(p, state, times)
    assert np.max(np.abs(wrong.error - want.error)) > 0.4


def test_what_falls_below_double_precision_and_would_grow_again_is_a_status():
    """Nothing is left of it to grow from: the curve would stay on its plateau for ever."""
    p, state = switched_off(8000.0)
    # It grows from 8000 on, between two of them. (As many as above: one program.)
    times = np.append(np.linspace(0.0, 7500.0, 19), np.linspace(7650.0, 10_050.0, 17))
    got = odeae.predict(p, state, times, throw=False)
    assert got.status == Status.REGROWN
    assert 7800.0 < got.stop_time <= 8000.0  # nothing that may be wrong is kept
    reached = times <= got.stop_time
    assert_allclose(got.error[reached][2:], p.spectrum.pca_error(0), atol=1e-3)
    assert not np.isfinite(got.error[~reached]).any()
    with pytest.raises(RuntimeError, match="smallest number of double precision would grow again"):
        odeae.predict(p, state, times)
    # A mode that decays for good is no fault.
    kept = odeae.predict(p, state, 0.75 * times)
    assert kept.status == Status.OK
