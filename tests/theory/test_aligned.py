"""The aligned ansatz against the full drift and SciPy; the best decoder against minimisers."""

import dataclasses

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
from numpy.testing import assert_allclose, assert_array_equal

import odeae
from odeae.analysis.decoders import best_decoder, residual
from odeae.analysis.power_laws import local_slopes
from odeae.model.errors import excess_error
from odeae.model.leading import beyond_first_spikes, leading_modes
from odeae.theory import aligned
from odeae.theory.aligned import predict_aligned

pytestmark = pytest.mark.sampled

SPECTRUM = odeae.Spectrum.spiked([1.0, 0.6, 0.3], dim=50)
ONE = odeae.Spectrum.spiked([1.0], dim=1000, bulk=0.0)
TANH = odeae.Quadrature(jnp.tanh, q_max=25.0)
ALPHA, BETA = np.random.default_rng(0).standard_normal((2, 3))


def problem(hidden=3, activation="erf", rule=None, noise=0.0, spectrum=SPECTRUM, **network):
    return odeae.Problem(spectrum, odeae.Autoencoder(hidden, activation, **network), rule, noise)


def one(activation="erf", rule=None, **network):
    return problem(1, activation, rule, spectrum=ONE, **network)


# ------------------------------------------------------------------------------- the averages


def test_nonlinear_output_of_sigmoidal_units_has_all_its_digits():
    q = np.concatenate([np.geomspace(1e-9, 1e6, 31), [0.49999, 0.50001]])
    m = odeae.Erf().moments(jnp.asarray(q), None)

    def exact(q):
        y = q / (1 + q)
        return 2 / mpmath.pi * (mpmath.asin(y) - y)

    with mpmath.workdps(60):
        N = [float(exact(mpmath.mpf(x))) for x in q]
        N_q = [float(mpmath.diff(exact, mpmath.mpf(x), h=mpmath.mpf(x) * 1e-15)) for x in q]
    assert_allclose(m.N, N, rtol=1e-14)
    assert_allclose(m.N_q, N_q, rtol=1e-13)


@pytest.mark.parametrize("bias", [None, 0.4], ids=["", "bias"])
@pytest.mark.parametrize(
    "activation",
    [odeae.Erf(), odeae.ReLU(), odeae.Linear(), TANH],
    ids=["erf", "relu", "linear", "tanh"],
)
def test_nonlinear_output_is_what_is_left_of_g(activation, bias):
    """Against an adaptive integral of (g(λ + b) − cλ)² and its finite differences."""

    def exact(q, b):
        c, density = None, lambda z: np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
        kink = [-b / np.sqrt(q)]

        def mean(f):
            return scipy.integrate.quad(
                lambda z: f(np.sqrt(q) * z) * density(z), -9, 9, points=kink, epsabs=1e-14
            )[0]

        def g(x):
            return float(np.asarray(activation(np.asarray(x + b))))

        c = mean(lambda x: g(x) * x) / q
        return mean(lambda x: (g(x) - c * x) ** 2)

    q, b, h = 0.8, bias or 0.0, 1e-4
    m = activation.moments(jnp.array([q]), None if bias is None else jnp.array([bias]))
    assert_allclose(m.N[0], exact(q, b), atol=1e-10)
    assert_allclose(m.N_q[0], (exact(q + h, b) - exact(q - h, b)) / (2 * h), atol=1e-7)
    if bias is not None:
        assert_allclose(m.N_b[0], (exact(q, b + h) - exact(q, b - h)) / (2 * h), atol=1e-7)


def test_small_fields_of_a_quadrature():
    """N → g'''(0)² q³/6, which subtraction would lose below q = 1e-5."""
    q = np.array([1e-7, 1e-5])
    m = TANH.moments(jnp.asarray(q), None)
    assert_allclose(m.N, 4.0 * q**3 / 6.0, rtol=1e-3)
    assert_allclose(m.N_q, 4.0 * q**2 / 2.0, rtol=1e-3)


# -------------------------------------------------------------------------------- is it closed?

