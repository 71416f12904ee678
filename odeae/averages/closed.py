"""Activations with averages in closed form: erf, ReLU, linear."""

import functools

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf, ndtr
from jaxtyping import Float

from odeae.averages.activation import AbstractActivation
from odeae.averages.gradient_noise import by_pairs, on_half_lines, tilted
from odeae.averages.special import (
    angle,
    arcsine,
    beyond_sine,
    bvn_excess,
    det2,
    normal_pdf,
    safe_ratio,
    safe_sqrt,
)
from odeae.averages.values import Moments, Pairs, PerNeuron
from odeae.base.precision import Real


class Erf(AbstractActivation):
    """The sigmoidal activation of the paper, g(x) = erf(x/√2).

    All averages are in closed form, with biases. `Autoencoder(K, "erf")` uses it by its name.

    Source: the paper (arXiv:2201.02115), Appendix D; docs/theory.md 3.

    Attributes:
        symmetry: "none".
        name: "erf".

    Example:
        >>> problem = odeae.Problem(spectrum, odeae.Autoencoder(3, odeae.Erf()))
        >>> float(odeae.I2(odeae.Erf(), np.eye(2)))
        0.0
    """

    by_lanes = True

    @property
    def name(self) -> str:
        """The name "erf"."""
        return "erf"

    def __call__(self, x: Float[Real, "..."]) -> Float[Real, "..."]:
        """Return erf(x/√2)."""
        return erf(x * np.sqrt(0.5))

    def slope(self, x: Float[Real, "..."]) -> Float[Real, "..."]:
        """Return g'(x) = 2 φ(x)."""
        return 2.0 * normal_pdf(x)

    def slopes(self, q: PerNeuron, b: PerNeuron | None) -> tuple[Real, Real, Real]:
        """Return c = 2φ(h)/√(1+q), h = b/√(1+q), and its derivatives."""
        v = 1.0 + q
        if b is None:
            c = np.sqrt(2.0 / np.pi) / jnp.sqrt(v)
            return c, -0.5 * c / v, jnp.zeros_like(c)
        h = b / jnp.sqrt(v)
        c = 2.0 * normal_pdf(h) / jnp.sqrt(v)
        return c, -0.5 * c * (1.0 - h * h) / v, -b * c / v

    def mean(self, q: PerNeuron, b: PerNeuron | None) -> Real:
        """Return 2Φ(h) − 1, h = b/√(1+q)."""
        return jnp.zeros_like(q) if b is None else self(b / jnp.sqrt(1.0 + q))

    def pairs(self, p: Pairs) -> tuple[Real, Real, Real, Real]:
        """Return G = 4Φ2 − 2Φ(h1) − 2Φ(h2) + 1 = m1 m2 + 4(Φ2 − ΦΦ), P = 4φ2/√(v1 v2), S, B."""
        q1, q2, q12, b1, b2 = p
        v1, v2, root = 1.0 + q1, 1.0 + q2, self._root(p)
        if b1 is None or b2 is None:
            P = (2.0 / np.pi) / root
            G = (2.0 / np.pi) * arcsine(q12, root, jnp.sqrt(v1) * jnp.sqrt(v2))
            return G, P, -q12 * P / v1, jnp.zeros_like(P)
        s1, s2 = jnp.sqrt(v1), jnp.sqrt(v2)
        h1, h2 = b1 / s1, b2 / s2
        h1_given_2 = (b1 + det2(b1, b2, q12, q2)) / (s2 * root)
        h2_given_1 = (b2 + det2(b2, b1, q12, q1)) / (s1 * root)
        h1, h2 = jnp.broadcast_arrays(h1, h2)
        excess = bvn_excess(h1, h2, jnp.arctan2(q12, root), h1_given_2, h2_given_1)
        G = self(h1) * self(h2) + 4.0 * excess
        P = 4.0 * normal_pdf(h1) * normal_pdf(h2_given_1) / root
        B = (2.0 * normal_pdf(h1) / s1) * self(h2_given_1)
        return G, P, -(b1 * B + q12 * P) / v1, B

    def beyond_linear(self, p: Pairs) -> Real:
        """Return, without biases, (2/π)(arcsin r − r), r = q12/√(v1 v2), to all its digits."""
        if p.b1 is not None:
            return super().beyond_linear(p)
        norm = jnp.sqrt(1.0 + p.q1) * jnp.sqrt(1.0 + p.q2)
        return (2.0 / np.pi) * beyond_sine(p.q12, self._root(p), norm)

    def moments(self, q: Float[Real, " hidden"], b: Float[Real, " hidden"] | None) -> Moments:
        """Return the averages; without biases N keeps all its digits also where q → 0."""
        if b is not None:
            return super().moments(q, b)
        v, root = 1.0 + q, jnp.sqrt(1.0 + 2.0 * q)
        slope = (2.0 / np.pi) * jnp.square(q / v) / (root * (v + root))
        N = (2.0 / np.pi) * beyond_sine(q, root, v)
        return Moments(*self.slopes(q, b), N, slope, jnp.zeros_like(q))

    def lacks_gradient_covariance(self, hidden: int) -> str | None:
        """Return None: the factor g'_k g'_m turns the Gaussian into another Gaussian."""

    def gradient_covariance(
        self,
        mean: Float[Real, " fields"],
        cov: Float[Real, "fields fields"],
        M: Float[Real, "hidden hidden"],
        shift: Float[Real, " hidden"],
    ) -> Float[Real, "hidden hidden"]:
        """Return ⟨a_k a_m⟩ in closed form."""
        entry = functools.partial(tilted, self, mean, cov, M, shift)
        return by_pairs(entry, M.shape[0])

    def _root(self, p: Pairs) -> Real:
        """Return √((1+q11)(1+q22) − q12²), computed as the root of a sum of positive terms."""
        return jnp.sqrt(1.0 + p.q1 + p.q2 + jnp.maximum(det2(p.q1, p.q12, p.q12, p.q2), 0.0))


