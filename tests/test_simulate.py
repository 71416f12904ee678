"""`simulate` is the SGD of docs/theory.md §1, starts where the theory does, can be resumed."""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal

import odeae
from odeae.simulation import _Gaussian

DIM, HIDDEN = 64, 3
TIMES = np.array([0.0, 0.5, 1.0, 2.0])
FUNCTIONS = {
    "erf": lambda x: jax.scipy.special.erf(x / np.sqrt(2.0)),
    "relu": jax.nn.relu,
    "linear": lambda x: x,
}


def problem(activation="erf", bias=False, spectrum=None, **rates):
    spectrum = spectrum or odeae.Spectrum.spiked([1.0, 0.6, 0.3], DIM)
    return odeae.Problem(
        spectrum, odeae.Autoencoder(HIDDEN, activation, bias=bias), odeae.SGD(**rates)
    )


def draw_data(rows=340, seed=0):
    """Correlated inputs with a mean, and their problem."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((DIM, DIM)) * np.linspace(2.0, 0.1, DIM)
    data = rng.standard_normal((rows, DIM)) @ mix.T / 4.0 + rng.standard_normal(DIM)
    return data, problem(spectrum=odeae.Spectrum.from_data(data))


def same(a, b):
    """Whether two simulations are equal to the last bit, in all that they measured."""
    for name in ("times", "error", "test_error", "Q1", "R1", "T1", "T0", "bias"):
        assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


# ------------------------------------------------------------------------------ is it SGD?


@pytest.mark.parametrize("trained_bias", [False, True])
@pytest.mark.parametrize("activation", FUNCTIONS)
def test_one_step_is_a_step_down_the_gradient_of_the_sampled_loss(activation, trained_bias):
    """−η_v ∂L/∂v, −(η_w/D) ∂L/∂w, −(η_b/D) ∂L/∂b with L = ‖x − x̂‖²/(2D), and decay −κ/D."""
    rng = np.random.default_rng(5)
    W, V = rng.standard_normal((2, HIDDEN, DIM))
    b, x = rng.standard_normal(HIDDEN), 2.0 * rng.standard_normal(DIM)
    rule = odeae.SGD(lr_encoder=0.7, lr_decoder=1.3, lr_bias=0.4, weight_decay=0.2)

    def loss(W, V, b):
        output = FUNCTIONS[activation](W @ x / jnp.sqrt(DIM) + b) @ V
        return jnp.sum((x - output) ** 2) / (2 * DIM)

    dW, dV, db = jax.grad(loss, argnums=(0, 1, 2))(W, V, b)
    network = odeae.Autoencoder(HIDDEN, activation, bias=trained_bias)
    got = rule.update(network, odeae.Weights(W, V, b), x, x)
    assert_allclose(got.encoder - W, -0.7 / DIM * dW - 0.2 / DIM * W, rtol=1e-10, atol=1e-14)
    assert_allclose(got.decoder - V, -1.3 * dV - 0.2 / DIM * V, rtol=1e-10, atol=1e-14)
    assert_allclose(got.bias - b, -0.4 / DIM * db * trained_bias, rtol=1e-10, atol=1e-14)


def test_many_steps_on_one_input():
    """Of two rows of data one is held out, so that every step is on the other."""
    data, p = draw_data()
    data, rho, basis = data[:2], p.spectrum.eigenvalues(), p.spectrum.basis
    W, V = np.random.default_rng(3).standard_normal((2, HIDDEN, DIM))
    got = odeae.simulate(p, None, TIMES, runs=2, data=data, weights=(W, V))
    ends = []
    for x in (data - p.spectrum.mean) @ basis:  # in the eigenbasis, where W and V are given
        w, v = W.copy(), V.copy()
        for _ in range(2 * DIM):
            field = w @ x / np.sqrt(DIM)
            g = reference._erf(field)
            rest = x - g[0] @ v
            w += np.outer(v @ rest * g[1], x) / DIM**2.5
            v += np.outer(g[0], rest) / DIM
        ends.append((w, v))
    for run in range(2):
        end = got.weights.weights.encoder[run] @ basis, got.weights.weights.decoder[run] @ basis
        gaps = [max(np.abs(end[0] - w).max(), np.abs(end[1] - v).max()) for w, v in ends]
        assert min(gaps) < 1e-10
        i = int(np.argmin(gaps))
        exact = reference.error("erf", rho, *ends[i], np.zeros(HIDDEN))
        assert_allclose(got.error[run, -1], exact, rtol=1e-9)
        other = (data[1 - i] - p.spectrum.mean) @ basis
        output = reference._erf(ends[i][0] @ other / np.sqrt(DIM))[0] @ ends[i][1]
        held_out = np.sum((other - output) ** 2) / (2 * DIM)
        assert_allclose(got.test_error[run, -1], held_out, rtol=1e-9)


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_what_is_measured_is_what_the_weights_have(activation):
    p = problem(activation, bias=True)
    got = odeae.simulate(p, odeae.random_state(p, 0.5, 0.5, bias=0.3), TIMES, runs=2)
    rho = p.spectrum.eigenvalues()
    for run in range(2):
        W, V, b = (part[run] for part in got.weights.weights[:3])
        exact = reference.order_parameters(rho, W, V)
        for name, value in zip(("Q1", "R1", "T1", "T0"), exact, strict=True):
            assert_allclose(getattr(got, name)[run, -1], value, rtol=1e-11, atol=1e-13)
        spikes = reference.order_parameters(rho * (rho > 2), W, V)
        assert_allclose(got.order_parameters.spikes.R1[run, -1], spikes[1], rtol=1e-11, atol=1e-13)
        assert_allclose(got.error[run, -1], reference.error(activation, rho, W, V, b), rtol=1e-10)
        assert_array_equal(got.bias[run, -1], b)


def test_held_out_error_is_the_error_up_to_sampling():
    p = problem()
    got = odeae.simulate(p, odeae.random_state(p, 1.0, 1.0), [1.0], runs=40, test_samples=400)
    gap = (got.test_error - got.error)[:, 0]
    assert abs(gap.mean()) < 4.0 * gap.std(ddof=1) / np.sqrt(40)
    assert gap.std() < 0.1 * got.error.mean()


# --------------------------------------------------------------------------- against theory


def test_the_start_is_the_state():
    """Equal eigenvalues: to rounding. Bins of unequal ones: T0 to rounding, e to the binning."""
    p = problem("relu", bias=True)
    state = odeae.random_state(p, 0.7, 0.4, bias=0.2)
    got = odeae.simulate(p, state, [0.0], runs=3)
    want = p.order_parameters(state).total()
    for name in ("Q1", "R1", "T1", "T0"):
        assert_allclose(getattr(got, name)[:, 0], np.stack([getattr(want, name)] * 3), atol=1e-13)
    assert_allclose(got.error[:, 0], p.error(state), rtol=1e-13)
    W = got.weights.weights.encoder
    assert_array_equal(W[0, :, :3], W[1, :, :3])  # the spikes
    assert np.all(np.abs(W[0, :, 3:] - W[1, :, 3:]) > 1e-6)

    rho = np.concatenate([400.0 * np.array([1.0, 0.5]), np.linspace(2.0, 0.2, 398)])
    p = problem(spectrum=odeae.Spectrum.from_eigenvalues(rho, spikes=2))
    state = odeae.random_state(p, 0.7, 0.4)
    got = odeae.simulate(p, state, [0.0], runs=3, test_samples=1)
    T0 = p.order_parameters(state).total().T0
    assert_allclose(got.T0[:, 0], np.stack([T0] * 3), atol=1e-13)
    assert 1e-12 < np.abs(got.error[:, 0] - p.error(state)).max() < 1e-4


@pytest.mark.parametrize(
    ("activation", "bias", "rates"),
    [
        ("erf", False, dict(lr_encoder=2.0)),
        ("linear", True, dict(weight_decay=0.02)),
        pytest.param(
            "relu",
            True,
            dict(lr_encoder=1.5, lr_decoder=0.7, lr_bias=1.0, weight_decay=0.05),
            marks=pytest.mark.slow,  # the quick validation matrix has both, too
        ),
        pytest.param("tanh", False, dict(), marks=pytest.mark.slow),
    ],
)
def test_every_activation_follows_its_theory(activation, bias, rates):
    spectrum = odeae.Spectrum.spiked([1.0, 0.6, 0.3], 400)
    p = problem(activation, bias, spectrum, **rates)
    state = odeae.random_state(p, 0.4, 4.0, bias=0.5 if bias else 0.0)
    runs = odeae.simulate(p, state, np.arange(0.0, 13.0, 2.0), runs=16, test_samples=1)
    check = odeae.compare(odeae.predict(p, state, runs.times), runs)
    assert check.agrees, check
    assert np.ptp(check.theory) > 20 * check.largest


def test_deviation_from_theory_falls_as_one_over_dim(monkeypatch):
    """Quick size of benchmarks/finite_size.py; D times the deviation doesn't depend on D.

    Statistic: error minus the theory's, mean over t = 31 … 40 (all is learnt) and over 16 runs.
    """
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    finite_size = importlib.import_module("finite_size")
    for dim in (100, 200, 400):
        values = dim * finite_size.deviations(dim, 16)
        learnt, whole = values[:, finite_size.TIMES > 30].mean(axis=1), values.mean(axis=1)
        assert abs(learnt.mean() - 0.19) < 0.05
        assert learnt.std(ddof=1) / 4.0 < 0.03
        assert abs(whole.mean() - 0.28) < 5.0 * whole.std(ddof=1) / 4.0


# ------------------------------------------------------------------- reproducible, resumable


def test_runs_are_reproducible_and_do_not_depend_on_each_other():
    p = problem()
    state = odeae.random_state(p)
    four, again, eight = (odeae.simulate(p, state, TIMES, runs=n) for n in (4, 4, 8))
    same(four, again)
    assert_allclose(four.error, eight.error[:4], rtol=1e-13)
    assert_allclose(four.test_error, eight.test_error[:4], rtol=1e-13)
    other = odeae.simulate(p, state, TIMES, runs=4, seed=1)
    ends = np.concatenate([eight.error[:, -1], other.error[:, -1]])
    assert len(np.unique(ends)) == 12


@pytest.mark.parametrize("kind", ["Gaussian", "real", "once through"])
def test_resumed_runs_are_exactly_uninterrupted_ones(kind):
    data, p = draw_data()
    options = {
        "Gaussian": {},
        "real": {"data": data},
        "once through": {"data": data, "resample": False},
    }[kind]
    state = odeae.random_state(p)
    times = np.array([0.5, 1.0, 1.7, 3.0, 4.0])  # 1.7 is between blocks of inputs
    whole = odeae.simulate(p, state, times, runs=2, seed=3, **options)
    first = odeae.simulate(p, state, times[:3], runs=2, seed=3, **options)
    rest = odeae.simulate(p, None, times[3:], weights=first.weights, **options)
    assert first.weights.step == round(1.7 * DIM)
    for name in ("error", "test_error", "R1"):
        joined = np.concatenate([getattr(first, name), getattr(rest, name)], axis=1)
        assert_array_equal(joined, getattr(whole, name))


def test_weights_with_and_without_a_run_axis():
    p = problem(bias=True)
    W, V = np.random.default_rng(0).standard_normal((2, HIDDEN, DIM))
    b = np.array([0.1, -0.2, 0.3])
    one = odeae.simulate(p, None, TIMES, runs=2, weights=(W, V, b))
    two = odeae.simulate(p, None, TIMES, runs=2, weights=([W, W], [V, V], b))
    same(one, two)
    assert_allclose(one.error[0, 0], p.error(odeae.state_from_weights(p, W, V, b)), rtol=1e-12)
    apart = odeae.simulate(p, None, TIMES, runs=2, weights=([W, -W], V, [b, -b]))
    assert_allclose(apart.error[0], one.error[0], rtol=1e-13)
    assert abs(apart.error[1, 0] - one.error[1, 0]) > 1e-3


def test_times_are_rounded_to_steps_and_saved_once():
    p = problem()
    got = odeae.simulate(p, odeae.random_state(p), [0.0, 0.001, 0.31, 0.313, 1.0], runs=4)
    assert_array_equal(got.times, [0.0, 20 / 64, 1.0])
    assert got.error.shape == (4, 3)
    check = odeae.compare(odeae.predict(p, odeae.random_state(p), got.times), got)
    assert check.agrees


# ------------------------------------------------------------------------------ real inputs


class Recorder:
    """Stands for a file: says which rows were read."""

    def __init__(self, data):
        self.data, self.shape, self.dtype, self.read = data, data.shape, data.dtype, []

    def __getitem__(self, index):
        self.read.append(index)
        return self.data[index]


@pytest.mark.parametrize("resample", [True, False])
def test_held_out_rows_are_never_trained_on(resample):
    data, p = draw_data()
    file = Recorder(data)
    odeae.simulate(
        p, odeae.random_state(p), [4.0], runs=1, data=file, resample=resample, test_samples=20
    )
    tested, trained = file.read[1], np.concatenate(file.read[2:])  # first the three of the digest
    assert len(tested) == 20
    assert not set(tested) & set(trained)
    if resample:
        assert len(set(trained)) > 100
    else:
        assert len(trained) == len(set(trained)) >= 256  # t = 4, every row once
    two = Recorder(data)
    odeae.simulate(p, odeae.random_state(p), [1.0], runs=2, data=two, test_samples=30)
    assert set(two.read[1]) != set(two.read[2])  # another tenth in every run


def test_once_through_uses_every_row_once():
    """To first order in a tiny rate the change of the weights is a sum over the rows."""
    data, p = draw_data(600)
    rule, file = odeae.SGD(lr=1e-8), Recorder(data)
    p = odeae.Problem(p.spectrum, p.autoencoder, rule)
    W, V = np.random.default_rng(1).standard_normal((2, HIDDEN, DIM))
    steps = 540  # blocks of 256, 256 and 28
    got = odeae.simulate(
        p, None, [steps / DIM], runs=1, data=file, weights=(W, V), resample=False, test_samples=60
    )
    rows = np.array(sorted(set(range(600)) - set(file.read[1])))
    assert len(rows) == steps
    W, V = W @ p.spectrum.basis.T, V @ p.spectrum.basis.T
    x = data[rows] - p.spectrum.mean
    g, _ = reference._erf(x @ W.T / np.sqrt(DIM))
    assert_allclose(
        got.weights.weights.decoder[0] - V, 1e-8 / DIM * g.T @ (x - g @ V), rtol=1e-5, atol=1e-14
    )


def test_gaussian_inputs_are_not_the_held_out_ones():
    inputs = _Gaussian(problem(), 0, 2, 256)
    normals = [np.asarray(inputs.test) / inputs.scale, inputs.block(0), inputs.block(1)]
    flat = np.concatenate(normals).reshape(6, -1)
    assert_allclose(np.corrcoef(flat), np.eye(6), atol=0.03)  # 16,384 normals each
    assert_allclose(np.mean(flat**4), 3.0, atol=0.1)


def test_memory_mapped_data_give_the_same(tmp_path):
    data, p = draw_data()
    state = odeae.random_state(p)
    np.save(tmp_path / "x.npy", data)
    file = np.load(tmp_path / "x.npy", mmap_mode="r")
    same(*(odeae.simulate(p, state, TIMES, runs=2, data=x) for x in (data, file)))
    once = [odeae.simulate(p, state, [2.0], runs=2, data=x, resample=False) for x in (data, file)]
    same(*once)
    assert once[0].source == "SGD on real inputs"


def test_gaussian_data_of_the_right_covariance_are_like_gaussian_inputs():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0]
    rho = np.concatenate([DIM * np.array([1.0, 0.6, 0.3]), np.ones(DIM - 3)])
    data = rng.standard_normal((20_000, DIM)) * np.sqrt(rho) @ basis.T + 5.0
    p = problem(spectrum=odeae.Spectrum.from_data(data, spikes=3))
    state = odeae.random_state(p, 0.5, 0.5)
    times = np.array([0.0, 2.0, 5.0, 10.0])
    real = odeae.simulate(p, state, times, runs=16, data=data)
    gauss = odeae.simulate(p, state, times, runs=16, seed=1)
    gap = real.test_error.mean(0) - gauss.error.mean(0)
    noise = np.sqrt((real.test_error.var(0, ddof=1) + gauss.error.var(0, ddof=1)) / 16)
    assert np.all(np.abs(gap) < 4.5 * noise)
    assert odeae.compare(odeae.predict(p, state, times), real).on == "test_error"


# ------------------------------------------------------------------------------------ failure


def test_divergence_is_a_status_and_a_nan_tail():
    p = problem("relu", lr=40.0)
    times = np.array([0.0, 0.1, 5.0, 10.0])
    got = odeae.simulate(p, odeae.random_state(p, 0.1, 0.1), times, runs=4)
    assert np.all(got.status == odeae.Status.DIVERGED)
    reached = got.times <= got.stop_time[:, None]
    assert reached[:, 0].all()
    assert not reached[:, -1].any()
    for name in ("error", "test_error", "bias", "T0"):
        values = getattr(got, name)
        assert np.isfinite(values[reached]).all()
        assert np.isnan(values[~reached]).all()
    theory = odeae.predict(p, odeae.random_state(p, 0.1, 0.1), times)
    with pytest.raises(ValueError, match=r"`runs` did not finish: stopped at t=.*diverged"):
        odeae.compare(theory, got)


def test_averages_out_of_range_are_another_status():
    p = problem(odeae.Quadrature(jnp.tanh, scale=0.5, q_max=0.1))
    got = odeae.simulate(p, odeae.random_state(p, 0.1), [0.0, 40.0], runs=2)
    assert np.all(got.status == odeae.Status.UNRESOLVED)
    assert np.isfinite(got.weights.weights.encoder).all()
    assert_array_equal(got.stop_time, [0.0, 0.0])


SETUP = """
import jax, numpy as np, odeae
p = odeae.Problem(odeae.Spectrum.spiked([1.0, 0.5], 20), odeae.Autoencoder(2))
s = odeae.random_state(p)
x = np.random.default_rng(0).standard_normal((100, 20))
nan = np.where(np.arange(100)[:, None] == 7, np.nan, x)
r = odeae.Problem(odeae.Spectrum.from_data(x), odeae.Autoencoder(2))
W = np.zeros((2, 20))
def simulate(problem=p, state=s, times=(1.0, 2.0), **options):
    return odeae.simulate(problem, state, times, **{"runs": 2, **options})
