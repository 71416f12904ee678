"""Linear autoencoders, exactly: learning curves in closed form, where they end, how fast they may.

Each neuron sits on one principal component, so that a mode is two numbers, its encoder w and its
decoder u, and learns alone. The landscape of all weights is in `odeae.landscape`.

For readers of Pretorius, Kroon & Kamper (2018), the DAE paper: their w_1, w_2 are w and u, their
λ/τ is η ρ̃, ε/τ is η s²/D, Nγ/τ is κ, with t in steps/D. An argument `decay` is their γ (with N
absorbed): κ/η, or κ/√(η_w η_v) for two rates. Source: docs/theory.md 7.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.base.checks import broadcast, finite, numbers
from odeae.base.precision import Real, in_float64, is_traced
from odeae.base.times import save_times
from odeae.model.initial import aligned_state
from odeae.model.problem import Problem, sizes
from odeae.model.rules import SGD


class ModeCurve(NamedTuple):
    """Curves of modes, each (T, *batch): w, u, w u and ½[ρ̃ (1 − w u)² + (s²/D) (w u)²]."""

    encoder: Float[Real, "time *batch"]
    decoder: Float[Real, "time *batch"]
    product: Float[Real, "time *batch"]
    error: Float[Real, "time *batch"]


class AlignedCurve(NamedTuple):
    """What `predict` returns for an aligned start, in closed form.

    `encoder`, `decoder`, `product` (T, K): w_k, u_k and w_k u_k on spike k. `error` (T,): of the
    whole network, as in `Trajectory`; `error_clean` (T,): the same on inputs without noise.
    """

    times: Float[Real, " time"]
    encoder: Float[Real, "time hidden"]
    decoder: Float[Real, "time hidden"]
    product: Float[Real, "time hidden"]
    error: Float[Real, " time"]
    error_clean: Float[Real, " time"]


@in_float64
def aligned_curve(
    problem: Problem, times: Any, encoder: Any = 1.0, decoder: Any = 1.0
) -> AlignedCurve:
    """Closed form of `predict(problem, aligned_state(problem, encoder, decoder), times)`.

    `encoder`, `decoder`: scalars or (K,), the start of w_k and u_k (1 and 1 are at rest, unless
    there is noise or decay). Without weight decay they are arbitrary (`mode_curve`); with it
    η_v w² = η_w u² must hold, which is w = ±u at equal rates (`decayed_mode_curve`). Exact where
    `predict` leaves out `diffusion`.

    Raises `ValueError` unless the network is linear, untied and without biases, the rule SGD
    without a schedule, both rates positive and the start as above; and, where there is decay, if
    decay, rates or start are traced (which closed form holds depends on them).
    """
    lr_w, lr_u = _check_problem(problem)
    state = aligned_state(problem, encoder, decoder)
    rule, hidden = problem.rule, problem.autoencoder.hidden
    w, u = (jnp.diagonal(rows) for rows in (state.spikes.encoder, state.spikes.decoder))
    rho, noise = problem.spectrum.spikes[:hidden], problem.inputs.noise
    rates: dict[str, Any] = {"noise": noise, "lr_encoder": lr_w, "lr_decoder": lr_u}
    if not is_traced(rule.weight_decay) and rule.weight_decay == 0:
        curve = mode_curve(times, rho, w, u, **rates)
    else:
        _check_balanced(rule.weight_decay, w, u, lr_w, lr_u)
        curve = decayed_mode_curve(times, rho, w * u, weight_decay=rule.weight_decay, **rates)
        side = jnp.where(w < 0, -1.0, 1.0)[None]  # of two starts of one product
        curve = curve._replace(encoder=side * curve.encoder, decoder=side * curve.decoder)
    left = 0.5 * (problem.spectrum.trace - jnp.sum(rho))
    clean = left + 0.5 * jnp.sum(rho[None] * (1.0 - curve.product) ** 2, axis=1)
    error = clean + 0.5 * noise * jnp.sum(curve.product**2, axis=1)
    return AlignedCurve(save_times(times), *curve[:3], error, clean)


@in_float64
def mode_curve(
    times: Any,
    eigenvalue: Any,
    encoder: Any = 1.0,
    decoder: Any = 1.0,
    *,
    noise: Any = 0.0,
    lr_encoder: Any = 1.0,
    lr_decoder: Any = 1.0,
) -> ModeCurve:
    """Solve dw = η_w u (ρ̃ − ρ̃_in w u), du = η_v w (ρ̃ − ρ̃_in w u) from any start, exactly.

    Plain and denoising networks without decay. `eigenvalue`: ρ̃ = ρ/D (λ); `noise`: s²/D (ε),
    ρ̃_in = ρ̃ + s²/D; `encoder`, `decoder`: w, u at t = 0. All may be arrays and are broadcast to
    one shape `batch`; `times` (T,) in steps/D leads it. Pure JAX. η_v w² − η_w u² is conserved.

    Raises `ValueError` for negative eigenvalues or noise, rates that are not positive and starts
    beyond 1e50.
    Source: docs/theory.md 7 (DAE paper, supplement B, for equal rates and w ≠ u).
    """
    given = _broadcast(
        eigenvalue=eigenvalue, noise=noise, lr_encoder=lr_encoder, lr_decoder=lr_decoder,
        encoder=encoder, decoder=decoder,
    )  # fmt: skip
    return _hyperbolic(save_times(times), *given)


@in_float64
def decayed_mode_curve(
    times: Any,
    eigenvalue: Any,
    product: Any,
    *,
    weight_decay: Any,
    noise: Any = 0.0,
    lr_encoder: Any = 1.0,
    lr_decoder: Any = 1.0,
) -> ModeCurve:
    """Solve the same with −κ w and −κ u added, from η_v w² = η_w u² with w u = `product`.

    At equal rates that start is w = u = √product, or w = −u for a negative product, which decays
    to 0; of ±(w, u) the one with w > 0. The product is logistic:
    dp = 2 p (√(η_w η_v) (ρ̃ − ρ̃_in p) − κ) for p ≥ 0, with −√(η_w η_v) for p < 0. `weight_decay`: κ;
    shapes, units and errors are those of `mode_curve`.

    From any other start there is no elementary closed form: η_v w² − η_w u² falls as e^{−2κt}, and
    what is left is a Riccati equation that modified Bessel functions solve; use `predict`.
    Source: docs/theory.md 7 (DAE paper, supplement: E = exp(2 λ ξ t/τ), printed without the λ).
    """
    given = _broadcast(
        eigenvalue=eigenvalue, noise=noise, lr_encoder=lr_encoder, lr_decoder=lr_decoder,
        weight_decay=weight_decay, product=product,
    )  # fmt: skip
    return _logistic(save_times(times), *given)


@in_float64
def fixed_point(eigenvalue: Any, noise: Any = 0.0, decay: Any = 0.0) -> Real:
    """Product w u that a mode ends at: (ρ̃ − γ)/(ρ̃ + ε), and 0 where ρ̃ ≤ γ: not learnt.

    ρ̃/(ρ̃ + ε) of the denoising, 1 − γ/ρ̃ of the decayed network in the DAE paper. `eigenvalue` ρ̃ > 0,
    `noise` ε = s²/D, `decay` γ; broadcast. Every start ends there but w/√η_w = −u/√η_v, which
    ends at 0.
    """
    lam, eps, gamma = _broadcast(eigenvalue=eigenvalue, noise=noise, decay=decay)
    _refuse_zero(lam)
    return jnp.maximum(lam - gamma, 0.0) / (lam + eps)


@in_float64
def equivalent_decay(eigenvalue: Any, noise: Any) -> Real:
    """Decay γ = ρ̃ε/(ρ̃ + ε) that ends where noise ε does. `eigenvalue` ρ̃ > 0; broadcast."""
    lam, eps = _broadcast(eigenvalue=eigenvalue, noise=noise)
    _refuse_zero(lam)
    return lam * eps / (lam + eps)


@in_float64
def mode_loss(
    encoder: Any, decoder: Any, eigenvalue: Any, noise: Any = 0.0, decay: Any = 0.0
) -> Real:
    """½ρ̃(1 − w u)² + ½ε(w u)² + ½γ(w² + u²): what a mode descends at rate 1; broadcast."""
    lam, eps, gamma, w, u = _broadcast(
        eigenvalue=eigenvalue, noise=noise, decay=decay, encoder=encoder, decoder=decoder
    )
    return _loss(w * u, lam, eps) + 0.5 * gamma * (w**2 + u**2)


@in_float64
def optimal_rate(eigenvalue: Any, noise: Any = 0.0, decay: Any = 0.0, product: Any = 1.0) -> Real:
    """Inverse curvature of `mode_loss` along w = u, 1/(3(ρ̃ + ε) w u − ρ̃ + γ), at w u = `product`.

    In units of the DAE paper's τ, for gradient descent in discrete steps. At w u = 1, the default,
    1/(2ρ̃ + 3ε) and 1/(2ρ̃ + γ), as printed there: the largest curvature between 0 and 1, so a safe
    rate. Noise and decay keep a mode below 1: where it ends (`fixed_point`) the rate that makes
    the last steps converge at once (LeCun et al. 1993) is larger, 1/(2ρ̃) and 1/(2ρ̃ − 2γ). Steps
    twice as large diverge. Across, along w = −u, the curvature is ρ̃ + γ − (ρ̃ + ε) w u.

    Raises `ValueError` where the curvature is not positive (product too small) and as above.
    """
    lam, eps, gamma, p = _broadcast(
        eigenvalue=eigenvalue, noise=noise, decay=decay, product=product
    )
    _refuse_zero(lam)
    curvature = 3.0 * (lam + eps) * p - lam + gamma
    if not is_traced(curvature) and np.any(curvature <= 0):
        raise ValueError(
            "`product` must be above (ρ̃ − γ)/(3 (ρ̃ + ε)), where the loss along w = u is convex, "
            f"got a curvature of {float(np.min(curvature)):g}"
        )
    return 1.0 / curvature


@in_float64
def optimal_rate_ratio(eigenvalue: Any, noise: Any, decay: Any = None) -> Real:
    """Optimal rate with noise ε over that with decay γ: (2ρ̃ + γ)/(2ρ̃ + 3ε), broadcast.

    With the equivalent decay, the default, it is ρ̃/(ρ̃ + ε) = w*, and so it is at every product:
    from w = u the decayed network is the denoising one slowed down by w*. Each at its own rate,
    both need equally many steps.
    """
    decay = equivalent_decay(eigenvalue, noise) if decay is None else decay
    return optimal_rate(eigenvalue, noise) / optimal_rate(eigenvalue, decay=decay)


def _loss(p, lam, eps):
    return 0.5 * lam * (1.0 - p) ** 2 + 0.5 * eps * p**2


@jax.jit
def _hyperbolic(t, lam, eps, lr_w, lr_u, w, u) -> ModeCurve:
    """`mode_curve`, by x = U + W and y = U − W of W = w/√η_w, U = u/√η_v, g = √(η_w η_v).

    dx = f x, dy = −f y with f = g (ρ̃ − g (ρ̃ + ε)(x² − y²)/4), so C = xy is conserved and x² obeys
    a Riccati equation with the rates a = gρ̃, h = g²(ρ̃ + ε)/2 and ζ = √(a² + h²C²). Its solution
    x = x_0 √(N/M), y = y_0 √(M/N) is written so that N and M are sums of positive terms:
    E = e^{−2ζt}, φ = (1 − E)/ζ, N = 1 + E + (a + h y_0²) φ, M = 2E + (ζ − a + h x_0²) φ.
    """
    g = jnp.sqrt(lr_w * lr_u)
    x, y = u / jnp.sqrt(lr_u) + w / jnp.sqrt(lr_w), u / jnp.sqrt(lr_u) - w / jnp.sqrt(lr_w)
    a, h, C = g * lam, 0.5 * g**2 * (lam + eps), x * y
    still = (a == 0) & (h * C == 0)  # ζ = 0: no exponential, but 1/t
    zeta = jnp.where(still, 0.0, jnp.sqrt(jnp.where(still, 1.0, a**2 + (h * C) ** 2)))
    safe = jnp.where(still, 1.0, zeta)
    t = t.reshape(-1, *[1] * lam.ndim)
    E = jnp.exp(-2.0 * zeta[None] * t)
    phi = jnp.where(still[None], 2.0 * t, -jnp.expm1(-2.0 * zeta[None] * t) / safe[None])
    root_N = jnp.sqrt(1.0 + E + (a + h * y**2)[None] * phi)
    # M = 2E + (ζ − a + h x²) φ, but its root without x², which underflows for tiny starts.
    begun = np.sqrt(2.0) * jnp.exp(-zeta[None] * t)
    moved = jnp.where(phi > 0, jnp.sqrt(jnp.where(phi > 0, phi, 1.0)), 0.0)
    moved = jnp.abs(x)[None] * jnp.sqrt((h * y) ** 2 / (safe + a) + h)[None] * moved
    larger = jnp.maximum(begun, moved)  # 0 only where x = 0, and y has decayed
    larger = jnp.where(larger == 0, 1.0, larger)
    root_M = larger * jnp.sqrt((begun / larger) ** 2 + (moved / larger) ** 2)
    grown = x[None] * root_N / jnp.where(root_M == 0, 1.0, root_M)
    shrunk = y[None] * root_M / root_N
    encoder = 0.5 * jnp.sqrt(lr_w)[None] * (grown - shrunk)
    decoder = 0.5 * jnp.sqrt(lr_u)[None] * (grown + shrunk)
    product = encoder * decoder
    return ModeCurve(encoder, decoder, product, _loss(product, lam[None], eps[None]))


@jax.jit
def _logistic(t, lam, eps, lr_w, lr_u, kappa, product) -> ModeCurve:
    """`decayed_mode_curve`: s = |p| obeys ds = r s − h s², r = 2(± g ρ̃ − κ), h = 2 g (ρ̃ + ε)."""
    g, sign = jnp.sqrt(lr_w * lr_u), jnp.where(product < 0, -1.0, 1.0)
    s, r, h = sign * product, 2.0 * (sign * g * lam - kappa), 2.0 * g * (lam + eps)
    t = t.reshape(-1, *[1] * lam.ndim)
    speed = jnp.abs(r)
    E = jnp.exp(-speed[None] * t)
    still = (speed == 0)[None]
    phi = jnp.where(still, t, -jnp.expm1(-speed[None] * t) / jnp.where(still, 1.0, speed[None]))
    top, bottom = jnp.where(r[None] >= 0, 1.0, E), jnp.where(r[None] >= 0, E, 1.0)
    s = s[None] * top / (bottom + (h * s)[None] * phi)
    ratio = jnp.sqrt(lr_w / lr_u)[None]
    encoder, decoder = jnp.sqrt(s * ratio), sign[None] * jnp.sqrt(s / ratio)
    return ModeCurve(encoder, decoder, sign[None] * s, _loss(sign[None] * s, lam[None], eps[None]))


def _broadcast(**given: Any) -> list[Real]:
    """Arguments as arrays of one shape; signs are checked where a name has one."""
    values = {name: numbers(name, value) for name, value in given.items()}
    for name, value in values.items():
        if is_traced(value):
            continue
        finite(name, value)
        if name in ("encoder", "decoder") and np.any(np.abs(value) > 1e50):
            raise ValueError(f"`{name}` must be at most 1e50 in size: squares of squares overflow")
        positive = name.startswith("lr_")
        bad = value <= 0 if positive else value < 0
        if name not in ("encoder", "decoder", "product") and np.any(bad):
            want = "positive (the closed form has no frozen part)" if positive else "≥ 0"
            raise ValueError(f"`{name}` must be {want}, got {float(np.min(value)):g}")
    return broadcast(**values)


def _refuse_zero(eigenvalue: Real) -> None:
    if not is_traced(eigenvalue) and np.any(eigenvalue == 0):
        raise ValueError("`eigenvalue` must be positive, got 0: such a mode has nothing to learn")


def _check_problem(problem: Problem) -> tuple[Real, Real]:
    """Return the rates (η_w, η_v) of a problem that has closed forms."""
    sizes(problem)
    network, rule = problem.autoencoder, problem.rule
    for want, holds in (
        ('Autoencoder(K, "linear")', network.activation.symmetry == "linear"),
        ("untied weights", not network.tied),
        ("no biases", not (network.bias or network.output_bias)),
        ("the rule SGD", isinstance(rule, SGD)),
        ("no schedule", rule.schedule is None),
    ):
        if not holds:
            raise ValueError(f"`problem` must have {want} for a closed form; use odeae.predict")
    return rule.rates(network)[:2]


def _check_balanced(kappa: Any, w: Any, u: Any, lr_w: Any, lr_u: Any) -> None:
    """Raise `ValueError` unless η_v w² = η_w u² to rounding, as decay needs it."""
    if is_traced((kappa, w, u, lr_w, lr_u)):
        raise ValueError(
            "with weight decay, `weight_decay`, rates and start must not be traced here: which "
            "closed form holds depends on them; use odeae.linear.decayed_mode_curve"
        )
    one, other = np.asarray(lr_u * w**2), np.asarray(lr_w * u**2)
    bad = np.abs(one - other) > 1e-14 * (one + other)
    if np.any(bad):
        k = int(np.argmax(bad))
        raise ValueError(
            "with weight decay `encoder` and `decoder` must be equal up to sign, encoder/decoder = "
            f"±√(lr_encoder/lr_decoder), got {float(w[k]):g} and {float(u[k]):g} for neuron {k}; "
            "from other starts use odeae.predict"
        )