class ReLU(AbstractActivation):
    """The activation g(x) = max(x, 0), with slope ½ at 0.

    All averages are in closed form, with biases; only the covariance of the gradient's noise uses
    a quadrature. `Autoencoder(K, "relu")` uses it by its name.

    Source: docs/theory.md 3.

    Attributes:
        symmetry: "scale", because g(c x) = c g(x) for c > 0.
        name: "relu".

    Example:
        >>> problem = odeae.Problem(spectrum, odeae.Autoencoder(3, odeae.ReLU(), bias=True))
        >>> odeae.ReLU()(np.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """

    symmetry = "scale"
    by_lanes = True

    @property
    def name(self) -> str:
        """The name "relu"."""
        return "relu"

    def __call__(self, x: Float[Real, "..."]) -> Float[Real, "..."]:
        """Return max(x, 0)."""
        return jnp.maximum(x, 0.0)

    def slope(self, x: Float[Real, "..."]) -> Float[Real, "..."]:
        """Return the step function, ½ at 0."""
        return jnp.heaviside(x, 0.5)

    def slopes(self, q: PerNeuron, b: PerNeuron | None) -> tuple[Real, Real, Real]:
        """Return c = Φ(h), h = b/√q, and its derivatives."""
        if b is None:
            half = jnp.full_like(q, 0.5)
            c_b = safe_ratio(normal_pdf(jnp.zeros_like(q)), safe_sqrt(q))
            return half, jnp.zeros_like(q), c_b
        s = safe_sqrt(q)
        h = safe_ratio(b, s)
        density = normal_pdf(h)
        c_q = -0.5 * safe_ratio(h * density, q)
        return ndtr(h), c_q, safe_ratio(density, s)

    def mean(self, q: PerNeuron, b: PerNeuron | None) -> Real:
        """Return s (hΦ(h) + φ(h)), s = √q, h = b/s."""
        s = safe_sqrt(q)
        if b is None:
            return s / np.sqrt(2.0 * np.pi)
        h = safe_ratio(b, s)
        return b * ndtr(h) + s * normal_pdf(h)

    def pairs(self, p: Pairs) -> tuple[Real, Real, Real, Real]:
        """Return the averages; for b = 0 and an angle θ, G = (s1 s2/2π)(sin θ + (π−θ) cos θ)."""
        q1, q2, q12, b1, b2 = p
        s1, s2 = safe_sqrt(q1), safe_sqrt(q2)
        root = safe_sqrt(det2(q1, q12, q12, q2))  # s1 s2 sin θ
        theta = angle(root, q12)
        if b1 is None or b2 is None:
            P = 0.5 - theta / (2.0 * np.pi)
            S = safe_ratio(root, q1) / (2.0 * np.pi)
            B = (s2 + safe_ratio(q12, s1)) / np.sqrt(8.0 * np.pi)
            return root / (2.0 * np.pi) + q12 * P, P, S, B
        h1, h2 = jnp.broadcast_arrays(safe_ratio(b1, s1), safe_ratio(b2, s2))
        n1, n2 = det2(b1, b2, q12, q2), det2(b2, b1, q12, q1)
        h1_given_2, h2_given_1 = safe_ratio(n1, s2 * root), safe_ratio(n2, s1 * root)
        P = ndtr(h1) * ndtr(h2) + bvn_excess(h1, h2, 0.5 * np.pi - theta, h1_given_2, h2_given_1)
        at1, at2 = normal_pdf(h1) * ndtr(h2_given_1), normal_pdf(h2) * ndtr(h1_given_2)
        density = normal_pdf(h1) * normal_pdf(h2_given_1)  # o φ2
        G = (b1 * b2 + q12) * P + b1 * s2 * at2 + b2 * s1 * at1 + root * density
        B = b2 * P + s2 * at2 + safe_ratio(q12, s1) * at1
        mean, deviation = safe_ratio(n2, q1), safe_ratio(root, s1)  # of λ2 + b2 at λ1 + b1 = 0
        S = safe_ratio(mean * at1 + deviation * density, s1)
        return G, P, S, B

    def second_moment(self, q: PerNeuron, b: PerNeuron | None) -> tuple[Real, Real, Real]:
        """Return G = E[g²] with its derivatives by q and b."""
        if b is None:
            return 0.5 * q, jnp.full_like(q, 0.5), jnp.zeros_like(q)
        mean, share = self.mean(q, b), self.slopes(q, b)[0]
        return b * mean + q * share, share, 2.0 * mean

    def lacks_gradient_covariance(self, hidden: int) -> str | None:
        """Return None: nodes on half-lines serve two neurons, closed forms the others."""

    def gradient_covariance(
        self,
        mean: Float[Real, " fields"],
        cov: Float[Real, "fields fields"],
        M: Float[Real, "hidden hidden"],
        shift: Float[Real, " hidden"],
    ) -> Float[Real, "hidden hidden"]:
        """Return ⟨a_k a_m⟩ by quadrature over the fields of neurons k and m."""
        entry = functools.partial(on_half_lines, self, mean, cov, M, shift)
        return by_pairs(entry, M.shape[0])


