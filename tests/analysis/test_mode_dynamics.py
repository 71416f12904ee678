"""Maps of the modes: theory, finite weights and samples of the same network must agree."""

import equinox as eqx
import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
from plain import named_in_one_line

import odeae
from odeae.analysis.mode_map import ModeDynamics, estimate_mode_map, mode_map, mode_map_of_weights
from odeae.model.state import Modes, State
from odeae.plotting.modes import plot_mode_dynamics

pytestmark = pytest.mark.sampled

SPIKES = (0.6, 1.0, 0.3)  # not in the order of size
TIMES = np.asarray([0.0, 2.0, 5.0, 10.0])
BIAS = np.asarray([0.4, -0.7])


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def problem(activation="tanh", dim=60, rule=None, noise=0.0, hidden=2, spikes=SPIKES, **network):
    spectrum = odeae.Spectrum.spiked(spikes, dim)
    return odeae.Problem(spectrum, odeae.Autoencoder(hidden, activation, **network), rule, noise)


def weights_of(problem, seed=0):
    rng = np.random.default_rng(seed)
    network, dim = problem.autoencoder, problem.spectrum.dim
    W, V = rng.standard_normal((2, network.hidden, dim))
    v0 = rng.standard_normal(dim) if network.output_bias else None
    return odeae.Weights(W, V, BIAS if network.bias else np.zeros(network.hidden), v0)


# --- the estimate from samples -------------------------------------------------------------------


def correlated(n=40, dim=7, seed=1):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, dim)) @ rng.standard_normal((dim, dim)) + rng.standard_normal(dim)
    return x, rng.standard_normal((dim, dim))


def test_of_a_linear_network_the_estimate_is_its_map_in_the_eigenbasis():
    x, A = correlated()
    spectrum = odeae.Spectrum.from_data(x, spikes=7)
    found = estimate_mode_map(x, x @ A.T + 3.0, spectrum.basis)  # an output bias doesn't matter
    want = np.diag(spectrum.basis.T @ A @ spectrum.basis)
    np.testing.assert_allclose(found.map, want, atol=1e-12)
    np.testing.assert_allclose(found.eigenvalues, spectrum.eigenvalues(), rtol=1e-12)
    assert np.all(
        np.asarray(found.standard_error) > 1e-3
    )  # other samples would have another eigenbasis
    assert found.source == "samples"
    assert found.status is None

    diagonal = spectrum.basis @ np.diag(want) @ spectrum.basis.T
    exact = estimate_mode_map(x, x @ diagonal.T, spectrum.basis)  # any samples show this one's
    np.testing.assert_allclose(exact.map, want, atol=1e-12)
    assert np.all(np.asarray(exact.standard_error) < 1e-12)


def test_without_centring_it_is_what_the_code_of_the_denoising_paper_computes():
    x, A = correlated()
    y = np.tanh(x @ A.T)
    U, S, Vt = np.linalg.svd(x.T @ x)
    want = np.diag(U.T @ (y.T @ x) @ Vt.T) / S  # mean kept, eigenbasis of second moments
    found = estimate_mode_map(x, y, U, centred=False)
    np.testing.assert_allclose(found.map, want, rtol=1e-10)
    assert np.abs(estimate_mode_map(x, y, U).map - want).max() > 1e-2


@pytest.mark.parametrize("centred", [True, False])
def test_standard_errors_are_those_of_white(centred):
    """(XᵀX)⁻¹ Xᵀ diag(e²) X (XᵀX)⁻¹ n/(n − p), with and without an intercept."""
    (x, A), n = correlated(n=9), 9
    y = np.tanh(x @ A.T)
    found = estimate_mode_map(x, y, centred=centred)
    for j in range(7):
        X = np.stack([x[:, j], np.ones(n)][: 1 + centred], axis=1)
        inverse = np.linalg.inv(X.T @ X)
        coefficients = inverse @ X.T @ y[:, j]
        inner = X.T @ np.diag((y[:, j] - X @ coefficients) ** 2) @ X
        covariance = inverse @ inner @ inverse * n / (n - 1 - centred)
        np.testing.assert_allclose(found.map[j], coefficients[0], rtol=1e-9)
        np.testing.assert_allclose(np.asarray(found.standard_error)[j], covariance[0, 0] ** 0.5)


