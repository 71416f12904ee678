"""`simulate` is the SGD of docs/theory.md 1, starts where the theory does, can be resumed."""

import ast
import importlib
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import plain
import pytest
import reference
import scipy.sparse
from numpy.testing import assert_allclose, assert_array_equal

import odeae
from odeae.simulation import sgd as simulation
from odeae.simulation.resuming import about_runs, check_same_runs
from odeae.simulation.sources import GaussianInputs, block_length, normals_of

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
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
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
    whole = odeae.simulate(p, state, times, runs=2, seed=3, test_samples=30, **options)
    first = odeae.simulate(p, state, times[:3], runs=2, seed=3, test_samples=30, **options)
    # runs, seed, once through or not, and what is held out, are known to the runs
    rest = odeae.simulate(p, None, times[3:], data=options.get("data"), weights=first.weights)
    assert first.weights.step == round(1.7 * DIM)
    for name in ("error", "test_error", "R1"):
        joined = np.concatenate([getattr(first, name), getattr(rest, name)], axis=1)
        assert_array_equal(joined, getattr(whole, name))
    assert json.loads(rest.settings)["resample"] == (kind != "once through")


def test_runs_go_on_with_nothing_but_their_own(tmp_path):
    """The shell looked, but in Python another rule, number of runs or seed was taken silently."""
    data, p = draw_data()
    spectrum, network, rule = p.spectrum, p.autoencoder, p.rule
    done = odeae.simulate(p, odeae.random_state(p), [1.0], runs=2, seed=3, data=data)
    done.save(tmp_path / "x.nc")
    Problem, SGD = odeae.Problem, odeae.SGD
    rho, basis, mean = spectrum.eigenvalues(), spectrum.basis, spectrum.mean
    other = odeae.Spectrum.from_eigenvalues(rho * 1.001, basis=basis, mean=mean)
    coarse = odeae.Spectrum.from_eigenvalues(rho, spikes=2, basis=basis, mean=mean)
    moved = odeae.Spectrum.from_eigenvalues(rho, basis=basis, mean=mean + 0.1)
    slower = odeae.Problem(spectrum, network, SGD(schedule=lambda t: 1.0 / (1.0 + t)))
    cases = [
        (p, dict(runs=8), "`runs` can't change: the runs that go on have 2, got 8"),
        (p, dict(seed=0), "`seed` can't change: the runs that go on have 3, got 0"),
        (p, dict(resample=False), "`resample` can't change: .* have True, got False"),
        (Problem(spectrum, network, SGD(5.0)), {}, r"another rule lr: 1\.0, got 5\.0"),
        (Problem(spectrum, network, SGD(truncated=True)), {}, "rule truncated: False, got True"),
        (Problem(spectrum, network, odeae.SGD(schedule=odeae.CosineSchedule(9))), {}, "schedule"),
        (slower, {}, "another rule schedule: None, got "),
        (Problem(spectrum, odeae.Autoencoder(HIDDEN, "relu")), {}, "autoencoder activation: 'Erf'"),
        (Problem(spectrum, odeae.Autoencoder(2)), {}, "autoencoder hidden: 3, got 2"),
        (Problem(spectrum, network, rule, noise=0.1), {}, r"another noise: 0\.0, got 0\.1"),
        (Problem(other, network), {}, "another spectrum trace"),
        (Problem(coarse, network), {}, "another spectrum spikes: .*, got 2"),
        (Problem(moved, network), {}, "another spectrum mean"),
        (p, dict(data=data[:-5]), r"another data shape: \[340, 64\], got \[335, 64\]"),
        (p, dict(data=data[::-1]), "another data rows"),
    ]
    for weights in (done.weights, odeae.load(tmp_path / "x.nc").weights):
        for own, options, message in cases:
            with pytest.raises(ValueError, match=message):
                odeae.simulate(own, None, [2.0], **{"data": data, **options}, weights=weights)


def test_own_functions_are_known_by_their_values():
    """A function has no name that could be compared, and a loaded one is another object."""

    def about(fn):
        network = odeae.Autoencoder(HIDDEN, odeae.Quadrature(fn))
        return about_runs(odeae.Problem(problem().spectrum, network), None)

    one, same, two = map(about, (jnp.tanh, lambda x: jnp.tanh(x), jnp.sin))
    check_same_runs(one, same)
    with pytest.raises(ValueError, match=r"another autoencoder activation\.fn"):
        check_same_runs(one, two)


