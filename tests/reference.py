"""An independent second route to the learning curves: weights, not order parameters.

The package integrates rows of modes with averages from Price's theorem. Here every one of the D
modes of the *unscaled* weights is integrated, and each expected SGD step of docs/theory.md §1 is
taken by conditioning on one field: given λ_k, a second field is Gaussian, its average is an
elementary function of λ_k, and what remains is a one-dimensional integral done by quadrature.
NumPy and SciPy only. The averages are good to 1e-13 for 0 < q_k < 30 and correlations |r| < 0.999
between neurons (erf at q_k = 100: 1e-10); q_k = 0 gives NaN.

Shapes: rho (D,), W and V (K, D) in the eigenbasis, b (K,). λ_k = w_k·x/√D, ν_k = v_k·x/D.
"""

import numpy as np
from scipy.integrate import solve_ivp
from scipy.special import erf, ndtr

_CUT = 9.0  # the standard normal mass beyond is 1e-19
_PANELS = 16  # a composite rule: one panel of many nodes loses digits where erf is steep (q > 10)
_x, _w = np.polynomial.legendre.leggauss(24)
_NODES = ((2 * np.arange(_PANELS)[:, None] + 1 + _x) / _PANELS).ravel()  # on [0, 2]
_WEIGHTS = np.tile(_w / _PANELS, _PANELS)


def _density(y):
    return np.exp(-(y**2) / 2) / np.sqrt(2 * np.pi)


# Each activation: g, g', and the averages of g and g' over a Gaussian of mean m and deviation s.
def _erf(y):
    return erf(y / np.sqrt(2)), 2 * _density(y)


def _erf_mean(m, s):
    root = np.sqrt(1 + s**2)
    return erf(m / (root * np.sqrt(2))), 2 * _density(m / root) / root


def _relu(y):
    return np.maximum(y, 0), (y > 0) * 1.0


def _relu_mean(m, s):
    # s = 0 (a neuron with itself) is the function itself; infinity stands for m/0.
    h = np.divide(m, s, out=np.where(m > 0, np.inf, -np.inf), where=s > 0)
    return m * ndtr(h) + s * _density(h), ndtr(h)


def _linear(y):
    return y, np.ones_like(y)


def _linear_mean(m, s):
    return m + 0 * s, np.ones_like(m)


_ACTIVATIONS = {
    "erf": (_erf, _erf_mean),
    "relu": (_relu, _relu_mean),
    "linear": (_linear, _linear_mean),
}


def _moments(activation, Q1, b):
    """Averages over (λ_k, λ_a), for all pairs at once.

    Single, (K,): ⟨g λ⟩, ⟨g'⟩, ⟨g' λ⟩, ⟨g' λ²⟩. Pairs, (K, K): ⟨g_k g_a⟩, ⟨g'_k g_a⟩,
    ⟨g'_k g_a λ_k⟩, ⟨g'_k g'_a⟩.
    """
    g, g_mean = _ACTIVATIONS[activation]
    q = np.diag(Q1)
    # ReLU is smooth on the half line λ > -b only, and zero (with its slope) on the other.
    low = np.clip(-b / np.sqrt(q), -_CUT, _CUT) if activation == "relu" else np.full_like(q, -_CUT)
    half = (_CUT - low[:, None]) / 2
    z = low[:, None] + half * _NODES
    weight = half * _WEIGHTS * _density(z)  # (K, nodes)
    field = np.sqrt(q)[:, None] * z
    value, slope = g(field + b[:, None])
    single = [weight * value * field] + [weight * slope * field**n for n in range(3)]

    # Given λ_k, λ_a is Gaussian with mean (Q1_ka/q_k) λ_k and variance q_a - Q1_ka²/q_k.
    variance = q[None, :] - Q1**2 / q[:, None]
    np.fill_diagonal(variance, 0.0)
    mean = (Q1 / q[:, None])[..., None] * field[:, None] + b[None, :, None]
    mean_g, mean_slope = g_mean(mean, np.sqrt(np.maximum(variance, 0.0))[..., None])
    pair = [
        np.einsum("kn,kan->ka", weight * left, right)
        for left, right in (
            (value, mean_g),
            (slope, mean_g),
            (slope * field, mean_g),
            (slope, mean_slope),
        )
    ]
    return [s.sum(axis=1) for s in single], pair


def order_parameters(rho, W, V):
    """Q1, R1, T1, T0 of docs/theory.md §1."""
    D = len(rho)
    return (W * rho) @ W.T / D, (V * rho) @ W.T / D**1.5, (V * rho) @ V.T / D**2, V @ V.T / D


