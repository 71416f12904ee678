"""The error above that of PCA, as a sum of terms that vanish one by one instead of cancelling."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.averages.activations import mean_output, mean_slope, nonlinear_overlap
from odeae.base.contractions import diagonal, mixed
from odeae.base.precision import Real
from odeae.model.autoencoder import Autoencoder
from odeae.model.spectrum import Leading
from odeae.model.state import Inputs, Unknowns, total_overlaps


def excess_error(
    network: Autoencoder, inputs: Inputs, leading: Leading, unknowns: Unknowns
) -> Float[Real, "*lanes"]:
    """e − e_PCA of rank K (docs/theory.md 8), to the rounding of itself and not of e.

    With A_nσ = Σ_k u_nk c_k w_σk, the linear part of the network, T the K largest spikes, Q without
    the noise and m = E[g] where there is an output bias, else 0:

        ½ Σ_{σ∈T} ρ̃_σ Σ_n (δ_nσ − A_nσ)² + ½ Σ_{σ∉T} ρ̃_σ (Σ_n A_nσ² − 2 A_σσ)
        + ½ Σ_kl T0_kl (G_kl − m_k m_l − c_k c_l Q_kl) + ½ |Σ_k u_k m_k + u_0|²

    and half of what other modes than spikes would add to the K largest eigenvalues.
    """
    total, b = total_overlaps(unknowns, inputs), unknowns.bias if network.bias else None
    q, rows, rho = diagonal(total.Q1), unknowns.rows, inputs.rho
    c = mean_slope(network.activation, q, b)
    w, u = c[None] * rows.encoder, rows.decoder
    places = np.arange(rho.shape[0]).reshape(-1, 1, *[1] * (rho.ndim - 1))
    wanted = jnp.asarray(places == leading.index[None], float)  # δ_nσ for σ in T
    led = jnp.take_along_axis(w, leading.index[:, None], axis=0)
    missed = jnp.sum(jnp.square(wanted - mixed(u, led)), axis=0)
    e = jnp.sum(jnp.take_along_axis(rho, leading.index, axis=0) * missed, axis=0) + leading.rest
    wrong = jnp.sum((mixed(w, total.T0) - 2.0 * u) * w, axis=1)
    e = e + jnp.sum((1.0 - jnp.sum(wanted, axis=1)) * rho * wrong, axis=0)
    beyond = nonlinear_overlap(network.activation, total.Q1, b)
    beyond = beyond + c[:, None] * c[None] * (inputs.noise * inputs.dim * total.Q0)
    if rows.output is not None:
        m = mean_output(network.activation, q, b)
        beyond = beyond - m[:, None] * m[None]
        e = e + jnp.sum(jnp.square(jnp.sum(u * m[None], axis=1) + rows.output), axis=0)
    return 0.5 * (e + jnp.sum(total.T0 * beyond, axis=(0, 1)))
