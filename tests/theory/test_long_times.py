"""The error above PCA without cancellation, and solves over many decades of time."""

import diffrax
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import odeae
from odeae.averages.activation import nonlinear_overlap
from odeae.averages.by_name import activation as by_name
from odeae.base.status import Status
from odeae.model.errors import excess_error
from odeae.model.leading import leading_modes
from odeae.theory.equations import equations_of, vector_field
from odeae.theory.resolvent import by_modes, implicit_steps_pay, resolvent_of
from odeae.theory.rosenbrock import Rodas4, whole_matrix
from odeae.theory.strategy import EXPLICIT_STEPS

pytestmark = pytest.mark.sampled

mp.mp.dps = 60


def one_mode():
    """K = M = 1, erf, ρ̃ = 1, of docs/theory.md 8."""
    spectrum = odeae.Spectrum.spiked([1.0], 10**6, bulk=0.0)
    problem = odeae.Problem(spectrum, odeae.Autoencoder(1))
    return problem, odeae.aligned_state(problem, 1.0, 0.5)


def excess_of(problem, state):
    leading = leading_modes(problem.spectrum, problem.autoencoder.hidden)
    return float(excess_error(problem.autoencoder, problem.inputs, leading, state))


def exactly(rho, multiplicity, w, u, rank):
    """e − e_PCA of an erf network by its definition, with 60 digits."""
    rho = [mp.mpf(float(x)) for x in rho]
    w, u = ([[mp.mpf(float(x)) for x in row] for row in rows] for rows in (w, u))
    K, N = len(w[0]), range(len(rho))
    Q = [[mp.fsum(rho[n] * w[n][k] * w[n][a] for n in N) for a in range(K)] for k in range(K)]
    T0 = [[mp.fsum(u[n][k] * u[n][a] for n in N) for a in range(K)] for k in range(K)]
    R = [mp.fsum(rho[n] * u[n][k] * w[n][k] for n in N) for k in range(K)]
    all_modes = sorted((x for x, m in multiplicity for _ in range(m)), reverse=True)
    kept = mp.fsum(mp.mpf(float(x)) for x in all_modes[:rank])
    c = [mp.sqrt(2 / mp.pi / (1 + Q[k][k])) for k in range(K)]
    pairs = mp.fsum(
        T0[k][a] * 2 / mp.pi * mp.asin(Q[k][a] / mp.sqrt((1 + Q[k][k]) * (1 + Q[a][a])))
        for k in range(K)
        for a in range(K)
    )
    return kept / 2 - mp.fsum(c[k] * R[k] for k in range(K)) + pairs / 2


def almost_learnt(problem, small, seed=0):
    """A state whose encoder is `small` and rotated within the leading modes, decoder the best."""
    rng = np.random.default_rng(seed)
    M, K = len(problem.spectrum.spikes), problem.autoencoder.hidden
    turn = np.linalg.qr(rng.standard_normal((K, K)))[0]
    w = np.zeros((M, K))
    w[np.argsort(-problem.spectrum.spikes)[:K]] = small * turn
    u = w * np.sqrt(np.pi / 2) / small**2
    state = odeae.random_state(problem, 1e-9, 1e-9, seed=seed)
    return odeae.State(odeae.Modes(w, u), state.bulk, np.zeros(K))


@pytest.mark.parametrize("small", [0.3, 0.03, 0.003])
@pytest.mark.parametrize("spikes", [(1.0, 0.6, 0.3), (0.3, 1.0, 0.6)])
def test_excess_keeps_its_digits_where_it_is_tiny(small, spikes):
    problem = odeae.Problem(odeae.Spectrum.spiked(spikes, 20, bulk=0.5), odeae.Autoencoder(2))
    state = almost_learnt(problem, small)
    rows, rho = state.rows, problem.inputs.rho
    count = [(x, 1) for x in rho[:3]] + [(rho[3], 17)]
    exact = exactly(rho, count, np.asarray(rows.encoder), np.asarray(rows.decoder), 2)
    got = excess_of(problem, state)
    assert abs(got / exact - 1) < 1e-11
    assert 0 < got < 10 * small**4


