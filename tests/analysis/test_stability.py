"""Fixed points and their spectra: closed forms, the Hessian, finite differences, symmetries."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import block_diag
from scipy.optimize import brentq

import odeae
import odeae.analysis.fixed_points
from odeae.analysis import linearisation
from odeae.analysis.fixed_points import FixedPointStatus, fixed_points
from odeae.analysis.symmetries import symmetry_tangents, turned_rows
from odeae.model.layout import columns_of
from odeae.theory.equations import equations_of

RHO = np.array([1.0, 0.5, 0.2])
SPECTRUM = odeae.Spectrum.spiked(RHO, 3, 0.0)
OK = FixedPointStatus.CONVERGED


def linear(weight_decay=0.0, noise=0.0, encoder=1.0, decoder=1.0, rho=RHO):
    """Two linear neurons on three modes: one program for all values."""
    rule = odeae.SGD(lr_encoder=encoder, lr_decoder=decoder, weight_decay=weight_decay)
    spectrum = odeae.Spectrum.spiked(rho, 3, 0.0)
    return odeae.Problem(spectrum, odeae.Autoencoder(2, "linear"), rule, noise)


def tied(activation="erf", rule=None, rho=RHO):
    network = odeae.Autoencoder(2, activation, tied=True)
    return odeae.Problem(odeae.Spectrum.spiked(rho, 3, 0.0), network, rule)


def made(problem, w, u):
    """State with these rows (3, 2) on the spikes."""
    empty = odeae.aligned_state(problem)
    return made_rows(empty, np.asarray(w, float), np.asarray(u, float))


SUBSETS = [c for d in range(3) for c in itertools.combinations(range(3), d)]


@pytest.mark.parametrize("seed", [None, 0, 1])
@pytest.mark.parametrize("chosen", SUBSETS)
def test_linear_critical_points(chosen, seed):
    """Projections on subsets of eigenvectors (Baldi and Hornik 1989), in any basis of neurons.

    A free neuron can learn each left-out mode, and each chosen mode can turn to a better one that
    was left out. Flat is the orbit of GL(K) alone, of K² − (K − d)² dimensions.
    """
    K, M, d = 2, 3, len(chosen)
    rows = np.zeros((M, K))
    rows[list(chosen), range(d)] = 1.0
    A = np.eye(K) if seed is None else np.random.default_rng(seed).normal(size=(K, K))
    problem = linear()
    point = fixed_points(problem, made(problem, rows @ A, rows @ np.linalg.inv(A).T))
    left_out = [i for i in range(M) if i not in chosen]
    turns = sum(RHO[j] > RHO[i] for i in chosen for j in left_out)
    assert point.status is OK
    assert point.residual < 1e-12
    assert point.error == pytest.approx(0.5 * RHO[left_out].sum(), abs=1e-12)
    unstable, stable, flat, symmetric, frozen = point.directions
    assert unstable == (K - d) * (M - d) + turns
    assert flat == symmetric == K**2 - (K - d) ** 2
    assert stable == 2 * K * M - unstable - flat
    assert frozen == 0
    assert len(point.eigenvalues) == 2 * K * M
    if seed is None:  # a free neuron on mode j: (0, ρ̃; ρ̃, 0); a turn: (−ρ_i, ρ_j; ρ_j, −ρ_i)
        want = [sign * RHO[j] for _ in range(K - d) for j in left_out for sign in (1, -1)]
        for i, j in itertools.product(chosen, left_out):
            block = [[-RHO[j], RHO[j]], [RHO[j], -RHO[i]]]
            want.extend(np.linalg.eigvalsh(block))
        got = np.sort(point.eigenvalues.real)
        for value in want:
            assert np.min(np.abs(got - value)) < 1e-12, value


def test_starts_near_a_saddle_find_it():
    problem, rng = linear(), np.random.default_rng(3)
    near = [0.02 * rng.normal(size=(3, 2)) + np.diag([1.0, 0.0, 0.0])[:, :2] for _ in range(3)]
    points = fixed_points(problem, [made(problem, w, w) for w in near])
    assert len(points) == 3
    for point in points:
        assert (point.status, point.directions.unstable) == (OK, 2)
        assert point.error == pytest.approx(0.35, abs=1e-9)  # the PCA error of rank 1
        assert point.kind == "saddle with 2 unstable directions, 3 flat, 3 of them by symmetry"


def test_the_largest_growth_rate_is_that_of_the_escape():
    """From the plateau of rank 1 the curve leaves as exp(2 σ t), σ the largest eigenvalue."""
    problem = linear()
    saddle = fixed_points(problem, made(problem, *2 * [np.diag([1.0, 0, 0])[:, :2]]))
    sigma = saddle.eigenvalues[0].real
    assert sigma == pytest.approx(RHO[1], rel=1e-12)
    a = np.diag([1.0, 1e-5, 0.0])[:, :2]
    times = np.array([4.0, 8.0, 12.0])
    error = odeae.predict(problem, made(problem, a, a), times, rtol=1e-9, atol=1e-14).error
    growth = np.diff(np.log(saddle.error - error)) / 4.0
    assert_allclose(growth, 2.0 * sigma, rtol=1e-3)


@pytest.mark.parametrize("kappa", [0.05, 0.3])
def test_decay_shrinks_each_mode(kappa):
    """w u = 1 − κ/(η ρ̃), and modes with η ρ̃ < κ are not learnt (docs/theory.md 7)."""
    rates = {"encoder": 0.7, "decoder": 0.7}
    problem = linear(kappa, **rates)
    point = fixed_points(problem, odeae.aligned_state(problem))
    want = np.maximum(1.0 - kappa / (0.7 * RHO), 0.0)[:2]
    assert point.status is OK
    w, u = point.state.spikes.encoder, point.state.spikes.decoder
    assert_allclose(np.diagonal(w * u), want, atol=1e-10)
    assert point.directions.unstable == 0
    both = int(np.all(want > 0))  # two neurons with weights can turn into each other
    assert point.directions[2:4] == (both, both)


def test_noise_shrinks_each_mode():
    """w u = ρ̃/(ρ̃ + s²/D) (docs/theory.md 7), and GL(K) stays a symmetry."""
    problem = linear(noise=0.6)
    point = fixed_points(problem, odeae.aligned_state(problem))
    product = np.diagonal(point.state.spikes.encoder * point.state.spikes.decoder)
    assert_allclose(product, RHO[:2] / (RHO[:2] + 0.2), rtol=1e-10)
    assert point.directions[2:4] == (4, 4)


def test_a_frozen_encoder_stays():
    """With lr_encoder = 0 the decoder is a regression: u = ρ̃ w Q⁻¹, its rates those of Q."""
    problem, w = linear(encoder=0.0), np.random.default_rng(0).normal(size=(3, 2))
    point = fixed_points(problem, made(problem, w, np.zeros((3, 2))))
    Q = w.T @ (RHO[:, None] * w)
    assert_array_equal(point.state.spikes.encoder, w)
    assert_allclose(point.state.spikes.decoder, RHO[:, None] * w @ np.linalg.inv(Q), rtol=1e-9)
    assert point.directions == (0, 6, 0, 0, 6)
    want = np.sort(np.repeat(-np.linalg.eigvalsh(Q), 3))
    assert_allclose(np.sort(point.eigenvalues.real), want, rtol=1e-9)


def hessian_spectrum(problem, point, rates):
    """Eigenvalues of −η ∂²e/∂y², by falling real part, from the error alone."""
    network, state = problem.autoencoder, point.state
    parts = ["decoder"] if network.tied else ["encoder", "decoder"]
    values = [jnp.asarray(getattr(state.spikes, part)) for part in parts]
    shape, size = values[0].shape, values[0].size

    def error(y):
        rows = [y[i * size : (i + 1) * size].reshape(shape) for i in range(len(parts))]
        return problem.error(made_rows(state, rows[0], rows[-1]))

    y = np.concatenate([np.ravel(v) for v in values])
    # The gradient of aligned ReLU neurons has θ|θ| in it: first order in h, so extrapolate.
    gradient = jax.jit(jax.grad(error))
    coarse, fine = (finite_differences(gradient, y, h) for h in (1e-6, 5e-7))
    H = 2.0 * fine - coarse
    scaled = -np.repeat(rates, size)[:, None] * H
    return np.sort(np.linalg.eigvals(scaled).real)[::-1]


def made_rows(state, w, u):
    return dataclasses.replace(state, spikes=odeae.Modes(w, u, state.spikes.output))


CASES = {
    "linear, unequal rates": (lambda: linear(encoder=2.0, decoder=0.5), [2.0, 0.5]),
    "erf, tied": (tied, [1.0]),
    "relu": (lambda: odeae.Problem(SPECTRUM, odeae.Autoencoder(2, "relu")), [1.0, 1.0]),
}


@pytest.mark.sampled
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "relu")) for n in CASES]
)
def test_spectrum_is_that_of_the_hessian(name):
    """Plain SGD is gradient flow on e (docs/theory.md 4)."""
    make, rates = CASES[name]
    problem = make()
    std = (None, 2.0) if problem.autoencoder.tied else (0.7, 0.7)
    for seed in (0, 1):
        point = fixed_points(problem, odeae.random_state(problem, *std, seed=seed))
        assert point.status is OK, point
        want = hessian_spectrum(problem, point, rates)
        assert_allclose(point.eigenvalues.real, want, atol=1e-6)
        assert_array_equal(point.eigenvalues.imag, 0.0)
        d = point.directions
        assert d[:3] == (np.sum(want > 1e-6), np.sum(want < -1e-6), np.sum(np.abs(want) < 1e-6))
        assert d.symmetric <= d.flat
        assert point.error == pytest.approx(float(problem.error(point.state)), rel=1e-12)


DRIFTS = {
    "Oja": lambda u: RHO[:, None] * u - u @ (u.T @ (RHO[:, None] * u)),
    "Sanger": lambda u: RHO[:, None] * u - u @ np.tril(u.T @ (RHO[:, None] * u)).T,
}


def finite_differences(f, u, h=1e-5):
    columns = []
    for i in range(u.size):
        step = np.zeros(u.size)
        step[i] = h
        step = step.reshape(u.shape)
        columns.append(((f(u + step) - f(u - step)) / (2.0 * h)).ravel())
    return np.array(columns).T


@pytest.mark.parametrize("rule", DRIFTS)
@pytest.mark.parametrize("chosen", [(0, 1), (0, 2), (1, 2), (1,), ()])
def test_oja_and_sanger(rule, chosen):
    """Unit eigenvectors: for the subspace rule in any rotation, for Sanger's as they are."""
    problem = tied("linear", getattr(odeae, rule)())
    u = np.zeros((3, 2))
    u[list(chosen), range(len(chosen))] = 1.0
    if rule == "Oja":
        u = u @ np.array([[0.6, -0.8], [0.8, 0.6]])
    point = fixed_points(problem, made(problem, u, u))
    want = np.linalg.eigvals(finite_differences(DRIFTS[rule], u)).real
    assert point.status is OK
    assert_allclose(np.sort(point.eigenvalues.real), np.sort(want), atol=1e-7)
    left_out = [i for i in range(3) if i not in chosen]
    d, flat = len(chosen), {0: 0, 1: 1, 2: 1}[len(chosen)]
    unstable = sum(RHO[j] > RHO[i] for i in chosen for j in left_out) + (2 - d) * (3 - d)
    if rule == "Oja":  # turning neurons into each other changes nothing: O(K)
        assert point.directions[2:4] == (flat, flat)
        assert point.directions.unstable == unstable
    else:
        assert point.directions.symmetric == 0
        assert (point.directions.unstable == 0) == (chosen == (0, 1))


