"""What an activation is: its averages over Gaussian fields."""

import abc
import functools
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.base.checks import array
from odeae.base.checks import covariance as check_covariance
from odeae.base.contractions import diagonal
from odeae.base.precision import Real, float64, in_float64, is_traced


class Averages(NamedTuple):
    """Gaussian averages of an activation g at fields λ + b, λ ~ N(0, Q) (docs/theory.md 3).

    c = E[g'], c_q = ∂c/∂q, c_b = ∂c/∂b of each neuron, shape (K,); for each pair, shape (K, K):
    G[k, a] = E[g_k g_a], P[k, a] = E[g'_k g'_a], S[k, a] = E[g''_k g_a], B[k, a] = E[g'_k g_a].
    """

    c: Real
    c_q: Real
    c_b: Real
    G: Real
    P: Real
    S: Real
    B: Real


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


class Pairs(NamedTuple):
    """The covariances of all pairs (k, a) of neurons: views of Q and b that broadcast to (K, K)."""

    q1: Real
    q2: Real
    q12: Real
    b1: Real | None
    b2: Real | None


class AbstractActivation(eqx.Module):
    """An activation g, applied per neuron, with its averages over Gaussian fields.

    One of your own is a subclass in a file of your own. It must define `__call__`, `slope`,
    `slopes`, `mean` and `pairs`; then it works in `predict`, `simulate`, `sweep`, files, plots and
    fixed points. The other methods and attributes have defaults that hold for any activation, and
    may be bettered. Source: docs/theory.md 3.

    Attributes:
        symmetry: What of a neuron's weights (w, v) changes no output: "scale" for (c w, v/c) with
            c > 0, as of ReLU; "linear" if g is linear; "none" (the default).
        by_lanes: Whether `slopes` and `pairs` also take a trailing axis of lanes, which makes
            sweeps of small networks fast.
        largest_variance: Field variance up to which averages can be had.
    """

    symmetry: ClassVar[str] = "none"
    by_lanes: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """What the activation is called in titles, files and the shell."""
        return type(self).__name__

    @property
    def largest_variance(self) -> Any:
        """Field variance up to which averages can be had."""
        return np.inf

    def __init_subclass__(cls, **options: Any):
        """Refuse a variant of a known activation: what holds for that one is used elsewhere too."""
        super().__init_subclass__(**options)
        for base in cls.__bases__:
            if base is not AbstractActivation and base.__module__.startswith("odeae."):
                raise TypeError(
                    f"{base.__name__} can't be subclassed, as odeae knows formulas that hold for "
                    "it alone; subclass odeae.AbstractActivation, or wrap a function in "
                    "odeae.Quadrature(fn)"
                )

    @abc.abstractmethod
    def __call__(self, x: Float[Real, "..."]) -> Float[Real, "..."]:
        """Return g(x)."""

    @abc.abstractmethod
    def slope(self, x: Float[Real, "..."]) -> Float[Real, "..."]:
        """Return g'(x)."""

    @abc.abstractmethod
    def slopes(self, q, b) -> tuple[Real, ...]:
        """Return (c, c_q, c_b) of neurons with variances q (K,) and biases b (K,) or None."""

    @abc.abstractmethod
    def mean(self, q, b) -> Real:
        """Return E[g(λ + b)] of neurons with variances q (K,), shape (K,)."""

    @abc.abstractmethod
    def pairs(self, p: Pairs) -> tuple[Real, ...]:
        """Return (G, P, S, B) of all pairs, each of shape (K, K)."""

    def beyond_linear(self, p: Pairs) -> Real:
        """Return G − c1 c2 q12 of all pairs (K, K), by subtraction unless there is a better way."""
        b = None if p.b1 is None else p.b1[:, 0]
        c = self.slopes(p.q1[:, 0], b)[0]
        return self.pairs(p)[0] - c[:, None] * c[None] * p.q12

    def second_moment(self, q, b) -> tuple[Real, Real, Real]:
        """Return G = E[g²] of neurons (K,) with its derivatives by q and b."""

        def one(q, b):
            q, b = q[None, None], None if b is None else b[None, None]
            return [x[0, 0] for x in self.pairs(Pairs(q, q, q, b, b))]

        G, P, S, B = jax.vmap(one)(q, b)
        return G, P + S, 2.0 * B

    def moments(self, q: Float[Real, " hidden"], b: Float[Real, " hidden"] | None) -> Moments:
        """Return the averages of neurons along their own components.

        N by subtraction, so to 1e-16 in units of G, unless there is a better way.
        """
        c, c_q, c_b = self.slopes(q, b)
        G, G_q, G_b = self.second_moment(q, b)
        N_q, N_b = G_q - c * c - 2.0 * c * c_q * q, G_b - 2.0 * c * c_b * q
        return Moments(c, c_q, c_b, G - c * c * q, N_q, N_b)

    def lacks_gradient_covariance(self, hidden: int) -> str | None:
        """Why there is no `gradient_covariance` for K neurons, None if there is."""
        return (
            "which are known for erf, relu, linear and Quadrature units, got "
            f"{type(self).__name__}; for K ≤ 2 wrap its function in odeae.Quadrature(fn)"
        )

    def gradient_covariance(self, mean, cov, M, shift) -> Float[Real, "hidden hidden"]:
        """Return ⟨a_k a_m⟩, a_k = (ν_k − Σ_a M_ka g_a − shift_k) g'_k, of fields (ν, λ + b).

        Args:
            mean: (2K,), of ν and λ + b.
            cov: (2K, 2K), of the same.
            M: (K, K).
            shift: (K,).
        """
        raise NotImplementedError

    @in_float64
    def averages(
        self,
        Q: Float[Real, "hidden hidden *lanes"],
        b: Float[Real, "hidden *lanes"] | None = None,
    ) -> Averages:
        """Return all averages at field covariance Q (K, K) and biases b (K,); None means no bias.

        Raises `ValueError` if concrete values are no covariance: not square, not symmetric, not
        positive semi-definite (pair by pair, beyond rounding). Source: docs/theory.md 3.
        """
        if not (is_traced(Q) and Q.ndim == 3):  # lanes come from a solve alone
            Q = jnp.asarray(check_covariance("Q", Q))
            b = None if b is None else jnp.asarray(array("b", b, (Q.shape[0],)))
            self.check_variance(jnp.diagonal(Q))
        return _averages(self, Q, b)

    def check_variance(self, q) -> None:
        """Raise `ValueError` if a concrete variance is beyond what this activation resolves."""

    def resolves(self, q: Float[Real, " hidden"]):
        """Whether the averages can be trusted at variances q: a boolean scalar."""
        return jnp.all(jnp.isfinite(q))