def test_excess_of_one_mode_is_its_closed_form():
    problem, _ = one_mode()
    for alpha, beta in ((1.0, 0.5), (0.03, 41.7), (1e-3, 1253.3), (3.0, 0.2)):
        q = mp.mpf(alpha) ** 2
        y, a, b = q / (1 + q), mp.mpf(alpha), mp.mpf(beta)
        linear = (1 - mp.sqrt(2 / mp.pi / (1 + q)) * a * b) ** 2
        exact = (linear + b**2 * 2 / mp.pi * (mp.asin(y) - y)) / 2
        got = excess_of(problem, odeae.aligned_state(problem, alpha, beta))
        # 1 − cαβ alone has the rounding of 1, so that its square is good to 1e-16/√e
        assert abs(got / exact - 1) < 1e-15 / np.sqrt(float(exact)) + 1e-14


@pytest.mark.parametrize(
    ("network", "noise"),
    [
        ({"activation": "erf"}, 40.0),
        ({"activation": "erf", "bias": True, "output_bias": True}, 0.0),
        ({"activation": "relu"}, 0.0),
        ({"activation": "tanh"}, 3.0),
        ({"activation": "linear", "bias": True, "output_bias": True}, 3.0),
        ({"activation": "erf", "tied": True}, 0.0),
    ],
)
@pytest.mark.parametrize("hidden", [2, 4])
def test_excess_is_error_minus_pca_error(network, noise, hidden):
    spectrum = odeae.Spectrum([0.02, 0.6, 1.0], bulk=[4.0, 1.0], multiplicity=(3, 94))
    problem = odeae.Problem(spectrum, odeae.Autoencoder(hidden, **network), noise=noise)
    options = {} if network.get("tied") else {"encoder_std": 0.4}
    bias = 0.3 if network.get("bias") else 0.0
    state = odeae.random_state(problem, decoder_std=0.4, bias=bias, seed=3, **options)
    floor = float(spectrum.pca_error(hidden))
    assert_allclose(excess_of(problem, state), float(problem.error(state)) - floor, atol=1e-14)


def test_leading_modes_are_those_of_the_pca_error():
    spectrum = odeae.Spectrum([0.02, 0.6, 1.0], bulk=[4.0, 1.0], multiplicity=(3, 94))
    for rank in range(1, 9):
        got = leading_modes(spectrum, rank)
        kept = 0.5 * (np.sum(spectrum.spikes[got.index]) + got.rest)
        assert_allclose(spectrum.pca_error(0) - spectrum.pca_error(rank), kept, atol=1e-15)
    assert_allclose(leading_modes(spectrum, 2).index, [2, 1])
    assert leading_modes(spectrum, 2).rest == 0
    assert_allclose(leading_modes(spectrum, 3).rest, 4.0 / 100 - 0.02)


@pytest.mark.parametrize("activation", ["erf", "relu", "linear"])
def test_nonlinear_overlap_has_the_derivative_of_its_definition(activation):
    g = by_name(activation)
    Q = np.array([[0.5, 0.1], [0.1, 0.3]])
    b = np.array([0.2, -0.1])

    def by_definition(Q, b):
        a = g.averages(Q, b)
        return a.G - a.c[:, None] * a.c[None] * Q

    for bias in (None, b):
        assert_allclose(nonlinear_overlap(g, Q, bias), by_definition(Q, bias), atol=1e-15)
    step = 1e-6
    for dQ, db in ((np.eye(2), 0.0 * b), (np.ones((2, 2)), np.array([1.0, 0.5]))):
        got = jax.jvp(lambda Q, b: nonlinear_overlap(g, Q, b), (Q, b), (dQ, db))[1]
        up, down = (by_definition(Q + s * dQ, b + s * db) for s in (step, -step))
        assert_allclose(got, (up - down) / (2 * step), atol=1e-9)


def test_a_billion_units_of_time():
    """The numbers of docs/theory.md 8."""
    problem, state = one_mode()
    times = np.geomspace(1.0, 1e9, 91)
    curve = odeae.predict(problem, state, times)
    last, before = -1, -11  # a decade
    alpha, beta = np.sqrt(curve.Q1[:, 0, 0]), np.sqrt(curve.T0[:, 0, 0])
    assert_allclose([alpha[last], beta[last]], [0.03039, 41.261], rtol=5e-5)
    assert_allclose(curve.error[last], 7.094e-8, rtol=1e-4)
    assert_allclose(curve.excess[last], 7.09382254e-8, rtol=2e-5)
    finer = odeae.predict(problem, state, times, rtol=1e-8)
    assert_allclose(finer.excess[last], 7.09382254e-8, rtol=2e-7)
    for values, slope in ((alpha, -1 / 6), (beta, 1 / 6), (curve.excess, -2 / 3)):
        assert abs(np.log10(values[last] / values[before]) - slope) < 1e-3
    assert "Rodas4" in curve.settings


