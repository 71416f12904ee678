"""Second routes to the Gaussian averages: mpmath at 60 digits, and plain quadrature in NumPy.

Nothing here imports odeae. The mpmath functions take float64 inputs as exact numbers: a test that
compares with them leaves no room for "the input was rounded". They evaluate the closed forms of
docs/theory.md 3; the NumPy quadrature knows only g, g' and g'' and holds those forms to account.
"""

import mpmath as mp
import numpy as np

mp.mp.dps = 60

# --- Bivariate normal distribution, exact inputs -------------------------------------------------


def _owen_integral(h, angle):
    """∫₀^angle exp(−h²/(2cos²θ)) dθ / 2π, Owen's T(h, tan angle), for 0 ≤ angle ≤ π/2."""
    if angle == 0 or h > 30:  # exp(−450): below anything that Φ2, an O(1) number, can show
        return mp.mpf(0)
    # where the integrand has fallen by exp(−150), further on it only costs digits
    end = min(angle, mp.acos(h / mp.sqrt(h * h + 300))) if h else angle
    f = lambda t: mp.exp(-((h / mp.cos(t)) ** 2) / 2)  # noqa: E731
    return mp.quad(f, [0, end / 2, end]) / (2 * mp.pi)


def _signed_t(x, y):
    """Owen's T(x, y/x), x = 0 read as 0⁺."""
    if x == 0:
        return mp.sign(y) / 4
    sign = mp.sign(x) * mp.sign(y)
    return sign * _owen_integral(abs(x), mp.atan2(abs(y), abs(x)))


def bvn_cdf_given(h, k, r, o, h_given_k, k_given_h):
    """Φ2 from numbers that the caller computed exactly: o = √(1−r²), h_given_k = (h − r k)/o."""
    if o == 0:  # y = ±x
        return mp.ncdf(min(h, k)) if r > 0 else max(mp.ncdf(h) - mp.ncdf(-k), mp.mpf(0))
    if h == 0 and k == 0:
        return mp.mpf(1) / 4 + mp.atan2(r, o) / (2 * mp.pi)
    opposite = (h < 0) != (k < 0)
    half = (mp.ncdf(h) + mp.ncdf(k)) / 2 - mp.mpf(opposite) / 2
    return half - _signed_t(h, k_given_h) - _signed_t(k, h_given_k)


def bvn_cdf(h, k, r):
    """Φ2(h, k; r) of float64 arguments, |r| ≤ 1."""
    h, k, r = mp.mpf(h), mp.mpf(k), mp.mpf(r)
    o = mp.sqrt((1 - r) * (1 + r))
    if o == 0:
        return bvn_cdf_given(h, k, r, o, None, None)
    return bvn_cdf_given(h, k, r, o, (h - r * k) / o, (k - r * h) / o)


# --- The closed forms of theory 3 ---------------------------------------------------------------
# A pair is (q11, q22, q12, b1, b2). Each function returns the averages of neuron 1 with neuron 2:
# singles(q, b) = (c, c_q, c_b), pair(...) = (G, P, S, B).


def _geometry(v1, v2, q12, b1, b2):
    """Return h1, h2, r, o, (h1 − r h2)/o and (h2 − r h1)/o, the last two ±∞ or 0 where o = 0.

    q12² > v1 v2 comes from rounding an exact alignment; the pair is then read as r = ±1.
    """
    s1, s2 = mp.sqrt(v1), mp.sqrt(v2)
    det = max(v1 * v2 - q12 * q12, mp.mpf(0))
    r = q12 / (s1 * s2) if det > 0 else mp.sign(q12)
    h1, h2, o = b1 / s1, b2 / s2, mp.sqrt(det) / (s1 * s2)
    n1 = h1 - r * h2 if det > 0 else b1 * s2 - r * b2 * s1  # the latter is exact for exact roots
    n2 = h2 - r * h1 if det > 0 else b2 * s1 - r * b1 * s2
    over = lambda n: n / o if o else (mp.sign(n) * mp.inf if n else mp.mpf(0))  # noqa: E731
    return h1, h2, r, o, over(n1), over(n2)


class Erf:
    """g(x) = erf(x/√2)."""

    @staticmethod
    def singles(q, b):
        q, b = mp.mpf(q), mp.mpf(b)
        v = 1 + q
        h = b / mp.sqrt(v)
        c = 2 * mp.npdf(h) / mp.sqrt(v)
        return c, -c * (1 - h * h) / (2 * v), -b * c / v

    @staticmethod
    def pair(q1, q2, q12, b1, b2):
        q1, q2, q12, b1, b2 = map(mp.mpf, (q1, q2, q12, b1, b2))
        v1, v2 = 1 + q1, 1 + q2
        h1, h2, r, o, n1, n2 = _geometry(v1, v2, q12, b1, b2)
        if b1 == 0 and b2 == 0:
            G = 2 / mp.pi * mp.asin(r)
        else:
            cdf = bvn_cdf_given(h1, h2, r, o, n1, n2)
            G = 4 * cdf - 2 * mp.ncdf(h1) - 2 * mp.ncdf(h2) + 1
        P = 4 * mp.npdf(h1) * mp.npdf(n2) / (o * mp.sqrt(v1 * v2))
        B = 2 * mp.npdf(h1) / mp.sqrt(v1) * mp.erf(n2 / mp.sqrt(2))
        return G, P, -(b1 * B + q12 * P) / v1, B


