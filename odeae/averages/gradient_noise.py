"""Averages over four fields: the covariance of SGD's steps, for inputs where their noise counts.

A step moves w_k by (η_w/D) a_k x_in/√D with a_k = (ν_k − Σ_a m_ka T0_ka g_a − T0_k0) g'_k
(docs/theory.md 5). These functions give ⟨a_k a_m⟩ for fields (ν, λ + b) of given `mean` (2K,) and
`cov` (2K, 2K), with `M` = m T0 (K, K) and `shift` = T0_k0 (K,).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.averages.activation import AbstractActivation, mean_output, mean_slope, overlap
from odeae.averages.special import normal_pdf, safe_ratio, safe_sqrt
from odeae.base.precision import Real

if TYPE_CHECKING:
    from odeae.averages.quadrature import Quadrature

OfFields: TypeAlias = Float[Real, " fields"]
OfPairsOfFields: TypeAlias = Float[Real, "fields fields"]
OfNeurons: TypeAlias = Float[Real, " hidden"]
OfPairs: TypeAlias = Float[Real, "hidden hidden"]

# Gauss–Legendre nodes on a half-line of a standard normal; the mass beyond the reach is 1e-15.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)
_REACH = 8.0


def by_pairs(entry: Callable[[Real, Real], Real], size: int) -> OfPairs:
    """Return the symmetric matrix (K, K) of entry(k, m), computed one pair after another."""
    upper = np.triu_indices(size)
    values = jax.lax.map(lambda pair: entry(*pair), tuple(map(jnp.asarray, upper)))
    triangle = jnp.zeros((size, size)).at[upper].set(values)
    return triangle + jnp.triu(triangle, 1).T


def _given_gaussian(
    activation: AbstractActivation,
    mean: OfFields,
    cov: OfPairsOfFields,
    M: OfPairs,
    shift: OfNeurons,
    k: Real,
    m: Real,
) -> Real:
    """Return ⟨A_k A_m⟩, A = ν − M g(λ) − shift, at a mean and covariance of (ν, λ)."""
    K = M.shape[0]
    n, b, Q = mean[:K], mean[K:], cov[K:, K:]
    q = jnp.maximum(jnp.diagonal(Q), 0.0)  # the variances of given fields are 0 to rounding
    g = mean_output(activation, q, b)
    first = n - M @ g - shift
    with_nu = cov[:K, K:] * mean_slope(activation, q, b)[None, :]  # cov(ν, g)
    Q = Q.at[jnp.arange(K), jnp.arange(K)].set(q)
    spread = overlap(activation, Q, b) - jnp.outer(g, g)
    second = cov[:K, :K] - with_nu @ M.T - M @ with_nu.T + M @ spread @ M.T
    return first[k] * first[m] + second[k, m]


def tilted(
    activation: AbstractActivation,
    mean: OfFields,
    cov: OfPairsOfFields,
    M: OfPairs,
    shift: OfNeurons,
    k: Real,
    m: Real,
) -> Real:
    """Return ⟨a_k a_m⟩ for erf: a Gaussian times g'_k g'_m is another Gaussian.

    g'_k g'_m = (2/π) exp(−(y_k² + y_m²)/2).
    """
    K = M.shape[0]
    which = jnp.stack([K + k, K + m])
    columns = cov[:, which]
    S = jnp.eye(2) + columns[which]
    solved = jnp.linalg.solve(S, jnp.concatenate([columns.T, mean[which][:, None]], axis=1))
    norm = jnp.exp(-0.5 * mean[which] @ solved[:, -1]) / jnp.sqrt(jnp.linalg.det(S))
    mean, cov = mean - columns @ solved[:, -1], cov - columns @ solved[:, :-1]
    return (2.0 / np.pi) * norm * _given_gaussian(activation, mean, cov, M, shift, k, m)


def on_half_lines(
    activation: AbstractActivation,
    mean: OfFields,
    cov: OfPairsOfFields,
    M: OfPairs,
    shift: OfNeurons,
    k: Real,
    m: Real,
) -> Real:
    """Return ⟨a_k a_m⟩ for ReLU, whose g' selects the half-lines where neurons k and m are on.

    Fields k and m are averaged by nodes on their half-lines, the other fields in closed form.
    """
    K = M.shape[0]
    first, rest = _split(cov, K + k, 0.0)
    second, rest = _split(rest, K + m, cov[K + m, K + m])

    def nodes(low: Real, cuts: Real) -> tuple[Real, Real]:
        """Return nodes and weights of a standard normal z ≥ low, in panels that meet at `cuts`."""
        inside = jnp.sort(jnp.clip(cuts, low, _REACH))
        ends = jnp.concatenate([low[None], inside, jnp.full(1, _REACH)])
        half = 0.5 * (ends[1:] - ends[:-1])[:, None]
        z = ends[:-1, None] + half * (1.0 + _NODES[None, :])
        return z.ravel(), (half * _WEIGHTS[None, :] * normal_pdf(z)).ravel()

    def crossing(start: Real, slope: Real) -> Real:
        """Return the z at which start + slope z = 0, within reach."""
        return jnp.clip(-safe_ratio(start, slope), -_REACH, _REACH)

    def inner(z1: Real) -> Real:
        start = mean + first * z1
        low = jnp.where(k == m, -_REACH, crossing(start[K + m], second[K + m]))
        z2, weight = nodes(low, jnp.zeros(0))

        def value(z2: Real) -> Real:
            return _given_gaussian(activation, start + second * z2, rest, M, shift, k, m)

        return weight @ jax.vmap(value)(z2)

    # At the cuts other neurons turn on: smooth steps, but steep for neurons nearly aligned with k.
    slope = first[K:]
    cuts = crossing(jnp.sign(slope) * mean[K:], jnp.abs(slope))
    z1, weight = nodes(crossing(mean[K + k], first[K + k]), cuts)
    return weight @ jax.lax.map(inner, z1)


def by_nodes(
    activation: "Quadrature", mean: OfFields, cov: OfPairsOfFields, M: OfPairs, shift: OfNeurons
) -> OfPairs:
    """Return ⟨a_k a_m⟩ of one or two smooth units: fields λ by nodes, ν given λ in closed form."""
    K = M.shape[0]
    first, rest = _split(cov, K, 0.0)
    last = 2 * K - 1  # the same field as the first if K = 1: then nothing is left of it
    second, rest = _split(rest, last, cov[last, last])

    def product(z1: Real, z2: Real | float) -> Real:
        fields = mean + first * z1 + second * z2
        A = fields[:K] - M @ activation(fields[K:]) - shift
        slope = activation.slope(fields[K:])
        return jnp.outer(slope, slope) * (jnp.outer(A, A) + rest[:K, :K])

    def over(nodes: tuple[Real, Real]) -> tuple[Any, ...]:
        z, weight = nodes
        if K == 1:
            return (jnp.tensordot(weight, jax.vmap(product, (0, None))(z, 0.0), 1),)

        def row(z1: Real) -> Real:
            return jnp.tensordot(weight, jax.vmap(product, (None, 0))(z1, z), 1)

        return (jnp.tensordot(weight, jax.lax.map(row, z), 1),)

    return activation.over_nodes(jnp.diagonal(cov)[K:], over)[0]


def _split(cov: OfPairsOfFields, i: Any, variance: Any) -> tuple[OfFields, OfPairsOfFields]:
    """Return how all fields change with field i, and the covariance of the rest, given field i.

    The change is per standard deviation of field i. `variance` is the variance of field i before
    other fields were given; a remainder of the size of its rounding counts as 0.
    """
    free = cov[i, i] > 1e-13 * variance
    along = jnp.where(free, safe_ratio(cov[:, i], safe_sqrt(cov[i, i])), 0.0)
    return along, cov - jnp.outer(along, along)