CASES = {
    "erf": problem(),
    "rates, decay, schedule": problem(
        rule=odeae.SGD(
            lr_encoder=0.7,
            lr_decoder=1.3,
            weight_decay=0.1,
            schedule=odeae.CosineSchedule(10.0),
        ),
        noise=5.0,
    ),
    "fewer neurons": problem(2, "linear", odeae.SGD(lr_encoder=0.0)),
    "truncated": problem(rule=odeae.SGD(truncated=True)),
    "idle biases": problem(bias=True, output_bias=True),
    "tanh": problem(2, TANH, noise=2.0),
    "tied": problem(rule=odeae.SGD(weight_decay=0.1), noise=3.0, tied=True, gain=1.7),
    "tied, encoder": problem(rule=odeae.SGD(gradient="encoder"), tied=True, gain=1.7),
    "tied, decoder": problem(rule=odeae.SGD(gradient="decoder"), tied=True, gain=1.7),
    "Oja": problem(3, "linear", odeae.Oja(2.0), tied=True),
    "Sanger": problem(3, "linear", odeae.Sanger(2.0), noise=3.0, tied=True),
    "Hebb": problem(3, "linear", odeae.Hebb(2.0, weight_decay=2.5), tied=True),
} | {
    f"one {name}, bias": problem(
        1, activation, odeae.SGD(lr_encoder=0.7, lr_bias=0.4), noise=4.0, bias=True
    )
    for name, activation in (
        ("erf", "erf"),
        ("relu", "relu"),
        ("linear", "linear"),
        ("tanh", TANH),
        ("gelu", odeae.Quadrature(jax.nn.silu, q_max=25.0)),
    )
}

HEAVY = {
    "tanh",
    "one gelu, bias",
    "fewer neurons",
    "Sanger",
    "tied, decoder",
    "one linear, bias",
} | {
    "idle biases",
    "one erf, bias",
    "one tanh, bias",
}


def full_and_reduced(p, bias=0.4):
    """The full drift of an aligned state, and the reduced one put into such rows."""
    K, tied = p.autoencoder.hidden, p.autoencoder.tied
    alpha, beta, biased = ALPHA[:K], BETA[:K], K == 1 and p.autoencoder.bias
    state = odeae.aligned_state(p, None if tied else alpha, beta)
    columns = [beta] if tied else [alpha, beta]
    if biased:
        state = eqx.tree_at(lambda s: s.bias, state, np.array([bias]))
        columns.append(np.array([bias]))
    spikes, noise = p.spectrum.spikes[:K], p.inputs.noise
    equations = aligned.Reduced(p.rule, p.autoencoder, spikes, noise, biased)
    unknowns = jnp.asarray(np.stack(columns, axis=1))
    change = np.asarray(aligned.reduced_drift(np.float64(3.0), unknowns, equations))
    want = jax.tree.map(np.zeros_like, state)
    decoder = change[:, 0] if tied else change[:, 1]
    encoder = p.autoencoder.gain * change[:, 0] if tied else change[:, 0]
    want.spikes.encoder[range(K), range(K)] = encoder
    want.spikes.decoder[range(K), range(K)] = decoder
    if biased:
        want.bias[:] = change[:, 2]
    return p.drift(state, 3.0), want, state, equations.excess(unknowns)


def full_excess(p, state):
    leading = leading_modes(p.spectrum, p.autoencoder.hidden)
    return excess_error(p.autoencoder, p.inputs, leading, state)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in HEAVY)) for n in CASES]
)
def test_the_reduced_equations_are_the_full_drift_and_nothing_leaves(name):
    full, want, state, excess = full_and_reduced(CASES[name])
    atol = 1e-9 if "tanh" in name or "gelu" in name else 1e-14
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=0, atol=atol), full, want)
    p = CASES[name]
    others = 0.5 * (p.spectrum.trace - p.spectrum.spikes[: p.autoencoder.hidden].sum())
    assert_allclose(p.error(state), others + excess, atol=atol)
    assert_allclose(full_excess(p, state), excess, rtol=1e-12, atol=1e-3 * atol)