class ReLU:
    """g(x) = max(x, 0)."""

    @staticmethod
    def singles(q, b):
        q, b = mp.mpf(q), mp.mpf(b)
        h = b / mp.sqrt(q)
        return mp.ncdf(h), -h * mp.npdf(h) / (2 * q), mp.npdf(h) / mp.sqrt(q)

    @staticmethod
    def pair(q1, q2, q12, b1, b2):
        q1, q2, q12, b1, b2 = map(mp.mpf, (q1, q2, q12, b1, b2))
        s1, s2 = mp.sqrt(q1), mp.sqrt(q2)
        h1, h2, r, o, n1, n2 = _geometry(q1, q2, q12, b1, b2)
        cdf = bvn_cdf_given(h1, h2, r, o, n1, n2)
        at1, at2 = mp.npdf(h1) * mp.ncdf(n2), mp.npdf(h2) * mp.ncdf(n1)
        density = mp.npdf(h1) * mp.npdf(n2)  # o φ2
        G = s1 * s2 * ((h1 * h2 + r) * cdf + h1 * at2 + h2 * at1 + o * density)
        B = s2 * (h2 * cdf + at2 + r * at1)
        mean = (b2 * s1 - r * b1 * s2) / s1  # exactly 0 for a neuron with itself
        S = mp.npdf(h1) / s1 * (mean * mp.ncdf(n2) + s2 * o * mp.npdf(n2))
        return G, cdf, S, B


class Linear:
    """g(x) = x."""

    @staticmethod
    def singles(q, b):
        return mp.mpf(1), mp.mpf(0), mp.mpf(0)

    @staticmethod
    def pair(q1, q2, q12, b1, b2):
        return mp.mpf(q12) + mp.mpf(b1) * mp.mpf(b2), mp.mpf(1), mp.mpf(0), mp.mpf(b2)


EXACT = {"erf": Erf, "relu": ReLU, "linear": Linear}


def averages(name, point):
    """All averages of one pair as floats: c, c_q, c_b of shape (2,) and G, P, S, B of shape (2, 2).

    The diagonal is the pair of a neuron with itself, r = 1.
    """
    q1, q2, q12, b1, b2 = point
    f = EXACT[name]
    rows = [f.singles(q1, b1), f.singles(q2, b2)]
    pairs = [
        [f.pair(q1, q1, q1, b1, b1), f.pair(q1, q2, q12, b1, b2)],
        [f.pair(q2, q1, q12, b2, b1), f.pair(q2, q2, q2, b2, b2)],
    ]
    out = {key: [float(row[i]) for row in rows] for i, key in enumerate(("c", "c_q", "c_b"))}
    for i, key in enumerate("GPSB"):
        out[key] = [[float(pairs[k][a][i]) for a in range(2)] for k in range(2)]
    return out


# --- Plain quadrature, for any g -----------------------------------------------------------------


def grid(q, b, step=1 / 32, reach=9.0):
    """Return fields (2, n) and weights of a trapezoidal rule over the pair (λ1 + b1, λ2 + b2).

    Uniform in whitened coordinates: spectrally accurate for a smooth g that bends over a width
    w as long as step · √q ≪ w. q = (q11, q22, q12).
    """
    q1, q2, q12 = q
    z = np.arange(-reach, reach + step / 2, step)
    w = step * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    s1 = np.sqrt(q1)
    sigma = np.sqrt(max(q2 - (q12 / s1) ** 2, 0.0))
    if sigma < 1e-13 * np.sqrt(q2):  # aligned: one dimension is left
        return np.stack([b[0] + s1 * z, b[1] + q12 / s1 * z]), w
    z1, z2 = np.meshgrid(z, z, indexing="ij")
    fields = np.stack([b[0] + s1 * z1, b[1] + q12 / s1 * z1 + sigma * z2])
    return fields.reshape(2, -1), np.outer(w, w).ravel()


def nested(f, C, b=None, kinked=False, nodes=44):
    """E[f(x_1 + b_1, …, x_n + b_n)] for x ~ N(0, C), one conditional integral inside the other.

    Gauss-Legendre on mean ± 9.5 standard deviations, cut in two at the mean or, if `kinked`, where
    the field changes sign: each piece is then smooth for ReLU and the step.
    """
    t, weight = np.polynomial.legendre.leggauss(nodes)
    L = np.linalg.cholesky(np.asarray(C, float))
    n = len(L)
    z, w = np.zeros((0, 1)), np.ones(1)
    for i in range(n):
        mean = (0.0 if b is None else b[i]) + L[i, :i] @ z
        cut = np.clip(-mean / L[i, i] if kinked else 0 * mean, -9.5, 9.5)
        left, right = (cut + 9.5) / 2, (9.5 - cut) / 2
        new = np.concatenate(
            [
                (cut - 9.5)[:, None] / 2 + left[:, None] * t,
                (cut + 9.5)[:, None] / 2 + right[:, None] * t,
            ],
            axis=1,
        )
        mass = np.concatenate([left[:, None] * weight, right[:, None] * weight], axis=1)
        mass = mass * np.exp(-0.5 * new**2) / np.sqrt(2 * np.pi)
        z = np.concatenate([np.repeat(z, 2 * nodes, axis=1), new.reshape(1, -1)])
        w = (w[:, None] * mass).ravel()
    fields = L @ z + (0.0 if b is None else np.asarray(b)[:, None])
    return float(np.sum(w * f(*fields)))
