"""Gaussian averages against second routes: mpmath at 60 digits, quadrature, automatic derivatives.

Inputs are taken as exact, so no difference is excused by "the determinant was rounded".
"""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
import plain
import pytest
from scipy import special

import odeae
from odeae.averages.activation import mean_slope, overlap
from odeae.averages.closed import Erf, Linear, ReLU
from odeae.averages.quadrature import Quadrature
from odeae.averages.special import bvn_cdf

pytestmark = pytest.mark.sampled

TABLE = json.loads((Path(plain.__file__).parent / "data" / "averages.json").read_text())
TABLE["linear"] = [oracles.averages("linear", point) for point in TABLE["pairs"]]
CLOSED = {"erf": Erf(), "relu": ReLU(), "linear": Linear()}
NAMES = ("c", "c_q", "c_b", "G", "P", "S", "B")
TINY = 1e-290  # below it float64 loses digits by underflow


def matrices(points):
    """Points (q11, q22, q12, b1, b2) as covariances (n, 2, 2) and biases (n, 2)."""
    q1, q2, q12, b1, b2 = np.asarray(points, float).T
    return np.stack([q1, q12, q12, q2], -1).reshape(-1, 2, 2), np.stack([b1, b2], -1)


def exact(name):
    """The 60-digit averages of the table, an array (n, …) for each name."""
    return {key: np.array([row[key] for row in TABLE[name]]) for key in NAMES}


@functools.cache
def computed(name):
    """The averages that odeae gives for the points of the table."""
    return jax.jit(jax.vmap(CLOSED[name].averages))(*matrices(TABLE["pairs"]))


def outer(x, y):
    """x_k y_a."""
    return x[..., :, None] * y[..., None, :]


def scales(name, true, Q, b):
    """Natural sizes of each average: errors are counted in these units.

    c is an integral of a positive function: relative. E[f_1 h_2] of the sigmoidal is at most
    √(E[f_1²] E[h_2²]), all known in closed form, and tiny where the fields are. For ReLU a neuron
    has the size s + max(b, 0); S is the density φ(h)/s of neuron 1 at its kink times the size of
    neuron 2 then, its own or that of the mean that λ_1 = −b_1 brings along.
    """
    q = np.diagonal(Q, axis1=-2, axis2=-1)
    s, one = np.sqrt(q), np.ones_like(q)
    diagonal = lambda x: np.sqrt(np.abs(np.diagonal(x, axis1=-2, axis2=-1)))  # noqa: E731
    if name == "erf":
        c, v = true["c"], 1 + q
        g, slope = diagonal(true["G"]), diagonal(true["P"])
        # g'' = −x g', and g'² is a Gaussian: E[g''²] = E[g'²] (m² + variance) under the tilt
        curve = slope * np.sqrt((b / (1 + 2 * q)) ** 2 + q / (1 + 2 * q))
        c_q, c_b = c * (1 + b * b / v) / (2 * v), np.abs(true["c_b"])
    elif name == "relu":
        h = b / s
        density = np.exp(-0.5 * h * h) / s / np.sqrt(2 * np.pi)
        g, slope, curve = s + np.maximum(b, 0), one, density
        c, c_q, c_b = true["c"], np.abs(true["c_q"]), np.abs(true["c_b"])
    else:
        g, slope, curve, c, c_q, c_b = np.hypot(s, b), one, 0 * one, one, 0 * one, 0 * one
    S = outer(curve, g)
    if name == "relu":
        S = S + (density * np.abs(b) / q)[..., None] * np.abs(Q)
    pairs = {"G": outer(g, g), "P": outer(slope, slope), "S": S, "B": outer(slope, g)}
    return {"c": c, "c_q": c_q, "c_b": c_b} | pairs


def error(value, true, scale):
    """Largest error in units of `scale` and where it is; NaN counts as infinitely wrong."""
    excess = np.abs(np.asarray(value) - true) / np.maximum(scale, TINY)
    excess = np.where(np.isfinite(excess), excess, np.inf)
    return excess.max(), np.unravel_index(excess.argmax(), excess.shape)