def error(activation, rho, W, V, b):
    """e = ⟨‖x − x̂‖²⟩/(2D) = ½ tr Ω/D − Σ_k v_k·⟨g_k x⟩/D + ½ Σ_ka T0_ka ⟨g_k g_a⟩ (§1)."""
    D = len(rho)
    Q1, _, _, T0 = order_parameters(rho, W, V)
    (g_field, *_), (gg, *_) = _moments(activation, Q1, b)
    g_x = (W * rho) / np.sqrt(D) * (g_field / np.diag(Q1))[:, None]  # x = cov(x, λ)/q λ + rest
    return rho.sum() / (2 * D) - np.sum(V * g_x) / D + np.sum(T0 * gg) / 2


def drift(activation, rho, W, V, b, rates=(1.0, 1.0, 0.0), decay=0.0):
    """D × the mean one-step change of (W, V, b) under the SGD of §1, with the weights held fixed.

    Exact at every D: in x, the update is a function of jointly Gaussian fields, and D enters only
    through their covariances. Corrections O(1/D) to a learning curve come from the *noise* of the
    steps. `rates` = (encoder, decoder, bias); `decay` acts on W and V.
    """
    D = len(rho)
    Q1, R1, _, T0 = order_parameters(rho, W, V)
    q, R = np.diag(Q1), np.diag(R1)
    single, pair = _moments(activation, Q1, b)
    g_field, s0, s1, s2 = single  # ⟨g λ⟩, ⟨g'⟩, ⟨g' λ⟩, ⟨g' λ²⟩
    gg, sg, sg_field, ss = pair  # ⟨g_k g_a⟩, ⟨g'_k g_a⟩, ⟨g'_k g_a λ_k⟩, ⟨g'_k g'_a⟩
    x_field = W * rho / np.sqrt(D)  # cov(x, λ_k)
    on_field = x_field / q[:, None]  # regression of x on λ_k
    x_nu = V * rho / D  # cov(x, ν_k)

    # ⟨g_k Δ⟩
    dV = on_field * g_field[:, None] - gg @ V
    # ⟨ν_k g'_k x⟩: both ν_k and x are a part along λ_k plus a rest independent of it.
    nu_x = (R / q * s2)[:, None] * on_field + (x_nu - R[:, None] * on_field) * s0[:, None]
    # ⟨g'_k g_a x⟩: the rest of x is correlated with the rest of λ_a; Stein's lemma there.
    along = np.sum(T0 * (sg_field - Q1 * ss), axis=1)
    out_x = along[:, None] * on_field + (T0 * ss) @ x_field
    dW = (nu_x - out_x) / np.sqrt(D)
    # ⟨(v_k·Δ/D) g'_k⟩
    db = R / q * s1 - np.sum(T0 * sg, axis=1)

    encoder, decoder, bias = rates
    return encoder * dW - decay * W, decoder * dV - decay * V, bias * db


def integrate(
    activation, rho, W, V, b, times, rates=(1.0, 1.0, 0.0), decay=0.0, rtol=1e-11, atol=1e-13
):
    """Integrate `drift` from t = 0 to `times` (T,), all D modes.

    Returns error (T,), Q1, R1, T1, T0 (T, K, K), W and V (T, K, D), bias (T, K).
    """
    K, D = W.shape

    def split(y):
        return y[: K * D].reshape(K, D), y[K * D : 2 * K * D].reshape(K, D), y[2 * K * D :]

    def rhs(_, y):
        parts = drift(activation, rho, *split(y), rates, decay)
        return np.concatenate([part.ravel() for part in parts])

    y, now, states = np.concatenate([W.ravel(), V.ravel(), b]), 0.0, []
    for end in times:
        # One solve per output: DOP853's interpolant is less accurate than its steps.
        solution = solve_ivp(rhs, (now, end), y, method="DOP853", rtol=rtol, atol=atol)
        if not solution.success:
            raise RuntimeError(solution.message)
        y, now = solution.y[:, -1], end
        states.append(split(y))
    overlaps = [order_parameters(rho, W, V) for W, V, _ in states]
    out = dict(
        zip(("Q1", "R1", "T1", "T0"), map(np.array, zip(*overlaps, strict=True)), strict=True)
    )
    out |= dict(zip(("W", "V", "bias"), map(np.array, zip(*states, strict=True)), strict=True))
    return out | {"error": np.array([error(activation, rho, *state) for state in states])}
