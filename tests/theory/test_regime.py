"""Where theory and SGD must not be said to agree: large steps, unscaled inputs, weak signals."""

import functools
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose

import odeae
from odeae.theory.regime import LIMIT, RegimeWarning, finite_size, learnable, step_size

DIM = 100


def erf(spikes=(1.0, 0.5), bulk=1.0, noise=0.0, **rates):
    spectrum = odeae.Spectrum.spiked(spikes, DIM, bulk)
    return odeae.Problem(spectrum, odeae.Autoencoder(2), odeae.SGD(**rates), noise)


def hebbian(rule, lr):
    spectrum = odeae.Spectrum.spiked([1.0, 0.6], 200)
    return odeae.Problem(spectrum, odeae.Autoencoder(2, "linear", tied=True), rule(lr=lr))


@functools.cache
def compared(make, end, runs=8):
    """Theory and SGD, and whether the theory came with a warning."""
    problem = make()
    state = odeae.random_state(problem, decoder_std=0.3)
    times = np.round(np.linspace(0.0, end, 11) * DIM) / DIM  # 11 for all: one program
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        theory = odeae.predict(problem, state, times)
    runs = odeae.simulate(problem, state, times, runs=runs, test_samples=1)
    return odeae.compare(theory, runs), [w for w in said if w.category is RegimeWarning]


# Each "agreed" before, but for the first, which does; gap: largest deviation as a part of what can
# be learnt.
CASES = {
    "spikes of order 1": (erf, 10.0, (0.0, 0.1), False),
    "spikes without their 1/D": (functools.partial(erf, (100.0, 50.0)), 2.0, (0.1, 1.0), True),
    "bytes for inputs": (functools.partial(erf, (1500.0, 700.0), 900.0), 1.0, (0.01, 9.0), True),
    "a bulk of order D": (functools.partial(erf, (1.0, 0.5), 20.0), 15.0, (0.01, 9.0), True),
    "noise of order D": (functools.partial(erf, noise=60.0), 15.0, (0.005, 9.0), True),
    "steps of size D": (functools.partial(erf, lr=40.0), 2.0, (0.05, 9.0), True),
}


@pytest.mark.parametrize("name", CASES)
def test_outside_the_regime_nothing_is_called_agreement(name):
    make, end, (least, most), outside = CASES[name]
    check, said = compared(make, end)
    assert least <= check.largest / check.learnable <= most
    assert (finite_size(make()) > LIMIT) == outside
    assert len(said) == outside
    if outside:
        assert check.verdict == "outside"
        assert check.agrees is None
        assert "can't tell: at D=100 with rate" in str(check)
        assert "would do" in str(check)
        assert "SGD may be off it by" in str(said[0].message)
        assert said[0].filename == __file__
    else:
        assert check.agrees


@pytest.mark.parametrize("rule", [odeae.Oja, pytest.param(odeae.Sanger, marks=pytest.mark.slow)])
def test_hebbian_rules_at_too_large_rates(rule):
    times = np.array([0.0, 0.1, 0.2, 0.5])
    verdicts = {}
    for lr in (1.0, 40.0):
        p = hebbian(rule, lr)
        state = odeae.random_state(p, decoder_std=0.3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RegimeWarning)
            theory = odeae.predict(p, state, times)
        verdicts[lr] = odeae.compare(theory, odeae.simulate(p, state, times, runs=8)).verdict
    assert verdicts[1.0] in ("noise", "finite size")
    assert verdicts[40.0] == "outside"


def test_the_number():
    p = erf(lr_encoder=3.0, noise=2.0)
    share = 3.0 * (1.5 + 0.98 + 2.0) / DIM
    assert_allclose(step_size(p), share)
    assert_allclose(step_size(p, noise=False), 3.0 * 2.48 / DIM)
    gains = np.array([1.0, 0.5])
    most = 0.5 * np.sum(gains**2 / (gains + 2.0 / DIM))
    assert_allclose(learnable(p), most)
    assert_allclose(finite_size(p), share * 0.5 * 2.48 / most)
    schedule = odeae.StepSchedule([1.0], [4.0])
    assert_allclose(step_size(erf(schedule=schedule), 2.0), 4.0 * step_size(erf()))
    assert_allclose(step_size(erf(schedule=schedule), 0.5), step_size(erf()))


def test_what_would_do_does():
    """The rate, or the scale of the inputs, that the message names."""
    p = erf((100.0, 50.0), 100.0)
    with pytest.warns(RegimeWarning, match="would do") as said:
        odeae.predict(p, odeae.random_state(p), [0.0, 0.1])
    words = str(said[0].message)
    rate = float(words.split("rates below ")[1].split(",")[0])
    scale = float(words.split("scaled by ")[1].split(",")[0])
    assert finite_size(erf((100.0, 50.0), 100.0, lr=0.99 * rate)) < LIMIT
    assert_allclose(finite_size(erf((100.0, 50.0), 100.0, lr=1.05 * rate)), LIMIT, rtol=0.1)
    s = (0.97 * scale) ** 2
    assert finite_size(erf((100.0 * s, 50.0 * s), 100.0 * s)) < LIMIT


def test_a_denoiser_with_noise_of_order_d_says_that_its_curve_is_that_of_small_rates():
    """SGD ends above it: tied, linear, 0.657 for 0.62."""
    p = erf(noise=60.0)
    state = odeae.random_state(p)
    with pytest.warns(RegimeWarning, match=r"that of small rates, .* \(give diffusion=True\): "):
        odeae.predict(p, state, [0.0, 0.1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        odeae.predict(p, state, [0.0, 0.1], diffusion=True)
    tied = odeae.Problem(p.spectrum, odeae.Autoencoder(2, "linear", tied=True), noise=60.0)
    with pytest.warns(RegimeWarning, match=r"that of small rates, as the noise is of order D: "):
        odeae.predict(tied, odeae.random_state(tied), [0.0, 0.1])


def test_data_say_which_scale_would_do():
    x = 75.0 * np.random.default_rng(0).standard_normal((400, 64))
    with pytest.warns(
        UserWarning, match=r"tr Ω/D = 5\d{3}, .* D=64: .*Divide the data by 7\d\."
    ) as said:
        odeae.Spectrum.from_data(x)
    assert said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        odeae.Spectrum.from_data(x / 75.0)


def test_a_sweep_says_it_once():
    def build(lr):
        p = erf(lr=lr)
        return p, odeae.random_state(p)

    with pytest.warns(RegimeWarning, match="with rate 80") as said:
        odeae.sweep(build, {"lr": [1.0, 20.0, 80.0]}, [0.0, 0.1])
    assert len(said) == 1
    assert said[0].filename == __file__