def erf_error(u, rho):
    """One tied erf neuron on one mode (docs/theory.md 8 at α = β = u)."""
    q = rho * u**2
    slope = np.sqrt(2.0 / (np.pi * (1.0 + q)))
    return 0.5 * rho - slope * rho * u**2 + u**2 / np.pi * np.arcsin(q / (1.0 + q))


def test_tied_erf_aligned():
    """Where a mode ends is the root of one equation; at ρ̃ = 1 it leaves 0.042."""

    def slope(u, rho, h=1e-5):
        return (erf_error(u + h, rho) - erf_error(u - h, rho)) / (2.0 * h)

    problem = tied()
    want = [float(brentq(slope, 0.5, 3.0, args=(rho,))) for rho in RHO[:2]]
    point = fixed_points(problem, odeae.aligned_state(problem))
    assert point.status is OK
    assert_allclose(point.state.spikes.decoder[:2], np.diag(want), atol=1e-7)
    left = [erf_error(u, rho) for u, rho in zip(want, RHO, strict=False)]
    assert point.error == pytest.approx(sum(left) + 0.5 * RHO[2], abs=1e-10)
    assert left[0] == pytest.approx(0.042, abs=5e-4)
    assert point.directions.flat == 0  # erf has signs and permutations alone


@pytest.mark.sampled
@pytest.mark.parametrize("name", CASES)
def test_all_weights_zero(name):
    """An exact fixed point, also where q = 0: every neuron can grow along every mode."""
    make, rates = CASES[name]
    problem = make()
    network = problem.autoencoder
    state = odeae.aligned_state(problem, None if network.tied else 0.0, 0.0)
    point = fixed_points(problem, state)
    c = {"Linear": 1.0, "Erf": np.sqrt(2.0 / np.pi), "ReLU": 0.5}[type(network.activation).__name__]
    growth = 2.0 * c * RHO if network.tied else c * RHO * np.sqrt(np.prod(rates))
    want = np.repeat(growth, 2) if network.tied else np.repeat([growth, -growth], 2)
    assert point.status is OK
    assert point.steps <= 1
    assert_allclose(np.sort(point.eigenvalues.real), np.sort(want), rtol=1e-12)
    assert point.error == pytest.approx(0.5 * RHO.sum())
    assert point.directions[:3] == (6, 0 if network.tied else 6, 0)