class Linear(AbstractActivation):
    """The activation g(x) = x of linear autoencoders.

    The rules of Oja, Sanger and Hebb train linear, tied networks. `odeae.linear` has learning
    curves in closed form. `Autoencoder(K, "linear")` uses it by its name.

    Source: docs/theory.md 3 and 7.

    Attributes:
        symmetry: "linear".
        name: "linear".

    Example:
        >>> network = odeae.Autoencoder(3, odeae.Linear(), tied=True)
        >>> problem = odeae.Problem(spectrum, network, odeae.Oja())
    """

    symmetry = "linear"
    by_lanes = True

    @property
    def name(self) -> str:
        """The name "linear"."""
        return "linear"

    def __call__(self, x: Float[Real, "..."]) -> Float[Real, "..."]:
        """Return x."""
        return x

    def slope(self, x: Float[Real, "..."]) -> Float[Real, "..."]:
        """Return 1."""
        return jnp.ones_like(x)

    def slopes(self, q: PerNeuron, b: PerNeuron | None) -> tuple[Real, Real, Real]:
        """Return c = 1 and vanishing derivatives."""
        return jnp.ones_like(q), jnp.zeros_like(q), jnp.zeros_like(q)

    def mean(self, q: PerNeuron, b: PerNeuron | None) -> Real:
        """Return b."""
        return jnp.zeros_like(q) if b is None else b + 0.0 * q

    def pairs(self, p: Pairs) -> tuple[Real, Real, Real, Real]:
        """Return G = q12 + b1 b2, P = 1, S = 0, B = b2."""
        one, zero = jnp.ones_like(p.q12), jnp.zeros_like(p.q12)
        if p.b1 is None or p.b2 is None:
            return p.q12, one, zero, zero
        return p.q12 + p.b1 * p.b2, one, zero, p.b2 * one

    def beyond_linear(self, p: Pairs) -> Real:
        """Return b1 b2."""
        return (0.0 if p.b1 is None else p.b1 * p.b2) + 0.0 * p.q12

    def moments(self, q: Float[Real, " hidden"], b: Float[Real, " hidden"] | None) -> Moments:
        """Return c = 1 and N = b²."""
        N = jnp.zeros_like(q) if b is None else b * b
        N_b = 2.0 * (0.0 * q if b is None else b)
        return Moments(*self.slopes(q, b), N, jnp.zeros_like(q), N_b)

    def lacks_gradient_covariance(self, hidden: int) -> str | None:
        """Return None: a is linear in the fields."""

    def gradient_covariance(
        self,
        mean: Float[Real, " fields"],
        cov: Float[Real, "fields fields"],
        M: Float[Real, "hidden hidden"],
        shift: Float[Real, " hidden"],
    ) -> Float[Real, "hidden hidden"]:
        """Return ⟨a_k a_m⟩ in closed form."""
        A = jnp.concatenate([jnp.eye(M.shape[0]), -M], axis=1)
        offset = A @ mean - shift
        return A @ cov @ A.T + jnp.outer(offset, offset)
