"""Where linear modes end, and how fast gradient descent may go there."""

import jax.numpy as jnp
import numpy as np

from odeae.base.precision import ArrayLike, Real, in_float64, is_traced
from odeae.linear.modes import mode_arguments, mode_error, refuse_zero


@in_float64
def fixed_point(eigenvalue: ArrayLike, noise: ArrayLike = 0.0, decay: ArrayLike = 0.0) -> Real:
    """Return the product w u at which a mode ends: (ρ̃ − γ)/(ρ̃ + ε), or 0 if ρ̃ ≤ γ.

    A mode with ρ̃ ≤ γ is not learnt. In the DAE paper the product is ρ̃/(ρ̃ + ε) for the denoising
    network and 1 − γ/ρ̃ for the decayed one. Every start ends there, except w/√η_w = −u/√η_v, which
    ends at 0.

    Args:
        eigenvalue: ρ̃ = ρ/D, positive.
        noise: ε = s²/D.
        decay: γ = κ/η, or κ/√(η_w η_v) for two rates. All arguments are broadcast to one shape.

    Returns:
        The product w u, of the broadcast shape.

    Raises:
        ValueError: If an eigenvalue is 0 or negative, or noise or decay is negative.

    Source: docs/theory.md 7; the DAE paper.

    Example:
        >>> odeae.linear.fixed_point(1.0, decay=[0.0, 0.5, 2.0]).tolist()
        [1.0, 0.5, 0.0]
    """
    lam, eps, gamma = mode_arguments(eigenvalue=eigenvalue, noise=noise, decay=decay)
    refuse_zero(lam)
    return jnp.maximum(lam - gamma, 0.0) / (lam + eps)


@in_float64
def equivalent_decay(eigenvalue: ArrayLike, noise: ArrayLike) -> Real:
    """Return the decay γ = ρ̃ε/(ρ̃ + ε) with which a mode ends where it ends with noise ε.

    Args:
        eigenvalue: ρ̃ = ρ/D, positive.
        noise: ε = s²/D. Both arguments are broadcast to one shape.

    Returns:
        γ = κ/η, or κ/√(η_w η_v) for two rates, of the broadcast shape.

    Raises:
        ValueError: If an eigenvalue is 0 or negative, or the noise is negative.

    Source: docs/theory.md 7; the DAE paper.

    Example:
        >>> float(odeae.linear.equivalent_decay(1.0, noise=1.0))
        0.5
    """
    lam, eps = mode_arguments(eigenvalue=eigenvalue, noise=noise)
    refuse_zero(lam)
    return lam * eps / (lam + eps)


@in_float64
def mode_loss(
    encoder: ArrayLike,
    decoder: ArrayLike,
    eigenvalue: ArrayLike,
    noise: ArrayLike = 0.0,
    decay: ArrayLike = 0.0,
) -> Real:
    """Return ½ρ̃(1 − w u)² + ½ε(w u)² + ½γ(w² + u²), the loss that a mode descends at rate 1.

    Args:
        encoder: w of the mode (not scaled).
        decoder: u = ψ·v/√D of the mode.
        eigenvalue: ρ̃ = ρ/D.
        noise: ε = s²/D.
        decay: γ = κ/η. All arguments are broadcast to one shape.

    Returns:
        The loss, of the broadcast shape.

    Raises:
        ValueError: If an eigenvalue, the noise or the decay is negative.

    Source: docs/theory.md 7.

    Example:
        >>> float(odeae.linear.mode_loss(0.0, 0.0, eigenvalue=1.0))
        0.5
    """
    lam, eps, gamma, w, u = mode_arguments(
        eigenvalue=eigenvalue, noise=noise, decay=decay, encoder=encoder, decoder=decoder
    )
    return mode_error(w * u, lam, eps) + 0.5 * gamma * (w**2 + u**2)


@in_float64
def optimal_rate(
    eigenvalue: ArrayLike,
    noise: ArrayLike = 0.0,
    decay: ArrayLike = 0.0,
    product: ArrayLike = 1.0,
) -> Real:
    """Return the optimal rate of gradient descent, the inverse curvature of `mode_loss`.

    The curvature is taken along w = u at w u = `product`, where the rate is
    1/(3(ρ̃ + ε) w u − ρ̃ + γ), in units of the DAE paper's τ, for descent in discrete steps. At
    w u = 1, the default, the rates are 1/(2ρ̃ + 3ε) and 1/(2ρ̃ + γ), as printed in the DAE paper. The
    curvature is largest there among products from 0 to 1, so these rates are safe. Noise and decay
    keep a mode below 1. At the end of a mode (`fixed_point`) the rate with which the last steps
    converge at once (LeCun et al. 1993) is larger: 1/(2ρ̃) with noise and 1/(2ρ̃ − 2γ) with decay.
    Steps twice as large diverge. Across, along w = −u, the curvature is ρ̃ + γ − (ρ̃ + ε) w u.

    Args:
        eigenvalue: ρ̃ = ρ/D, positive.
        noise: ε = s²/D.
        decay: γ = κ/η.
        product: w u at which the curvature is taken. All arguments are broadcast to one shape.

    Returns:
        The rate, of the broadcast shape.

    Raises:
        ValueError: If the curvature is not positive (`product` is too small), if an eigenvalue is 0
            or negative, or if noise or decay is negative.

    Source: docs/theory.md 7; the DAE paper.

    Example:
        >>> float(odeae.linear.optimal_rate(1.0))
        0.5
    """
    lam, eps, gamma, p = mode_arguments(
        eigenvalue=eigenvalue, noise=noise, decay=decay, product=product
    )
    refuse_zero(lam)
    curvature = 3.0 * (lam + eps) * p - lam + gamma
    if not is_traced(curvature) and np.any(curvature <= 0):
        raise ValueError(
            "`product` must be above (ρ̃ − γ)/(3 (ρ̃ + ε)), where the loss along w = u is convex, "
            f"got a curvature of {float(np.min(curvature)):g}"
        )
    return 1.0 / curvature


@in_float64
def optimal_rate_ratio(
    eigenvalue: ArrayLike, noise: ArrayLike, decay: ArrayLike | None = None
) -> Real:
    """Return the optimal rate with noise ε over the optimal rate with decay γ, (2ρ̃ + γ)/(2ρ̃ + 3ε).

    With the equivalent decay, the default, the ratio is ρ̃/(ρ̃ + ε) = w*, and it is w* at every
    product: from w = u the decayed network is the denoising one slowed down by w*. Each at its own
    rate, both networks need equally many steps.

    Args:
        eigenvalue: ρ̃ = ρ/D, positive.
        noise: ε = s²/D.
        decay: γ = κ/η; None for `equivalent_decay(eigenvalue, noise)`. All arguments are broadcast
            to one shape.

    Returns:
        The ratio of the two rates, of the broadcast shape.

    Raises:
        ValueError: If an eigenvalue is 0 or negative, or noise or decay is negative.

    Source: docs/theory.md 7; the DAE paper.

    Example:
        >>> float(odeae.linear.optimal_rate_ratio(1.0, noise=1.0))
        0.5
    """
    gamma = equivalent_decay(eigenvalue, noise) if decay is None else decay
    return optimal_rate(eigenvalue, noise) / optimal_rate(eigenvalue, decay=gamma)