@pytest.mark.parametrize("rule", [odeae.SGD(), odeae.SGD(truncated=True)], ids=["", "truncated"])
@pytest.mark.parametrize("activation", ["relu", pytest.param("gelu", marks=pytest.mark.slow)])
def test_neurons_with_a_mean_pull_each_other_off(activation, rule):
    """The full drift leaves the manifold by −⟨g_k⟩⟨g_l⟩ β_l, so the ansatz is refused."""
    p = problem(2, activation, rule)
    state = odeae.aligned_state(p, [1.0, 0.8], [0.7, 0.6])
    du = p.drift(state).spikes.decoder
    q = p.spectrum.spikes[:2] * np.array([1.0, 0.64])
    mean = np.asarray(p.autoencoder.activation.mean(jnp.asarray(q), None))
    assert_allclose(du[0, 1], -mean[0] * mean[1] * 0.7, rtol=1e-6)
    assert abs(du[0, 1]) > 1e-2
    with pytest.raises(ValueError, match=r"several neurons needs .* zero mean output .*predict\("):
        predict_aligned(p, [1.0])


# -------------------------------------------------------------------------------------- curves


def scipy_curve(times, alpha, beta):
    """Erf, ρ̃ = 1, rates 1, in ln α and ln β, with formulas of its own."""

    def parts(z):
        a, b = np.exp(z)
        q = a * a
        y, c = q / (1 + q), np.sqrt(2 / np.pi / (1 + q))
        rest = sum(
            scipy.special.comb(2 * n, n) / 4**n / (2 * n + 1) * y ** (2 * n + 1)
            for n in range(1, 40)
        )
        return a, b, q, c, 2 / np.pi * rest

    def drift(t, z):
        a, b, q, c, N = parts(z)
        x, v = 1 - c * a * b, 1 + q
        slope = 2 / np.pi * q**2 / (v**2 * np.sqrt(1 + 2 * q) * (v + np.sqrt(1 + 2 * q)))
        return [b / a * (c / v * x - a * b * slope), c * a / b * x - N]

    done = scipy.integrate.solve_ivp(
        drift, (0, times[-1]), np.log([alpha, beta]), "Radau", times, rtol=1e-9, atol=1e-10
    )
    assert done.success
    errors = [0.5 * (1 - c * a * b) ** 2 + 0.5 * b**2 * N for a, b, _, c, N in map(parts, done.y.T)]
    return *np.exp(done.y), np.array(errors)


TIMES = np.concatenate([[0.0], np.geomspace(1e-2, 1e9, 111)])


@pytest.fixture(scope="module")
def valley():
    return predict_aligned(one(), TIMES, 1.0, 0.5)


def test_the_valley_at_long_times(valley):
    assert_allclose(valley.encoder[-1], 0.03039, atol=5e-6)
    assert_allclose(valley.decoder[-1], 41.261, atol=6e-4)
    assert_allclose(valley.excess[-1], 7.094e-8, atol=5e-12)
    assert_array_equal(valley.error, valley.excess)  # nothing but this mode
    for values, slope in (
        (valley.encoder[:, 0], -1 / 6),
        (valley.decoder[:, 0], 1 / 6),
        (valley.excess, -2 / 3),
    ):
        slopes = local_slopes(TIMES, values, 1e8, 1e9).slopes
        assert_allclose(slopes, slope, atol=1e-3)
    assert valley.status == odeae.Status.OK
    assert valley.stop_time == 1e9


def test_the_valley_against_scipy(valley):
    some = slice(1, None, 10)
    alpha, beta, excess = scipy_curve(TIMES[some], 1.0, 0.5)
    assert_allclose(valley.encoder[some, 0], alpha, rtol=3e-7)
    assert_allclose(valley.decoder[some, 0], beta, rtol=3e-7)
    assert_allclose(valley.excess[some], excess, rtol=1e-6)


def test_order_of_the_rosenbrock_method():
    """On y' = −y² cos t, y = 1/(1 + sin t), the error falls with the fourth power of the step."""

    def error(steps):
        done = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: -jnp.square(y) * jnp.cos(t)),
            aligned.Rodas4(),
            *(0.0, 2.0, 2.0 / steps, jnp.ones((2, 1))),
            max_steps=200,
        )
        return np.max(np.abs(done.ys[-1] - 1 / (1 + np.sin(2.0))))

    errors = [error(steps) for steps in (20, 40, 80, 160)]
    assert_allclose(np.diff(np.log2(errors)), -4.0, atol=0.3)