def assert_close(value, true, scale, tolerance, points=None, what=""):
    """Assert that `value` is within `tolerance` of `true` in units of `scale`; name the point."""
    worst, where = error(value, true, scale)
    point = None if points is None else points[where[0]]
    got, want = (np.asarray(x)[where] for x in (value, true))
    assert worst < tolerance, f"{what}{where}: {got!r}, not {want!r}; off {worst:.1e} at {point!r}"


# --- The oracles themselves ----------------------------------------------------------------------

MODERATE = [
    (0.7, 3.0, 1.2, 0.3, -1.0),
    (2.0, 0.4, -0.8, 0.0, 0.0),
    (1.3, 1.1, 0.2, -1.5, 0.7),
    (0.2, 5.0, 0.9, 0.4, 2.0),
]


def tanh_and_slopes(x):
    """Return tanh and its first three derivatives."""
    t = np.tanh(x)
    d = 1 - t * t
    return t, d, -2 * t * d, d * (6 * t * t - 2)


def gelu_and_slopes(x):
    """x Φ(x) and its first three derivatives."""
    phi, Phi = np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi), special.ndtr(x)
    return x * Phi, Phi + x * phi, phi * (2 - x * x), phi * x * (x * x - 4)


def erf_and_slopes(x):
    """erf(x/√2) and its first three derivatives."""
    d = np.exp(-0.5 * x * x) * np.sqrt(2 / np.pi)
    return special.erf(x / np.sqrt(2)), d, -x * d, (x * x - 1) * d


def relu_and_slopes(x):
    """ReLU and the step; a density at the kink has no values."""
    return np.maximum(x, 0), np.heaviside(x, 0.5), None, None


def linear_and_slopes(x):
    """x, 1, 0, 0."""
    return x, np.ones_like(x), np.zeros_like(x), np.zeros_like(x)


PLAIN = {
    "erf": erf_and_slopes,
    "relu": relu_and_slopes,
    "linear": linear_and_slopes,
    "tanh": tanh_and_slopes,
    "gelu": gelu_and_slopes,
}


def relu_S(q1, q2, q12, b1, b2):
    """E[δ(λ1 + b1) relu(λ2 + b2)]: the density at the kink times a conditional mean."""
    mean, variance = b2 - q12 / q1 * b1, q2 - q12**2 / q1
    density = np.exp(-b1 * b1 / (2 * q1)) / np.sqrt(2 * np.pi * q1)
    return density * oracles.nested(lambda x: np.maximum(x, 0), [[variance]], [mean], kinked=True)


@pytest.mark.parametrize("point", MODERATE)
@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_of_the_oracle_meet_direct_quadrature(name, point):
    q1, q2, q12, b1, b2 = point
    f, kinked = PLAIN[name], name == "relu"
    C, b = [[q1, q12], [q12, q2]], (b1, b2)
    direct = {
        (i, j): oracles.nested(lambda x, y, i=i, j=j: f(x)[i] * f(y)[j], C, b, kinked)
        for i, j in [(0, 0), (1, 1), (1, 0)] + [(2, 0)] * (not kinked)
    }
    S = relu_S(*point) if kinked else direct[2, 0]
    values = [float(x) for x in oracles.EXACT[name].pair(*point)]
    np.testing.assert_allclose(
        values, [direct[0, 0], direct[1, 1], S, direct[1, 0]], rtol=0, atol=1e-11
    )
    c, c_q, c_b = oracles.EXACT[name].singles(q1, b1)
    mean_c = oracles.nested(lambda x: f(x)[1], [[q1]], [b1], kinked)
    assert abs(float(c) - mean_c) < 1e-11
    by_q = mp.diff(lambda q: oracles.EXACT[name].singles(q, b1)[0], q1)
    by_b = mp.diff(lambda x: oracles.EXACT[name].singles(q1, x)[0], b1)
    assert abs(by_q - c_q) + abs(by_b - c_b) < 1e-15


