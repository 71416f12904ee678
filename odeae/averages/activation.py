"""Activations and their averages over Gaussian fields: the abstract class and its derivatives."""

import abc
import functools
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.averages.values import Averages, Moments, Pairs, PerNeuron, PerPair
from odeae.base.checks import array
from odeae.base.checks import covariance as check_covariance
from odeae.base.contractions import diagonal
from odeae.base.precision import Real, float64, in_float64, is_traced


class AbstractActivation(eqx.Module):
    """An activation g, applied to each neuron, with its averages over Gaussian fields.

    To add an activation, write a subclass in a file of your own. The subclass must define
    `__call__`, `slope`, `slopes`, `mean` and `pairs`; then it works in `predict`, `simulate`,
    `sweep`, files, plots and fixed points. The other methods and attributes have defaults that hold
    for any activation; a subclass may replace them by better ones (docs/extending.md).

    Source: docs/theory.md 3.

    Attributes:
        symmetry: The change of a neuron's weights (w, v) that changes no output: "scale" for
            (c w, v/c) with c > 0, as for ReLU; "linear" if g is linear; "none" (the default).
        by_lanes: Whether `slopes` and `pairs` also take a trailing axis of lanes, which makes
            sweeps of small networks fast.
        name: The name of the activation in titles, files and the shell.
        largest_variance: The largest field variance at which averages are available.

    Example:
        >>> averages = odeae.Erf().averages(np.eye(2))
        >>> averages.G.shape
        (2, 2)
    """

    symmetry: ClassVar[str] = "none"
    by_lanes: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The name of the activation in titles, files and the shell."""
        return type(self).__name__

    @property
    def largest_variance(self) -> float:
        """The largest field variance at which averages are available."""
        return np.inf

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuse a subclass of a known activation, because other code relies on its formulas."""
        super().__init_subclass__(**options)
        for base in cls.__bases__:
            if base is not AbstractActivation and base.__module__.startswith("odeae."):
                raise TypeError(
                    f"{base.__name__} can't be subclassed, because odeae has formulas that hold "
                    "only for it; subclass odeae.AbstractActivation, or wrap a function in "
                    "odeae.Quadrature(fn)"
                )

    @abc.abstractmethod
    def __call__(self, x: Float[Real, "..."]) -> Float[Real, "..."]:
        """Return g(x), entry by entry."""

    @abc.abstractmethod
    def slope(self, x: Float[Real, "..."]) -> Float[Real, "..."]:
        """Return g'(x), entry by entry."""

    @abc.abstractmethod
    def slopes(self, q: PerNeuron, b: PerNeuron | None) -> tuple[Real, Real, Real]:
        """Return (c, c_q, c_b) of neurons, each (K,).

        Args:
            q: Variance of each neuron's field, (K,).
            b: Bias of each neuron, (K,), or None without biases.

        Returns:
            c = E[g'(λ + b)], ∂c/∂q and ∂c/∂b.
        """

    @abc.abstractmethod
    def mean(self, q: PerNeuron, b: PerNeuron | None) -> Real:
        """Return E[g(λ + b)] of neurons with variances q (K,) and biases b, shape (K,)."""

    @abc.abstractmethod
    def pairs(self, p: Pairs) -> tuple[Real, Real, Real, Real]:
        """Return (G, P, S, B) of all pairs, each of shape (K, K): see `Averages`."""

    def beyond_linear(self, p: Pairs) -> Real:
        """Return G − c1 c2 q12 of all pairs (K, K); the default subtracts."""
        b = None if p.b1 is None else p.b1[:, 0]
        c = self.slopes(p.q1[:, 0], b)[0]
        return self.pairs(p)[0] - c[:, None] * c[None] * p.q12

    def second_moment(self, q: PerNeuron, b: PerNeuron | None) -> tuple[Real, Real, Real]:
        """Return G = E[g²] of neurons (K,) with its derivatives by q and b."""

        def one(q: Real, b: Real | None) -> list[Real]:
            q, b = q[None, None], None if b is None else b[None, None]
            return [x[0, 0] for x in self.pairs(Pairs(q, q, q, b, b))]

        G, P, S, B = jax.vmap(one)(q, b)
        return G, P + S, 2.0 * B

    def moments(self, q: Float[Real, " hidden"], b: Float[Real, " hidden"] | None) -> Moments:
        """Return the averages of single neurons.

        The default computes N by subtraction, so N is accurate to 1e-16 in units of G.
        """
        c, c_q, c_b = self.slopes(q, b)
        G, G_q, G_b = self.second_moment(q, b)
        N_q, N_b = G_q - c * c - 2.0 * c * c_q * q, G_b - 2.0 * c * c_b * q
        return Moments(c, c_q, c_b, G - c * c * q, N_q, N_b)

    def lacks_gradient_covariance(self, hidden: int) -> str | None:
        """Return why there is no `gradient_covariance` for K neurons; None if there is one."""
        return (
            "which are known for erf, relu, linear and Quadrature units, got "
            f"{type(self).__name__}; for K ≤ 2 wrap its function in odeae.Quadrature(fn)"
        )

    def gradient_covariance(
        self,
        mean: Float[Real, " fields"],
        cov: Float[Real, "fields fields"],
        M: Float[Real, "hidden hidden"],
        shift: Float[Real, " hidden"],
    ) -> Float[Real, "hidden hidden"]:
        """Return ⟨a_k a_m⟩, a_k = (ν_k − Σ_a M_ka g_a − shift_k) g'_k, of fields (ν, λ + b).

        Args:
            mean: Mean of the 2K fields ν and λ + b, (2K,).
            cov: Covariance of the same fields, (2K, 2K).
            M: Weights of the outputs that neuron k sees, (K, K).
            shift: The constant that is subtracted for each neuron, (K,).

        Returns:
            The covariance of the a_k, (K, K).

        Raises:
            NotImplementedError: For an activation without it: see `lacks_gradient_covariance`.
        """
        raise NotImplementedError

    @in_float64
    def averages(
        self,
        Q: Float[Real, "hidden hidden *lanes"],
        b: Float[Real, "hidden *lanes"] | None = None,
    ) -> Averages:
        """Return all averages at a field covariance Q and biases b.

        Args:
            Q: Covariance of the fields, (K, K).
            b: Biases, (K,); None without biases.

        Returns:
            The averages of each neuron and of each pair of neurons.

        Raises:
            ValueError: If concrete values are no covariance: not square, not symmetric, or not
                positive semi-definite (pair by pair, beyond rounding).

        Source: docs/theory.md 3.
        """
        if not (is_traced(Q) and Q.ndim == 3):  # only a solve passes lanes
            Q = jnp.asarray(check_covariance("Q", Q))
            b = None if b is None else jnp.asarray(array("b", b, (Q.shape[0],)))
            self.check_variance(jnp.diagonal(Q))
        return _averages(self, Q, b)

    def check_variance(self, q: Float[Real, "*batch hidden"]) -> None:
        """Raise `ValueError` if a concrete variance exceeds the range of this activation."""

    def resolves(self, q: Float[Real, " hidden"]) -> Real:
        """Return whether the averages are accurate at variances q: a boolean scalar."""
        return jnp.all(jnp.isfinite(q))


