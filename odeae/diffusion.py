"""What the noise of SGD's steps adds to the encoder, where the input is corrupted at s² = O(D).

A step moves w_k by (η_w/D) a_k x_in/√D with a_k = (ν_k − Σ_a m_ka T0_ka g_a − T0_k0) g'_k. With
ρ̃_in = s²/D of order one on all D modes, its square adds up: Σ_τ w wᵀ grows by η_w² ρ̃_in ⟨a aᵀ⟩
per unit of time (docs/theory.md §5).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.activations import Erf, Linear, Quadrature, ReLU, mean_output, mean_slope, overlap
from odeae.autoencoder import Autoencoder
from odeae.gaussian import safe_ratio, safe_sqrt
from odeae.precision import Real
from odeae.state import Overlaps

# Gauss–Legendre nodes per field on the support of a standard normal; the mass beyond is 1e-15.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)
_REACH = 8.0


def refusal(network: Autoencoder) -> str | None:
    """Why the noise of the steps can't be followed for this network; None if it can."""
    if network.tied:
        return (
            "`diffusion` is for untied weights: noise in a tied encoder is noise in the decoder "
            "too, and no limit D → ∞ is left at s² = O(D)"
        )
    if isinstance(network.activation, Quadrature) and network.hidden > 2:
        return (
            "`diffusion` needs averages over four fields, by quadrature only for K ≤ 2, got "
            f"hidden={network.hidden}; erf, relu and linear units have no such limit"
        )
    return None


def gradient_covariance(
    network: Autoencoder,
    total: Overlaps,
    bias: Float[Real, " hidden"],
    M: Float[Real, "hidden hidden"],
) -> Float[Real, "hidden hidden"]:
    """⟨a aᵀ⟩ (K, K): closed for linear units, and for erf by tilting the Gaussian; else quadrature.

    `M` = m T0 is what neurons see of each other. The fields (ν, λ + b) are Gaussian with covariance
    [[T1, R1], [R1ᵀ, Q1]] and mean (0, b).
    """
    K = network.hidden
    shift = jnp.zeros(K) if total.output is None else total.output.T0[:-1]
    cov = jnp.block([[total.T1, total.R1], [total.R1.T, total.Q1]])
    mean = jnp.concatenate([jnp.zeros(K), bias])
    if isinstance(network.activation, Linear):
        A = jnp.concatenate([jnp.eye(K), -M], axis=1)
        offset = A @ mean - shift
        return A @ cov @ A.T + jnp.outer(offset, offset)

    average = _tilted if isinstance(network.activation, Erf) else _by_quadrature

    def entry(pair):
        return average(network, mean, cov, M, shift, *pair)

    upper = np.triu_indices(K)
    values = jax.lax.map(entry, tuple(map(jnp.asarray, upper)))
    triangle = jnp.zeros((K, K)).at[upper].set(values)
    return triangle + jnp.triu(triangle, 1).T


def _given_gaussian(network, mean, cov, M, shift, k, m):
    """⟨A_k A_m⟩, A = ν − M g(λ) − shift, at mean and covariance of (ν, λ)."""
    K = network.hidden
    n, b, Q = mean[:K], mean[K:], cov[K:, K:]
    q = jnp.maximum(jnp.diagonal(Q), 0.0)  # what has been conditioned on is 0 to rounding
    g = mean_output(network.activation, q, b)
    first = n - M @ g - shift
    with_nu = cov[:K, K:] * mean_slope(network.activation, q, b)[None, :]  # cov(ν, g)
    Q = Q.at[jnp.arange(K), jnp.arange(K)].set(q)
    spread = overlap(network.activation, Q, b) - jnp.outer(g, g)
    second = cov[:K, :K] - with_nu @ M.T - M @ with_nu.T + M @ spread @ M.T
    return first[k] * first[m] + second[k, m]


def _tilted(network, mean, cov, M, shift, k, m):
    """g'_k g'_m = (2/π) exp(−(y_k² + y_m²)/2) leaves a Gaussian a Gaussian."""
    K = network.hidden
    which = jnp.stack([K + k, K + m])
    columns = cov[:, which]
    S = jnp.eye(2) + columns[which]
    solved = jnp.linalg.solve(S, jnp.concatenate([columns.T, mean[which][:, None]], axis=1))
    norm = jnp.exp(-0.5 * mean[which] @ solved[:, -1]) / jnp.sqrt(jnp.linalg.det(S))
    mean, cov = mean - columns @ solved[:, -1], cov - columns @ solved[:, :-1]
    return (2.0 / np.pi) * norm * _given_gaussian(network, mean, cov, M, shift, k, m)


def _by_quadrature(network, mean, cov, M, shift, k, m):
    """Average over the fields of neurons k and m by nodes, over the others in closed form."""
    K, activation = network.hidden, network.activation
    kinked = isinstance(activation, ReLU)

    def direction(cov, i):
        """What a standard normal z adds to all fields per unit, z making up field i."""
        return safe_ratio(cov[:, i], safe_sqrt(cov[i, i]))

    first = direction(cov, K + k)
    rest = cov - jnp.outer(first, first)
    # with itself or an aligned neuron, nothing but rounding is left
    free = rest[K + m, K + m] > 1e-13 * cov[K + m, K + m]
    second = jnp.where(free, direction(rest, K + m), 0.0)
    rest = rest - jnp.outer(second, second)

    def nodes(start, slope):
        """Nodes and weights of a normal z; only where start + slope z > 0 for a kinked g."""
        low = jnp.clip(-safe_ratio(start, slope), -_REACH, _REACH) if kinked else -_REACH
        half = 0.5 * (_REACH - low)
        z = low + half * (1.0 + _NODES)
        return z, half * _WEIGHTS * jnp.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)

    def value(mean):
        slopes = activation.slope(mean[K + k]) * activation.slope(mean[K + m])
        if K > 2:
            return slopes * _given_gaussian(network, mean, rest, M, shift, k, m)
        A = mean[:K] - M @ activation(mean[K:]) - shift  # all fields are given
        return slopes * (A[k] * A[m] + rest[k, m])

    def inner(z1):
        start = mean + first * z1
        z2, weight = nodes(start[K + m], second[K + m])
        if K == 1:
            return value(start)
        return weight @ jax.vmap(lambda z: value(start + second * z))(z2)

    z1, weight = nodes(mean[K + k], first[K + k])
    return weight @ jax.lax.map(inner, z1)
