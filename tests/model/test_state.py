"""States: rows that stand for a bulk, weights and back, and the drift as a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import odeae
from odeae import SGD, Autoencoder, Problem, Spectrum, draw_weights, random_state
from odeae.model.leading import bulk_rows
from odeae.model.state import Modes, State, densities

pytestmark = pytest.mark.sampled

K, D = 2, 30
RNG = np.random.default_rng(0)

# Eigenvalues in no order. "lumped": three bins of equal ones, of fewer, exactly and more than 2K
# modes. "binned": bins of different ones.
LUMPED = RNG.permutation(np.r_[40.0, 25.0, np.full(3, 2.0), np.full(2 * K, 1.5), np.full(21, 0.5)])
BINNED = RNG.permutation(np.r_[40.0, 25.0, RNG.uniform(0.2, 2.0, D - 2)])
SPECTRA = {
    "lumped": Spectrum.from_eigenvalues(LUMPED, spikes=2, bins=3),
    "binned": Spectrum.from_eigenvalues(BINNED, spikes=2, bins=4),
}


def problem(spectrum, activation="erf", bias=False, hidden=K, rule=None):
    return Problem(spectrum, Autoencoder(hidden, activation, bias=bias), rule)


def some_weights(seed=1, hidden=K):
    W, V = np.random.default_rng(seed).standard_normal((2, hidden, D))
    return 0.7 * W, 0.6 * V


def joint(modes):
    return np.concatenate([modes.encoder, modes.decoder], axis=1)


def grams(spectrum, rows, sizes):
    """Gram matrix of the rows [w; u] of every bin."""
    parts = np.split(rows, np.cumsum(sizes)[:-1])
    return np.array([part.T @ part for part in parts])


def sorted_rows(spectrum, W, V):
    """Rows [w; u] of weights, in the spectrum's own order, by the definition of u."""
    rows = np.concatenate([W.T, V.T / np.sqrt(spectrum.dim)], axis=1)
    return rows[spectrum.order]


# Weights and back