def stop_at(monkeypatch, call, error):
    """Let the simulation be interrupted before its block number `call`."""
    advance, calls = simulation._advance, itertools.count()

    def interrupted(*args):
        if next(calls) == call:
            raise error
        return advance(*args)

    monkeypatch.setattr(simulation, "_advance", interrupted)


@pytest.mark.parametrize("kind", ["Gaussian", "once through"])
def test_an_interrupt_keeps_what_is_done(kind, tmp_path, monkeypatch):
    """And the runs go on as if there had been none, from the middle of a long stretch, too."""
    data, p = draw_data(rows=1000)
    options = {} if kind == "Gaussian" else {"data": data, "resample": False}
    data, state, file = options.get("data"), odeae.random_state(p), tmp_path / "x.nc"
    times = np.array([0.0, 1.0, 14.0])  # t = 4, 8, 12 are ends of blocks
    whole = odeae.simulate(p, state, times, runs=2, **options)
    with monkeypatch.context() as patched:
        stop_at(patched, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt) as stop:
            odeae.simulate(p, state, times, runs=2, checkpoint=file, **options)
    assert "the runs to t=8 are kept in" in stop.value.__notes__[0]
    half = odeae.load(file)
    assert_array_equal(half.times, [0.0, 1.0, 8.0])
    assert_array_equal(half.error[:, :2], whole.error[:, :2])
    rest = odeae.simulate(p, None, times[2:], data=data, weights=half.weights)
    for name in ("error", "test_error", "R1"):
        assert_array_equal(getattr(rest, name)[:, 0], getattr(whole, name)[:, 2])
    for got, want in zip(rest.weights.weights[:2], whole.weights.weights[:2], strict=True):
        assert_array_equal(got, want)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        odeae.simulate(p, state, times, runs=2, checkpoint=file, **options)


def test_runs_are_kept_now_and_then_and_at_the_end(tmp_path, monkeypatch):
    """A kill can't be caught: what stands in the file then is the last that was written."""
    p, file = problem(), tmp_path / "x.nc"
    state, times = odeae.random_state(p), [0.0, 10.0]
    with monkeypatch.context() as patched:
        patched.setattr(simulation, "_EVERY", -1.0)
        stop_at(patched, 2, RuntimeError("killed"))
        with pytest.raises(RuntimeError, match="killed"):
            odeae.simulate(p, state, times, runs=2, checkpoint=file)
    half = odeae.load(file)
    assert_array_equal(half.times, [0.0, 8.0])
    ended = odeae.simulate(p, state, times, runs=2, checkpoint=file, overwrite=True)
    same(odeae.load(file), ended)
    rest = odeae.simulate(p, None, [10.0], weights=half.weights)
    assert_array_equal(rest.test_error[:, 0], ended.test_error[:, 1])


def test_without_a_file_an_interrupt_says_how_to_keep_runs(monkeypatch):
    stop_at(monkeypatch, 1, KeyboardInterrupt())
    p = problem()
    with pytest.raises(KeyboardInterrupt) as stop:
        odeae.simulate(p, odeae.random_state(p), [10.0], runs=2)
    assert "checkpoint='runs.nc'" in stop.value.__notes__[0]


def test_streams_are_those_of_the_first_release():
    """Seeds are names of runs: these numbers must not change."""
    got = normals_of(np.asarray([3, 0, 1]), np.arange(2), (4, 3))[1, 2]
    assert_array_equal(got, [-1.7598309516906738, 0.5869684219360352, 0.9023489356040955])
    large = normals_of(np.asarray([2**40 + 5, 3, 9]), np.arange(3), (2, 5))[2, 1, 2:]
    assert_array_equal(large, [-1.639836072921753, 0.3509693145751953, -2.4798474311828613])
    assert [block_length(dim) for dim in (1, 1024, 3000, 10**6)] == [256, 256, 87, 8]


