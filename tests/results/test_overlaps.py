"""Where neurons point, errors on clean inputs, ensembles: from theory, runs and files."""

import json

import equinox as eqx
import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal

import odeae

pytestmark = pytest.mark.sampled

DIM, HIDDEN = 40, 2
RHO = np.concatenate([DIM * np.array([0.5, 1.0, 0.3]), np.full(DIM - 3, 0.8)])
TIMES = np.array([0.0, 1.0, 4.0])


def problem(noise=0.0, rule=None, **network):
    spectrum = odeae.Spectrum.spiked([0.5, 1.0, 0.3], DIM, bulk=0.8)  # not in falling order
    return odeae.Problem(spectrum, odeae.Autoencoder(HIDDEN, **network), rule, noise=noise)


def by_hand(W, V):
    """Cosines and shares of weights in the eigenbasis, by projections."""
    order = [1, 0, 2]
    cosines, within, shares = [], [], []
    for weights in (W, V):
        cosines.append(weights[:, order] / np.linalg.norm(weights, axis=1, keepdims=True))
        inside = weights[:, order]
        within.append(inside / np.linalg.norm(inside, axis=1, keepdims=True))
        basis = np.linalg.qr(weights.T)[0]
        shares.append(np.sum(basis[order[:HIDDEN]] ** 2) / HIDDEN)
    return cosines, within, shares


@pytest.mark.parametrize("tied", [False, True])
def test_overlaps_follow_their_definition(tied):
    p = problem(tied=tied)
    W, V = np.random.default_rng(0).standard_normal((2, HIDDEN, DIM))
    state = odeae.state_from_weights(p, None if tied else W, V)
    theory = odeae.predict(p, state, TIMES)
    runs = odeae.simulate(p, state, TIMES, runs=2)
    W = V / np.sqrt(DIM) if tied else W
    for found, weights in (
        (jax.tree.map(lambda x: x[0], theory.overlaps), (W, V)),
        (
            jax.tree.map(lambda x: x[1, -1], runs.overlaps),
            [part[1] for part in runs.weights.weights[:2]],
        ),
    ):
        cosines, within, shares = by_hand(*weights)
        assert_allclose([found.encoder, found.decoder], cosines, atol=1e-12)
        assert_allclose([found.encoder_within, found.decoder_within], within, atol=1e-12)
        assert_allclose([found.subspace_encoder, found.subspace_decoder], shares, atol=1e-12)


def test_weights_that_vanish_point_nowhere():
    p = problem()
    state = odeae.state_from_weights(p, np.zeros((HIDDEN, DIM)), np.ones((HIDDEN, DIM)))
    found = odeae.predict(p, state, [0.0]).overlaps
    assert_array_equal(found.encoder, 0.0)
    assert found.subspace_encoder == 0.0
    assert_allclose(found.subspace_decoder, 1.0 / DIM, rtol=1e-10)  # two equal decoders span a line


def test_no_spikes_no_overlaps():
    p = odeae.Problem(odeae.Spectrum.spiked([], 20), odeae.Autoencoder(2))
    theory = odeae.predict(p, odeae.random_state(p), [1.0])
    assert theory.components is None
    with pytest.raises(ValueError, match=r"`overlaps` are with the spikes, of which .* none"):
        theory.overlaps


def test_only_the_leading_components_are_followed():
    rho = np.linspace(1.0, 3.0, 50)
    spectrum = odeae.Spectrum.from_eigenvalues(rho, spikes=50)
    p = odeae.Problem(spectrum, odeae.Autoencoder(2))
    assert odeae.predict(p, odeae.random_state(p), [1.0]).overlaps.decoder.shape == (1, 2, 32)


# -------------------------------------------------------------------------------- denoising


def test_errors_on_corrupted_and_on_clean_inputs():
    p = problem(noise=3.0, bias=True)
    runs = odeae.simulate(p, odeae.random_state(p, 0.5, 0.5), TIMES, runs=2)
    W, V, b, _ = (None if x is None else x[1] for x in runs.weights.weights)
    assert_allclose(runs.error[1, -1], reference.error("erf", RHO, W, V, b, noise=3.0), rtol=1e-11)
    assert_allclose(runs.error_clean[1, -1], reference.error("erf", RHO, W, V, b), rtol=1e-11)
    assert_allclose(runs.Q0[1, -1], W @ W.T / DIM, rtol=1e-12)
    silent = problem(bias=True)
    theory = odeae.predict(silent, odeae.random_state(silent), TIMES)
    assert_array_equal(theory.error, theory.error_clean)