def real(data=x, **options):
    return simulate(r, odeae.random_state(r), data=data, **options)
done = simulate()
jax.config.update("jax_enable_x64", True)
"""
BAD = {
    "simulate(runs=0)": r"`runs` must be at least 1, got 0",
    "simulate(runs=2.5)": r"`runs` must be a whole number, got 2.5",
    "simulate(seed=-1)": r"`seed` must be at least 0, got -1",
    "simulate(times=[])": r"`times` must hold at least one time .* got an empty list",
    "simulate(times=[2, 1])": r"`times` must increase, got 1 after 2",
    "simulate(times=[-1])": r"`times` must not be negative, got -1",
    "simulate(times=[np.nan])": r"`times` must be finite, got nan",
    "simulate(times=[1e18])": r"`times` must end before 2\^53 steps, got 1e\+18 × D=20",
    "simulate(problem='erf')": r"`problem` must be an odeae Problem, got str",
    "simulate(state=None)": r"give a `state` or `weights` to start from, got neither",
    "simulate(state=odeae.random_state(r))": r"`state` must have .* for this problem, got",
    "simulate(test_samples=0)": r"`test_samples` must be at least 1, got 0",
    "simulate(test_samples=10**9)": r"2 runs of 2 neurons at D=20, .* need about 298 GiB",
    "simulate(weights=W)": r"`weights` must be a Checkpoint, .* got ndarray",
    "simulate(weights=(W,))": r"`weights` must be a Checkpoint, .* got tuple",
    "simulate(weights=(W, W[:, 1:]))": r"`V` must have shape \(2, 20\), got shape \(2, 19\)",
    "simulate(weights=([W] * 3, W))": "`weights` must hold W of 2 runs, got 3",
    "simulate(weights=(W, W + np.nan))": r"`V` must be finite, got nan at index \(0, 0\)",
    "simulate(weights=(W, W, [1, 1]))": r"`bias` must be 0 for an autoencoder without biases",
    "simulate(weights=done.weights)": r"`times` must not begin before .* own time 2, got 1",
    "real(weights=simulate(problem=r, state=odeae.random_state(r)).weights)": (
        r"`weights` are of SGD on Gaussian inputs and can't go on with SGD on real inputs"
    ),
    "simulate(data=x)": r"`data` needs a spectrum with a basis",
    "real(data=x[:1])": r"`data` must have at least two rows, got 1",
    "real(data=x[:, 1:])": r"`data` must have shape \(rows, 20\) like the spectrum, got \(100, 19\)",
    "real(data=x[0])": r"`data` must have shape \(rows, dim\), got shape \(20,\)",
    "real(data=nan)": r"`data` must be finite, got NaN or infinity in row 7",
    "real(data=x.astype(str))": r"`data` must hold real numbers, got dtype <U",
    "real(data='x.npy')": r"`data` must hold real numbers, got 'x.npy'",
    "real(resample=False, times=[5])": (
        r"`times` ask for 100 steps, .* 90 samples .* end at t=4.5, or pass"
    ),
    "jax.jit(lambda lr: simulate(odeae.Problem(p.spectrum, p.autoencoder, odeae.SGD(lr))))(1.0)": (
        r"simulate needs concrete values; it can't be called under jit, vmap, grad"
    ),
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_named_in_one_line(said, line):
    plain.named_in_one_line(said[line], BAD[line])
