"""Learning curves of linear autoencoders in closed form."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.base.precision import ArrayLike, Real, in_float64, is_traced
from odeae.base.status import Status
from odeae.base.times import save_times
from odeae.linear.modes import mode_arguments, mode_error
from odeae.model.initial import aligned_state, state_on_spikes
from odeae.model.leading import beyond_first_spikes
from odeae.model.problem import Problem, sizes
from odeae.model.rules import SGD
from odeae.results.aligned import AlignedTrajectory, aligned_trajectory
from odeae.results.trajectory import settings_json


class ModeCurve(NamedTuple):
    """Curves of single modes, from `mode_curve` and `decayed_mode_curve`.

    All arrays have the shape (T, *batch), where `batch` is the broadcast shape of the arguments.

    Attributes:
        encoder: w of the mode (not scaled).
        decoder: u = ψ·v/√D of the mode.
        product: w u, which is 1 for a mode that is passed on in full.
        error: ½[ρ̃ (1 − w u)² + (s²/D) (w u)²], the mode's part of the error.

    Example:
        >>> odeae.linear.mode_curve([0.0, 5.0], 1.0, 0.1, 0.1).product.shape
        (2,)
    """

    encoder: Float[Real, "time *batch"]
    decoder: Float[Real, "time *batch"]
    product: Float[Real, "time *batch"]
    error: Float[Real, "time *batch"]


@in_float64
def aligned_curve(
    problem: Problem, times: ArrayLike, encoder: ArrayLike = 1.0, decoder: ArrayLike = 1.0
) -> AlignedTrajectory:
    """Return the curve of `predict` from an aligned state, in closed form.

    The start is `aligned_state(problem, encoder, decoder)`. The result is exact where `predict`
    leaves out `diffusion`. Without weight decay any start is allowed (`mode_curve`). With weight
    decay η_v w² = η_w u² must hold, which is w = ±u at equal rates (`decayed_mode_curve`).

    Args:
        problem: A linear, untied network without biases, trained by SGD without a schedule, with
            positive rates of encoder and decoder.
        times: (T,), in steps/D, increasing.
        encoder: w_k at t = 0, a number or (K,). From 1 and 1 nothing moves, unless there is noise
            or decay.
        decoder: u_k at t = 0, a number or (K,).

    Returns:
        The curve, as from `predict_aligned`: `encoder`, `decoder`, `product` (T, K) are w_k, u_k
        and w_k u_k on spike k.

    Raises:
        ValueError: If the problem is not as above, if decay and start don't fit together, or if
            there is decay and decay, rates or start are traced (the closed form depends on them).

    Source: docs/theory.md 7.

    Example:
        >>> linear = odeae.Problem(spectrum, odeae.Autoencoder(3, "linear"))
        >>> exact = odeae.linear.aligned_curve(linear, times, 0.1, 0.1)
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
        side = jnp.where(w < 0, -1.0, 1.0)[None]  # the sign of w, which the product lacks
        curve = curve._replace(encoder=side * curve.encoder, decoder=side * curve.decoder)
    left = 0.5 * jnp.sum(rho[None] * (1.0 - curve.product) ** 2, axis=1)
    left = left + 0.5 * noise * jnp.sum(curve.product**2, axis=1)
    others, above = beyond_first_spikes(problem.spectrum, hidden)
    saved, w, u = save_times(times), curve.encoder, curve.decoder
    return aligned_trajectory(
        problem if not is_traced((w, saved)) else problem.without_basis(),
        saved,
        w,
        u,
        0.0 * w,
        others + left,
        above + left,
        status=jnp.asarray(int(Status.OK)),
        stop_time=saved[-1],
        initial=state,
        final=dataclasses.replace(state_on_spikes(problem, w[-1], u[-1]), time=saved[-1]),
        settings=settings_json(solver="closed form"),
    )