def test_rotations_among_modes_of_equal_eigenvalue():
    problem = linear(rho=[1.0, 1.0, 0.2])
    u = np.array([[0.6, 0.0], [0.8, 0.0], [0.0, 0.0]])  # one neuron along a mixture of both
    d = fixed_points(problem, made(problem, u, u)).directions
    # GL(2) at rank 1 gives 3; turning within the pair of modes is one more.
    assert (d.flat, d.symmetric) == (4, 4)
    problem = tied(rho=[1.0, 1.0, 0.2])
    one = fixed_points(problem, made(problem, u, u))
    assert one.status is OK
    assert one.directions[2:4] == (1, 1)


def test_relu_scales():
    """w → a w, u → u/a for each neuron, unless there is decay."""
    free = odeae.Problem(SPECTRUM, odeae.Autoencoder(2, "relu"))
    u = np.array([[1.0, -1.0], [0.0, 0.0], [0.0, 0.0]])  # a pair is a linear unit
    point = fixed_points(free, made(free, 2.0 * u, 0.5 * u))
    assert point.error == pytest.approx(0.35, abs=1e-12)
    assert point.directions.symmetric == 2
    assert point.directions.flat >= 2
    held = eqx.tree_at(lambda p: p.rule.weight_decay, free, np.asarray(0.01))
    held = fixed_points(held, made(free, u, u))
    assert held.status is OK
    assert held.directions.symmetric == 0


