"""Averages of one neuron along its own component."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.averages.activation import AbstractActivation, Pairs
from odeae.averages.closed import Erf, Linear, ReLU
from odeae.averages.quadrature import Quadrature
from odeae.averages.special import beyond_sine, safe_sqrt
from odeae.base.precision import Real, float64, is_traced


class Moments(NamedTuple):
    """Averages of one neuron at field variance q and bias b, each (K,) (docs/theory.md 3 and 8).

    c = E[g'] with c_q = ∂c/∂q, c_b = ∂c/∂b. N = E[(g(λ+b) − cλ)²] = G − c² q is the output that is
    no linear function of the field, with N_q = ∂N/∂q and N_b = ∂N/∂b.
    """

    c: Real
    c_q: Real
    c_b: Real
    N: Real
    N_q: Real
    N_b: Real


def moments(
    activation: AbstractActivation, q: Float[Real, " hidden"], b: Float[Real, " hidden"] | None
) -> Moments:
    """Return the averages of neurons; N to full relative precision also where q → 0.

    (Quadrature: to 1e-7, as its nodes end at 7 standard deviations; sigmoidal units with biases and
    activations of one's own by subtraction, so to 1e-16 in units of G.)
    """
    c, c_q, c_b = activation.slopes(q, b)
    if isinstance(activation, Linear):
        N = jnp.zeros_like(q) if b is None else b * b
        return Moments(c, c_q, c_b, N, jnp.zeros_like(q), 2.0 * (0.0 * q if b is None else b))
    if isinstance(activation, Erf) and b is None:
        v, root = 1.0 + q, jnp.sqrt(1.0 + 2.0 * q)
        slope = (2.0 / np.pi) * jnp.square(q / v) / (root * (v + root))
        return Moments(
            c, c_q, c_b, (2.0 / np.pi) * beyond_sine(q, root, v), slope, jnp.zeros_like(q)
        )
    if isinstance(activation, Quadrature):
        return Moments(c, c_q, c_b, *_by_quadrature(activation, q, b, c))
    G, G_q, G_b = _second_moment(activation, q, b)
    N_q, N_b = G_q - c * c - 2.0 * c * c_q * q, G_b - 2.0 * c * c_b * q
    return Moments(c, c_q, c_b, G - c * c * q, N_q, N_b)


def _by_quadrature(activation, q, b, c):
    """(N, N_q, N_b) with r = g − cλ: E[r²], E[(g' − c)²] + E[r g''] and 2 E[r g'] (Price)."""
    fn = activation.fn

    def at(nodes):
        z, weight = nodes
        field = safe_sqrt(q)[:, None] * z[None, :]
        x = field if b is None else field + b[:, None]
        one = jnp.ones_like(x)

        def slope(x):
            return jax.jvp(fn, (x,), (one,))[1]

        g1, g2 = jax.jvp(slope, (x,), (one,))
        r = fn(x) - c[:, None] * field
        N_q = jnp.square(g1 - c[:, None]) + r * g2
        return jnp.square(r) @ weight, N_q @ weight, 2.0 * (r * g1) @ weight

    return activation.over_nodes(q, at)


def _second_moment(activation, q, b):
    """G = E[g²] of each neuron with its derivatives by q and b."""
    if isinstance(activation, ReLU):
        if b is None:
            return 0.5 * q, jnp.full_like(q, 0.5), jnp.zeros_like(q)
        mean, share = activation.mean(q, b), activation.slopes(q, b)[0]
        return b * mean + q * share, share, 2.0 * mean

    def one(q, b):
        q, b = q[None, None], None if b is None else b[None, None]
        return [x[0, 0] for x in activation.pairs(Pairs(q, q, q, b, b))]

    G, P, S, B = jax.vmap(one)(q, b)
    return G, P + S, 2.0 * B


def has_zero_mean(activation: AbstractActivation) -> bool:
    """Whether ⟨g(λ)⟩ = 0 at every variance of a field without bias, that is, whether g is odd.

    Of an activation with numbers of its own that are traced, which nobody can know, False.
    """
    if is_traced(activation):
        return False
    numbers = jax.tree.leaves(activation)  # which can't be hashed
    return (_has_zero_mean.__wrapped__ if numbers else _has_zero_mean)(activation)


@functools.lru_cache(maxsize=64)
def _has_zero_mean(activation: AbstractActivation) -> bool:
    largest = activation.q_max if isinstance(activation, Quadrature) else 100.0
    q = np.geomspace(1e-3, largest, 12)
    with float64(), jax.ensure_compile_time_eval():
        m = moments(activation, jnp.asarray(q), None)
        mean, square = activation.mean(jnp.asarray(q), None), m.N + m.c * m.c * q
    return bool(np.all(np.abs(mean) <= 1e-10 * np.sqrt(square)))