@eqx.filter_jit
def _averages(activation, Q, b):
    return Averages(*activation.slopes(diagonal(Q), b), *activation.pairs(_views(Q, b)))


def _views(Q, b):
    q = diagonal(Q)
    if b is None:
        return Pairs(q[:, None], q[None, :], Q, None, None)
    return Pairs(q[:, None], q[None, :], Q, b[:, None], b[None, :])


@eqx.filter_custom_jvp
def mean_slope(activation, q, b=None):
    """Return c = E[g'(λ + b)], shape (K,), with its derivatives c_q and c_b in closed form."""
    # + 0 q: where c doesn't depend on q, vmap would drop the batch axis that the derivative has
    return activation.slopes(q, b)[0] + 0.0 * q


@mean_slope.def_jvp
def _mean_slope_jvp(primals, tangents):
    activation, q, b = primals
    _, dq, db = tangents
    c, c_q, c_b = activation.slopes(q, b)
    dc = jnp.zeros_like(c)
    if dq is not None:
        dc = dc + c_q * dq
    if db is not None:
        dc = dc + c_b * db
    return c, dc


@eqx.filter_custom_jvp
def mean_output(activation, q, b=None):
    """Return E[g(λ + b)], shape (K,), with its derivatives ∂/∂q = c_b/2 and ∂/∂b = c."""
    return activation.mean(q, b) + 0.0 * q


@mean_output.def_jvp
def _mean_output_jvp(primals, tangents):
    activation, q, b = primals
    _, dq, db = tangents
    c, _, c_b = activation.slopes(q, b)
    mean = activation.mean(q, b)
    change = jnp.zeros_like(mean)
    if dq is not None:
        change = change + 0.5 * c_b * dq
    if db is not None:
        change = change + c * db
    return mean, change


@eqx.filter_custom_jvp
def overlap(activation, Q, b=None):
    """Return G = E[g_k g_a], shape (K, K), differentiated by Price's theorem.

    dG = P dq12 + ½ S dq11 + ½ Sᵀ dq22 + B db1 + Bᵀ db2 is finite where the closed form of G,
    differentiated as written, gives 0·∞: on the diagonal and for aligned neurons.
    """
    return activation.pairs(_views(Q, b))[0]


@overlap.def_jvp
def _overlap_jvp(primals, tangents):
    activation, Q, b = primals
    _, dQ, db = tangents
    G, P, S, B = activation.pairs(_views(Q, b))
    dG = jnp.zeros_like(G)
    if dQ is not None:
        one_sided = 0.5 * S * jnp.diagonal(dQ)[:, None]
        dG = dG + P * dQ + one_sided + one_sided.T
    if db is not None:
        one_sided = B * db[:, None]
        dG = dG + one_sided + one_sided.T
    return G, dG


@eqx.filter_custom_jvp
def nonlinear_overlap(activation, Q, b=None):
    """Return G − c_k c_a Q_ka, the overlap of what no linear function of the field explains.

    For erf without biases and for linear neurons it keeps its relative accuracy where it is small.
    Shape (K, K); differentiated like `overlap`.
    """
    return activation.beyond_linear(_views(Q, b))


@nonlinear_overlap.def_jvp
def _nonlinear_overlap_jvp(primals, tangents):
    activation, Q, b = primals
    _, dQ, db = tangents

    def by_subtraction(Q, b):
        c = mean_slope(activation, diagonal(Q), b)
        return overlap(activation, Q, b) - c[:, None] * c[None] * Q

    zero = jax.tree.map(jnp.zeros_like, (Q, b))
    tangents = (zero[0] if dQ is None else dQ, zero[1] if db is None else db)
    change = jax.jvp(by_subtraction, (Q, b), tangents)[1]
    return nonlinear_overlap(activation, Q, b), change


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
    largest = activation.largest_variance
    q = np.geomspace(1e-3, largest if np.isfinite(largest) else 100.0, 12)
    with float64(), jax.ensure_compile_time_eval():
        m = activation.moments(jnp.asarray(q), None)
        mean, square = activation.mean(jnp.asarray(q), None), m.N + m.c * m.c * q
    return bool(np.all(np.abs(mean) <= 1e-10 * np.sqrt(square)))