# Nine equal modes of a bulk: as a bin of four virtual rows, and each on its own.
BULK = np.concatenate([12 * RHO, np.full(9, 0.8)])
W, V = np.random.default_rng(0).normal(size=(2, 2, 12))


@pytest.fixture(scope="module")
def both():
    pair = []
    for spikes in (3, 12):
        spectrum = odeae.Spectrum.from_eigenvalues(BULK, spikes=spikes)
        pair.append(odeae.Problem(spectrum, odeae.Autoencoder(2, "linear")))
    return pair


def aligned_with(problem, rows):
    """State whose neurons lie in the given modes (input order) alone."""
    weights = np.zeros((2, 12))
    weights[range(len(rows)), rows] = 1.0
    return odeae.state_from_weights(problem, weights, np.sqrt(12.0) * weights)


@pytest.mark.parametrize("where", [(), (0,), (0, 1), (0, 5), (4, 5), "random"])
def test_a_bin_counts_all_its_modes(both, where):
    """Virtual rows and those that have no part add up to what all D modes give."""
    starts = [
        odeae.state_from_weights(p, W, V) if where == "random" else aligned_with(p, list(where))
        for p in both
    ]
    lumped, single = (fixed_points(p, s) for p, s in zip(both, starts, strict=True))
    assert lumped.status is single.status is OK
    assert lumped.error == pytest.approx(single.error, abs=1e-9)
    total = np.add(lumped.directions, lumped.bulk_directions)
    assert tuple(total) == single.directions
    assert single.bulk_directions == (0, 0, 0, 0, 0)
    assert single.directions.flat == single.directions.symmetric
    extra = (48 - len(lumped.eigenvalues)) // 4  # modes of the bin that have no part
    values = np.concatenate([lumped.eigenvalues, np.tile(lumped.bulk_eigenvalues[0], extra)])
    assert_allclose(np.sort(values.real), np.sort(single.eigenvalues.real), atol=1e-8)


