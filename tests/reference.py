"""An independent second route to the learning curves: weights, not order parameters.

The package integrates rows of modes with averages from Price's theorem. Here every one of the D
modes of the *unscaled* weights is integrated, and each expected SGD step of docs/theory.md 1 is
taken by conditioning on one field: given λ_k, a second field is Gaussian, its average is an
elementary function of λ_k, and what remains is a one-dimensional integral done by quadrature.
NumPy and SciPy only. The averages are good to 1e-13 for 0 < q_k < 30 and correlations |r| < 0.999
between neurons (erf at q_k = 100: 1e-10); q_k = 0 gives NaN.

Shapes: rho (D,), W and V (K, D) in the eigenbasis, b (K,). The target is x, the network sees
y = x + √noise ξ: λ_k = w_k·y/√D, ν_k = v_k·x/D, x̂ = Σ_k v_k g(λ_k + b_k) + v_0.

Keywords shared by `error`, `drift` and `integrate` (5; the steps are in `drift`):
rule    "sgd", "truncated", "oja", "sanger" or "hebb"; the last three are linear and tied.
tied    None, or W = gain V/√D whatever W is passed (None will do), with V trained through the
        "full" gradient or its "encoder" or "decoder" path alone.
gain    s of a tied network.
noise   variance of the corruption of every component of the input, in the units of rho.
output  v_0 (D,), a trained output bias, or None for x̂ without it.
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

    Single, (K,): ⟨g λ⟩, ⟨g'⟩, ⟨g' λ⟩, ⟨g' λ²⟩, ⟨g⟩. Pairs, (K, K): ⟨g_k g_a⟩, ⟨g'_k g_a⟩,
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
    single.append(weight * value)

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


_LINEAR_RULES = ("oja", "sanger", "hebb")


def _encoder(W, V, rule, tied, gain):
    return W if tied is None and rule not in _LINEAR_RULES else gain * V / np.sqrt(V.shape[1])


def _seen(rule, K):
    # m_ka = 1 where the update of neuron k sees neuron a in the reconstruction.
    return {
        "sgd": np.ones((K, K)),
        "truncated": np.tri(K),
        "oja": np.ones((K, K)),
        "sanger": np.tri(K),
        "hebb": np.zeros((K, K)),
    }[rule]


def _refuse(activation, b, rule, tied, gain, output):
    linear = rule in _LINEAR_RULES
    if linear and (activation != "linear" or np.any(b) or tied in ("full", "encoder")):
        raise ValueError(f"{rule} is for linear networks without biases, decoder part alone")
    if gain != 1 and (tied is None or linear):
        raise ValueError("a gain needs a tied network under sgd or truncated")
    if output is not None and rule != "sgd":
        raise ValueError(f"{rule} has no output bias")


def order_parameters(rho, W, V, noise=0.0):
    """Q1, R1, T1, T0 of docs/theory.md 1; Q1 is the covariance of λ on corrupted inputs."""
    D = len(rho)
    Q1 = (W * (rho + noise)) @ W.T / D
    return Q1, (V * rho) @ W.T / D**1.5, (V * rho) @ V.T / D**2, V @ V.T / D


def error(activation, rho, W, V, b, *, rule="sgd", tied=None, gain=1.0, noise=0.0, output=None):
    """e = ⟨‖x − x̂‖²⟩/(2D) (1) on corrupted inputs; noise=0 is the error on clean ones.

    = ½ tr Ω/D − Σ_k v_k·⟨g_k x⟩/D + ½ Σ_ka T0_ka ⟨g_k g_a⟩ + Σ_k v_k·v_0 ⟨g_k⟩/D + ‖v_0‖²/(2D).
    """
    D = len(rho)
    W = _encoder(W, V, rule, tied, gain)
    v_0 = np.zeros(D) if output is None else output
    Q1, _, _, T0 = order_parameters(rho, W, V, noise)
    (g_field, *_, g), (gg, *_) = _moments(activation, Q1, b)
    g_x = (W * rho) / np.sqrt(D) * (g_field / np.diag(Q1))[:, None]  # x = cov(x, λ)/q λ + rest
    e = rho.sum() / (2 * D) - np.sum(V * g_x) / D + np.sum(T0 * gg) / 2
    return e + g @ (V @ v_0) / D + v_0 @ v_0 / (2 * D)


def drift(
    activation,
    rho,
    W,
    V,
    b,
    rates=(1.0, 1.0, 0.0),
    decay=0.0,
    *,
    rule="sgd",
    tied=None,
    gain=1.0,
    noise=0.0,
    output=None,
):
    """D × the mean one-step change of (W, V, b), and of v_0 if given, with the weights held fixed.

    Exact at every D: in x and ξ, the update is a function of jointly Gaussian fields, and D enters
    only through their covariances. Corrections O(1/D) to a learning curve come from the *noise* of
    the steps. `rates` = (encoder, decoder, bias), where v_0 takes the decoder's and so do tied
    weights; `decay` acts once on W, V and v_0. The steps at rate η, with Δ = x − x̂ and g'_k at λ_k:

    sgd         v_k += η/D g_k Δ, w_k += η/D (v_k·Δ/D) g'_k y/√D, b_k += η/D (v_k·Δ/D) g'_k,
                v_0 += η/D Δ
    truncated   the same with Δ^k = x − Σ_{a≤k} v_a g_a for Δ
    tied        v_k −= η ∂L/∂v_k, L = ‖Δ‖²/(2D): the decoder path is the v-step above, the
                encoder path v_k += η/D (v_k·Δ/D) g'_k s y; w_k follows as s v_k/√D
    oja, sanger, hebb   v_k += η/D z_k (x − Σ_a v_a z_a), z = V y/D, over all a, a ≤ k, no a
    """
    _refuse(activation, b, rule, tied, gain, output)
    K, D = V.shape
    seen, W = _seen(rule, K), _encoder(W, V, rule, tied, gain)
    encoder, decoder, bias = rates
    if rule in _LINEAR_RULES:
        zz = (V * (rho + noise)) @ V.T / D**2
        dV = decoder * (V * rho / D - (seen * zz) @ V) - decay * V
        return dV / np.sqrt(D), dV, np.zeros(K)

    v_0 = np.zeros(D) if output is None else output
    Q1, R1, _, T0 = order_parameters(rho, W, V, noise)
    q, R = np.diag(Q1), np.diag(R1)
    T0, T00 = seen * T0, V @ v_0 / D  # of what neuron k sees
    single, pair = _moments(activation, Q1, b)
    g_field, s0, s1, s2, g = single  # ⟨g λ⟩, ⟨g'⟩, ⟨g' λ⟩, ⟨g' λ²⟩, ⟨g⟩
    gg, sg, sg_field, ss = pair  # ⟨g_k g_a⟩, ⟨g'_k g_a⟩, ⟨g'_k g_a λ_k⟩, ⟨g'_k g'_a⟩
    x_field = W * rho / np.sqrt(D)  # cov(x, λ_k)
    y_field = W * (rho + noise) / np.sqrt(D)  # cov(y, λ_k)
    on_field = y_field / q[:, None]  # regression of y on λ_k
    y_nu = V * rho / D  # cov(y, ν_k): ξ is independent of the target

    # ⟨g_k Δ⟩ and ⟨Δ⟩
    dV = x_field * (g_field / q)[:, None] - (seen * gg) @ V - np.outer(g, v_0)
    dv_0 = -g @ V - v_0
    # ⟨ν_k g'_k y⟩: both ν_k and y are a part along λ_k plus a rest independent of it.
    nu_y = (R / q * s2)[:, None] * on_field + (y_nu - R[:, None] * on_field) * s0[:, None]
    # ⟨g'_k g_a y⟩: the rest of y is correlated with the rest of λ_a; Stein's lemma there.
    along = np.sum(T0 * (sg_field - Q1 * ss), axis=1) + T00 * s1
    out_y = along[:, None] * on_field + (T0 * ss) @ y_field
    dW = (nu_y - out_y) / np.sqrt(D)
    # ⟨(v_k·Δ/D) g'_k⟩
    db = R / q * s1 - np.sum(T0 * sg, axis=1) - T00 * s0

    if tied is None:
        dW, dV = encoder * dW - decay * W, decoder * dV - decay * V
    else:
        through_W, through_V = {"full": (1, 1), "encoder": (1, 0), "decoder": (0, 1)}[tied]
        dV = decoder * (through_V * dV + through_W * gain * np.sqrt(D) * dW) - decay * V
        dW = gain * dV / np.sqrt(D)
    parts = dW, dV, bias * db
    return parts if output is None else (*parts, decoder * dv_0 - decay * v_0)


def integrate(
    activation,
    rho,
    W,
    V,
    b,
    times,
    rates=(1.0, 1.0, 0.0),
    decay=0.0,
    rtol=1e-11,
    atol=1e-13,
    *,
    rule="sgd",
    tied=None,
    gain=1.0,
    noise=0.0,
    output=None,
    schedule=None,
    jumps=(),
):
    """Integrate `drift` from t = 0 to `times` (T,), all D modes.

    `schedule`: a function of t that multiplies all rates but not the decay; `jumps`: the times at
    which it is not smooth, where the integrator stops and starts again.
    Returns error and error_clean (T,), Q1, R1, T1, T0 (T, K, K), W and V (T, K, D), bias (T, K),
    and output (T, D) if given.
    """
    K, D = V.shape
    keywords = {"rule": rule, "tied": tied, "gain": gain, "noise": noise}

    def split(y):
        W, V, b, v_0 = np.split(y, [K * D, 2 * K * D, 2 * K * D + K])
        return W.reshape(K, D), V.reshape(K, D), b, None if output is None else v_0

    def piece(y, start, end):
        def rhs(t, y):
            # Inside the piece: a stage at its very end must not see the value after a jump.
            t = np.clip(t, np.nextafter(start, end), np.nextafter(end, start))
            now = rates if schedule is None else tuple(schedule(t) * rate for rate in rates)
            *state, v_0 = split(y)
            parts = drift(activation, rho, *state, now, decay, output=v_0, **keywords)
            return np.concatenate([part.ravel() for part in parts])

        # One solve per output: DOP853's interpolant is less accurate than its steps.
        solution = solve_ivp(rhs, (start, end), y, method="DOP853", rtol=rtol, atol=atol)
        if not solution.success:
            raise RuntimeError(solution.message)
        return solution.y[:, -1]

    W, v_0 = _encoder(W, V, rule, tied, gain), () if output is None else output
    y, now, states = np.concatenate([W.ravel(), V.ravel(), b, v_0]), 0.0, []
    for end in times:
        for stop in [*sorted(jump for jump in jumps if now < jump < end), end]:
            y, now = piece(y, now, stop), stop
        states.append(split(y))

    def errors(**corrupted):
        return np.array(
            [error(activation, rho, *state, output=v_0, **corrupted) for *state, v_0 in states]
        )

    overlaps = [order_parameters(rho, W, V, noise) for W, V, *_ in states]
    out = dict(
        zip(("Q1", "R1", "T1", "T0"), map(np.array, zip(*overlaps, strict=True)), strict=True)
    )
    W, V, bias, v_0 = map(np.array, zip(*states, strict=True))
    out |= {"W": W, "V": V, "bias": bias} | ({} if output is None else {"output": v_0})
    return out | {"error": errors(**keywords), "error_clean": errors(**keywords | {"noise": 0.0})}