def test_bvn_oracle_meets_a_conditional_integral():
    for h, k, r in [(0.3, -1.2, 0.6), (-2.0, -1.5, -0.9), (0.0, 1.0, 0.99), (1.0, 1.001, 0.99999)]:
        o = mp.sqrt((1 - mp.mpf(r)) * (1 + mp.mpf(r)))
        inner = lambda x, k=k, r=r, o=o: mp.npdf(x) * mp.ncdf((k - r * x) / o)  # noqa: E731
        cuts = sorted({-14.0, min(h, k / r - 6 * float(o)), min(h, k / r), h})
        with mp.workdps(25):
            direct = mp.quad(inner, cuts)
        assert abs(oracles.bvn_cdf(h, k, r) - direct) < 1e-18


def test_table_holds_what_the_oracles_give():
    rng = np.random.default_rng()  # other entries each time
    for i in rng.choice(len(TABLE["pairs"]), 4, replace=False):
        for name in ("erf", "relu"):
            live = oracles.averages(name, TABLE["pairs"][i])
            for key in NAMES:
                np.testing.assert_allclose(live[key], TABLE[name][i][key], rtol=1e-15, atol=1e-50)
    for i in rng.choice(len(TABLE["bvn"]), 8, replace=False):
        live = float(oracles.bvn_cdf(*TABLE["bvn"][i]))
        np.testing.assert_allclose(live, TABLE["bvn_cdf"][i], rtol=1e-15, atol=1e-50)


# --- Closed forms, everywhere --------------------------------------------------------------------


def test_bvn_cdf():
    h, k, r = np.array(TABLE["bvn"]).T
    value = bvn_cdf(h, k, r)
    assert value.dtype == np.float64
    assert_close(value, np.array(TABLE["bvn_cdf"]), 1.0, 1e-14, TABLE["bvn"])


def test_bvn_cdf_derivatives_are_finite_and_right_where_they_exist():
    h, k, r = np.array(TABLE["bvn"]).T
    gradients = jax.jit(jax.vmap(jax.grad(bvn_cdf, (0, 1, 2))))(h, k, r)
    assert np.all(np.isfinite(gradients))
    inside = np.abs(r) < 1 - 1e-9  # closer to 1, (k − r h)/o in plain float64 is no reference
    h, k, r = h[inside], k[inside], r[inside]
    o = np.sqrt((1 - r) * (1 + r))
    phi = lambda x: np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)  # noqa: E731
    by_h, by_k, by_r = (x[inside] for x in gradients)
    np.testing.assert_allclose(by_h, phi(h) * special.ndtr((k - r * h) / o), rtol=0, atol=1e-10)
    np.testing.assert_allclose(by_k, phi(k) * special.ndtr((h - r * k) / o), rtol=0, atol=1e-10)
    density = phi(h) * phi((k - r * h) / o) / o
    assert_close(by_r, density, (1 + h * h + k * k) / o, 1e-10)


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_meet_mpmath(name):
    Q, b = matrices(TABLE["pairs"])
    true = exact(name)
    scale = scales(name, true, Q, b)
    for key in NAMES:
        got = getattr(computed(name), key)
        assert got.dtype == np.float64
        assert_close(got, true[key], scale[key], 1e-12, TABLE["pairs"], f"{name} {key}")


@pytest.mark.parametrize("name", CLOSED)
def test_no_bias_is_bias_zero(name):
    points = [point for point in TABLE["pairs"] if point[3] == point[4] == 0]
    rows = [i for i, point in enumerate(TABLE["pairs"]) if point[3] == point[4] == 0]
    Q, b = matrices(points)
    true = {key: value[rows] for key, value in exact(name).items()}
    value = jax.jit(jax.vmap(CLOSED[name].averages))(Q)
    scale = scales(name, true, Q, b)
    for key in NAMES:
        assert_close(getattr(value, key), true[key], scale[key], 1e-12, points, f"{name} {key}")