def test_the_bulk_is_slow(both):
    """Without weights in it, a mode of the bulk grows with ρ/D: it is counted apart."""
    point = fixed_points(both[0], aligned_with(both[0], [0]))
    assert point.directions.unstable == 2
    assert point.bulk_directions == (9, 27, 0, 0, 0)
    assert "saddle with 2 unstable directions and 9 in the bulk" in point.kind
    assert np.max(point.bulk_eigenvalues.real) == pytest.approx(0.8 / 12.0, rel=1e-12)


def test_at_large_dimension_the_encoder_of_the_bulk_is_frozen(both):
    spectrum = odeae.Spectrum.spiked(RHO, 10**12)
    problem = odeae.Problem(spectrum, odeae.Autoencoder(2, "linear"))
    start = odeae.random_state(problem, 0.1, 0.1)
    point = fixed_points(problem, start)
    assert point.status is OK
    assert_array_equal(point.state.bulk.encoder, start.bulk.encoder)
    assert (point.directions.frozen, point.bulk_directions.frozen) == (8, 2 * (10**12 - 3 - 4))
    assert point.bulk_directions.unstable == 0


BIASED = odeae.Autoencoder(2, "linear", bias=True, output_bias=True)
MORE = {
    "both biases": (odeae.Problem(SPECTRUM, BIASED), True),
    # the bias of a neuron without weights is flat as well
    "output bias, decay": (odeae.Problem(SPECTRUM, BIASED, odeae.SGD(weight_decay=0.01)), False),
    "fixed bias": (odeae.Problem(SPECTRUM, BIASED, odeae.SGD(lr_bias=0.0)), True),
    "truncated": (
        odeae.Problem(SPECTRUM, odeae.Autoencoder(2, "linear"), odeae.SGD(truncated=True)),
        True,
    ),
    "tied": (tied("linear"), True),
    # every orthonormal frame is at rest, on whichever modes
    "tied, encoder alone": (tied("linear", odeae.SGD(gradient="encoder")), False),
    "Hebb at its threshold": (tied("linear", odeae.Hebb(weight_decay=1.0)), True),
    "relu, biases": (odeae.Problem(SPECTRUM, odeae.Autoencoder(2, "relu", bias=True)), False),
}


@pytest.mark.sampled
@pytest.mark.parametrize(("encoder", "expected"), [(1.0, 2 * 100 - 3 + 1), (0.0, 100 - 2)])
def test_many_equal_spikes_need_no_generator_for_each_pair(encoder, expected):
    """Orbits of w and u of one linear neuron under O(100), which has 4950 generators.

    It keeps their Gram matrix (3 numbers), and GL(1) moves that; with a fixed encoder, u moves on a
    sphere around it.
    """
    spectrum = odeae.Spectrum.from_eigenvalues(np.full(100, 100.0), spikes=100)
    rule = odeae.SGD(lr_encoder=encoder)
    problem = odeae.Problem(spectrum, odeae.Autoencoder(1, "linear"), rule)
    state = odeae.random_state(problem, 0.5, 5.0, seed=1)
    found = fixed_points(problem, state, max_steps=1)
    assert found.directions.symmetric == expected
    assert found.directions.frozen == (0 if encoder else 100)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_symmetries_are_never_more_than_what_is_flat(name):
    problem, all_of_them = MORE[name]
    network = problem.autoencoder
    stds = (None, 2.0) if network.tied else (0.7, 1.5)
    bias = 0.3 if network.bias else 0.0
    states = [odeae.random_state(problem, *stds, bias=bias, seed=seed) for seed in range(3)]
    found = fixed_points(problem, states, max_steps=300)
    points = [p for p in found if p.status is OK]
    assert points
    for point in points:
        d = point.directions
        assert d.symmetric <= d.flat
        assert not all_of_them or d.symmetric == d.flat
        drift = jax.tree.leaves(problem.drift(point.state))
        assert max(np.max(np.abs(part), initial=0.0) for part in drift) < 1e-9