@eqx.filter_jit
def _averages(activation: AbstractActivation, Q: PerPair, b: PerNeuron | None) -> Averages:
    return Averages(*activation.slopes(diagonal(Q), b), *activation.pairs(_views(Q, b)))


def _views(Q: PerPair, b: PerNeuron | None) -> Pairs:
    q = diagonal(Q)
    if b is None:
        return Pairs(q[:, None], q[None, :], Q, None, None)
    return Pairs(q[:, None], q[None, :], Q, b[:, None], b[None, :])


@eqx.filter_custom_jvp
def mean_slope(activation: AbstractActivation, q: PerNeuron, b: PerNeuron | None = None) -> Real:
    """Return c = E[g'(λ + b)], shape (K,), with its derivatives c_q and c_b in closed form."""
    # + 0 q: where c doesn't depend on q, vmap would drop the batch axis of the derivative.
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
def mean_output(activation: AbstractActivation, q: PerNeuron, b: PerNeuron | None = None) -> Real:
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
def overlap(activation: AbstractActivation, Q: PerPair, b: PerNeuron | None = None) -> Real:
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
def nonlinear_overlap(
    activation: AbstractActivation, Q: PerPair, b: PerNeuron | None = None
) -> Real:
    """Return G − c_k c_a Q_ka, the overlap of the outputs' non-linear parts, shape (K, K).

    For erf without biases and for linear neurons it keeps its relative accuracy where it is small.
    It is differentiated like `overlap`.
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
    """Return whether ⟨g(λ)⟩ = 0 at every variance of a field without bias: whether g is odd.

    The answer is False for an activation that has traced numbers, whose values are unknown.
    """
    if is_traced(activation):
        return False
    numbers = jax.tree.leaves(activation)  # an activation with arrays can't be hashed
    return (_has_zero_mean.__wrapped__ if numbers else _has_zero_mean)(activation)


@functools.lru_cache(maxsize=64)
def _has_zero_mean(activation: AbstractActivation) -> bool:
    largest = activation.largest_variance
    q = np.geomspace(1e-3, largest if np.isfinite(largest) else 100.0, 12)
    with float64(), jax.ensure_compile_time_eval():
        m = activation.moments(jnp.asarray(q), None)
        mean, square = activation.mean(jnp.asarray(q), None), m.N + m.c * m.c * q
    return bool(np.all(np.abs(mean) <= 1e-10 * np.sqrt(square)))
