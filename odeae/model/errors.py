"""The generalisation error, and the error above the PCA error without cancellation."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.averages.activation import mean_output, mean_slope, nonlinear_overlap, overlap
from odeae.base.contractions import diagonal, mixed
from odeae.base.precision import Real
from odeae.model.autoencoder import Autoencoder
from odeae.model.leading import Leading
from odeae.model.state import Inputs, Overlaps, State, total_overlaps


def excess_error(
    network: Autoencoder, inputs: Inputs, leading: Leading, state: State
) -> Float[Real, "*lanes"]:
    """Return e − e_PCA of rank K (docs/theory.md 8), to the rounding of itself and not of e.

    It is a sum of terms that vanish one by one. A_nσ = Σ_k u_nk c_k w_σk is the linear part of the
    network, T are the K largest spikes, Q has no noise, and m = E[g] with an output bias, else 0:

        ½ Σ_{σ∈T} ρ̃_σ Σ_n (δ_nσ − A_nσ)² + ½ Σ_{σ∉T} ρ̃_σ (Σ_n A_nσ² − 2 A_σσ)
        + ½ Σ_kl T0_kl (G_kl − m_k m_l − c_k c_l Q_kl) + ½ |Σ_k u_k m_k + u_0|²

    Half of `leading.rest` is added: how much modes of the bulk raise the sum over T.
    """
    total, b = total_overlaps(state, inputs), state.bias if network.bias else None
    q, rows, rho = diagonal(total.Q1), state.rows, inputs.rho
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


def generalisation_error(
    network: Autoencoder,
    total: Overlaps,
    bias: Float[Real, "hidden *lanes"],
    trace: Float[Real, "*lanes"],
) -> Float[Real, "*lanes"]:
    """Return e = ½ tr Ω/D − Σ_k c_k R_kk + ½ Σ_kl T0_kl G_kl (docs/theory.md 4).

    `trace` is tr Ω/D. An output bias adds Σ_k T0_k0 ⟨g_k⟩ + ½ T0_00 (section 5). The formula is
    exact at every D for Gaussian inputs.
    """
    q, b = diagonal(total.Q1), bias if network.bias else None
    c = mean_slope(network.activation, q, b)
    G = overlap(network.activation, total.Q1, b)
    explained = jnp.sum(c * diagonal(total.R1), axis=0)
    e = 0.5 * trace - explained + 0.5 * jnp.sum(total.T0 * G, axis=(0, 1))
    if total.output is not None:
        t0, mean = total.output.T0, mean_output(network.activation, q, b)
        e = e + jnp.sum(t0[:-1] * mean, axis=0) + 0.5 * t0[-1]
    return e