GENERATORS = {
    "GL(K)": (lambda: linear(), 4),
    "rotations": (lambda: linear(0.1, rho=np.array([1.0, 1.0, 0.2])), 2),
    "scales": (lambda: odeae.Problem(SPECTRUM, odeae.Autoencoder(2, "relu")), 2),
    "b against v_0": (lambda: odeae.Problem(SPECTRUM, BIASED), 6),
}


@pytest.mark.sampled
@pytest.mark.parametrize("name", GENERATORS)
def test_generators_leave_a_fixed_point_at_rest(name):
    make, count = GENERATORS[name]
    problem = make()
    start = odeae.random_state(problem, 0.7, 0.7, bias=0.3 * problem.autoencoder.bias, seed=1)
    point = fixed_points(problem, start)
    equations = equations_of(problem)
    rows = np.asarray(columns_of(problem.autoencoder, point.state.rows))
    columns, pairs, _ = turned_rows(equations, rows, np.arange(3))
    bias = np.asarray(point.state.bias)
    tangents = symmetry_tangents(problem, equations, columns, bias, pairs)
    assert len(tangents) == count
    y, drift = equations.layout.pack(point.state), eqx.filter_jit(linearisation._drift)
    for tangent in tangents:
        moved = drift(y + 1e-5 * tangent, equations) - drift(y - 1e-5 * tangent, equations)
        assert_allclose(moved / 2e-5, 0.0, atol=1e-6)


def test_no_fixed_point_is_data():
    """Untied erf has none: its valley falls off to infinite decoders (docs/theory.md 8)."""
    problem = odeae.Problem(odeae.Spectrum.spiked([1.0], 1), odeae.Autoencoder(1))
    point = fixed_points(problem, odeae.aligned_state(problem), max_steps=50)
    assert point.status is FixedPointStatus.BUDGET
    assert point.steps == 50
    assert "larger `max_steps`" in point.status.message()
    assert point.kind == "no fixed point"
    assert point.residual > 1e-10
    assert point.state.spikes.decoder[0, 0] > odeae.aligned_state(problem).spikes.decoder[0, 0]
    assert "no fixed point" in repr(point)


def test_what_is_not_finite_says_so():
    problem = tied()
    point = fixed_points(problem, made(problem, *2 * [np.full((3, 2), 1e200)]))
    assert point.status is FixedPointStatus.NONFINITE
    assert np.all(np.isnan(point.eigenvalues))
    assert point.directions == (0, 0, 0, 0, 0)
    assert point.kind == "no fixed point"


@pytest.mark.slow
@pytest.mark.parametrize("decoder", [0.7, 0.8])
def test_beyond_the_quadrature(decoder):
    """The fixed point is at q = 1.66: from within the search ends at the border, else at once."""
    problem = tied(odeae.Quadrature(jnp.tanh, q_max=0.5))
    point = fixed_points(problem, odeae.aligned_state(problem, decoder=decoder), max_steps=200)
    assert point.status is FixedPointStatus.UNRESOLVED
    assert "q_max" in point.status.message()


def test_every_end_has_its_status():
    """In this order: what is not finite is not judged further."""
    status = odeae.analysis.fixed_points._status
    assert status(False, False, False, True) is FixedPointStatus.NONFINITE
    assert status(True, False, False, True) is FixedPointStatus.UNRESOLVED
    assert status(True, True, True, True) is FixedPointStatus.CONVERGED
    assert status(True, True, False, True) is FixedPointStatus.BUDGET
    assert status(True, True, False, False) is FixedPointStatus.STUCK
    lines = [s.message() for s in FixedPointStatus]
    assert len(set(lines)) == 5
    assert all("start" in line or "`" in line for line in lines[1:])  # the remedy


def test_one_several_and_a_leading_axis():
    problem = linear()
    states = [odeae.aligned_state(problem, a, b) for a, b in ((1.0, 1.0), (0.0, 0.0), (2.0, 0.5))]
    listed = fixed_points(problem, states)
    stacked = fixed_points(problem, jax.tree.map(lambda *x: np.stack(x), *states))
    assert isinstance(listed, tuple)
    assert len(stacked) == 3
    for a, b, state in zip(listed, stacked, states, strict=True):
        alone = fixed_points(problem, state)
        for other in (a, b):
            assert eqx.tree_equal(alone, other)