def test_held_out_inputs_are_corrupted_too():
    p = problem(noise=3.0)
    runs = odeae.simulate(p, odeae.random_state(p, 1.0, 1.0), [1.0], runs=40, test_samples=400)
    gap = (runs.test_error - runs.error)[:, 0]
    assert abs(gap.mean()) < 4.0 * gap.std(ddof=1) / np.sqrt(40)
    assert np.mean(runs.error - runs.error_clean) > 10.0 * gap.std() / np.sqrt(40)


@pytest.mark.parametrize("tied", [False, True])
def test_noise_of_the_inputs_is_resumed_exactly(tied):
    """To the last bit, also where W follows from V by a rounding of its own."""
    gain = 1.3 if tied else 1.0
    p = problem(2.0, activation="relu", bias=True, output_bias=True, tied=tied, gain=gain)
    state = odeae.random_state(p, decoder_std=0.5, bias=0.3)
    whole = odeae.simulate(p, state, TIMES, runs=2)
    half = odeae.simulate(p, state, TIMES[:2], runs=2)
    rest = odeae.simulate(p, None, TIMES[2:], weights=half.weights)
    assert_array_equal(rest.error, whole.error[:, 2:])
    assert_array_equal(rest.test_error, whole.test_error[:, 2:])
    assert_array_equal(rest.Q1, whole.Q1[:, 2:])
    assert np.any(whole.weights.weights.output_bias != 0.0)


def test_noise_and_output_bias_on_real_inputs():
    rng = np.random.default_rng(0)
    data = rng.standard_normal((400, 12)) @ rng.standard_normal((12, 12)) + 1.0
    network = odeae.Autoencoder(2, "relu", bias=True, output_bias=True)
    p = odeae.Problem(odeae.Spectrum.from_data(data), network, noise=0.5)
    runs = odeae.simulate(p, odeae.random_state(p), [0.0, 5.0], runs=2, data=data, test_samples=30)
    weights = jax.tree.map(lambda x: x[0], runs.weights.weights)  # in input space
    turned = odeae.Weights(
        *(part @ p.spectrum.basis for part in weights[:2]),
        weights.bias,
        weights.output_bias @ p.spectrum.basis,
    )
    rho = p.spectrum.eigenvalues()
    exact = reference.error("relu", rho, *turned[:3], noise=0.5, output=turned.output_bias)
    assert_allclose(runs.error[0, -1], exact, rtol=1e-9)
    assert np.all(runs.test_error[:, 1] < runs.test_error[:, 0])


# -------------------------------------------------------------------------------- ensembles


@pytest.fixture(scope="module")
def members():
    return odeae.ensemble(problem(), TIMES, 5, decoder_std=0.3, seed=7)


def test_members_are_single_predictions(members):
    p = problem()
    for i in (0, 4):
        state = odeae.random_state(p, decoder_std=0.3, seed=7 + i)
        one = odeae.predict(p, state, TIMES)
        assert_allclose(members.error[i], one.error, atol=1e-6)
        assert_allclose(members.overlaps.decoder[i], one.overlaps.decoder, atol=1e-4)
        assert_array_equal(members.initial.spikes.encoder[i], state.spikes.encoder)
    assert np.ptp(members.error[:, -1]) > 1e-3
    assert "5 members" in repr(members)


def test_members_may_fail_alone():
    p = problem(rule=odeae.Hebb(weight_decay=0.9), activation="linear", tied=True)
    late = odeae.ensemble(p, [0.0, 10.0, 5e3], 3)
    assert_array_equal(late.status, odeae.Status.DIVERGED)
    assert np.isfinite(late.error[:, :2]).all()
    with pytest.raises(ValueError, match=r"no member of .* finished"):
        odeae.plot(late)


def test_bad_ensembles():
    with pytest.raises(ValueError, match="`members` must be at least 1, got 0"):
        odeae.ensemble(problem(), TIMES, 0)
    with pytest.raises(ValueError, match="`decoder_std` must be zero or positive, got -1"):
        odeae.ensemble(problem(), TIMES, 2, decoder_std=-1.0)
    with pytest.raises(ValueError, match="`encoder_std` must not be given for tied"):
        odeae.ensemble(problem(tied=True), TIMES, 2, encoder_std=0.1)
    with pytest.raises(ValueError, match="`times` must increase"):
        odeae.ensemble(problem(), [1.0, 0.0], 2)


@pytest.mark.slow
def test_ensembles_are_pure_jax():
    def mean(lr):
        p = problem(rule=odeae.SGD(lr))
        return odeae.ensemble(p, [1.0], 2, decoder_std=0.3).error.mean()

    slope = (mean(1.01) - mean(0.99)) / 0.02
    assert_allclose(jax.jit(jax.grad(mean))(1.0), slope, rtol=1e-3)