def test_relative_accuracy_follows_the_tolerance(valley):
    exact = predict_aligned(one(), TIMES, 1.0, 0.5, rtol=1e-10)
    worst = []
    for rtol in (1e-5, 1e-6, 1e-7, 1e-8):
        got = predict_aligned(one(), TIMES, 1.0, 0.5, rtol=rtol)
        worst.append(np.max(np.abs(got.excess / exact.excess - 1)))
    assert np.all(np.array(worst) < 30.0 * 10.0 ** -np.arange(5, 9))
    assert worst[-1] < 1e-7


RATES = odeae.SGD(lr_encoder=0.4, lr_decoder=2.5)


@pytest.mark.parametrize(
    ("activation", "first", "third"),
    [
        pytest.param("erf", np.sqrt(2 / np.pi), np.sqrt(2 / np.pi), id="erf"),
        pytest.param(TANH, 1.0, 2.0, id="tanh", marks=pytest.mark.slow),
    ],
)
def test_prefactors_of_the_valley(activation, first, third):
    """α = (2 η_v ρ̃³ g'''² t)^(−1/6), β = 1/(g' α), e = ρ̃³ (g'''/g')² α⁴/12, per mode."""
    spectrum = odeae.Spectrum.spiked([1.0, 0.5], dim=50, bulk=0.0)
    p = problem(2, activation, RATES, spectrum=spectrum)
    got = predict_aligned(p, [1e12], 1.0, 0.5)
    rho = spectrum.spikes
    alpha = (2 * 2.5 * rho**3 * third**2 * 1e12) ** (-1 / 6)
    assert_allclose(got.encoder[0], alpha, rtol=2e-3)
    assert_allclose(got.decoder[0], 1 / (first * alpha), rtol=2e-3)
    assert_allclose(got.excess[0], np.sum(rho**3 * (third / first) ** 2 * alpha**4) / 12, rtol=1e-4)


FULL = {
    "erf": (problem(), {"encoder": [1.0, 0.5, 0.2], "decoder": 0.1}),
    "signs, noise, decay, step": (
        problem(
            rule=odeae.SGD(weight_decay=0.02, schedule=odeae.StepSchedule([3.0], [0.3])),
            noise=5.0,
        ),
        {"encoder": [-0.3, 0.5, -0.2], "decoder": [0.9, -0.4, -0.5]},
    ),
    "ReLU, bias": (problem(1, "relu", bias=True), {"encoder": 0.4, "decoder": 0.5, "bias": 0.3}),
    "tied": (problem(tied=True), {"decoder": [0.3, 0.2, 0.1]}),
}


@pytest.mark.parametrize(
    "name", [n if "signs" in n else pytest.param(n, marks=pytest.mark.slow) for n in FULL]
)
def test_curves_are_those_of_predict(name):
    p, start = FULL[name]
    times = [0.0, 1.0, 5.0, 30.0]
    got = predict_aligned(p, times, **start)
    bias = start.pop("bias", None) if "bias" in start else None
    state = odeae.aligned_state(p, **start)
    if bias is not None:
        start["bias"] = bias
        state = eqx.tree_at(lambda s: s.bias, state, np.array([bias]))
    full = odeae.predict(p, state, times, rtol=1e-9)
    assert_allclose(got.error, full.error, atol=2e-8)
    assert_allclose(got.excess, full.excess, atol=2e-8)
    K = p.autoencoder.hidden
    assert_allclose(got.bias, full.bias, atol=2e-8)
    own = np.arange(K)
    assert_allclose(got.encoder, full.components.encoder[:, own, own], atol=1e-7)
    assert_allclose(got.decoder, full.components.decoder[:, own, own], atol=1e-7)


def test_linear_neurons_have_closed_curves():
    times = np.array([0.0, 1.0, 4.0, 10.0])
    got = predict_aligned(problem(2, "linear"), times, 0.1, 0.1)
    rho = SPECTRUM.spikes[:2]
    square = 1 / (1 + 99 * np.exp(-2 * rho * times[:, None]))
    assert_allclose(got.encoder**2, square, rtol=1e-7)
    assert_allclose(got.excess, (0.5 * rho * (1 - square) ** 2).sum(1), rtol=2e-5)