@pytest.mark.parametrize("name", SPECTRA)
def test_a_state_keeps_spikes_and_gram_matrices_of_its_weights(name):
    spectrum, (W, V) = SPECTRA[name], some_weights()
    state = odeae.state_from_weights(problem(spectrum), W, V)
    rows = sorted_rows(spectrum, W, V)
    assert bulk_rows(spectrum, 2 * K) == tuple(min(m, 2 * K) for m in spectrum.multiplicity)
    np.testing.assert_allclose(joint(state.spikes), rows[:2], rtol=1e-15)
    np.testing.assert_allclose(
        grams(spectrum, joint(state.bulk), bulk_rows(spectrum, 2 * K)),
        grams(spectrum, rows[2:], spectrum.multiplicity),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize("name", SPECTRA)
def test_drawn_weights_are_another_member_with_the_same_state(name):
    spectrum, (W, V) = SPECTRA[name], some_weights()
    ae = problem(spectrum)
    state = odeae.state_from_weights(ae, W, V)
    drawn = draw_weights(ae, state, seed=3)
    rows, again = sorted_rows(spectrum, W, V), sorted_rows(spectrum, *drawn[:2])
    np.testing.assert_allclose(again[:2], rows[:2], rtol=1e-14)
    np.testing.assert_allclose(
        grams(spectrum, again[2:], spectrum.multiplicity),
        grams(spectrum, rows[2:], spectrum.multiplicity),
        rtol=1e-12,
        atol=1e-12,
    )
    # bins with fewer modes than 2K keep them; the others are turned, each draw in its own way
    large = np.repeat(np.array(spectrum.multiplicity) >= 2 * K, spectrum.multiplicity)
    np.testing.assert_allclose(again[2:][~large], rows[2:][~large], rtol=1e-14)
    assert np.all(np.abs(again[2:][large] - rows[2:][large]).max(axis=1) > 1e-3)
    other = sorted_rows(spectrum, *draw_weights(ae, state, seed=4)[:2])
    assert np.all(np.abs(again[2:][large] - other[2:][large]).max(axis=1) > 1e-3)
    there = odeae.state_from_weights(ae, *drawn)
    for a, b in zip(
        jax.tree.leaves(ae.order_parameters(there)),
        jax.tree.leaves(ae.order_parameters(state)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


def test_the_turn_of_a_bin_is_uniform_over_all_turns():
    # Haar: every mode of the bin gets the same share of the Gram matrix on average.
    spectrum = Spectrum.spiked([1.0], dim=9)
    ae = problem(spectrum, hidden=1)
    state = random_state(ae, encoder_std=1.0, decoder_std=3.0)
    drawn = np.array([draw_weights(ae, state, seed)[0][0, 1:] for seed in range(2000)])
    np.testing.assert_allclose(drawn.T @ drawn / 2000, np.eye(8), atol=0.12)  # 8 modes, std 1
    np.testing.assert_allclose(drawn.mean(axis=0), 0.0, atol=0.1)


@pytest.mark.parametrize("activation", ["erf", "relu", "linear"])
def test_error_of_a_state_is_that_of_its_weights(activation):
    # The right-hand side knows nothing of modes, rows, bins or order. Equal eigenvalues: to
    # rounding, for the weights the state came from and for those drawn from it.
    W, V = some_weights()
    b = np.array([0.3, -0.5])
    ae = problem(SPECTRA["lumped"], activation, bias=True)
    state = odeae.state_from_weights(ae, W, V, b)
    for weights in ((W, V), draw_weights(ae, state)[:2]):
        expected = reference.error(activation, LUMPED, *weights, b)
        np.testing.assert_allclose(ae.error(state), expected, rtol=1e-12)
    # Different eigenvalues in a bin: to the binning error, which is not nothing.
    ae = problem(SPECTRA["binned"], activation, bias=True)
    expected = reference.error(activation, BINNED, W, V, b)
    off = ae.error(odeae.state_from_weights(ae, W, V, b)) - expected
    assert 1e-9 < abs(off) < 1e-2


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.permutations(range(D)))
def test_a_permutation_of_the_eigenvalues_changes_nothing(permutation):
    W, V = some_weights()
    here = problem(SPECTRA["binned"])
    moved = problem(Spectrum.from_eigenvalues(BINNED[permutation], spikes=2, bins=4))
    state = odeae.state_from_weights(here, W, V)
    same = odeae.state_from_weights(moved, W[:, permutation], V[:, permutation])
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)
    # and drawn weights come back in the order as given
    W1, V1, *_ = draw_weights(here, state)
    W2, V2, *_ = draw_weights(moved, same)
    np.testing.assert_allclose(W1[:, permutation], W2, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(V1[:, permutation], V2, rtol=1e-10, atol=1e-12)


def test_a_basis_turns_weights_of_the_input_space():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((200, D)) @ rng.standard_normal((D, D))
    spectrum = Spectrum.from_data(x, spikes=D)
    W, V = some_weights()
    omega = np.cov(x.T, bias=True)
    state = odeae.state_from_weights(problem(spectrum), W @ spectrum.basis, V @ spectrum.basis)
    total = problem(spectrum).order_parameters(state).total()
    np.testing.assert_allclose(total.Q1, W @ omega @ W.T / D)
    np.testing.assert_allclose(total.R1, V @ omega @ W.T / D**1.5)
    np.testing.assert_allclose(total.T1, V @ omega @ V.T / D**2)
    np.testing.assert_allclose(total.T0, V @ V.T / D)


def test_densities_sum_to_the_order_parameters():
    for name, spectrum in SPECTRA.items():
        W, V = some_weights()
        ae = problem(spectrum)
        state = odeae.state_from_weights(ae, W, V)
        found, parameters = densities(state, spectrum, 2 * K), ae.order_parameters(state)
        n = np.array(spectrum.multiplicity)
        for modes, weight, rho, part in (
            (found.spikes, np.ones(2), spectrum.spikes, parameters.spikes),
            (found.bulk, n, spectrum.bulk / D, parameters.bulk),
        ):
            for density, total in ((modes.q, part.Q1), (modes.r, part.R1), (modes.t, part.T1)):
                np.testing.assert_allclose(np.tensordot(weight * rho, density, 1), total)
            np.testing.assert_allclose(np.tensordot(weight, modes.t, 1), part.T0)
        # each is the mean over the modes of a bin, r with the decoder first
        rows = sorted_rows(spectrum, W, V)[2:]
        for i, modes in enumerate(np.split(rows, np.cumsum(n)[:-1])):
            w, u = modes[:, :K], modes[:, K:]
            np.testing.assert_allclose(found.bulk.r[i], u.T @ w / n[i], atol=1e-14, err_msg=name)
            np.testing.assert_allclose(found.bulk.q[i], w.T @ w / n[i], atol=1e-14, err_msg=name)


# Initial conditions


def test_random_rows_have_the_gram_matrix_of_random_weights():
    spectrum = SPECTRA["lumped"]  # bins of 3 (random), 4 = 2K and 21 modes (exact)
    ae = problem(spectrum)
    s_w, s_v = 0.8, 1.7
    states = jax.jit(jax.vmap(lambda seed: random_state(ae, s_w, s_v, seed=seed)))(np.arange(4000))
    expected = np.diag(np.r_[np.full(K, s_w**2), np.full(K, s_v**2 / D)])
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    spikes = np.concatenate([states.spikes.encoder, states.spikes.decoder], axis=2)
    for row in range(2):
        mean = np.einsum("si,sj->ij", spikes[:, row], spikes[:, row]) / 4000
        np.testing.assert_allclose(mean / scale, np.eye(2 * K), atol=5 * np.sqrt(2 / 4000))
    correlation = np.einsum("si,sj->ij", spikes[:, 0], spikes[:, 1]) / 4000 / scale
    np.testing.assert_allclose(correlation, 0.0, atol=5 / np.sqrt(4000))
    bulk = np.concatenate([states.bulk.encoder, states.bulk.decoder], axis=2)
    small = np.einsum("smi,smj->ij", bulk[:, :3], bulk[:, :3]) / 4000
    np.testing.assert_allclose(small / scale, 3 * np.eye(2 * K), atol=5 * np.sqrt(6 / 4000))
    assert np.std(bulk[:, :3]) > 0.1
    for start, modes in ((3, 4), (7, 21)):
        rows = bulk[:, start : start + 4]
        gram = np.einsum("smi,smj->sij", rows, rows)
        np.testing.assert_allclose(gram, np.broadcast_to(modes * expected, gram.shape), atol=1e-13)


def test_traced_seeds_are_the_concrete_ones():
    ae = problem(SPECTRA["lumped"], bias=True)
    draw = jax.jit(jax.vmap(lambda seed: random_state(ae, bias=[0.1, 0.2], seed=seed)))
    batch = draw(np.arange(3))
    for seed in range(3):
        alone = random_state(ae, bias=[0.1, 0.2], seed=seed)
        jax.tree.map(lambda a, b, i=seed: np.testing.assert_array_equal(a[i], b), batch, alone)
    assert not np.allclose(batch.spikes.encoder[0], batch.spikes.encoder[1])


def test_a_seed_stays_what_it_was():
    spectrum = Spectrum.from_eigenvalues(256 * np.arange(1, 257) ** -1.5)
    state = random_state(Problem(spectrum, Autoencoder(3)), seed=123456789012345)
    for row, first in (
        (
            state.spikes.encoder[0],
            [-0.08262886531044022, 0.06489896223606245, 0.012667923626730488],
        ),
        (state.spikes.decoder[0], [0.00518900090008713, -0.00783051647751775, 0.00968556906294538]),
        (state.bulk.encoder[0], [-0.03148332279843308, 0.02682023935043288, -0.07743190881044487]),
        (
            state.bulk.decoder[0],
            [-0.008061357516357314, 0.0015027579745401786, 0.007740284256068442],
        ),
    ):
        np.testing.assert_allclose(row, first, rtol=1e-15)
    sums = [part.sum() for part in jax.tree.leaves((state.spikes, state.bulk, state.bias))]
    expected = [0.2035993906003322, 0.0277614175105248, 11.31453120186865, 0.752473441726866, 0.0]
    np.testing.assert_allclose(sums, expected, rtol=1e-12)


def test_a_seed_is_the_same_whatever_generator_jax_is_set_to():
    ae = problem(SPECTRA["lumped"])
    usual = random_state(ae, seed=7)
    for choice in (jax.default_prng_impl("rbg"), jax.threefry_partitionable(False)):
        with choice:
            in_a_program = jax.jit(lambda seed: random_state(ae, seed=seed))(jnp.int32(7))
            for got in (random_state(ae, seed=7), in_a_program):
                jax.tree.map(np.testing.assert_array_equal, got, usual)
    jax.config.update("jax_random_seed_offset", 5)
    try:
        jax.tree.map(np.testing.assert_array_equal, random_state(ae, seed=7), usual)
    finally:
        jax.config.update("jax_random_seed_offset", 0)


def test_a_random_state_compiles_one_program_however_many_bins(caplog):
    spectrum = Spectrum.from_eigenvalues(64 * np.arange(1, 65) ** -1.5)
    ae = Problem(spectrum, Autoencoder(7))
    with jax.log_compiles():
        random_state(ae)
    programs = [text for text in caplog.messages if text.startswith("Compiling ")]
    assert len(programs) == 1
    assert "jit(_normals)" in programs[0]


def test_a_random_state_costs_no_more_at_a_huge_dimension():
    ae = problem(Spectrum.spiked([1.0, 0.5, 0.3], dim=10**12), hidden=3)
    state = random_state(ae, encoder_std=0.3, decoder_std=2.0)
    assert state.bulk.encoder.shape == (6, 3)
    bulk = ae.order_parameters(state).bulk
    np.testing.assert_allclose(bulk.Q1, 0.09 * np.eye(3), rtol=1e-11)
    np.testing.assert_allclose(bulk.T0, 4.0 * np.eye(3), rtol=1e-11)
    np.testing.assert_array_equal(bulk.R1, 0.0)


def test_spikes_do_not_depend_on_how_the_bulk_is_binned():
    rows = [
        random_state(problem(Spectrum.from_eigenvalues(BINNED, spikes=2, bins=bins))).spikes
        for bins in (1, 2, 7)
    ]
    for other in rows[1:]:
        jax.tree.map(np.testing.assert_array_equal, rows[0], other)


def test_aligned_neurons_sit_on_one_spike_each():
    spectrum = Spectrum.spiked([1.0, 0.6, 0.3], dim=20)
    ae = problem(spectrum)
    state = odeae.aligned_state(ae, encoder=[2.0, -1.0], decoder=0.5)
    np.testing.assert_array_equal(state.spikes.encoder, [[2, 0], [0, -1], [0, 0]])
    np.testing.assert_array_equal(state.spikes.decoder, [[0.5, 0], [0, 0.5], [0, 0]])
    assert not np.any(joint(state.bulk))
    total = ae.order_parameters(state).total()
    np.testing.assert_allclose(total.Q1, np.diag([4.0, 0.6]))
    np.testing.assert_allclose(total.R1, np.diag([1.0, -0.3]))
    assert total.Q1.dtype == float


# Drift and error


def aligned_pairs(ae, sign):
    """Random rows, then neuron 1 made ± twice neuron 0, exactly, biases too."""
    state = random_state(ae, 0.8, 3.0, bias=[0.4, -0.2, 0.7] if ae.autoencoder.bias else 0.0)

    def align(w):
        return w.at[:, 1].set(sign * 2.0 * w[:, 0])

    bias = state.bias * np.array([1.0, 0.0, 1.0]) + np.array([0, sign * 2.0, 0]) * state.bias[0]
    spikes, bulk = state.spikes, state.bulk
    return State(
        Modes(np.asarray(align(jnp.asarray(spikes.encoder))), spikes.decoder),
        Modes(np.asarray(align(jnp.asarray(bulk.encoder))), bulk.decoder),
        bias,
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ["erf", "relu", "linear", "tanh"])
def test_drift_is_minus_the_gradient_of_the_error(activation, bias):
    spectrum = Spectrum.spiked([0.4, 1.0, 0.6], dim=20, bulk=1.3)
    rule = SGD(lr_encoder=0.7, lr_decoder=1.4, lr_bias=0.3)
    ae = problem(spectrum, activation, bias, 3, rule)

    @jax.jit  # operation by operation it would take longer
    def both(state):
        return ae.drift(state), jax.grad(ae.error)(state)

    b = [0.4, -1.2, 0.7] if bias else 0.0
    states = [
        random_state(ae, 0.8, 3.0, bias=b),
        random_state(ae, 2.0, 0.5, bias=b, seed=1),
        aligned_pairs(ae, 1.0),
        aligned_pairs(ae, -1.0),
        odeae.aligned_state(ae, 0.9, 1.1),
    ]
    for state in states:
        drift, gradient = both(state)
        for part in ("spikes", "bulk"):
            for rows, rate in (("encoder", 0.7), ("decoder", 1.4)):
                change = getattr(getattr(drift, part), rows)
                slope = getattr(getattr(gradient, part), rows)
                assert np.all(np.isfinite(change))
                np.testing.assert_allclose(change, -rate * slope, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(drift.bias, -0.3 * gradient.bias, rtol=1e-10, atol=1e-10)
        assert bool(np.any(drift.bias)) == bias or state is states[-1]
        assert np.any(drift.spikes.encoder)


@pytest.mark.parametrize("activation", ["erf", "relu"])
def test_the_drift_of_aligned_neurons_has_finite_derivatives(activation):
    # √det is 0 there, and its derivative infinite: a gradient through a solution met NaN
    ae = problem(Spectrum.spiked([0.4, 1.0, 0.6], dim=20, bulk=1.3), activation, True, 3)
    state = aligned_pairs(ae, 1.0)
    drift, change = jax.jvp(ae.drift, (state,), (jax.tree.map(np.sin, state),))
    for leaf in jax.tree.leaves((drift, change)):
        assert np.all(np.isfinite(leaf))
    assert np.any(change.spikes.encoder)


def test_drift_is_that_of_the_weights():
    # the factors of D: dW = dw, dV = √D du, as an independent weight-level route has them
    ae = problem(Spectrum.from_eigenvalues(BINNED, spikes=D), rule=SGD(weight_decay=0.3, lr=2.0))
    W, V = some_weights()
    drift = ae.drift(odeae.state_from_weights(ae, W, V))
    dW, dV, _ = reference.drift("erf", BINNED, W, V, np.zeros(K), rates=(2.0, 2.0, 0.0), decay=0.3)
    order = ae.spectrum.order
    np.testing.assert_allclose(drift.spikes.encoder, dW.T[order], rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(np.sqrt(D) * drift.spikes.decoder, dV.T[order], rtol=1e-11)


# Transformations


def test_gradients_reach_the_weights_also_where_a_bulk_has_no_rank():
    spectrum = Spectrum.spiked([1.0, 0.5], dim=D, bulk=1.3)
    ae = problem(spectrum)

    @jax.jit
    def slopes(W, V):
        return jax.grad(lambda W, V: ae.error(odeae.state_from_weights(ae, W, V)), (0, 1))(W, V)

    rho = spectrum.eigenvalues()
    W, V = some_weights()
    spike_only = W * np.r_[1.0, 1.0, np.zeros(D - 2)]
    for w, v in ((W, V), (spike_only, V), (spike_only, 0 * V), (W[:1].repeat(2, 0), V)):
        dW, dV, _ = reference.drift("erf", rho, w + 1e-200, v, np.zeros(K))
        gW, gV = slopes(w, v)
        np.testing.assert_allclose(gW, -dW, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(D * gV, -dV, rtol=1e-9, atol=1e-12)


def test_spectrum_and_weights_may_be_traced_apart_or_together():
    W, V = some_weights()

    def error(rho, W, V):
        ae = problem(Spectrum.from_eigenvalues(rho, spikes=D))
        return ae.error(odeae.state_from_weights(ae, W, V))

    exact = reference.error("erf", BINNED, W, V, np.zeros(K))
    np.testing.assert_allclose(error(BINNED, W, V), exact, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(error)(BINNED, W, V), exact, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(lambda rho: error(rho, W, V))(BINNED), exact, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(lambda W: error(BINNED, W, V))(W), exact, rtol=1e-12)
    batch = jax.jit(jax.vmap(error, (0, None, None)))(np.stack([BINNED, 2 * BINNED]), W, V)
    np.testing.assert_allclose(batch[0], exact, rtol=1e-12)


def test_initial_scales_and_biases_may_be_traced():
    ae = problem(SPECTRA["lumped"], bias=True)

    @jax.jit
    def states(s, b):
        return random_state(ae, s, 2 * s, bias=[b, 2 * b]), odeae.aligned_state(ae, [s, b], s)

    traced = states(0.7, 0.2)
    concrete = random_state(ae, 0.7, 1.4, [0.2, 0.4]), odeae.aligned_state(ae, [0.7, 0.2], 0.7)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-14), traced, concrete)
    _, slope = jax.jvp(lambda s: states(s, 0.2)[0].bulk.encoder, (0.7,), (1.0,))
    np.testing.assert_allclose(0.7 * slope, concrete[0].bulk.encoder, rtol=1e-14)


# Messages

SETUP = """
import numpy as np
from odeae import Autoencoder, Problem, SGD, Spectrum, State, Modes
from odeae import aligned_state, draw_weights, random_state, state_from_weights
nan, inf = np.nan, np.inf
spectrum = Spectrum.spiked([1.0, 0.5], dim=10)
plain = Problem(spectrum, Autoencoder(2))
biased = Problem(spectrum, Autoencoder(2, bias=True))
state = random_state(plain)
other = Problem(Spectrum.spiked([1.0, 0.5, 0.2], dim=10), Autoencoder(2))
W = np.zeros((2, 10))
"""
BAD = {
    "Autoencoder(0)": "`hidden` must be at least 1, got 0",
    "Problem(spectrum, Autoencoder(11))": "`hidden` must be at most .*10, got 11",
    "random_state(None)": "`problem` must be an odeae Problem, got NoneType",
    "random_state(spectrum)": "`problem` must be an odeae Problem, got Spectrum",
    "random_state(plain, encoder_std=-0.1)": "`encoder_std` must be zero or positive, got -0.1",
    "random_state(plain, encoder_std=[1, 2])": r"`encoder_std` .*single number, got shape \(2,\)",
    "random_state(plain, decoder_std=nan)": "`decoder_std` must be finite, got nan",
    "random_state(plain, decoder_std='1')": "`decoder_std` must hold real numbers, got '1'",
    "random_state(plain, seed=-1)": "`seed` must be at least 0, got -1",
    "random_state(plain, seed=0.5)": "`seed` must be a whole number, got 0.5",
    "random_state(plain, seed=2**64)": "`seed` must be at most",
    "random_state(plain, bias=0.1)": "`bias` must be 0 .*Autoencoder.*bias=True",
    "random_state(biased, bias=[1, 2, 3])": r"`bias` must have shape \(2,\), got shape \(3,\)",
    "random_state(biased, bias=inf)": "`bias` must be finite, got inf",
    "random_state(biased, bias=None)": "`bias` must be given, got None",
    "aligned_state(plain, encoder=[1, 2, 3])": r"`encoder` must have shape \(2,\), got shape",
    "aligned_state(plain, decoder=nan)": "`decoder` must be finite, got nan",
    "aligned_state(Problem(spectrum, Autoencoder(3)))": "3 neurons and 2 spikes; give .*`spikes`",
    "state_from_weights(plain, W.T, W)": r"`W` must have shape \(2, 10\), got shape \(10, 2\)",
    "state_from_weights(plain, W, W[0])": r"`V` must have shape \(2, 10\), got shape \(10,\)",
    "state_from_weights(plain, W, W + nan)": r"`V` must be finite, got nan at index \(0, 0\) \(20",
    "state_from_weights(plain, None, W)": "`W` must be given, got None",
    "state_from_weights(plain, W + 1j, W)": "`W` must hold real numbers, got",
    "state_from_weights(plain, 'W', W)": "`W` must hold real numbers, got 'W'",
    "state_from_weights(plain, W, W, [1, 1])": "`bias` must be 0 .*Autoencoder.*bias=True",
    "state_from_weights(biased, W, W, [1])": r"`bias` must have shape \(2,\), got shape \(1,\)",
    "draw_weights(plain, None)": "`state` must be an odeae State, got NoneType",
    "draw_weights(plain, (W, W))": "`state` must be an odeae State, got tuple",
    "draw_weights(plain, state, seed=-1)": "`seed` must be at least 0, got -1",
    "draw_weights(plain, state, seed='a')": "`seed` must be a whole number, got 'a'",
    "draw_weights(other, state)": r"`spikes.encoder` of shape \(3, 2\) .*got \(2, 2\)",
    "other.error(state)": r"`spikes.encoder` of shape \(3, 2\) .*got \(2, 2\)",
    "plain.drift(State(state.spikes, state.spikes, state.bias))": r"`bulk.encoder` .*\(4, 2\)",
    "plain.error(State(state.spikes, state.bulk, np.zeros(3)))": r"`bias` of shape \(2,\) .*\(3,\)",
    "plain.error(State(Modes(W, W), state.bulk, state.bias))": r"`spikes.encoder` and .*\(2, 10\)",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_named_in_one_line(said, line):
    plain.named_in_one_line(said[line], BAD[line])