def test_failed_runs_are_not_averaged_into_a_plot():
    p = problem(rule=odeae.Hebb(weight_decay=0.9), activation="linear", tied=True)
    both = odeae.ensemble(p, [0.0, 10.0, 5e3], 2)
    mixed = eqx.tree_at(lambda c: c.status, both, np.array([0, 1]))
    axes = mixed.plot_overlaps()
    assert_allclose(
        axes[0, 0].lines[0].get_ydata()[:2], np.abs(mixed.overlaps.decoder[0, :2, 0, 0])
    )
    plt.close(axes[0, 0].figure)
    with pytest.raises(ValueError, match=r"nothing of .* finished"):
        both.plot_overlaps()


def test_an_ensemble_is_one_plot(members):
    ax = odeae.plot(members)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["mean of 5 starts, and their middle 80 %"]
    (line,) = [x for x in ax.lines if len(x.get_xdata()) == len(TIMES)]
    assert_allclose(line.get_ydata(), members.error.mean(axis=0))
    plt.close(ax.figure)


def test_overlaps_are_one_plot(members):
    axes = members.plot_overlaps()
    assert axes.shape == (2, 2)
    first = axes[0, 0].lines[0]
    assert_allclose(first.get_ydata(), np.abs(members.overlaps.decoder[:, :, 0, 0]).mean(axis=0))
    plt.close(axes[0, 0].figure)


def test_an_ensemble_is_no_curve_to_compare(members):
    p = problem()
    runs = odeae.simulate(p, odeae.random_state(p), TIMES, runs=2)
    with pytest.raises(ValueError, match="members start from states of their own"):
        odeae.compare(members, runs)


# ------------------------------------------------------------------------------------ files


def halved(t):
    return 0.5 + 0.0 * t


SAVED = {
    "plain": (problem(), {}),
    "tied": (problem(tied=True, gain=1.3, rule=odeae.SGD(gradient="encoder")), {}),
    "output bias, noise": (
        problem(0.5, activation="relu", bias=True, output_bias=True),
        {},
    ),
    "truncated, steps": (
        problem(rule=odeae.SGD(truncated=True, schedule=odeae.StepSchedule([1.0], [0.5]))),
        {},
    ),
    "cosine": (problem(rule=odeae.SGD(schedule=odeae.CosineSchedule(3.0))), {}),
    "Oja": (problem(rule=odeae.Oja(2.0), activation="linear", tied=True), {}),
    "Sanger, power law": (
        problem(
            rule=odeae.Sanger(schedule=odeae.PowerLawSchedule(0.5)), activation="linear", tied=True
        ),
        {},
    ),
    "Hebb": (problem(rule=odeae.Hebb(weight_decay=2.0), activation="linear", tied=True), {}),
    "own schedule": (problem(rule=odeae.SGD(schedule=halved)), {"schedule": halved}),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if "output bias" in n else []) for n in SAVED],
)
def test_files_hold_everything(name, tmp_path):
    p, own = SAVED[name]
    state = odeae.random_state(p, decoder_std=0.5, bias=0.2 if p.autoencoder.bias else 0.0)
    runs = odeae.simulate(p, state, TIMES, runs=2)
    if p.autoencoder.output_bias:
        theory = odeae.predict(p, state, TIMES)
    else:  # the numbers have the shapes of plain SGD's: two programs for all
        network = p.autoencoder
        alike = problem(tied=network.tied, gain=network.gain)
        theory = odeae.predict(alike, state, TIMES)
        theory = eqx.tree_at(lambda t: t.problem, theory, p)
    odeae.save_all(tmp_path / "both.nc", {"theory": theory, "runs": runs})
    for group, saved in (("theory", theory), ("runs", runs)):
        if own:
            with pytest.raises(ValueError, match=r"the schedule .* your own.*load"):
                odeae.load(tmp_path / "both.nc", group)
        back = odeae.load(tmp_path / "both.nc", group, **own)
        assert eqx.tree_equal(back, saved) is True
        for part in ("order_parameters", "components", "weights", "initial"):
            assert eqx.tree_equal(getattr(back, part), getattr(saved, part)) is True, part
        assert eqx.tree_equal(back.problem.rule, p.rule) is True
        assert eqx.tree_equal(back.problem.autoencoder, p.autoencoder) is True
        assert_array_equal(back.error_clean, saved.error_clean)
    again = odeae.simulate(back.problem, None, [5.0], weights=back.weights)
    want = odeae.simulate(p, None, [5.0], weights=runs.weights)
    assert_array_equal(again.error, want.error)


def test_an_ensemble_in_a_file(members, tmp_path):
    members.save(tmp_path / "e.nc")
    back = odeae.load(tmp_path / "e.nc")
    assert eqx.tree_equal(back.overlaps, members.overlaps, rtol=1e-12) is True
    data = members.to_xarray()
    assert data.overlap_decoder.dims == ("member", "time", "k", "component")
    assert json.loads(data.attrs["problem"])["rule"]["name"] == "SGD"