def test_spikes_that_are_not_the_largest():
    spectrum = odeae.Spectrum([0.3, 1.0, 0.6], bulk=[20.0, 1.0], multiplicity=(3, 44))
    got = predict_aligned(problem(2, "linear", spectrum=spectrum), [0.0, 1.0, 2.0, 200.0], 1.0, 0.5)
    everything = problem(3, "linear", spectrum=odeae.Spectrum([0.3, 1.0, 0.6]))
    assert beyond_first_spikes(everything.spectrum, 3)[1] == 0.0  # to the last bit
    # the two largest are 1.0 and 0.6; neurons sit on 0.3 and 1.0
    assert_allclose(got.excess[-1], 0.5 * (0.6 - 0.3), rtol=1e-12)
    assert_allclose(got.error[-1], 0.5 * (0.6 + 3 * 0.4 + 44 / 50), rtol=1e-12)
    assert_allclose(got.error - got.excess, spectrum.pca_error(2), rtol=1e-12)


def test_tied_sigmoidal_networks_keep_a_residual():
    best = scipy.optimize.minimize_scalar(
        lambda b: (
            0.5
            - np.sqrt(2 / np.pi / (1 + b * b)) * b * b
            + b * b / np.pi * np.arcsin(b * b / (1 + b * b))
        ),
        (0.5, 1.0, 2.0),
    )
    assert_allclose(best.fun, 0.042, atol=5e-4)
    got = predict_aligned(one(tied=True), [1e9])
    assert_allclose(got.excess, best.fun, rtol=1e-9)
    full = one(tied=True)
    curve = odeae.predict(full, odeae.aligned_state(full, decoder=0.5), [300.0], rtol=1e-8)
    assert_allclose(curve.error[-1], best.fun, atol=1e-8)
    wide = predict_aligned(one(tied=True, gain=1e4), [1e5])
    assert_allclose(wide.excess[-1], 0.5 * (1 - 2 / np.pi), rtol=5e-4)
    saturated = one(tied=True, gain=1e4)
    curve = odeae.predict(saturated, odeae.aligned_state(saturated, decoder=0.5), [300.0])
    assert_allclose(curve.error[-1], 0.5 * (1 - 2 / np.pi), rtol=5e-4)
    dying = odeae.SGD(gradient="encoder")  # as published: the decoder moves with the encoder alone
    stuck = predict_aligned(one(rule=dying, tied=True, gain=1e4), [1e5])
    assert stuck.excess[-1] > 0.5 * (1 - 2 / np.pi) + 0.01


# ----------------------------------------------------------------------------- transformations


def last_log(lr):
    p = one(rule=odeae.SGD(lr_decoder=lr))
    return jnp.log(predict_aligned(p, [0.5, 1e6], 1.0, 0.5).excess[-1])


@pytest.mark.slow
def test_gradients_and_batches():
    rates = jnp.array([0.95, 1.0, 1.05, 2.0])
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(last_log)))(rates)
    assert_allclose(slopes[1], (values[2] - values[0]) / 0.1, rtol=2e-3)
    assert_allclose(slopes * rates, -2 / 3, atol=2e-3)  # e is a function of η_v t
    assert_allclose(values[3], last_log(2.0), rtol=1e-9)


def test_other_values_of_the_same_shape_do_not_compile_again(caplog, valley):
    with jax.log_compiles():
        spectrum = odeae.Spectrum.spiked([0.7], dim=30)
        p = odeae.Problem(spectrum, odeae.Autoencoder(1), odeae.SGD(2.0, weight_decay=0.1), 0.3)
        predict_aligned(p, 2.0 * TIMES, 0.3, 0.2, rtol=1e-6)
    assert "Compiling _solve" not in caplog.text


def test_failure_is_data():
    grows = problem(1, "linear", odeae.Hebb(), tied=True)
    times = [0.0, 10.0, 1e4]
    with pytest.raises(RuntimeError, match=r"the solve stopped at t=.*: diverged"):
        predict_aligned(grows, times)
    got = predict_aligned(grows, times, throw=False)
    assert got.status == odeae.Status.DIVERGED
    assert 10.0 < got.stop_time < 1e4
    assert_allclose(got.decoder[1, 0], np.exp(10.0), rtol=1e-6)
    for part in (got.encoder, got.decoder, got.bias, got.error, got.excess):
        assert_array_equal(np.isfinite(part).reshape(3, -1).all(axis=1), [True, True, False])
    assert "diverged" in repr(got)
    with pytest.raises(RuntimeError, match=r"step budget; give a larger `max_steps`"):
        predict_aligned(grows, times, max_steps=20)
    short = predict_aligned(grows, times, throw=False, max_steps=20)
    assert short.status == odeae.Status.BUDGET