@pytest.mark.parametrize("centred", [True, False])
def test_standard_errors_are_calibrated_for_inputs_that_are_not_gaussian(centred):
    rng, replicates, n = np.random.default_rng(2), 600, 300
    A, scale = rng.standard_normal((5, 5)), np.asarray([3.0, 2.0, 1.0, 0.5, 0.2])
    z = rng.uniform(-(3.0**0.5), 3.0**0.5, (replicates, n, 5))  # independent, of variance 1
    x = scale * z
    found = estimate_mode_map(x, 0.1 * x @ A.T + 3.0 * scale * z**3, centred=centred)
    want = 0.1 * np.diag(A) + 3.0 * 9.0 / 5.0  # ⟨z⁴⟩ = 9/5
    chi2 = np.mean(((found.map - want) / found.standard_error) ** 2, axis=0)  # 1 ± 0.06
    assert np.all((chi2 > 0.8) & (chi2 < 1.25)), chi2


def test_leading_axes_are_networks_and_times():
    x, A = correlated()
    scale = np.asarray([0.0, 0.5, 1.0])
    y = scale[:, None, None] * (x @ A.T)
    found = estimate_mode_map(x, y, times=TIMES[:3])
    assert found.map.shape == np.shape(found.standard_error) == (3, 7)
    for t in range(3):
        np.testing.assert_allclose(found.map[t], estimate_mode_map(x, y[t]).map, atol=1e-14)
    both = estimate_mode_map(
        np.stack([x, 2.0 * x])[:, None], np.stack([y, 2.0 * y]), times=[0, 1, 2]
    )
    np.testing.assert_allclose(both.map, np.stack([found.map] * 2), atol=1e-13)


def test_arrays_of_other_libraries_are_taken_as_they_are():
    class Tensor:
        def __init__(self, values):
            self.values = values

        def __array__(self, dtype=None, copy=None):
            return np.asarray(self.values, dtype)

    x, A = correlated()
    single = (x @ A.T).astype("float32")
    want = estimate_mode_map(x, single).map
    np.testing.assert_array_equal(estimate_mode_map(Tensor(x), Tensor(single)).map, want)
    assert want.dtype == np.float64


X, Y = correlated()[0], correlated(seed=3)[0]
FLAT = np.hstack([X[:, :5], np.zeros((40, 2))])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0], Y), "shapes .n, D. and .*got .7,. and .40, 7."),
        ((X, Y[:, :3]), "shapes .n, D. and .*got .40, 7. and .40, 3."),
        ((X, Y[:39]), "shapes .n, D. and"),
        ((np.stack([X] * 2), np.stack([Y] * 3)), "leading axes of `samples`"),
        ((X[:2], Y[:2]), "`samples` must hold at least 3 of them, got 2"),
        ((np.where(X > 2.0, np.nan, X), Y), "`samples` must be finite, got nan at index"),
        ((X, np.where(Y > 2.0, np.inf, Y)), "`reconstructions` must be finite, got inf"),
        ((X, "x"), "`reconstructions` must hold real numbers"),
        ((X, Y, np.eye(6)), "`basis` must have shape .7, any., got shape .6, 6."),
        ((X, Y, 2.0 * np.eye(7)), "`basis` must have orthonormal columns .* off by 3"),
        ((FLAT, Y), "`samples` must vary along every mode, got no variance in 2 .*index 5"),
        ((FLAT, Y, np.eye(7)[:, 5:]), "no variance in 2 of them .the first at index 0"),
        ((np.ones((40, 7)), Y), "no variance in 7 of them"),
        ((X, Y, None, TIMES), r"must have shape \(…, 4, n, D\) for as many `times`, got \(40, 7\)"),
        ((X, np.stack([Y] * 3), None, TIMES), r"as many `times`, got \(3, 40, 7\)"),
    ],
)
def test_bad_samples_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        estimate_mode_map(*arguments)


def test_modes_without_variance_are_found_in_an_eigenbasis_too():
    rng = np.random.default_rng(5)
    turn = np.linalg.qr(rng.standard_normal((7, 7)))[0]
    x = FLAT @ turn.T
    basis = odeae.Spectrum.from_data(x, spikes=7).basis
    with pytest.raises(ValueError, match=r"no variance in 2 of them .the first at index 5"):
        estimate_mode_map(x, Y, basis)
    assert np.isfinite(estimate_mode_map(x, Y, basis[:, :5]).map).all()