@in_float64
def mode_curve(
    times: ArrayLike,
    eigenvalue: ArrayLike,
    encoder: ArrayLike = 1.0,
    decoder: ArrayLike = 1.0,
    *,
    noise: ArrayLike = 0.0,
    lr_encoder: ArrayLike = 1.0,
    lr_decoder: ArrayLike = 1.0,
) -> ModeCurve:
    """Solve dw = η_w u (ρ̃ − ρ̃_in w u), du = η_v w (ρ̃ − ρ̃_in w u) from any start, exactly.

    These are the equations of plain and denoising networks without decay, with
    ρ̃_in = ρ̃ + s²/D. η_v w² − η_w u² is conserved. The function is pure JAX.

    Args:
        times: (T,), in steps/D, increasing.
        eigenvalue: ρ̃ = ρ/D (the DAE paper's λ). This and all following arguments may be arrays;
            they are broadcast to one shape `batch`.
        encoder: w at t = 0 (not scaled).
        decoder: u = ψ·v/√D at t = 0.
        noise: s²/D (the DAE paper's ε).
        lr_encoder: η_w.
        lr_decoder: η_v.

    Returns:
        Curves of shape (T, *batch).

    Raises:
        ValueError: If an eigenvalue or the noise is negative, a rate is not positive, or a start is
            beyond 1e50.

    Source: docs/theory.md 7 (DAE paper, supplement B, for equal rates and w ≠ u).

    Example:
        >>> odeae.linear.mode_curve(times, [1.0, 0.5], 0.1, 0.1).product[-1].round(6).tolist()
        [1.0, 1.0]
    """
    given = mode_arguments(
        eigenvalue=eigenvalue, noise=noise, lr_encoder=lr_encoder, lr_decoder=lr_decoder,
        encoder=encoder, decoder=decoder,
    )  # fmt: skip
    return _hyperbolic(save_times(times), *given)


@in_float64
def decayed_mode_curve(
    times: ArrayLike,
    eigenvalue: ArrayLike,
    product: ArrayLike,
    *,
    weight_decay: ArrayLike,
    noise: ArrayLike = 0.0,
    lr_encoder: ArrayLike = 1.0,
    lr_decoder: ArrayLike = 1.0,
) -> ModeCurve:
    """Solve the equations of `mode_curve` with −κ w and −κ u added, from η_v w² = η_w u².

    At equal rates that start is w = u = √product, or w = −u for a negative product, which decays
    to 0. Of the two starts ±(w, u) the solution has w > 0. The product p = w u is logistic:
    dp = 2 p (√(η_w η_v) (ρ̃ − ρ̃_in p) − κ) for p ≥ 0, with −√(η_w η_v) for p < 0.

    From any other start there is no elementary closed form: η_v w² − η_w u² falls as e^{−2κt}, and
    the rest is a Riccati equation that modified Bessel functions solve; use `odeae.predict`.

    Args:
        times: (T,), in steps/D, increasing.
        eigenvalue: ρ̃ = ρ/D (the DAE paper's λ). This and all following arguments may be arrays;
            they are broadcast to one shape `batch`.
        product: w u at t = 0.
        weight_decay: κ, per unit of time.
        noise: s²/D (the DAE paper's ε).
        lr_encoder: η_w.
        lr_decoder: η_v.

    Returns:
        Curves of shape (T, *batch).

    Raises:
        ValueError: If an eigenvalue, the noise or the decay is negative, or a rate is not positive.

    Source: docs/theory.md 7 (DAE paper, supplement: E = exp(2 λ ξ t/τ), printed without the λ).

    Example:
        >>> odeae.linear.decayed_mode_curve([0, 99], 1.0, 0.01, weight_decay=0.5).product.round(6)
        array([0.01, 0.5 ])
    """
    given = mode_arguments(
        eigenvalue=eigenvalue, noise=noise, lr_encoder=lr_encoder, lr_decoder=lr_decoder,
        weight_decay=weight_decay, product=product,
    )  # fmt: skip
    return _logistic(save_times(times), *given)


@jax.jit
def _hyperbolic(
    t: Real, lam: Real, eps: Real, lr_w: Real, lr_u: Real, w: Real, u: Real
) -> ModeCurve:
    """Return `mode_curve`, with x = U + W and y = U − W of W = w/√η_w, U = u/√η_v, g = √(η_w η_v).

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
    # The root of M = 2E + (ζ − a + h x²) φ, without x², which underflows for tiny starts.
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
    return ModeCurve(encoder, decoder, product, mode_error(product, lam[None], eps[None]))


@jax.jit
def _logistic(
    t: Real, lam: Real, eps: Real, lr_w: Real, lr_u: Real, kappa: Real, product: Real
) -> ModeCurve:
    """Return `decayed_mode_curve`, where s = |p| obeys ds = r s − h s².

    r = 2(± g ρ̃ − κ), h = 2 g (ρ̃ + ε).
    """
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
    return ModeCurve(
        encoder, decoder, sign[None] * s, mode_error(sign[None] * s, lam[None], eps[None])
    )


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


def _check_balanced(kappa: Real, w: Real, u: Real, lr_w: Real, lr_u: Real) -> None:
    """Raise `ValueError` unless η_v w² = η_w u² to rounding, which the closed form needs."""
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