def test_other_numbers_compile_nothing(monkeypatch):
    traced = []
    drift = linearisation.vector_field

    def counted(*args):
        traced.append(1)
        return drift(*args)

    def search(rho, **numbers):  # a shape of its own, so that the first one compiles
        network = odeae.Autoencoder(1, "linear", tied=True)
        spectrum = odeae.Spectrum.spiked(rho, 4, 0.0)
        problem = odeae.Problem(spectrum, network, odeae.Oja(numbers["lr"]), numbers["noise"])
        fixed_points(problem, odeae.aligned_state(problem), tol=numbers["tol"])
        return len(traced)

    monkeypatch.setattr(linearisation, "vector_field", counted)
    first = search([1.0, 0.5, 0.2, 0.1], lr=1.0, noise=0.0, tol=1e-10)
    assert search([0.9, 0.8, 0.7, 0.6], lr=0.3, noise=0.1, tol=1e-8) == first > 0


def test_print():
    problem = linear()
    text = repr(fixed_points(problem, odeae.aligned_state(problem)))
    assert text.startswith("FixedPoint: stable, 4 flat, 4 of them by symmetry\n  error    0.1,")
    assert text.endswith("status   converged")


def test_eigenvalues_of_what_is_not_symmetric_come_in_order():
    values = linearisation.eigenvalues_of(block_diag([[0, 2], [-2, 0]], [[-3]], [[1]]), np.ones(4))
    assert_allclose(values, [1, 2j, -2j, -3], atol=1e-12)


SETUP = """
import jax, numpy as np, odeae
from odeae.analysis.fixed_points import fixed_points
sp = odeae.Spectrum.spiked([1.0, 0.5], 2, 0.0)
ae = odeae.Autoencoder(1, "linear", tied=True)
p = odeae.Problem(sp, ae)
s = odeae.aligned_state(p)
scheduled = odeae.Problem(sp, ae, odeae.SGD(schedule=odeae.CosineSchedule(5.0)))
other = odeae.aligned_state(odeae.Problem(sp, odeae.Autoencoder(2, "linear", tied=True)))
big = odeae.Problem(odeae.Spectrum.power_law(10**4, 1.0, spikes=5000), ae)
"""
GOOD = "fixed_points(p, s)"
BAD = {
    "fixed_points(sp, s)": "`problem` must be an odeae Problem, got Spectrum",
    "fixed_points(p, 1.0)": "`states` must be an odeae State or a list of them, got float",
    "fixed_points(p, None)": "`states` must be an odeae State or a list of them, got NoneType",
    "fixed_points(p, [s, 1.0])": "`states` must be an odeae State or a list of them, got other",
    "fixed_points(p, [])": "`states` must hold at least one State, got an empty list",
    "fixed_points(p, other)": "`state` must have `spikes.encoder` of shape",
    "fixed_points(p, s, tol=0)": "`tol` must be positive, got 0",
    "fixed_points(p, s, tol='a')": "`tol` must hold real numbers, got 'a'",
    "fixed_points(p, s, max_steps=0)": "`max_steps` must be at least 1, got 0",
    "fixed_points(p, s, max_steps=1.5)": "`max_steps` must be a whole number, got 1.5",
    "fixed_points(scheduled, s)": "`problem` must have no learning-rate `schedule`",
    "fixed_points(big, odeae.random_state(big))": "at most 4096 coordinates .* got 5",
    GOOD: "",
}


@pytest.mark.parametrize("line", [line for line in BAD if line != GOOD])
def test_bad_input(said, line):
    plain.named_in_one_line(said[line], BAD[line])


def test_plain_scripts(said):
    """The same with x64 off, where arrays are NumPy's."""
    assert said[GOOD].startswith("no error, but FixedPoint: stable, none flat")


def test_traced_arguments_are_refused():
    problem = linear()
    state = odeae.aligned_state(problem)

    def residual(rate):
        return fixed_points(linear(encoder=rate), state).residual

    with pytest.raises(ValueError, match="`fixed_points` must have concrete arguments"):
        jax.jit(residual)(1.0)
