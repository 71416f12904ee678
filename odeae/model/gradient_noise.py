"""The noise of SGD's steps in the encoder, for inputs that are corrupted at s² = O(D).

With ρ̃_in = s²/D of order one on all D modes, the square of a step adds up: Σ_τ w wᵀ grows by
η_w² ρ̃_in ⟨a aᵀ⟩ per unit of time (docs/theory.md 5).
"""

import jax.numpy as jnp
from jaxtyping import Float

from odeae.base.precision import Real
from odeae.model.autoencoder import Autoencoder
from odeae.model.state import Overlaps


def refusal(network: Autoencoder) -> str | None:
    """Return why the noise of the steps can't be followed for this network; None if it can."""
    if network.tied:
        return (
            "`diffusion` is for untied weights: with tied ones the steps' noise moves the decoder "
            "too, which odeae doesn't follow; without it the curve is the limit of small rates"
        )
    reason = network.activation.lacks_gradient_covariance(network.hidden)
    return None if reason is None else f"`diffusion` needs averages over four fields, {reason}"


def gradient_covariance(
    network: Autoencoder,
    total: Overlaps,
    bias: Float[Real, " hidden"],
    M: Float[Real, "hidden hidden"],
) -> Float[Real, "hidden hidden"]:
    """Return ⟨a aᵀ⟩ (K, K) with a_k = (ν_k − Σ_a M_ka g_a − T0_k0) g'_k.

    `M` is T0 where neuron k sees neuron a, and 0 elsewhere. The fields (ν, λ + b) are Gaussian with
    covariance [[T1, R1], [R1ᵀ, Q1]] and mean (0, b).
    """
    K = network.hidden
    shift = jnp.zeros(K) if total.output is None else total.output.T0[:-1]
    cov = jnp.block([[total.T1, total.R1], [total.R1.T, total.Q1]])
    mean = jnp.concatenate([jnp.zeros(K), bias])
    return network.activation.gradient_covariance(mean, cov, M, shift)