@pytest.mark.slow
def test_lanes_fail_alone_and_quadratures_say_what_they_resolve():
    grows = problem(1, "linear", odeae.Hebb(), tied=True)
    times = [0.0, 10.0, 1e4]
    lanes = jax.vmap(lambda d: predict_aligned(grows, times, decoder=d))(jnp.array([0.0, 1.0]))
    assert_array_equal(lanes.status, [odeae.Status.OK, odeae.Status.DIVERGED])
    narrow = problem(1, odeae.Quadrature(jnp.tanh, q_max=1.0))
    beyond = predict_aligned(narrow, [1.0], encoder=2.0, throw=False)
    assert beyond.status == odeae.Status.UNRESOLVED


def test_bad_input():
    p = problem()
    for call, message in (
        (lambda: predict_aligned(problem(4), [1.0]), "one spike per neuron: got 4 .* and 3 spikes"),
        (lambda: predict_aligned(p, [1.0], [1.0, 2.0]), r"`encoder` must have shape \(3,\)"),
        (lambda: predict_aligned(p, [1.0], decoder=np.nan), "`decoder` must be finite"),
        (lambda: predict_aligned(p, [1.0], bias=0.1), "`bias` must be 0 here"),
        (
            lambda: predict_aligned(problem(1, bias=True, output_bias=True), [1.0], bias=0.1),
            "`bias` must be 0 with an output bias",
        ),
        (
            lambda: predict_aligned(problem(1, "relu", output_bias=True), [1.0]),
            "with an output bias needs an activation of zero mean",
        ),
        (lambda: predict_aligned(problem(tied=True), [1.0], 0.5), "`encoder` must not be given"),
        (lambda: predict_aligned(p, [1.0], rtol=0.5), "`rtol` must be at most 0.1"),
        (lambda: predict_aligned(p, [1.0, 0.5]), "`times` must increase"),
        (
            lambda: best_decoder(problem(tied=True), odeae.aligned_state(problem(tied=True))),
            "`problem` must be untied",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# ---------------------------------------------------------------------------- the best decoder

DECODERS = {
    "erf": problem(),
    "noise": problem(noise=20.0),
    "relu": problem(activation="relu"),
    "biases": problem(activation="relu", bias=True, output_bias=True, noise=3.0),
    "erf, biases": problem(bias=True, output_bias=True),
    "linear": problem(activation="linear"),
    "tanh": problem(activation=TANH),
}
QUICK = {"noise"}


def random(p, seed=3):
    bias = 0.5 if p.autoencoder.bias else 0.0
    return odeae.random_state(p, 0.7, 0.5, bias=bias, seed=seed)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in DECODERS]
)
def test_no_direction_of_the_decoder_is_downhill(name):
    """The drift of SGD at rate 1 is minus the gradient of the error (tests/model/test_rules.py)."""
    p = DECODERS[name]
    start = random(p)
    best = best_decoder(p, start)
    slope = p.drift(best)
    for part in (slope.spikes, slope.bulk):
        assert_allclose(part.decoder, 0.0, atol=1e-13)
        if part.output is not None:
            assert_allclose(part.output, 0.0, atol=1e-13)
    assert_array_equal(best.spikes.encoder, start.spikes.encoder)
    assert p.error(best) < p.error(start)
    left = p.error(best) - p.spectrum.pca_error(p.autoencoder.hidden)
    assert_allclose(residual(p, start), left, atol=1e-14)
    assert_allclose(full_excess(p, start) - left, p.error(start) - p.error(best), rtol=1e-9)
    assert left > 0


