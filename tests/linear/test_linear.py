"""Linear autoencoders: closed forms against `predict` and SciPy; critical points; flows."""

import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp
from scipy.optimize import least_squares

import odeae
from odeae import landscape, linear

SPECTRUM = odeae.Spectrum.spiked([1.0, 0.3, 0.6, 0.15], dim=200, bulk=1.0)
TIMES = np.linspace(0.0, 25.0, 26)
EQUAL = np.array([0.1, 0.4, 1.3])


def problem(noise=0.0, network=None, lr=1.0, **options):
    """A problem whose rates are all given, so that `predict` is compiled once."""
    network = odeae.Autoencoder(3, "linear") if network is None else network
    options = {"lr_encoder": lr, "lr_decoder": lr} | options
    return odeae.Problem(SPECTRUM, network, odeae.SGD(lr, **options), noise=noise)


def integrate(times, lam, eps, lr_w, lr_u, w, u, kappa=0.0, tight=1e-12):
    """Modes side by side, by another solver and straight from the drift."""

    def drift(_, y):
        w, u = y.reshape(2, -1)
        left = lam - (lam + eps) * w * u
        return np.concatenate([lr_w * u * left - kappa * w, lr_u * w * left - kappa * u])

    y0 = np.concatenate([w, u])
    run = solve_ivp(drift, (0, times[-1]), y0, "DOP853", times, rtol=tight, atol=1e-3 * tight)
    assert run.success
    return run.y.reshape(2, len(w), -1).transpose(0, 2, 1)


# --- the whole network, against predict