def test_samples_are_not_traced():
    with pytest.raises(ValueError, match="needs concrete samples"):
        jax.jit(lambda y: estimate_mode_map(X, y).map)(Y)


# --- theory against samples ----------------------------------------------------------------------

NETWORKS = {
    "erf": {"bias": True},
    "tanh": {"bias": True},
    "relu": {"bias": True, "output_bias": True},
    "linear": {},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_theory_is_what_samples_show_on_corrupted_and_on_clean_inputs(name):
    case = problem(name, noise=3.0, **NETWORKS[name])
    weights, rng = weights_of(case), np.random.default_rng(6)
    scale, network = np.sqrt(case.spectrum.eigenvalues()), case.autoencoder
    x = rng.standard_normal((20_000, 60)) * scale
    given = x + np.sqrt(3.0) * rng.standard_normal(x.shape)
    corrupted = estimate_mode_map(x, network.output(weights, given))
    clean = estimate_mode_map(x, network.output(weights, x))

    def chi2(estimate, theory):  # of 60 modes: 1 ± 0.18
        return np.mean(((estimate.map - theory) / estimate.standard_error) ** 2)

    theory = mode_map_of_weights(case, weights)
    theory_clean = mode_map_of_weights(case, weights, clean=True)
    assert theory.shape == (60,)
    assert 0.3 < chi2(corrupted, theory) < 1.8
    assert 0.3 < chi2(clean, theory_clean) < 1.8
    if name == "linear":  # whose map no noise changes
        np.testing.assert_allclose(theory, theory_clean, rtol=1e-12)
    else:
        assert chi2(clean, theory) > 2.5


# --- theory --------------------------------------------------------------------------------------


def predicted(spike=1.0, densities=True):
    case = problem("erf", noise=3.0, bias=True, spikes=SPIKES_WITHOUT + spike * np.eye(3)[1])
    state = odeae.random_state(case, 0.5, 3.0, bias=BIAS, seed=1)
    return odeae.predict(case, state, TIMES, densities=densities)


SPIKES_WITHOUT = np.asarray([0.6, 0.0, 0.3])


@pytest.fixture(scope="module")
def curve():
    return predicted()


def test_maps_of_all_modes_sum_to_what_the_error_says_is_explained(curve):
    """e = ½ tr Ω/D − Σ_j ρ̃_j map_j + ½ Σ T0 G."""
    found = mode_map(curve)
    assert found.map.shape == (4, 4)
    np.testing.assert_array_equal(found.multiplicity, [1, 1, 1, 57])
    activation = curve.problem.autoencoder.activation
    G = np.stack([activation.averages(Q, b).G for Q, b in zip(curve.Q1, curve.bias, strict=True)])
    trace = curve.problem.spectrum.trace
    explained = 0.5 * (trace + np.sum(curve.T0 * G, axis=(1, 2))) - curve.error
    shares = found.multiplicity * found.eigenvalues / 60.0
    np.testing.assert_allclose(found.map @ shares, explained, atol=1e-12)
    assert explained[-1] > 0.1


def test_modes_are_the_leading_spikes_and_with_densities_the_bulk(curve):
    found = mode_map(curve)
    leading = mode_map(eqx.tree_at(lambda c: c.densities, curve, None))
    np.testing.assert_allclose(leading.map, found.map[:, :3], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found.eigenvalues, [60.0, 36.0, 18.0, 1.0])
    np.testing.assert_allclose(leading.eigenvalues, [60.0, 36.0, 18.0])
    np.testing.assert_array_equal(leading.multiplicity, [1, 1, 1])
    np.testing.assert_array_equal(found.times, TIMES)
    assert found.status == odeae.Status.OK
    assert found.source == "theory"
    assert isinstance(found.map, np.ndarray)


def test_the_map_of_clean_inputs_has_the_slopes_without_the_noise(curve):
    """For erf without biases c = √(2/π)/√(1+q); with them times exp(−h²/2)."""
    q = np.diagonal(curve.Q1 - 3.0 * curve.Q0, axis1=-2, axis2=-1)
    c = np.sqrt(2.0 / np.pi / (1.0 + q)) * np.exp(-0.5 * curve.bias**2 / (1.0 + q))
    rows = curve.components
    want = np.sum(rows.decoder * c[:, None] * rows.encoder, axis=-1)
    np.testing.assert_allclose(mode_map(curve, clean=True).map[:, :3], want, rtol=1e-12)
    assert np.abs(want - mode_map(curve).map[:, :3]).max() > 1e-3


def check_lanes(lanes, inside, alone):
    """Maps of two lanes, taken after a batch and within it, against those of each by itself."""
    outside = mode_map(lanes)
    for found in (inside, outside):
        assert found.map.shape == (2, 4, 4)
        np.testing.assert_allclose(found.eigenvalues[:, :3], [[36, 30, 18], [60, 36, 18]])
        for i in range(2):
            np.testing.assert_allclose(found.map[i], alone[i].map, rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(outside.times, TIMES)


def test_lanes_have_their_own_maps_and_eigenvalues(curve):
    half = predicted(0.5)
    lanes = jax.tree.map(lambda *parts: np.stack(parts), half, curve)
    check_lanes(lanes, jax.vmap(mode_map)(lanes), [mode_map(half), mode_map(curve)])
    traced = jax.jit(lambda c: mode_map(c).map)(curve)
    np.testing.assert_allclose(traced, mode_map(curve).map, rtol=1e-12, atol=1e-15)


@pytest.mark.slow
def test_batches_and_derivatives_go_through_the_solve(curve):
    def both(spike):
        lane = predicted(spike)
        return lane, mode_map(lane)

    lanes, inside = jax.vmap(both)(np.asarray([0.5, 1.0]))
    check_lanes(lanes, inside, [mode_map(predicted(0.5)), mode_map(curve)])
    slope = jax.grad(lambda spike: mode_map(predicted(spike)).map[-1, 0])(1.0)
    near = [mode_map(predicted(1.0 + h)).map[-1, 0] for h in (1e-3, -1e-3)]
    np.testing.assert_allclose(slope, (near[0] - near[1]) / 2e-3, rtol=1e-2)


def test_simulated_weights_have_the_same_map_by_both_functions(curve):
    case = curve.problem
    weights = weights_of(case)
    runs = odeae.simulate(case, None, [0.0, 0.5], runs=2, weights=weights[:3], test_samples=2)
    found, last = mode_map(runs), mode_map_of_weights(case, runs.weights)
    assert found.map.shape == (2, 2, 3)
    assert last.shape == (2, 60)
    assert found.source == "SGD on Gaussian inputs"
    np.testing.assert_allclose(last[:, [1, 0, 2]], found.map[:, -1], rtol=1e-10)
    first = mode_map_of_weights(case, weights[:3])
    np.testing.assert_allclose(first[[1, 0, 2]], found.map[0, 0], rtol=1e-10)
    clean = mode_map_of_weights(case, weights, clean=True)
    np.testing.assert_allclose(clean[[1, 0, 2]], mode_map(runs, clean=True).map[0, 0], rtol=1e-10)
    state = odeae.state_from_weights(case, *weights[:3])
    theory = mode_map(odeae.predict(case, state, TIMES, densities=True))
    np.testing.assert_allclose(theory.map[0], [*first[[1, 0, 2]], first[3:].mean()], rtol=1e-10)


def test_tied_weights_are_given_once():
    case = problem("linear", tied=True, gain=1.5)
    V = weights_of(case).decoder
    want = 1.5 * np.sum(V**2, axis=0) / 60.0  # w = 1.5 v/√D, u = v/√D
    np.testing.assert_allclose(mode_map_of_weights(case, (None, V)), want, rtol=1e-12)


def test_weights_of_runs_on_data_are_turned_into_the_eigenbasis():
    x = np.random.default_rng(7).standard_normal((200, 8)) @ correlated(dim=8)[1]
    case = odeae.Problem(odeae.Spectrum.from_data(x, spikes=8), odeae.Autoencoder(2))
    state = odeae.random_state(case, 0.5, 3.0)
    runs = odeae.simulate(case, state, [0.0, 2.0], runs=2, data=x, test_samples=2)
    last = mode_map_of_weights(case, runs.weights)
    np.testing.assert_allclose(last, mode_map(runs).map[:, -1], rtol=1e-9)
    other = odeae.Problem(odeae.Spectrum(case.spectrum.spikes), case.autoencoder)
    with pytest.raises(ValueError, match="the spectrum has no `basis`"):
        mode_map_of_weights(other, runs.weights)


def test_what_has_no_map_is_refused(curve):
    none = eqx.tree_at(lambda c: (c.densities, c.components), curve, (None, None))
    with pytest.raises(ValueError, match="`trajectory` has no spikes to follow"):
        mode_map(none)
    case = problem("erf")
    for bad in (np.ones((2, 60)), (np.ones((2, 60)),)):
        with pytest.raises(ValueError, match=r"`weights` must be a Checkpoint, Weights or .W, V."):
            mode_map_of_weights(case, bad)
    with pytest.raises(ValueError, match=r"`V` must have shape .2, 60., got shape .2, 50."):
        mode_map_of_weights(case, (np.ones((2, 60)), np.ones((2, 50))))
    big = 100.0 * np.ones((2, 60))
    with pytest.raises(ValueError, match="resolves field variances up to"):
        mode_map_of_weights(problem("tanh"), (big, big))


SETUP = """
import numpy as np
import odeae
from odeae import *
from odeae.analysis.mode_map import *
x = np.random.default_rng(0).standard_normal((9, 3))
problem = odeae.Problem(odeae.Spectrum.spiked([1.0], 3), odeae.Autoencoder(1))
curve = odeae.Trajectory(*[None] * 7)
"""
BAD = {
    "mode_map(x)": "`trajectory` must be a Trajectory, got ndarray",
    "mode_map(curve, clean=0.5)": "`clean` must be True or False, got 0.5",
    "mode_map_of_weights(curve, (x, x))": "`problem` must be an odeae Problem, got Trajectory",
    "mode_map_of_weights(problem, (x, x), clean=1)": "`clean` must be True or False, got 1",
    "mode_map_of_weights(problem, x)": "`weights` must be a Checkpoint, Weights or .W, V., got nd",
    "estimate_mode_map(x, x, centred=1)": "`centred` must be True or False, got 1",
    "plot_mode_dynamics(curve)": "plot_mode_dynamics takes results of mode_map and",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_kinds_are_refused_in_a_plain_script(said, line):
    named_in_one_line(said[line], BAD[line])


# --- what modes do: aligned neurons, without a bulk ----------------------------------------------

LAMBDA, EPS = np.asarray([1.0, 0.6, 0.3]), 0.2
LATE = np.linspace(0.0, 60.0, 61)


def aligned(activation, decay=0.0, eps=0.0, hidden=2, start=0.05):
    """Neuron k on spike k; noise of variance s² = eps D."""
    spectrum = odeae.Spectrum.spiked(LAMBDA, 1000, bulk=1e-9)
    rule = odeae.SGD(weight_decay=decay)
    case = odeae.Problem(spectrum, odeae.Autoencoder(hidden, activation), rule, 1000.0 * eps)
    state = odeae.aligned_state(case, start, start)
    return mode_map(odeae.predict(case, state, LATE, rtol=1e-7)).map[:, :hidden]


def half_times(maps):
    """When each mode passes half of its largest value."""
    return np.asarray(
        [np.interp(0.5 * m.max(), m[: m.argmax()], LATE[: m.argmax()]) for m in maps.T]
    )


def test_linear_modes_follow_their_closed_form():
    """From w = u = a the map a² is logistic; fixed points λ/(λ+ε) and 1 − κ/λ (7)."""
    t = LATE[:, None]
    want = 1.0 / (1.0 + (0.05**-2.0 - 1.0) * np.exp(-2.0 * LAMBDA * t))
    np.testing.assert_allclose(aligned("linear", hidden=3), want, atol=1e-5)
    noise = aligned("linear", eps=EPS, hidden=3)[-1]
    np.testing.assert_allclose(noise, LAMBDA / (LAMBDA + EPS), rtol=1e-5)
    decay = aligned("linear", decay=0.1, hidden=3)[-1]
    np.testing.assert_allclose(decay, 1.0 - 0.1 / LAMBDA, rtol=1e-4)


def test_tanh_modes_are_learnt_one_after_another():
    maps = aligned("tanh")
    assert np.all(np.diff(maps, axis=0) > -1e-9)  # sigmoids
    assert np.all((maps[0] < 0.01) & (maps[-1] > 0.95))
    first, second = half_times(maps)
    assert 1.2 < second / first < 1.0 / 0.6  # 1/λ, less what the decoder takes to rescale


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_tanh_modes_are_learnt_in_the_order_of_eigenvalues_from_random_weights(seed):
    case = odeae.Problem(odeae.Spectrum.spiked(LAMBDA, 1000), odeae.Autoencoder(3, "tanh"))
    state = odeae.random_state(case, 0.05, 0.05, seed=seed)
    maps = mode_map(odeae.predict(case, state, LATE)).map
    assert np.all(np.diff(half_times(maps)) > 1.5)
    assert maps[-1].min() > 0.9


@pytest.mark.slow
def test_denoising_and_decay_do_alike_to_tanh_units_but_decay_is_slower():
    """A linear mode ends the same with ε as with κ = λε/(λ+ε); tanh units need less decay."""
    plain, noise = aligned("tanh"), aligned("tanh", eps=EPS)
    factor = LAMBDA[:2] / (LAMBDA[:2] + EPS)  # of a linear unit
    np.testing.assert_allclose(noise[-1] / plain[-1], factor, rtol=0.01)
    matched = aligned("tanh", decay=factor[1] * EPS)  # of the linear unit on mode 2
    assert matched[-1, 1] < noise[-1, 1] - 0.1  # too much: decay shrinks the decoder as well
    weaker = aligned("tanh", decay=0.08)
    np.testing.assert_allclose(weaker[-1], noise[-1], atol=0.06)
    for maps in (noise, weaker):  # both shrink the weaker mode more
        assert np.diff(maps[-1] / plain[-1])[0] < -0.03
    assert half_times(weaker)[1] > half_times(noise)[1]


def test_a_curve_that_failed_says_so_beside_its_nan():
    case = odeae.Problem(odeae.Spectrum.spiked(LAMBDA, 1000, 1e-9), odeae.Autoencoder(2, "tanh"))
    beyond = odeae.aligned_state(case, 11.0)  # a variance that the quadrature doesn't resolve
    found = mode_map(odeae.predict(case, beyond, LATE, throw=False))
    assert found.status == odeae.Status.UNRESOLVED
    assert np.isnan(found.map[1:]).all()
    with pytest.raises(ValueError, match="nothing of 'theory' finished"):
        plot_mode_dynamics(found)


# --- tanh networks against SGD -------------------------------------------------------------------

CASES = {"plain": {}, "decay": {"decay": 0.1}, "denoising": {"eps": 0.2}}
QUICK = CASES | {"denoising": {"eps": 0.025}}


def against_sgd(dim, runs, times, decay=0.0, eps=0.0):
    """Deviation of runs from theory, averaged over times: three maps and the error, (runs, 4).

    At every D the spikes' rows and the Gram matrix of the bulk are the same. Noise is s² = eps D;
    if that is large, SGD's steps add noise of leading order to the encoder.
    """
    diffusion = eps > 0.1
    case = problem(
        "tanh", dim, odeae.SGD(weight_decay=decay), noise=eps * dim, spikes=tuple(LAMBDA)
    )
    w, u = 0.3 * np.random.default_rng(3).standard_normal((2, 3, 2))
    wide, eye, zero = 1.0 if diffusion else dim**0.5, 0.3 * np.eye(2), np.zeros((2, 2))
    bulk = Modes(np.vstack([wide * eye, zero]), np.vstack([zero, eye]))
    state = State(Modes(w, u), bulk, np.zeros(2))
    theory = odeae.predict(case, state, times, diffusion=diffusion)
    sgd = odeae.simulate(case, state, theory.times, runs=runs, test_samples=2)
    maps = mode_map(sgd).map - mode_map(theory).map
    both = np.concatenate([maps, (sgd.error - theory.error)[..., None]], axis=-1)
    return both.mean(axis=1), mode_map(theory).map, maps


@pytest.mark.parametrize("case", QUICK)
def test_tanh_networks_follow_the_theory(case):
    deviation, theory, maps = against_sgd(200, 8, np.linspace(0.0, 12.0, 61), **QUICK[case])
    error = deviation.std(axis=0, ddof=1) / 8**0.5
    assert np.all(np.abs(deviation.mean(axis=0)) < 4.5 * error + 1.0 / 200)
    assert np.all(error < 0.02)
    assert np.abs(maps.mean(axis=0)).max() < 0.06
    assert theory[-1, 0] > 0.7  # while the first mode is learnt
    assert theory[-1, 1] > 0.2


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_tanh_networks_meet_the_theory_as_dim_grows(case):
    """A straight line in 1/D through the deviations ends at 0 within its standard error."""
    runs_at = {100: 96, 200: 48, 400: 24, 800: 12}
    means, errors = [], []
    for dim, runs in runs_at.items():
        deviation = against_sgd(dim, runs, np.linspace(1.0, 20.0, 20), **CASES[case])[0]
        means.append(deviation.mean(axis=0))
        errors.append(deviation.std(axis=0, ddof=1) / runs**0.5)
    inverse, means, errors = 1.0 / np.asarray([*runs_at]), np.stack(means), np.stack(errors)
    for j in range(4):
        line, cov = np.polyfit(inverse, means[:, j], 1, w=1.0 / errors[:, j], cov="unscaled")
        limit, sigma = line[1], cov[1, 1] ** 0.5
        print(f"{case} {j}: limit {limit:.5f} ± {sigma:.5f}, slope {line[0]:.2f}")
        assert abs(limit) < 3.5 * sigma
        assert sigma < 6e-3
        assert abs(line[0]) < 3.0


# --- the picture ---------------------------------------------------------------------------------


def dynamics(source, shape=(4, 3), **fields):
    values = np.linspace(0.0, 0.9, int(np.prod(shape))).reshape(shape)
    given = {"times": TIMES, "status": np.zeros(shape[:-2], int), **fields}
    return ModeDynamics(
        values, np.asarray([3.0, 2.0, 1.0]), np.ones(3, int), source=source, **given
    )


def test_the_plot_shows_lines_for_theory_and_points_with_errors():
    theory = dynamics("theory")
    runs = dynamics("SGD on Gaussian inputs", (5, 4, 3), status=np.asarray([0, 0, 0, 0, 1]))
    samples = dynamics("samples", status=None, standard_error=np.full((4, 3), 0.1))
    ax = plot_mode_dynamics(theory, runs, samples)
    curves = [line for line in ax.lines if len(line.get_xdata()) == 4]
    for j in range(3):
        np.testing.assert_allclose(curves[j].get_ydata(), theory.map[:, j])
        np.testing.assert_allclose(curves[3 + j].get_ydata(), runs.map[:4, :, j].mean(axis=0))
        np.testing.assert_allclose(curves[6 + j].get_ydata(), samples.map[:, j])
        assert curves[j].get_color() == curves[3 + j].get_color() == f"C{j}"
    assert curves[0].get_marker() == "None"
    bars = [c.lines[2][0].get_segments() for c in ax.containers]
    spread = runs.map[:4, 2, 1].std(ddof=1) / 2.0
    np.testing.assert_allclose(np.diff(bars[1][2][:, 1]), 2.0 * spread)
    np.testing.assert_allclose(np.diff(bars[3][2][:, 1]), 0.2)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == [
        "ρ = 3", "ρ = 2", "ρ = 1", "theory", "SGD on Gaussian inputs, 4 runs", "samples",
    ]  # fmt: skip
    assert ax.get_xscale() == "linear"


def test_the_plot_takes_axes_labels_and_modes():
    ax = plt.subplots()[1]
    late = dynamics("theory", times=np.asarray([0.0, 1.0, 10.0, 100.0]))
    assert plot_mode_dynamics(late, ax=ax, labels=["mine"], modes=[2]) is ax
    assert ax.get_xscale() == "log"
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["ρ = 1", "mine"]
    two = plot_mode_dynamics(late, late, modes=[0]).lines
    assert [line.get_linestyle() for line in two[:2]] == ["-", "--"]
    with pytest.raises(ValueError, match="plot_mode_dynamics takes results of mode_map"):
        plot_mode_dynamics()
    with pytest.raises(ValueError, match="`labels` must have 1 entries, got 2"):
        plot_mode_dynamics(late, labels=["a", "b"])
    with pytest.raises(ValueError, match="without times: give `times` to estimate_mode_map"):
        plot_mode_dynamics(estimate_mode_map(X, Y))
    with pytest.raises(ValueError, match="`modes` must be among 0 … 2, got"):
        plot_mode_dynamics(late, modes=[0, 3])