@pytest.mark.parametrize("flags", ["generator", "checks"])
def test_settings_of_jax_change_no_number(flags):
    """They once did: with the generator "rbg", another half of the bits, or a seed's offset."""
    chosen = {
        "generator": dict(
            jax_default_prng_impl="rbg", jax_threefry_partitionable=False, jax_random_seed_offset=7
        ),
        "checks": dict(
            jax_numpy_dtype_promotion="strict", jax_transfer_guard="disallow", jax_disable_jit=True
        ),
    }[flags]
    script = f"""
import jax, numpy as np, odeae
p = odeae.Problem(odeae.Spectrum.spiked([1.0, 0.5], 20), odeae.Autoencoder(2), noise=0.3)
W, V = np.random.default_rng(0).standard_normal((2, 2, 20))
for name, value in {chosen}.items():
    jax.config.update(name, value)
runs = odeae.simulate(p, None, [1.0, 2.0], runs=2, seed=3, weights=(W, V))
rest = odeae.simulate(p, None, [2.0, 2.5], weights=runs.weights)
assert np.all(rest.error[:, 0] == runs.error[:, -1])
print(runs.error[:, -1].tolist(), runs.test_error[:, -1].tolist())
"""
    got = np.array(ast.literal_eval(plain.run(script).replace("] [", "], [")))
    want = [[1.1703682459726146, 1.1460502476381933], [1.19586513392745, 1.1488060304785344]]
    assert_allclose(got, want, rtol=1e-12)


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
    inputs = GaussianInputs(problem(), 0, 2, 256)
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


def test_data_in_any_form_give_the_same():
    data, p = draw_data()
    data[np.abs(data) < 0.1] = 0.0
    state = odeae.random_state(p)
    columns = [f"pixel {i}" for i in range(DIM)]
    forms = {
        "lists": data.tolist(),
        "jax": jnp.asarray(data),
        "pandas": pandas.DataFrame(data, columns=columns),
        "polars": plain.Table(data, columns),
        "objects": plain.Table(data.astype(object), columns),
        "torch": plain.Tensor(data),
        "csr": scipy.sparse.csr_array(data),
        "coo": scipy.sparse.coo_matrix(data),
        "masked": np.ma.masked_array(data),
        "generator": (data[i : i + 100] for i in range(0, 340, 100)),
        "list of pieces": [data[:100], data[100:]],
        "images": data.reshape(340, 8, 8),
        "iterable of images": iter(data.reshape(340, 8, 8)),
        "HDF5": Recorder(data),
    }
    want = odeae.simulate(p, state, [0.5], runs=2, data=data)
    for name, form in forms.items():
        got = odeae.simulate(p, state, [0.5], runs=2, data=form, flatten="images" in name)
        same(got, want)


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
    with pytest.raises(
        ValueError, match=r"4 of 4 `runs` did not finish, the first stopped at t=.*diverged"
    ):
        odeae.compare(theory, got)


def test_averages_out_of_range_are_another_status():
    p = problem(odeae.Quadrature(jnp.tanh, scale=0.5, q_max=0.1))
    got = odeae.simulate(p, odeae.random_state(p, 0.1), [0.0, 40.0], runs=2)
    assert np.all(got.status == odeae.Status.UNRESOLVED)
    assert np.isfinite(got.weights.weights.encoder).all()
    assert_array_equal(got.stop_time, [0.0, 0.0])


SETUP = """
import jax, numpy as np, odeae, pandas, plain
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
    "real(data=x[:, 1:])": r"`data` must have shape \(rows, 20\) like .*, got \(100, 19\)",
    "real(data=x[0])": r"`data` must have shape \(rows, dim\), got shape \(20,\)",
    "real(data=nan)": r"`data` must be finite, got NaN or infinity in row 7",
    "real(data=x.astype(str))": r"`data` must hold real numbers, got dtype <U",
    "real(data=np.ma.masked_array(x, x > 2.9))": r"`data` must .* a masked entry at \(\d+, \d+\)",
    "real(data=pandas.DataFrame(x).assign(who='me'))": r"`data` .* got 'me' in column 'who', row 0",
    "real(data=plain.Tensor(x, True))": r"`data` must hold real numbers, .* \.detach\(\)",
    "real(data=x.reshape(100, 4, 5))": r"`data` must .* got shape \(100, 4, 5\).* flatten=True",
    "real(data=x[:20].T, flatten=1)": "`flatten` must be True or False, got 1",
    "real(data=np.zeros((20, 30)))": r"`data` must have shape .* got \(20, 30\); is it transposed",
    "real(data=iter([x, x[:, 1:]]))": "`data` must keep its width: .* 19 columns .* of 20",
    "real(data=5)": "`data` must be an array .*got int",
    "simulate(resample=1)": "`resample` must be True or False, got 1",
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