def test_long_curves_of_many_modes_are_as_good_as_their_tolerance():
    spectrum = odeae.Spectrum.spiked([1.0, 0.6, 0.3], 1000)
    problem = odeae.Problem(spectrum, odeae.Autoencoder(3))
    state = odeae.random_state(problem)
    times = np.geomspace(1.0, 1e9, 46)
    curve, fine = (odeae.predict(problem, state, times, rtol=rtol) for rtol in (1e-6, 1e-9))
    assert_allclose(curve.excess, fine.excess, rtol=2e-5)
    assert np.all(np.diff(curve.excess) < 0)
    assert curve.excess[-1] < 1e-6 * curve.excess[0]


def power_law(K, count, activation="erf", rule=None, noise=0.0, **network):
    """A problem of which every mode is its own."""
    spectrum = odeae.Spectrum.power_law(count, 1.2, spikes=count)
    return odeae.Problem(spectrum, odeae.Autoencoder(K, activation, **network), rule, noise=noise)


def started(problem):
    return problem, odeae.random_state(problem, 0.2, 0.3, seed=1)


BOTH = {"bias": True, "output_bias": True}
TIED = {"tied": True, "gain": 2.0}
SYSTEMS = {
    "untied": lambda: power_law(3, 8),
    "all options": lambda: power_law(
        2, 8, rule=odeae.SGD(lr_encoder=0.3, weight_decay=0.01), noise=3.0, **BOTH
    ),
    "tied": lambda: power_law(2, 8, noise=1.0, output_bias=True, **TIED),
}
SLOW = {
    "relu": lambda: power_law(2, 8, "relu", **BOTH),
    "tied, one path": lambda: power_law(2, 8, rule=odeae.SGD(gradient="encoder"), **TIED),
    "frozen": lambda: power_law(2, 8, rule=odeae.SGD(lr_decoder=0.0)),
    "truncated": lambda: power_law(
        3, 8, rule=odeae.SGD(truncated=True, schedule=odeae.CosineSchedule(50.0))
    ),
    "Sanger": lambda: power_law(2, 8, "linear", odeae.Sanger(), tied=True),
    "by quadrature": lambda: power_law(2, 8, "tanh", noise=0.5, bias=True),
}


@pytest.mark.parametrize(
    "make",
    [
        *(pytest.param(make, id=name) for name, make in SYSTEMS.items()),
        *(pytest.param(make, id=name, marks=pytest.mark.slow) for name, make in SLOW.items()),
    ],
)
def test_systems_by_modes_are_those_of_the_whole_jacobian(make):
    problem = make()
    equations = equations_of(problem)
    stds = {"decoder_std": 0.3} if problem.autoencoder.tied else {}
    with jax.enable_x64(True):
        start = equations.layout.pack(odeae.random_state(problem, **stds, seed=1))
        r, moved = np.random.default_rng(0).standard_normal((2, *start.shape))
        y = start + 0.3 * moved  # biases, too, are at a general place

        @jax.jit
        def solutions(shift):
            ways = whole_matrix, by_modes
            return [way(vector_field, jnp.asarray(3.0), y, equations, shift)(r) for way in ways]

        for shift in (3.0, 1e-2, 1e-5):
            whole, by = solutions(shift)
            assert_allclose(by, whole, rtol=0, atol=1e-11 * np.max(np.abs(whole)))


def test_which_systems_are_solved_how():
    def of(K, count, diffusion=False, **network):
        equations = equations_of(power_law(K, count, **network), diffusion=diffusion)
        return resolvent_of(equations), implicit_steps_pay(equations)

    assert of(2, 16) == of(20, 20, tied=True) == (whole_matrix, True)
    assert of(2, 17) == of(16, 1800) == of(8, 13_000) == (by_modes, True)
    assert of(2, 17, diffusion=True) == (whole_matrix, True)
    assert of(16, 1900) == of(17, 50) == (by_modes, False)
    assert of(2, 200, diffusion=True) == of(40, 40, tied=True) == (whole_matrix, False)


def test_steps_by_modes_are_right_where_everything_is_learnt():
    """There each mode's own block is singular but for the shift (docs/theory.md 8)."""
    problem, state = one_mode()
    curve = odeae.predict(problem, state, np.array([1e6, 1e9]), solver=Rodas4(by_modes))
    assert_allclose(curve.excess[-1], 7.09382254e-8, rtol=2e-5)