def by_symmetric_point(activation):
    """(G, c) as functions of the five numbers (q11, q22, q12, b1, b2)."""

    def f(point):
        q1, q2, q12, b1, b2 = point
        Q, b = jnp.array([[q1, q12], [q12, q2]]), jnp.array([b1, b2])
        return overlap(activation, Q, b), mean_slope(activation, jnp.array([q1, q2]), b)

    return f


def price(a):
    """Derivatives of (G, c) by (q11, q22, q12, b1, b2) that Price's theorem gives: (…, 2, 2, 5)."""
    G = np.zeros((*a["G"].shape, 5))
    c = np.zeros((*a["c"].shape, 5))
    for k in range(2):
        other = 1 - k
        G[..., k, other, k] = G[..., other, k, k] = a["S"][..., k, other] / 2
        G[..., k, other, 2] = a["P"][..., k, other]
        G[..., k, other, 3 + k] = G[..., other, k, 3 + k] = a["B"][..., k, other]
        G[..., k, k, k] = a["P"][..., k, k] + a["S"][..., k, k]
        G[..., k, k, 3 + k] = 2 * a["B"][..., k, k]
        c[..., k, k], c[..., k, 3 + k] = a["c_q"][..., k], a["c_b"][..., k]
    return G, c


@pytest.mark.parametrize("jacobian", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("name", CLOSED)
def test_first_derivatives_meet_mpmath_everywhere(name, jacobian):
    points = np.array(TABLE["pairs"])
    Q, b = matrices(points)
    true = exact(name)
    derivatives = jax.jit(jax.vmap(jacobian(by_symmetric_point(CLOSED[name]))))(points)
    for got, want, size in zip(
        derivatives, price(true), price(scales(name, true, Q, b)), strict=True
    ):
        assert np.all(np.isfinite(got))
        assert_close(got, want, size, 1e-12, TABLE["pairs"], name)


@pytest.mark.parametrize("name", CLOSED)
def test_values_do_not_depend_on_the_custom_derivative(name):
    Q, b = matrices(TABLE["pairs"])
    scale = scales(name, exact(name), Q, b)
    G = jax.jit(jax.vmap(lambda Q, b: overlap(CLOSED[name], Q, b)))(Q, b)
    c = jax.jit(jax.vmap(lambda Q, b: mean_slope(CLOSED[name], jnp.diagonal(Q), b)))(Q, b)
    assert_close(G, np.array(computed(name).G), scale["G"], 1e-14, TABLE["pairs"])
    assert_close(c, np.array(computed(name).c), scale["c"], 1e-13, TABLE["pairs"])


@pytest.mark.parametrize("name", CLOSED)
def test_all_averages_can_be_differentiated_everywhere(name):
    # the drift is made of them, and a solution that ends with aligned neurons is differentiated
    points = np.array(TABLE["pairs"])

    def f(point):
        q1, q2, q12, b1, b2 = point
        Q = jnp.array([[q1, q12], [q12, q2]])
        return CLOSED[name].averages(Q, jnp.array([b1, b2])), CLOSED[name].averages(Q)

    for derivative in jax.tree.leaves(jax.jit(jax.vmap(jax.jacrev(f)))(points)):
        finite = np.isfinite(derivative).reshape(len(points), -1).all(axis=1)
        assert finite.all(), f"not finite at {points[~finite].tolist()}"


# --- Textbook formulas, differentiated by JAX ----------------------------------------------------
# Price's derivatives are what overlap() uses: plain formulas at generic points keep it honest.

_T, _W = np.polynomial.legendre.leggauss(40)


def plain_bvn(h, k, r):
    """Plackett's integral Φ(h)Φ(k) + ∫₀^r φ2(h, k; t) dt for moderate r."""
    t, w = r * (_T + 1) / 2, r * _W / 2
    o2 = 1 - t * t
    density = jnp.exp(-(h * h + k * k - 2 * t * h * k) / (2 * o2)) / (2 * np.pi * jnp.sqrt(o2))
    return jax.scipy.special.ndtr(h) * jax.scipy.special.ndtr(k) + jnp.sum(w * density)


def erf_overlap(q1, q2, q12, b1, b2):
    """4Φ2 − 2Φ − 2Φ + 1."""
    ndtr = jax.scipy.special.ndtr
    s1, s2 = jnp.sqrt(1 + q1), jnp.sqrt(1 + q2)
    cdf = plain_bvn(b1 / s1, b2 / s2, q12 / (s1 * s2))
    return 4 * cdf - 2 * ndtr(b1 / s1) - 2 * ndtr(b2 / s2) + 1


def relu_overlap(q1, q2, q12, b1, b2):
    """Mean of a product of rectified normals."""
    ndtr, phi = jax.scipy.special.ndtr, jax.scipy.stats.norm.pdf
    s1, s2 = jnp.sqrt(q1), jnp.sqrt(q2)
    h, k, r = b1 / s1, b2 / s2, q12 / (s1 * s2)
    o = jnp.sqrt(1 - r * r)
    at_h, at_k = phi(h) * ndtr((k - r * h) / o), phi(k) * ndtr((h - r * k) / o)
    flat = o / (2 * np.pi) * jnp.exp(-(h * h + k * k - 2 * r * h * k) / (2 * o * o))
    return s1 * s2 * ((h * k + r) * plain_bvn(h, k, r) + h * at_k + k * at_h + flat)


TEXTBOOK = {
    "erf": (
        erf_overlap,
        lambda q, b: jnp.sqrt(2 / np.pi / (1 + q)) * jnp.exp(-b * b / 2 / (1 + q)),
    ),
    "relu": (relu_overlap, lambda q, b: jax.scipy.special.ndtr(b / jnp.sqrt(q))),
    "linear": (lambda q1, q2, q12, b1, b2: q12 + b1 * b2, lambda q, b: 1.0 + 0 * q * b),
}
UNBIASED = {
    "erf": lambda q1, q2, q12: 2 / np.pi * jnp.arcsin(q12 / jnp.sqrt((1 + q1) * (1 + q2))),
    "relu": lambda q1, q2, q12: (
        (jnp.sqrt(q1 * q2 - q12**2) + q12 * (np.pi - jnp.arccos(q12 / jnp.sqrt(q1 * q2))))
        / (2 * np.pi)
    ),
    "linear": lambda q1, q2, q12: q12,
}


def generic_points(number=30):
    """Points of order one, |r| < 0.85."""
    rng = np.random.default_rng(5)
    q1, q2 = 10 ** rng.uniform(-1, 1, (2, number))
    q12 = rng.uniform(-0.85, 0.85, number) * np.sqrt(q1 * q2)
    return np.stack([q1, q2, q12, *rng.normal(0, 1, (2, number))], -1)


@pytest.mark.parametrize("name", CLOSED)
def test_price_theorem_is_the_derivative_of_the_textbook_formula(name):
    points = generic_points()
    G, c = TEXTBOOK[name]
    by = np.array(jax.jit(jax.vmap(jax.grad(lambda p: G(*p))))(points))
    by_q, by_b = jax.vmap(jax.grad(lambda q, b: c(q, b) + 0.0, (0, 1)))(points[:, 0], points[:, 3])
    a = jax.jit(jax.vmap(CLOSED[name].averages))(*matrices(points))
    got = [a.S[:, 0, 1] / 2, a.S[:, 1, 0] / 2, a.P[:, 0, 1], a.B[:, 0, 1], a.B[:, 1, 0]]
    np.testing.assert_allclose(np.stack(got, -1), by, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(a.c_q[:, 0], by_q, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(a.c_b[:, 0], by_b, rtol=1e-11, atol=1e-13)

    by = np.array(jax.vmap(jax.grad(lambda p: UNBIASED[name](*p)))(points[:, :3]))
    a = jax.jit(jax.vmap(CLOSED[name].averages))(matrices(points)[0])
    got = [a.S[:, 0, 1] / 2, a.S[:, 1, 0] / 2, a.P[:, 0, 1]]
    np.testing.assert_allclose(np.stack(got, -1), by, rtol=1e-11, atol=1e-12)


# --- Quadrature ----------------------------------------------------------------------------------


def gelu(x):
    return jax.nn.gelu(x, approximate=False)


def sigmoidal(x):
    return jax.scipy.special.erf(x / np.sqrt(2))


SMOOTH = {"tanh": jnp.tanh, "gelu": gelu, "erf": sigmoidal}


@functools.cache
def quadrature(name):
    """Built once: the checks of the constructor take seconds."""
    return Quadrature(SMOOTH[name])


def smooth_points():
    """q from 1e-6 to 100, |b| up to 10, all correlations, ±1 among them."""
    rng = np.random.default_rng(6)
    biases = [(0, 0), (10, 10), (10, -10), (10, 0.5)]
    points = [[100.0, 100.0, r * 100.0, *b] for r in (0.99, 1, -1) for b in biases]
    for i in range(24):
        q1, q2 = 10 ** rng.uniform(-6, 2, 2)
        near = rng.choice([-1, 1]) * (1 - 10 ** rng.uniform(-12, -1))
        r = [rng.uniform(-1, 1), near, 1, -1][i % 4]
        b = rng.uniform(-10, 10, 2) * rng.choice([0, 0.1, 1], 2)
        points.append([q1, q2, r * np.sqrt(q1 * q2), *b])
    return [[float(x) for x in point] for point in points]


@functools.cache
def smooth_values(name):
    """The averages of `smooth_points`, compiled once."""
    return jax.jit(jax.vmap(quadrature(name).averages))(*matrices(smooth_points()))


PRODUCTS = {"G": (0, 0), "P": (1, 1), "S": (2, 0), "B": (1, 0)}  # orders of the derivatives of g


def brute_force(f, point):
    """All averages, and the root mean square of g of each neuron, by a fine trapezoidal rule."""
    q1, q2, q12, b1, b2 = point
    mean = np.empty((4, 2))  # by order of the derivative, by neuron
    true = {key: np.empty((2, 2)) for key in PRODUCTS}
    for k, (q, b) in enumerate([(q1, b1), (q2, b2)]):
        x, w = oracles.grid((q, q, q), (b, b))
        y = f(x[0])
        mean[:, k] = [w @ u for u in y]
        for key, (i, j) in PRODUCTS.items():
            true[key][k, k] = w @ (y[i] * y[j])
    x, w = oracles.grid((q1, q2, q12), (b1, b2))
    y = f(x[0]), f(x[1])
    for key, (i, j) in PRODUCTS.items():
        true[key][0, 1], true[key][1, 0] = w @ (y[0][i] * y[1][j]), w @ (y[1][i] * y[0][j])
    return true | {"c": mean[1], "c_q": mean[3] / 2, "c_b": mean[2]}


def smooth_scales(Q, G):
    """Natural sizes for a g that bends over a width 1 and whose derivatives are of order 1.

    g itself has the size of its root mean square, or of its swing, min(s, 1), where it is small
    because the neuron is off: the analogue of s for a dead ReLU.
    """
    s = np.sqrt(np.diagonal(Q, axis1=1, axis2=2))
    g = np.maximum(np.sqrt(np.diagonal(G, axis1=1, axis2=2)), np.minimum(s, 1))
    one = np.ones_like(g)
    half, unit = outer(one, g), outer(one, one)
    return {"c": one, "c_q": one, "c_b": one, "G": outer(g, g), "P": unit, "S": half, "B": half}


@pytest.mark.parametrize("name", SMOOTH)
def test_quadrature_meets_brute_force(name):
    points = smooth_points()
    Q, _ = matrices(points)
    value = smooth_values(name)
    expected = [brute_force(PLAIN[name], point) for point in points]
    true = {key: np.array([e[key] for e in expected]) for key in NAMES}
    scale = smooth_scales(Q, true["G"])
    for key in NAMES:
        assert_close(getattr(value, key), true[key], scale[key], 1e-8, points, f"{name} {key}")


@pytest.mark.parametrize("q12", [99.9, -30.0])
def test_brute_force_has_converged(q12):
    coarse, fine = (oracles.grid((100, 100, q12), (0.5, 1.0), step) for step in (1 / 32, 1 / 50))
    for i, j in PRODUCTS.values():
        f = lambda x, y, i=i, j=j: tanh_and_slopes(x)[i] * tanh_and_slopes(y)[j]  # noqa: E731
        assert abs(coarse[1] @ f(*coarse[0]) - fine[1] @ f(*fine[0])) < 1e-11


def test_quadrature_of_erf_meets_its_closed_form():
    Q, b = matrices(smooth_points())
    value, closed = smooth_values("erf"), jax.jit(jax.vmap(Erf().averages))(Q, b)
    scale = smooth_scales(Q, np.array(closed.G))
    for key in NAMES:
        true = np.array(getattr(closed, key))
        assert_close(getattr(value, key), true, scale[key], 1e-8, smooth_points(), key)


def test_equal_quadratures_are_checked_once(caplog):
    def bend(x):
        return jnp.tanh(x)

    with jax.log_compiles():
        odeae.Quadrature(bend, q_max=7.0)
        assert "Compiling jit(all_orders" in caplog.text
        caplog.clear()
        odeae.Quadrature(bend, q_max=np.float64(7.0))
        assert "Compiling" not in caplog.text
        odeae.Quadrature(bend, q_max=8.0)
        assert "Compiling jit(all_orders" in caplog.text


def test_quadrature_without_bias_is_bias_zero():
    Q, b = matrices(smooth_points())
    zero = np.all(b == 0, axis=1)
    none = jax.jit(jax.vmap(quadrature("tanh").averages))(Q[zero])
    for key in NAMES:
        expected = np.array(getattr(smooth_values("tanh"), key))[zero]
        np.testing.assert_allclose(getattr(none, key), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["tanh", "gelu"])
def test_quadrature_obeys_price(name):
    points = np.array(smooth_points())
    derivatives = jax.jit(jax.vmap(jax.jacfwd(by_symmetric_point(quadrature(name)))))(points)
    values = {key: np.array(getattr(smooth_values(name), key)) for key in NAMES}
    for got, want in zip(derivatives, price(values), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def test_slope_is_the_derivative():
    x = np.linspace(-3, 3, 13) + 0.01
    for name, activation in (CLOSED | {k: quadrature(k) for k in SMOOTH}).items():
        g, slope = PLAIN[name](x)[:2]
        np.testing.assert_allclose(activation(x), g, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(activation.slope(x), slope, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("q", [100.1, 1e4, 1e300])
def test_quadrature_names_the_variance_that_it_cannot_resolve(q):
    Q = np.diag([1.0, q])
    with pytest.raises(ValueError, match=r"100") as caught:
        quadrature("tanh").averages(Q)
    assert f"{q:g}" in str(caught.value)
    traced = jax.jit(quadrature("tanh").averages)(Q)
    assert np.isnan(traced.c[1])
    assert np.isnan(traced.G[1]).all()
    assert np.isnan(traced.G[:, 1]).all()


@pytest.mark.parametrize("q_max", [0.01, 0.1, 0.3, 0.5, 1.0, 3.0, 1000.0])
def test_every_q_max_resolves_tanh(q_max):
    """Nodes were once coarsest, in units of the field, where q_max was near one half."""
    act = Quadrature(jnp.tanh, q_max=q_max)
    got = act.averages(np.array([[q_max]])).G[0, 0]
    z = np.linspace(-12, 12, 40001)
    weight = np.exp(-0.5 * z * z)
    expected = np.tanh(np.sqrt(q_max) * z) ** 2 @ weight / weight.sum()
    assert got == pytest.approx(expected, rel=1e-8)


def test_scale_and_q_max_move_together():
    steep = Quadrature(lambda x: jnp.tanh(30 * x), scale=1 / 30, q_max=100 / 900)
    Q, b = matrices(smooth_points())
    a = jax.jit(jax.vmap(steep.averages))(Q / 900, b / 30)
    unit = smooth_values("tanh")
    for key, power in {"c": 1, "c_q": 3, "c_b": 2, "G": 0, "P": 2, "S": 2, "B": 1}.items():
        np.testing.assert_allclose(
            getattr(a, key) / 30**power, getattr(unit, key), rtol=1e-8, atol=1e-12
        )


REFUSED = {
    "relu": jax.nn.relu,
    "abs": jnp.abs,
    "leaky relu": lambda x: jax.nn.leaky_relu(x, 0.1),
    "almost linear": lambda x: jax.nn.leaky_relu(x, 0.9),
    "elu": jax.nn.elu,
    "hard tanh": jax.nn.hard_tanh,
    "relu6": jax.nn.relu6,
    "step": lambda x: jnp.where(x > 0, 1.0, 0.0),
    "sign": jnp.sign,
    "shifted kink": lambda x: jax.nn.relu(x - 2.345),
    "kink in the slope": lambda x: x * jnp.abs(x),
    "softsign": jax.nn.soft_sign,
    "too steep": lambda x: jnp.tanh(30 * x),
}


@pytest.mark.parametrize("name", REFUSED)
def test_quadrature_refuses_what_it_cannot_integrate(name):
    with pytest.raises(ValueError, match=r"smooth|scale|resolve"):
        Quadrature(REFUSED[name])


# --- The paper's App. D --------------------------------------------------------------------------

FIELDS = np.array([[1.2, 0.5, -0.4], [0.5, 0.8, 0.3], [-0.4, 0.3, 2.0]])
APPENDIX = {
    "J2": lambda g, d: lambda x, y: x * g(y),
    "I2": lambda g, d: lambda x, y: g(x) * g(y),
    "I21": lambda g, d: lambda x, y: d(x) * x * y,
    "I22": lambda g, d: lambda x, y: d(x) * y * y,
    "I3": lambda g, d: lambda x, y, z: d(x) * y * g(z),
}


@pytest.mark.parametrize("name", [*CLOSED, "tanh"])
def test_appendix_integrals_meet_direct_quadrature(name):
    activation = CLOSED.get(name) or quadrature(name)
    g, slope = (lambda x, i=i: PLAIN[name](x)[i] for i in (0, 1))
    fields = {integral: FIELDS if integral == "I3" else FIELDS[:2, :2] for integral in APPENDIX}
    values = jax.jit(lambda: {k: getattr(odeae, k)(activation, C) for k, C in fields.items()})()
    for integral, integrand in APPENDIX.items():
        C = fields[integral]
        direct = oracles.nested(integrand(g, slope), C, kinked=name == "relu")
        tolerance = 1e-8 if name == "tanh" else 1e-11
        assert abs(values[integral] - direct) < tolerance, (integral, values[integral], direct)


NOT_COVARIANCES = {
    "[[1.0, 0.5]]": "must",
    "[[-1.0, 0.0], [0.0, 1.0]]": "must have variances ≥ 0, got -1 at (0, 0)",
    "[[1.0, 0.5], [0.1, 1.0]]": "must be symmetric, got 0.5 at (0, 1) and 0.1 at (1, 0)",
    "[[1.0, 5.0], [5.0, 1.0]]": "must have correlations within [−1, 1], got 5 at (0, 1)",
    "[[1.0, math.nan], [math.nan, 1.0]]": "must be finite, got nan at index (0, 1)",
}


def test_what_is_no_covariance_is_refused():
    """Clipping a correlation of 5 to 1 once gave a finite average."""
    calls = {"odeae.Erf().averages({})": "`Q`", "odeae.I2(odeae.ReLU(), {})": "`C`"}
    lines = {
        call.format(matrix): f"{name} {message}"
        for call, name in calls.items()
        for matrix, message in NOT_COVARIANCES.items()
    }
    said = plain.errors("import odeae, math", lines)
    for line, message in lines.items():
        assert said[line].startswith(f"ValueError: {message}")