STARTS = {
    "plain": ({}, [0.1, 0.3, -0.2], [0.2, 0.3, 0.3]),
    "denoising": ({"noise": 60.0}, [0.1, 0.0, -0.2], [0.2, 0.3, 0.3]),
    "rates": ({"lr_encoder": 0.4, "lr_decoder": 1.7, "noise": 5.0}, 0.1, [0.1, -1.5, 2.0]),
    "decay": ({"lr": 1.3, "weight_decay": 0.2}, EQUAL, EQUAL),
    "decay, threshold": ({"weight_decay": 0.6}, EQUAL, EQUAL),
    "decay, signs": ({"weight_decay": 0.05}, [0.1, -0.4, 1.3], [0.1, -0.4, -1.3]),
    "decay, noise, rates": (
        {"lr_encoder": 0.5, "lr_decoder": 2.0, "weight_decay": 0.1, "noise": 30.0},
        EQUAL, 2.0 * EQUAL,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STARTS)
def test_predict_equals_the_closed_form(name):
    options, w, u = STARTS[name]
    one = problem(**options)
    curve = linear.aligned_curve(one, TIMES, w, u)
    theory = odeae.predict(one, odeae.aligned_state(one, w, u), TIMES, rtol=1e-10)
    for name, start in (("encoder", w), ("decoder", u)):
        assert_allclose(getattr(curve, name)[0], np.broadcast_to(start, 3), rtol=1e-12)
    assert_allclose(theory.error, curve.error, rtol=0, atol=1e-8)
    assert_allclose(theory.error_clean, curve.error_clean, rtol=0, atol=1e-8)
    rho = np.array([1.0, 0.3, 0.6])

    def diagonal(x):
        return np.diagonal(x, axis1=1, axis2=2)

    assert_allclose(diagonal(theory.T0), curve.decoder**2, rtol=0, atol=1e-8)
    assert_allclose(diagonal(theory.R1), rho * curve.product, rtol=0, atol=1e-8)
    q = (rho + one.noise / 200) * curve.encoder**2
    assert_allclose(diagonal(theory.Q1), q, rtol=0, atol=1e-8)


def test_predict_ends_at_the_fixed_points():
    rho = np.array([1.0, 0.3, 0.6])
    for options, eps, gamma, start in (
        ({"noise": 60.0}, 0.3, 0.0, 0.3),
        ({"weight_decay": 0.4}, 0.0, 0.4, EQUAL),
        ({"weight_decay": 0.2, "noise": 60.0, "lr_encoder": 0.5, "lr_decoder": 2.0}, 0.3, 0.2, 0.3),
    ):
        one = problem(**options)
        state = odeae.aligned_state(one, start, start)
        end = odeae.predict(one, state, np.append(TIMES[:-1], 2000.0), rtol=1e-10).R1[-1]
        want = linear.fixed_point(rho, eps, gamma)
        assert_allclose(np.diag(end) / rho, want, rtol=0, atol=1e-8)


def test_rates_by_default_and_truncation():
    """Both parts have the rate `lr`; aligned neurons are independent, so truncation is nothing."""
    want = linear.aligned_curve(problem(lr=1.3), TIMES, 0.1, 0.2)
    for options in ({}, {"truncated": True}):
        rule = odeae.SGD(1.3, **options)
        one = odeae.Problem(SPECTRUM, odeae.Autoencoder(3, "linear"), rule)
        assert_allclose(linear.aligned_curve(one, TIMES, 0.1, 0.2).error, want.error, rtol=0)


# --- modes, against SciPy


def modes():
    """Modes of every kind of start and network, 15 each."""
    rng = np.random.default_rng(3)
    for kind in ("any", "w = u", "w = -u", "no encoder", "nothing", "no eigenvalue", "still"):
        lam, eps = rng.uniform(0.05, 1.5, 15), rng.choice([0.0, 0.3, 1.0], 15)
        lr_w, lr_u = rng.uniform(0.2, 2.0, (2, 15))
        w, u = rng.uniform(-1.5, 1.5, (2, 15))
        if kind in ("w = u", "w = -u", "still"):
            lr_u, u = lr_w, -w if kind == "w = -u" else w
        if kind in ("no eigenvalue", "still"):
            lam, eps = 0.0 * lam, eps + 0.2
        w = 0.0 * w if kind in ("no encoder", "nothing") else w
        u = 0.0 * u if kind == "nothing" else u
        yield kind, (lam, eps, lr_w, lr_u, w, u)


@pytest.mark.parametrize(("kind", "mode"), [pytest.param(*m, id=m[0]) for m in modes()])
def test_mode_curve_solves_its_equation(kind, mode):
    lam, eps, lr_w, lr_u, w, u = mode
    times = np.linspace(0.0, 4.0 if kind == "w = -u" else 12.0, 13)
    curve = linear.mode_curve(times, lam, w, u, noise=eps, lr_encoder=lr_w, lr_decoder=lr_u)
    encoder, decoder = integrate(times, *mode)
    assert_allclose(curve.encoder, encoder, rtol=0, atol=1e-9)
    assert_allclose(curve.decoder, decoder, rtol=0, atol=1e-9)
    p = encoder * decoder
    assert_allclose(curve.product, p, rtol=0, atol=1e-9)
    assert_allclose(curve.error, 0.5 * (lam * (1 - p) ** 2 + eps * p**2), rtol=0, atol=1e-9)


def test_decayed_mode_curve_solves_its_equation():
    rng = np.random.default_rng(4)
    lam, eps, kappa = rng.uniform(0.05, 1.5, 40), rng.choice([0.0, 0.4], 40), rng.uniform(0, 1, 40)
    lr_w, lr_u = rng.uniform(0.2, 2.0, (2, 40))
    kappa[:5] = (lam * np.sqrt(lr_w * lr_u))[:5]  # at the threshold it falls as 1/t
    p = rng.uniform(-1.5, 1.5, 40)
    p[:5], p[5] = np.abs(p[:5]), 0.0
    w, u = np.sqrt(np.abs(p) * np.sqrt(lr_w / lr_u)), np.sqrt(np.abs(p) * np.sqrt(lr_u / lr_w))
    u = np.sign(p) * u
    times = np.linspace(0.0, 5.0, 11)
    encoder, decoder = integrate(times, lam, eps, lr_w, lr_u, w, u, kappa)
    rates = {"noise": eps, "lr_encoder": lr_w, "lr_decoder": lr_u}
    curve = linear.decayed_mode_curve(times, lam, p, weight_decay=kappa, **rates)
    assert_allclose(curve.encoder, encoder, rtol=0, atol=1e-9)
    assert_allclose(curve.decoder, decoder, rtol=0, atol=1e-9)
    assert_allclose(curve.product, encoder * decoder, rtol=0, atol=1e-9)


def test_the_supplement_lacks_a_factor():
    """E = exp(2 λ ξ t/τ), not exp(2 ξ t/τ) as printed: the latter misses the curve by far."""
    lam, gamma, start = 0.4, 0.1, 0.01
    t = np.linspace(0.0, 30.0, 31)
    xi = 1.0 - gamma / lam
    curve = linear.decayed_mode_curve(t, lam, start, weight_decay=gamma).product
    E, printed = np.exp(2 * lam * xi * t), np.exp(2 * xi * t)
    assert_allclose(curve, xi * E / (E - 1 + xi / start), rtol=1e-13)
    assert np.max(np.abs(curve - xi * printed / (printed - 1 + xi / start))) > 0.5


def test_other_starts_with_decay_are_bessel_functions():
    """What the docstring of `decayed_mode_curve` says of them, at w = 0.1, u = 0.7."""
    lam, eps, kappa, w, u = 0.8, 0.2, 0.1, 0.1, 0.7
    a, h, x0, y0 = lam - kappa, 0.5 * (lam + eps), w + u, u - w
    nu, c = a / (2 * kappa), h * x0 * y0 / (2 * kappa)
    start = (a - h * x0**2) / (2 * kappa)

    def solutions(t):  # s f' and f of both solutions, where the argument has fallen to s
        s = c * mpmath.exp(-2 * kappa * t)
        for f, sign in ((mpmath.besseli, 1), (mpmath.besselk, -1)):
            yield s * sign * (f(nu - 1, s) + f(nu + 1, s)) / 2, f(nu, s)

    (di, i), (dk, k) = solutions(0)
    one, other = dk - start * k, start * i - di  # s f'/f = start at t = 0

    def x_squared(t):
        (di, i), (dk, k) = solutions(t)
        return float((a - 2 * kappa * (one * di + other * dk) / (one * i + other * k)) / h)

    times = np.linspace(0.0, 20.0, 11)
    mode = (np.array([z]) for z in (lam, eps, 1.0, 1.0, w, u))
    encoder, decoder = integrate(times, *mode, kappa=kappa)
    assert_allclose([x_squared(t) for t in times], ((encoder + decoder) ** 2)[:, 0], rtol=1e-9)


# --- what the curves keep

size = st.floats(-2.0, 2.0)
positive = st.floats(0.05, 2.0)


@settings(max_examples=40, deadline=None)
@given(positive, st.floats(0.0, 2.0), positive, positive, size, size)
def test_mode_curves_are_a_flow_that_conserves(lam, eps, lr_w, lr_u, w, u):
    rates = {"noise": eps, "lr_encoder": lr_w, "lr_decoder": lr_u}
    whole = linear.mode_curve([0.0, 0.7, 1.5], lam, w, u, **rates)
    assert_allclose([whole.encoder[0], whole.decoder[0]], [w, u], rtol=0, atol=1e-14)
    conserved = lr_u * whole.encoder**2 - lr_w * whole.decoder**2
    assert_allclose(conserved, lr_u * w**2 - lr_w * u**2, rtol=0, atol=1e-12)
    rest = linear.mode_curve([0.0, 0.3, 0.8], lam, whole.encoder[1], whole.decoder[1], **rates)
    assert_allclose(rest.encoder[2], whole.encoder[2], rtol=0, atol=1e-12)
    assert_allclose(rest.decoder[2], whole.decoder[2], rtol=0, atol=1e-12)
    other = linear.mode_curve([0.0, 0.7, 1.5], lam, -w, -u, **rates)
    assert_allclose(other.encoder, -whole.encoder, rtol=0)
    assert np.all(np.diff(whole.error) <= 1e-14)


def test_long_times_end_at_the_fixed_point():
    lam, eps = np.array([1e-3, 1.0, 50.0]), np.array([1e-3, 0.0, 25.0])
    times = [1e-300, 1.0, 1e6, 1e12]
    for w, u in ((0.1, 0.1), (1e-6, 2.0), (-1.0, 0.9)):
        curve = linear.mode_curve(times, lam, w, u, noise=eps)
        assert_allclose(curve.product[-1], linear.fixed_point(lam, eps), rtol=1e-12)
        assert_allclose(curve.encoder[0], w, rtol=0, atol=1e-15)
    for w, u in ((1e-200, 1e-200), (1e-149, -1e-149 + 1e-164), (0.0, 1e-300)):
        tiny = linear.mode_curve([1e-9, 1000.0], 1.0, w, u)
        assert_allclose([tiny.encoder[0], tiny.decoder[0]], [w, u], rtol=1e-8)
        assert_allclose(tiny.product[1], 1.0, rtol=1e-12)
    down = linear.mode_curve(times, lam, 0.3, -0.3)
    assert_allclose(down.product[2:], 0.0, atol=1e-200)
    decayed = linear.decayed_mode_curve(times, lam, 0.1, weight_decay=2.0, noise=eps)
    assert_allclose(decayed.product[-1], [0.0, 0.0, 48.0 / 75.0], rtol=1e-12)
    decayed = linear.decayed_mode_curve(times, lam, -1.0, weight_decay=2.0)
    assert_allclose(decayed.product[-1], 0.0, atol=1e-200)
    nothing = linear.mode_curve(times, 0.0, 0.3, -0.8)
    assert_allclose([nothing.encoder, nothing.decoder], [[0.3] * 4, [-0.8] * 4], rtol=1e-15)


def test_shapes_broadcast_with_time_in_front():
    curve = linear.mode_curve(TIMES, [1.0, 0.5, 0.2], [[0.1], [0.2]], 0.3)
    assert {x.shape for x in curve} == {(26, 2, 3)}
    assert {(type(x), x.dtype.name) for x in curve} == {(np.ndarray, "float64")}
    one = linear.mode_curve(TIMES, 0.5, 0.2, 0.3)
    assert_allclose(one.encoder, curve.encoder[:, 1, 1], rtol=1e-15)
    decayed = linear.decayed_mode_curve(TIMES, [1.0, 0.5], [[0.1]], weight_decay=0.1)
    assert decayed.product.shape == (26, 1, 2)


def slope(function, at):
    """Central differences."""
    steps = 1e-6 * np.eye(len(at))
    return np.stack([(function(at + h) - function(at - h)) / 2e-6 for h in steps], axis=-1)


def test_curves_have_derivatives():
    def ends(z):  # at η_v = 1 and, where it matters, at w = ±u
        lam, eps, w, u, rate = z
        curve = linear.mode_curve([0.5, 3.0], lam, w, u, noise=eps, lr_encoder=rate)
        return jnp.concatenate([curve.encoder, curve.decoder, curve.error])

    both = jax.jit(ends), jax.jit(jax.jacobian(ends))
    for z in ((1.0, 0.2, 0.1, 0.3, 0.7), (0.7, 0.1, 0.2, 0.2, 1.0), (0.7, 0.1, 0.2, -0.2, 1.0)):
        z = np.array(z)
        assert_allclose(both[1](z), slope(both[0], z), rtol=0, atol=1e-8)

    def of_problem(z):
        return linear.aligned_curve(problem(lr=z[0], noise=z[1]), TIMES, 0.1, 0.2).error

    z = np.array([0.8, 3.0])
    assert_allclose(jax.jacobian(of_problem)(z), slope(of_problem, z), rtol=0, atol=1e-8)

    def decayed(z):
        return linear.decayed_mode_curve([0.5, 3.0], z[0], z[1], weight_decay=z[2]).encoder

    z = np.array([1.0, 0.1, 0.3])
    assert_allclose(jax.jacobian(decayed)(z), slope(decayed, z), rtol=0, atol=1e-8)


# --- fixed points and rates


def test_fixed_points_and_the_equivalence():
    lam, eps = np.array([2.0, 1.0, 0.1]), 0.3
    gamma = linear.equivalent_decay(lam, eps)
    assert_allclose(gamma, lam * eps / (lam + eps))
    assert_allclose(linear.fixed_point(lam, eps), linear.fixed_point(lam, decay=gamma))
    assert_allclose(linear.fixed_point(lam, eps), lam / (lam + eps))
    assert_allclose(linear.fixed_point([1.0, 0.3, 0.2], decay=0.3), [0.7, 0.0, 0.0])
    # From w = u the decayed network is the denoising one, later by a factor w*.
    slow = linear.decayed_mode_curve(TIMES, lam[1], 0.01, weight_decay=gamma[1])
    times = TIMES * lam[1] / (lam[1] + eps)
    noisy = linear.mode_curve(times, lam[1], 0.1, 0.1, noise=eps)
    assert_allclose(slow.product, noisy.product, rtol=1e-12)


@pytest.mark.parametrize(("eps", "gamma"), [(0.4, 0.0), (0.0, 0.2), (0.3, 0.1)])
def test_optimal_rates_are_inverse_curvatures(eps, gamma):
    lam, (w,) = 0.9, (0.95,)

    def loss(z):
        return linear.mode_loss(z[0], z[1], lam, eps, gamma)

    hessian = jax.hessian(loss)(np.array([w, w]))
    values, vectors = np.linalg.eigh(hessian)
    assert_allclose(np.abs(vectors[:, -1]), np.sqrt(0.5))  # along w = u
    assert_allclose(linear.optimal_rate(lam, eps, gamma, product=w**2), 1.0 / values[-1])
    assert_allclose(values[0], lam + gamma - (lam + eps) * w**2)
    at_one = np.linalg.eigvalsh(jax.hessian(loss)(np.ones(2)))[-1]
    assert_allclose(linear.optimal_rate(lam, eps, gamma), 1.0 / at_one)
    assert_allclose(at_one, 2 * lam + 3 * eps + gamma)


def test_optimal_rates_in_discrete_steps():
    """At the fixed point's own rate the last steps converge at once; twice that diverges."""
    lam, eps = 1.0, 0.5
    end = linear.fixed_point(lam, eps)
    printed, own = linear.optimal_rate(lam, eps), linear.optimal_rate(lam, eps, product=end)
    assert_allclose([printed, own], [1 / (2 * lam + 3 * eps), 1 / (2 * lam)])

    def left(rate, steps, start=0.5):
        w = start
        for _ in range(steps):
            w += rate * w * (lam - (lam + eps) * w**2)
        return abs(w**2 - end)

    assert left(own, 7) < 1e-15 < 1e-6 < left(printed, 7)
    assert_allclose(left(printed, 21) / left(printed, 20), 1 - 2 * lam * printed, rtol=1e-3)
    near = np.sqrt(end) + 1e-6
    assert left(1.98 * own, 300, near) < left(0.0, 1, near) < left(2.02 * own, 300, near)


def test_ratio_of_the_optimal_rates():
    lam, eps = np.array([2.0, 0.7, 0.1]), 0.3
    gamma = linear.equivalent_decay(lam, eps)
    ratio = linear.optimal_rate_ratio(lam, eps)
    assert_allclose(ratio, (2 * lam + gamma) / (2 * lam + 3 * eps))
    assert_allclose(ratio, linear.fixed_point(lam, eps))

    def at(*which):
        return linear.optimal_rate(lam, *which, product=0.9)

    assert_allclose(at(eps) / at(0.0, gamma), ratio)
    assert_allclose(linear.optimal_rate_ratio(1.0, 0.5, decay=0.1), 2.1 / 3.5)


# --- the landscape


def covariance(D, seed=0):
    """Eigenvectors at random, eigenvalues at random but apart."""
    rng = np.random.default_rng(seed)
    vectors = np.linalg.qr(rng.standard_normal((D, D)))[0]
    values = 0.3 * np.arange(1, D + 1) + rng.uniform(0, 0.2, D)
    return (vectors * values) @ vectors.T


def of_flat(function, D, d, sigma):
    """A function of (A, B) as one of a flat vector."""
    return lambda z: function(z[: D * d].reshape(D, d), z[D * d :].reshape(d, D), sigma)


def flat(A, B):
    return np.concatenate([np.ravel(A), np.ravel(B)])


@pytest.mark.parametrize(("D", "d"), [(3, 1), (4, 2), (5, 4), (8, 4)])
def test_critical_points_their_losses_and_saddle_indices(D, d):
    sigma = covariance(D, seed=D)
    points = landscape.critical_points(sigma, d)
    assert len({point.components for point in points}) == len(points)
    loss = of_flat(landscape.reconstruction_loss, D, d, sigma)
    measure = jax.jit(jax.vmap(lambda z: (loss(z), jax.grad(loss)(z), jax.hessian(loss)(z))))
    mixing = np.linalg.qr(np.random.default_rng(D).standard_normal((d, d)))[0]
    mixing = mixing @ np.diag(np.linspace(0.7, 1.5, d)) @ np.tri(d)
    for G in (None, mixing):
        weights = (landscape.critical_weights(sigma, p.components, d, G) for p in points)
        losses, slopes, hessians = measure(np.stack([flat(*w) for w in weights]))
        assert_allclose(losses, np.array([p.loss for p in points]), rtol=1e-12, atol=1e-13)
        assert_allclose(slopes, 0.0, atol=1e-11)
        values = np.linalg.eigvalsh(hessians)
        zero = 1e-10 * np.abs(values).max(axis=1, keepdims=True)
        assert np.sum(values < -zero, axis=1).tolist() == [p.negative for p in points]
        assert np.sum(np.abs(values) <= zero, axis=1).tolist() == [p.flat for p in points]
    minima = [point for point in points if point.negative == 0]
    assert minima == points[:1]
    assert minima[0].components == tuple(range(d))
    assert points[-1] == landscape.critical_point(sigma, [], d)


def test_there_are_no_other_critical_points():
    """Wherever a search for zeros of the gradient ends, AB is one of the projectors."""
    D, d, sigma = 4, 2, covariance(4, seed=1)
    loss = of_flat(landscape.reconstruction_loss, D, d, sigma)
    slope, bend = jax.jit(jax.grad(loss)), jax.jit(jax.hessian(loss))
    weights = (
        landscape.critical_weights(sigma, point.components, d)
        for point in landscape.critical_points(sigma, d)
    )
    known = np.stack([w.A @ w.B for w in weights])
    rng, found = np.random.default_rng(0), set()
    for _ in range(60):
        start = rng.uniform(0.3, 1.0) * rng.standard_normal(2 * D * d)
        end = least_squares(slope, start, bend, method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15)
        if np.abs(end.fun).max() > 1e-9:
            continue  # stuck where |gradient|² is at a minimum above 0
        P = end.x[: D * d].reshape(D, d) @ end.x[D * d :].reshape(d, D)
        distance = np.abs(known - P).max(axis=(1, 2))
        assert distance.min() < 1e-4  # the origin is approached slowly
        found.add(int(distance.argmin()))
    assert len(found) >= 6


@pytest.mark.parametrize("eps", [1e-3, 0.3, -1.0, 20.0])
def test_descent_directions_change_the_loss_as_stated(eps):
    D, d, sigma = 6, 3, covariance(6)
    values = np.linalg.eigvalsh(sigma)[::-1]
    for inside in itertools.combinations(range(D), d):
        for j, k in itertools.product(inside, set(range(D)) - set(inside)):
            if k > j:
                continue
            way = landscape.descend(sigma, inside, d, eps, pair=(j, k))
            before = landscape.critical_point(sigma, inside, d).loss
            after = landscape.reconstruction_loss(way.A, way.B, sigma)
            assert_allclose(after - before, way.change, rtol=1e-7, atol=1e-14)
            want = -(eps**2) * (values[k] - values[j]) / (1 + eps**2)
            assert_allclose(way.change, want, rtol=1e-12)
            assert want < 0


def test_descent_puts_free_neurons_to_use_and_takes_the_steepest_pair():
    sigma = covariance(5)
    way = landscape.descend(sigma, [0, 3], 3, 0.2)
    before = landscape.critical_point(sigma, [0, 3], 3).loss
    after = landscape.reconstruction_loss(way.A, way.B, sigma)
    assert_allclose(after - before, way.change)
    values = np.linalg.eigvalsh(sigma)[::-1]
    assert_allclose(way.change, -values[1] * 0.04 * 1.96)
    steepest = landscape.descend(sigma, [0, 2, 4], 3, 0.2)
    assert_allclose(steepest.change, landscape.descend(sigma, [0, 2, 4], 3, 0.2, (4, 1)).change)


# --- flows


def test_flows_are_half_the_gradient():
    rng, sigma = np.random.default_rng(2), covariance(5)
    A, B = rng.standard_normal((5, 3)), rng.standard_normal((3, 5))
    dA, dB = landscape.flow(A, B, sigma)
    slopes = jax.grad(landscape.reconstruction_loss, argnums=(0, 1))(A, B, sigma)
    assert_allclose(dA, -0.5 * slopes[0], rtol=1e-12, atol=1e-13)
    assert_allclose(dB, -0.5 * slopes[1], rtol=1e-12, atol=1e-13)
    change = A.T @ dA + dA.T @ A - B @ dB.T - dB @ B.T
    assert_allclose(change, 0.0, atol=1e-12)
    tied = jax.grad(lambda W: landscape.reconstruction_loss(W.T, W, sigma))(B)
    assert_allclose(landscape.tied_flow(B, sigma, "full"), -0.5 * tied, rtol=1e-12, atol=1e-12)
    dA, dB = landscape.flow(B.T, B, sigma)
    assert_allclose(landscape.tied_flow(B, sigma), dB, rtol=1e-12)
    assert_allclose(landscape.tied_flow(B, sigma, "decoder"), dA.T, rtol=1e-12)


@pytest.mark.parametrize("gradient", ["full", "encoder", "decoder", None])
def test_flows_are_the_drift_of_linear_problems(gradient):
    """In the package's units: Σ = Ω/D, B = W, A = Vᵀ/√D."""
    rho, tied = np.array([1.0, 0.8, 0.5, 0.3, 0.1]), gradient is not None
    rng = np.random.default_rng(5)
    W, V = rng.standard_normal((2, 2, 5))
    spectrum = odeae.Spectrum.from_eigenvalues(5 * rho, spikes=5)
    network = odeae.Autoencoder(2, "linear", tied=tied)
    rule = odeae.SGD(gradient=gradient) if gradient else odeae.SGD()
    one = odeae.Problem(spectrum, network, rule)
    state = odeae.state_from_weights(one, None if tied else W, V)
    drift = one.drift(state).spikes
    A = V.T / np.sqrt(5)
    if gradient:
        want = landscape.tied_flow(A.T, np.diag(rho), gradient)
        assert_allclose(drift.decoder, want.T, rtol=1e-12)
    else:
        dA, dB = landscape.flow(A, W, np.diag(rho))
        assert_allclose(drift.decoder, dA, rtol=1e-12)
        assert_allclose(drift.encoder, dB.T, rtol=1e-12)
    assert_allclose(2 * one.error(state), landscape.reconstruction_loss(
        A, A.T if tied else W, np.diag(rho)))  # fmt: skip


def tied_end(gradient, W, sigma, end=400.0):
    """Where the flow of tied weights ends, and its distance from the top-d subspace, Σ sin²."""
    d = len(W)

    def drift(_, z):
        W = z.reshape(d, -1)
        A, left = W.T, sigma - W.T @ (W @ sigma)
        paths = {"encoder": A.T @ left, "decoder": (left @ W.T).T}
        return (sum(paths.values()) if gradient == "full" else paths[gradient]).ravel()

    W = solve_ivp(drift, (0, end), W.ravel(), "LSODA", rtol=1e-10, atol=1e-12).y[:, -1]
    W = W.reshape(d, -1)
    top = np.linalg.eigh(sigma)[1][:, ::-1][:, :d]
    return W, d - np.trace(np.linalg.pinv(W) @ W @ top @ top.T)


@pytest.mark.parametrize("gradient", ["full", "decoder"])
def test_tied_flow_ends_at_the_top_subspace(gradient):
    for seed in range(6):
        sigma = covariance(6, seed)
        start = np.random.default_rng(seed).standard_normal((3, 6))
        W, missed = tied_end(gradient, start, sigma)
        assert_allclose(W @ W.T, np.eye(3), atol=1e-9)
        assert abs(missed) < 1e-9
        assert_allclose(landscape.tied_flow(W, sigma, gradient), 0.0, atol=1e-9)


def test_the_encoder_path_alone_stops_anywhere():
    """dW = (1 − WWᵀ) WΣ: orthonormal rows stop it, whatever they span; small starts come close."""
    sigma, missed = covariance(6), {}
    for std in (1.0, 1e-2, 1e-6, 1e-9):
        start = std * np.random.default_rng(1).standard_normal((2, 6))
        W, missed[std] = tied_end("encoder", start, sigma)
        assert_allclose(W @ W.T, np.eye(2), atol=1e-9)
        assert_allclose(landscape.tied_flow(W, sigma), 0.0, atol=1e-9)
    assert missed[1.0] > 0.3
    assert missed[1.0] > missed[1e-2] > missed[1e-6] > missed[1e-9]
    assert missed[1e-9] < 1e-3


def test_tied_flow_of_isotropic_inputs_is_gradient_flow_on_the_energy():
    W, lam = np.random.default_rng(6).standard_normal((3, 5)), 0.7
    for gradient, factor in (("encoder", 1), ("decoder", 1), ("full", 2)):
        drift = landscape.tied_flow(W, lam * np.eye(5), gradient)
        slope = jax.grad(landscape.tied_energy)(W, lam)
        assert_allclose(drift, -factor * slope, rtol=1e-12, atol=1e-13)
    lengths = np.sum(W**2, axis=1)
    pairs = sum(np.dot(W[i], W[j]) ** 2 for i, j in ((0, 1), (0, 2), (1, 2)))
    want = lam * (np.sum((1 - lengths) ** 2) / 4 + pairs / 2)
    assert_allclose(landscape.tied_energy(W, lam), want)

    def ordered(W):
        return landscape.tied_energy(W) + 0.5 * jnp.sum(jnp.triu(W @ W.T, 1) ** 2)

    off = landscape.tied_flow(W, np.eye(5)) + jax.grad(ordered)(W)
    assert np.abs(off).max() > 1.0  # with i ≠ j read as ordered pairs it is not the energy


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear.aligned_curve(problem(network=odeae.Autoencoder(3)), [1.0]), '"linear"'),
        (
            lambda: linear.aligned_curve(
                odeae.Problem(SPECTRUM, odeae.Autoencoder(3, "linear", tied=True)), [1.0]
            ),
            "untied weights",
        ),
        (
            lambda: linear.aligned_curve(
                problem(network=odeae.Autoencoder(3, "linear", bias=True)), [1.0]
            ),
            "no biases",
        ),
        (
            lambda: linear.aligned_curve(problem(schedule=odeae.CosineSchedule(end=3.0)), [1.0]),
            "no schedule",
        ),
        (lambda: linear.aligned_curve(problem(lr_encoder=0.0), [1.0]), "`lr_encoder`.*positive"),
        (
            lambda: linear.aligned_curve(problem(weight_decay=0.1), [1.0], 0.1, 0.2),
            "equal up to sign.*0.1 and 0.2 for neuron 0",
        ),
        (lambda: linear.mode_curve([1.0], -1.0), "`eigenvalue` must be ≥ 0, got -1"),
        (lambda: linear.mode_curve([1.0], 1.0, noise=[0.1, -2.0]), "`noise` must be ≥ 0, got -2"),
        (lambda: linear.mode_curve([1.0], [1.0, np.nan]), "`eigenvalue` must be finite.*index 1"),
        (lambda: linear.mode_curve([1.0], "big"), "`eigenvalue` must hold real numbers"),
        (lambda: linear.mode_curve([1.0], [1.0, 2.0], [1.0, 2.0, 3.0]), "must broadcast to one"),
        (lambda: linear.mode_curve([2.0, 1.0], 1.0), "`times` must increase"),
        (lambda: linear.mode_curve([1.0], 1.0, 0.1, 1e60), "`decoder` must be at most 1e50"),
        (lambda: linear.fixed_point(0.0), "`eigenvalue` must be positive, got 0"),
        (lambda: linear.optimal_rate(1.0, product=0.2), "`product` must be above"),
        (
            lambda: landscape.critical_points(np.diag([1.0, 0.5, 0.5]), 1),
            "positive and all different",
        ),
        (lambda: landscape.critical_points(np.diag([1.0, 0.0]), 1), "positive and all different"),
        (lambda: landscape.critical_points(np.eye(2), 3), "`hidden` must be at most 2, got 3"),
        (
            lambda: landscape.critical_points(np.diag(np.arange(1.0, 41.0)), 9),
            "more than 1,000,000",
        ),
        (lambda: landscape.critical_point(covariance(4), [1, 1], 2), "different numbers"),
        (lambda: landscape.critical_point(covariance(4), [1, 2, 3], 2), "at most `hidden` = 2"),
        (lambda: landscape.critical_weights(covariance(4), [1], 2, np.ones((2, 2))), "invertible"),
        (lambda: landscape.descend(covariance(4), [0, 1], 2, 0.1), "no way leads down"),
        (lambda: landscape.descend(covariance(4), [0, 2], 2, 0.1, (0, 1)), r"got \(0, 1\)"),
        (lambda: landscape.descend(covariance(2), [0, 1], 2, 0.1), "no way leads down"),
        (lambda: landscape.flow(np.ones((4, 2)), np.ones((4, 2)), covariance(4)), "`B` must have"),
        (lambda: landscape.tied_flow(np.ones((2, 4)), covariance(4), "enc"), "unknown `gradient`"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_traced_decay_is_refused_where_the_form_depends_on_it():
    def end(kappa):
        return linear.aligned_curve(problem(weight_decay=kappa), [1.0], 0.1, 0.1).error[0]

    with pytest.raises(ValueError, match=r"must not be traced here.*decayed_mode_curve"):
        jax.grad(end)(0.1)
    with pytest.raises(ValueError, match="`covariance` must not be traced"):
        jax.jit(lambda s: landscape.critical_point(s, [0], 1).loss)(covariance(3))