@pytest.mark.slow
def test_implicit_steps_of_many_modes_can_be_mapped_and_differentiated():
    times = [1e3]

    def final(lr_encoder, solver):
        problem = power_law(2, 20, rule=odeae.SGD(lr_encoder=lr_encoder))
        return odeae.predict(*started(problem), times, solver=solver, rtol=1e-8).excess[-1]

    rates = np.array([0.5, 1.0, 2.0])
    each = [final(rate, diffrax.Tsit5()) for rate in rates]
    mapped = jax.jit(jax.vmap(lambda rate: final(rate, Rodas4())))(rates)
    assert_allclose(mapped, each, rtol=1e-6)
    slopes = [
        jax.jit(jax.grad(final), static_argnums=1)(1.0, s) for s in (Rodas4(), diffrax.Tsit5())
    ]
    assert_allclose(*slopes, rtol=1e-5)


def test_implicit_steps_of_many_modes():
    problem, state = started(power_law(2, 40))
    times = np.geomspace(0.1, 1e3, 9)
    explicit = odeae.predict(problem, state, times, rtol=1e-8)
    assert "Rodas4" not in explicit.settings
    implicit = odeae.predict(problem, state, times, rtol=1e-8, solver=Rodas4())
    assert_allclose(implicit.error, explicit.error, rtol=1e-8)
    assert_allclose(implicit.excess, explicit.excess, rtol=1e-6)


@pytest.mark.slow
def test_a_billion_units_of_time_of_many_modes():
    problem, state = started(power_law(3, 100))
    times = np.geomspace(0.1, 1e9, 41)
    curve, fine = (odeae.predict(problem, state, times, rtol=rtol) for rtol in (1e-6, 1e-8))
    assert "Tsit5, Rodas4" in curve.settings
    assert_allclose(curve.excess, fine.excess, rtol=1e-5)
    assert curve.excess[-1] < 1e-6
    small, state = started(power_law(3, 30))
    whole = odeae.predict(small, state, times, solver=Rodas4(lambda *a: whole_matrix(*a)))
    assert_allclose(odeae.predict(small, state, times).excess, whole.excess, rtol=1e-5)


@pytest.mark.slow
def test_an_explicit_solve_hands_over_where_its_steps_are_spent():
    problem, state = one_mode()
    times = np.geomspace(1.0, 1e5, 26)
    parts = odeae.predict(problem, state, times)
    alone = odeae.predict(problem, state, times, solver=diffrax.Tsit5(), throw=False)
    assert alone.status == Status.BUDGET
    reached = np.isfinite(alone.error)
    assert not reached.all()
    assert_allclose(parts.excess[reached], alone.excess[reached], rtol=1e-5)
    assert np.all(np.isfinite(parts.error))
    implicitly = odeae.predict(problem, state, times, solver=Rodas4())
    assert_allclose(parts.excess, implicitly.excess, rtol=2e-5)


def test_a_spent_budget_says_when_and_keeps_its_part():
    problem, state = one_mode()
    times = np.geomspace(1.0, 1e9, 91)
    with pytest.raises(RuntimeError, match=r"stopped at t=\S+: spent its step budget"):
        odeae.predict(problem, state, times, max_steps=EXPLICIT_STEPS + 5)
    part = odeae.predict(problem, state, times, max_steps=EXPLICIT_STEPS + 5, throw=False)
    assert part.status == Status.BUDGET
    assert part.stop_time > 1e3
    assert np.array_equal(np.isfinite(part.excess), times <= part.stop_time)


@pytest.mark.slow
def test_a_sweep_over_long_times_is_that_of_predict():
    times = np.geomspace(1.0, 1e7, 15)

    def build(std):
        problem = odeae.Problem(odeae.Spectrum.spiked([1.0, 0.6], 100), odeae.Autoencoder(2))
        return problem, odeae.random_state(problem, std, std)

    stds = [0.05, 0.1]
    table = odeae.sweep(build, {"std": stds}, times, save="excess")
    assert np.all(table.status == 0)
    for i, std in enumerate(stds):
        alone = odeae.predict(*build(std), times)
        assert_allclose(table.excess.values[i], alone.excess, rtol=1e-6)
    assert_allclose(table.final_excess.values, table.excess.values[:, -1], rtol=1e-12)