@pytest.mark.slow
def test_a_minimiser_finds_no_better_decoder():
    p = problem(2, "relu", output_bias=True, spectrum=odeae.Spectrum.spiked([1.0, 0.5], dim=4))
    state = random(p)
    flat, back = jax.flatten_util.ravel_pytree([state.rows.decoder, state.rows.output])

    def error(x):
        changed = eqx.tree_at(lambda s: [s.rows.decoder, s.rows.output], state, back(x))
        return p.error(changed)

    found = scipy.optimize.minimize(
        jax.jit(jax.value_and_grad(error)), flat, jac=True, tol=1e-13, options={"gtol": 1e-10}
    )
    assert_allclose(p.error(best_decoder(p, state)), found.fun, atol=1e-13)


@pytest.mark.parametrize("q", [1e-8, 1e-3, 0.3, 2.0, 1e3])
def test_the_residual_of_a_sigmoidal_mode(q):
    with mpmath.workdps(40):
        y = mpmath.mpf(q) / (1 + mpmath.mpf(q))
        exact = float((1 - y / mpmath.asin(y)) / 2)
    p = one()
    state = odeae.aligned_state(p, np.sqrt(q), 1.0)
    assert_allclose(residual(p, state), exact, rtol=1e-10)
    if q == 1e-3:  # close to its limit for small fields
        assert_allclose(exact, q**2 / 12, rtol=1e-2)


def test_the_residual_of_relu_and_linear_modes():
    assert_allclose(residual(one("relu"), odeae.aligned_state(one("relu"))), 0.25, rtol=1e-14)
    assert residual(one("linear"), odeae.aligned_state(one("linear"), 0.3)) < 1e-30
    # the wrong components: the levels of PCA differ
    p = problem(1, "linear")
    state = odeae.aligned_state(p)
    rows = odeae.Modes(np.array([[0.0], [0.0], [2.0]]), state.spikes.decoder)
    wrong = dataclasses.replace(state, spikes=rows)
    assert_allclose(residual(p, wrong), 0.5 * (1.0 - 0.3), rtol=1e-13)


def test_neurons_that_are_copies_or_dead():
    """The optimum is that of the others, found among equals, and finite."""
    spectrum = odeae.Spectrum.from_eigenvalues(SPECTRUM.eigenvalues(), spikes=50)
    p, two = problem(3, spectrum=spectrum), problem(2, spectrum=spectrum)
    state = random(two)
    small = best_decoder(two, state)

    def widened(column):  # a third neuron
        def wide(part):
            return odeae.Modes(
                np.column_stack([part.encoder, column(part.encoder)]),
                np.column_stack([part.decoder, np.ones(len(part.decoder))]),
            )

        return odeae.State(wide(state.spikes), wide(state.bulk), np.zeros(3))

    copied = best_decoder(p, widened(lambda w: w[:, 0]))
    assert_allclose(copied.spikes.decoder[:, 0], small.spikes.decoder[:, 0] / 2, atol=1e-12)
    assert_allclose(copied.spikes.decoder[:, 2], small.spikes.decoder[:, 0] / 2, atol=1e-12)
    assert_allclose(p.error(copied), two.error(small), atol=1e-13)
    mirrored = best_decoder(p, widened(lambda w: -w[:, 1]))
    assert_allclose(p.error(mirrored), two.error(small), atol=1e-13)
    dead = best_decoder(p, widened(lambda w: 0.0 * w[:, 0]))
    assert_allclose(dead.spikes.decoder[:, :2], small.spikes.decoder, atol=1e-12)
    assert_array_equal(dead.spikes.decoder[:, 2], 0.0)


def test_the_best_decoder_can_be_differentiated():
    """By the envelope theorem: the derivative of the residual is that of the error at fixed u."""
    p = problem(2, spectrum=odeae.Spectrum.spiked([1.0, 1.0], dim=2))
    state = odeae.aligned_state(p, 0.7, 1.0)  # two equal eigenvalues of G

    def at(encoder, function):
        return function(p, eqx.tree_at(lambda s: s.rows.encoder, state, encoder))

    encoder = jnp.asarray(state.rows.encoder)
    through = jax.jit(jax.grad(lambda w: at(w, residual)))(encoder)
    best = best_decoder(p, state)
    fixed = jax.jit(jax.grad(lambda w: p.error(eqx.tree_at(lambda s: s.rows.encoder, best, w))))(
        encoder
    )
    assert_allclose(through, fixed, atol=1e-12)
    assert np.max(np.abs(fixed)) > 1e-2
