"""Activations and their averages over correlated Gaussian fields (docs/theory.md 3)."""

import abc
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf, ndtr
from jaxtyping import Float

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
from odeae.base.checks import array, raised, scalar
from odeae.base.checks import covariance as check_covariance
from odeae.base.contractions import diagonal
from odeae.base.messages import explains_arguments, one_of, shortened
from odeae.base.named import itself, portable_state
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


class Pairs(NamedTuple):
    """The covariances of all pairs (k, a) of neurons: views of Q and b that broadcast to (K, K)."""

    q1: Real
    q2: Real
    q12: Real
    b1: Real | None
    b2: Real | None


class AbstractActivation(eqx.Module):
    """A smooth activation g, applied per neuron, with its averages over Gaussian fields."""

    def __init_subclass__(cls, **options: Any):
        """Refuse a variant of a known activation: what holds for that one is used elsewhere too."""
        super().__init_subclass__(**options)
        for base in cls.__bases__:
            if base is not AbstractActivation and base.__module__ == __name__:
                raise TypeError(
                    f"{base.__name__} can't be subclassed, as odeae knows formulas that hold for "
                    "it alone; subclass odeae.averages.activations.AbstractActivation, or wrap a function "
                    "in odeae.Quadrature(fn)"
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


class Erf(AbstractActivation):
    """The sigmoidal activation of the paper, g(x) = erf(x/√2)."""

    def __call__(self, x):
        """Return erf(x/√2)."""
        return erf(x * np.sqrt(0.5))

    def slope(self, x):
        """Return g'(x) = 2 φ(x)."""
        return 2.0 * normal_pdf(x)

    def slopes(self, q, b):
        """Return c = 2φ(h)/√(1+q), h = b/√(1+q), and its derivatives."""
        v = 1.0 + q
        if b is None:
            c = np.sqrt(2.0 / np.pi) / jnp.sqrt(v)
            return c, -0.5 * c / v, jnp.zeros_like(c)
        h = b / jnp.sqrt(v)
        c = 2.0 * normal_pdf(h) / jnp.sqrt(v)
        return c, -0.5 * c * (1.0 - h * h) / v, -b * c / v

    def mean(self, q, b):
        """Return 2Φ(h) − 1, h = b/√(1+q)."""
        return jnp.zeros_like(q) if b is None else self(b / jnp.sqrt(1.0 + q))

    def pairs(self, p):
        """G = 4Φ2 − 2Φ(h1) − 2Φ(h2) + 1 = m1 m2 + 4(Φ2 − ΦΦ), P = 4φ2/√(v1 v2), and so on."""
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

    def beyond_linear(self, p):
        """Without biases (2/π)(arcsin r − r), r = q12/√(v1 v2), to all its digits."""
        if p.b1 is not None:
            return super().beyond_linear(p)
        norm = jnp.sqrt(1.0 + p.q1) * jnp.sqrt(1.0 + p.q2)
        return (2.0 / np.pi) * beyond_sine(p.q12, self._root(p), norm)

    def _root(self, p):
        """√((1+q11)(1+q22) − q12²), of a sum of positive terms."""
        return jnp.sqrt(1.0 + p.q1 + p.q2 + jnp.maximum(det2(p.q1, p.q12, p.q12, p.q2), 0.0))


class ReLU(AbstractActivation):
    """g(x) = max(x, 0), its slope at 0 read as ½."""

    def __call__(self, x):
        """Return max(x, 0)."""
        return jnp.maximum(x, 0.0)

    def slope(self, x):
        """Return the step function, ½ at 0."""
        return jnp.heaviside(x, 0.5)

    def slopes(self, q, b):
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

    def mean(self, q, b):
        """Return s (hΦ(h) + φ(h)), s = √q, h = b/s."""
        s = safe_sqrt(q)
        if b is None:
            return s / np.sqrt(2.0 * np.pi)
        h = safe_ratio(b, s)
        return b * ndtr(h) + s * normal_pdf(h)

    def pairs(self, p):
        """With θ the angle between two neurons, G = (s1 s2/2π)(sin θ + (π−θ) cos θ) for b = 0."""
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


class Linear(AbstractActivation):
    """g(x) = x."""

    def __call__(self, x):
        """Return x."""
        return x

    def slope(self, x):
        """Return 1."""
        return jnp.ones_like(x)

    def slopes(self, q, b):
        """Return c = 1 and vanishing derivatives."""
        return jnp.ones_like(q), jnp.zeros_like(q), jnp.zeros_like(q)

    def mean(self, q, b):
        """Return b."""
        return jnp.zeros_like(q) if b is None else b + 0.0 * q

    def pairs(self, p):
        """G = q12 + b1 b2, P = 1, S = 0, B = b2."""
        one, zero = jnp.ones_like(p.q12), jnp.zeros_like(p.q12)
        if p.b1 is None or p.b2 is None:
            return p.q12, one, zero, zero
        return p.q12 + p.b1 * p.b2, one, zero, p.b2 * one

    def beyond_linear(self, p):
        """Return b1 b2."""
        return (0.0 if p.b1 is None else p.b1 * p.b2) + 0.0 * p.q12


def _derivatives(fn: Callable, order: int) -> list[Callable]:
    """Return [fn, fn', …] up to `order`, each elementwise."""
    functions = [fn]
    for _ in range(order):
        last = functions[-1]
        functions.append(lambda x, f=last: jax.jvp(f, (x,), (jnp.ones_like(x),))[1])
    return functions


def _plain(value: Any) -> Any:
    """What is static must be no scalar of NumPy, which Equinox takes for an array."""
    return value.item() if isinstance(value, np.generic | np.ndarray) and not value.ndim else value


@explains_arguments
class Quadrature(AbstractActivation):
    """Any smooth activation `fn`, averaged by the trapezoidal rule, which is spectral here.

    `fn` is an elementwise JAX function, for example `jnp.tanh` or
    `functools.partial(jax.nn.gelu, approximate=False)`. `scale` is the length over which it bends
    (1 for tanh(x), 0.2 for tanh(5x)): the nodes follow it. `q_max` is the largest field variance
    to be resolved; the cost of a drift grows like q_max/scale² once fields are that large.

    Averages are good to 1e-8 (in units of √(G11 G22) and the like) for q ≤ q_max. Beyond, concrete
    calls raise `ValueError` and traced ones give NaN (`predict` reports it as a status).

    Raises `ValueError` for a kinked or jumping `fn` (a quadrature would miss the δ in g'') and for
    one that these nodes don't resolve.
    """

    fn: Callable = eqx.field(static=True)
    scale: float = eqx.field(static=True, converter=_plain, default=1.0)
    q_max: float = eqx.field(static=True, converter=_plain, default=100.0)

    __getstate__ = portable_state
    __copy__ = __deepcopy__ = itself

    def __check_init__(self):
        if not callable(self.fn):
            raise ValueError(f"`fn` must be an elementwise JAX function, got {shortened(self.fn)}")
        scalar("scale", self.scale, above=0.0)
        scalar("q_max", self.q_max, above=0.0)
        try:
            hash(self.fn)
        except TypeError as error:
            raise ValueError(
                f"`fn` must be hashable, got a {type(self.fn).__name__}, which is not; wrap it in "
                "a function, such as `lambda x: fn(x)`"
            ) from error
        _check_once(self)

    def __call__(self, x):
        """Return fn(x)."""
        return self.fn(x)

    def slope(self, x):
        """Return fn'(x)."""
        return _derivatives(self.fn, 1)[1](x)

    def slopes(self, q, b):
        """Return c = E[g'], c_q = ½ E[g'''] and c_b = E[g'']."""
        _, g1, g2, g3 = self._moments(q, b, 3)
        return g1, 0.5 * g3, g2

    def mean(self, q, b):
        """Return E[g]."""
        return self._moments(q, b, 0)[0]

    def _moments(self, q, b, order):
        """E of fn and of its derivatives up to `order`."""

        def at(nodes):
            z, weight = nodes
            x = safe_sqrt(q)[:, None] * z[None, :] + (0.0 if b is None else b[:, None])
            return tuple(f(x) @ weight for f in _derivatives(self.fn, order))

        return self.over_nodes(q, at)

    def pairs(self, p):
        """Average over λ1, and within over λ2 given λ1."""
        q = p.q1[:, 0]
        s1 = safe_sqrt(p.q1)
        root = safe_sqrt(det2(p.q1, p.q12, p.q12, p.q2))
        mean, deviation = safe_ratio(p.q12, s1), safe_ratio(root, s1)
        deviation = jnp.where(p.q1 > 0, deviation, safe_sqrt(p.q2))
        biases = jnp.zeros_like(q) if p.b2 is None else p.b2[0]

        def at(nodes):
            z, weight = nodes

            def row(neuron):  # one neuron 1 against all neurons 2
                s1, mean, deviation, b1 = neuron
                g, g1, g2 = (f(s1 * z + b1) for f in _derivatives(self.fn, 2))
                x2 = jnp.outer(deviation, z)[:, None, :] + jnp.outer(mean, z)[:, :, None]
                x2 = x2 + biases[:, None, None]
                f, f1 = (h(x2) @ weight for h in _derivatives(self.fn, 1))
                return f @ (weight * g), f1 @ (weight * g1), f @ (weight * g2), f @ (weight * g1)

            return jax.lax.map(row, (s1[:, 0], mean, deviation, biases))

        return self.over_nodes(q, at)

    def check_variance(self, q):
        """Raise `ValueError` if a concrete variance is above q_max."""
        if not is_traced(q) and np.any(np.asarray(q) > self.q_max):
            raise ValueError(
                f"this Quadrature resolves field variances up to q_max={self.q_max:g}, got "
                f"q={float(np.max(q)):g}; construct it with a larger `q_max`"
            )

    def resolves(self, q):
        """Whether all variances are finite and at most q_max."""
        return jnp.all(q <= self.q_max)

    def over_nodes(self, q, function):
        """Return function((z, weights)), a tuple, with nodes z that resolve fn at variances q.

        z stands for a standard normal. NaN where a variance is beyond q_max.
        """
        limits, rules = self._levels()
        level = sum((jnp.max(q) > limit).astype(int) for limit in limits[:-1])
        values = jax.lax.switch(level, [functools.partial(function, rule) for rule in rules])
        return tuple(jnp.where(self.resolves(q), v, jnp.nan) for v in values)

    def _levels(self):
        """Variances up to which each rule is good, and the rules (nodes z, weights)."""
        limits = [self.q_max / 100.0, self.q_max / 10.0, self.q_max]
        return limits, [_trapezoid(min(0.4, 0.32 * self.scale / limit**0.5)) for limit in limits]

    def check_smooth_and_resolved(self):
        """Raise unless fn is smooth (panel by panel) and every rule agrees with a finer one."""
        reach = 7.0 * self.q_max**0.5 + 10.0
        edges = np.linspace(-reach, reach, int(np.ceil(4.0 * reach / self.scale)) + 1)
        node, weight = np.polynomial.legendre.leggauss(12)
        half = 0.5 * np.diff(edges)[:, None]
        points = [edges, edges[:-1, None] + half * (1.0 + node)]
        cases = []
        for limit, rule in zip(*self._levels(), strict=True):
            finer = _trapezoid(0.5 * (rule[0][1] - rule[0][0]), reach=9.0)
            for b in (0.0, 3.3, -10.0):
                cases.append((limit, b, rule[1], finer[1]))
                points += [limit**0.5 * rule[0] + b, limit**0.5 * finer[0] + b]
        ends, inside, *at = self._evaluate(points)
        for order in range(3):
            change = np.diff(ends[order])
            integral = np.sum(half * weight * inside[order + 1], axis=1)
            size = 1.0 + np.maximum(np.abs(ends[order][1:]), np.abs(ends[order][:-1]))
            bad = ~(np.abs(change - integral) <= 1e-8 * size * self.scale**-order)
            if np.any(bad):
                i = int(np.argmax(bad))
                raise ValueError(
                    f"`fn` is not smooth at scale {self.scale:g}: its derivative of order {order} "
                    f"changes by {change[i]:.3g} over [{edges[i]:.3g}, {edges[i + 1]:.3g}], the "
                    f"next one integrates to {integral[i]:.3g} there. Kinks and jumps can't be "
                    "averaged by quadrature (for ReLU use its closed form); for a smooth but "
                    "steep function give a smaller `scale`"
                )
        for (limit, b, weights, finer), f, f_fine in zip(cases, at[::2], at[1::2], strict=True):
            for order in range(4):
                # products of second and third derivatives are never averaged
                for power in (1, 2) if order < 2 else (1,):
                    got, fine = weights @ f[order] ** power, finer @ f_fine[order] ** power
                    size = (self.scale**-order + (finer @ f_fine[order] ** 2) ** 0.5) ** power
                    if not abs(got - fine) <= 5e-9 * size:
                        raise ValueError(
                            f"Quadrature doesn't resolve `fn` at q={limit:g}, b={b:g}: moment "
                            f"{power} of its derivative of order {order} is {got:.10g}, with more "
                            f"nodes {fine:.10g}; give a smaller `scale` if `fn` is steep, a "
                            "smaller `q_max` if it grows fast"
                        )

    def _evaluate(self, points):
        """fn and three derivatives at each array of points, in one compiled call."""

        def all_orders(x):
            return jnp.stack([f(x) for f in _derivatives(self.fn, 3)])

        flat = np.concatenate([x.ravel() for x in points])
        try:
            with float64(), jax.ensure_compile_time_eval():
                values = np.asarray(jax.jit(all_orders)(jnp.asarray(flat)), np.float64)
        except Exception as error:
            raise ValueError(
                "`fn` must be an elementwise JAX function that can be differentiated three times; "
                f"{raised(error)}"
            ) from error
        if values.shape != (4, flat.size):
            raise ValueError("`fn` must act elementwise, but it changes the shape of its input")
        parts = np.split(values, np.cumsum([x.size for x in points])[:-1], axis=1)
        return [part.reshape(4, *x.shape) for part, x in zip(parts, points, strict=True)]


@functools.lru_cache(maxsize=64)
def _check_once(quadrature: Quadrature) -> None:
    """Check a Quadrature, unless one of the same function and numbers has passed: it compiles."""
    quadrature.check_smooth_and_resolved()


def _trapezoid(step: float, reach: float = 7.0):
    """Nodes and weights of E over a standard normal; the error falls like exp(−2π²/step²)."""
    n = int(np.ceil(reach / step))
    z = step * np.arange(-n, n + 1)
    weight = np.exp(-0.5 * z * z)
    return z, weight / np.sum(weight)


def gelu(x):
    """The exact GELU, x Φ(x)."""
    return x * ndtr(x)


NAMED_FUNCTIONS = {"tanh": jnp.tanh, "gelu": gelu}
CLOSED_FORMS = {"erf": Erf, "relu": ReLU, "linear": Linear}


def activation(name: str) -> AbstractActivation:
    """Return the activation called `name`: erf, relu, linear, tanh or gelu, in any case."""
    name = str(name).lower()
    one_of("activation", name, [*CLOSED_FORMS, *NAMED_FUNCTIONS])
    if name in CLOSED_FORMS:
        return CLOSED_FORMS[name]()
    return Quadrature(NAMED_FUNCTIONS[name])


def as_activation(value: Any) -> AbstractActivation:
    """Return an activation, or the one of a name; raises `ValueError` for anything else."""
    if isinstance(value, AbstractActivation):
        return value
    if isinstance(value, str):
        return activation(value)
    if isinstance(value, type) and issubclass(value, AbstractActivation):
        made = "Quadrature(fn)" if issubclass(value, Quadrature) else f"{value.__name__}()"
        raise ValueError(
            f"`activation` must be an activation, got the class {value.__name__}; write {made}"
        )
    raise ValueError(
        "`activation` must be a name or an activation such as odeae.Erf(), got "
        f"{shortened(value)}; for a function use odeae.Quadrature(fn)"
    )


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


def _pair(activation, C, i, j):
    """Averages of the pair (x_i, x_j) of a covariance C, as a problem of two neurons."""
    indices = np.array([i, j])
    return as_activation(activation).averages(C[indices[:, None], indices])


def _covariance(C, n):
    return jnp.asarray(check_covariance("C", array("C", C, (n, n))))


@in_float64
def J2(activation: AbstractActivation, C: Float[Real, "2 2"]):
    """J2 = ⟨x1 g(x2)⟩ = C12 c(C22), with C the covariance of (x1, x2) (paper, App. D)."""
    C = _covariance(C, 2)
    return C[0, 1] * _pair(activation, C, 0, 1).c[1]


@in_float64
def I2(activation: AbstractActivation, C: Float[Real, "2 2"]):
    """I2 = ⟨g(x1) g(x2)⟩ = G, with C the covariance of (x1, x2) (paper, App. D)."""
    return _pair(activation, _covariance(C, 2), 0, 1).G[0, 1]


@in_float64
def I21(activation: AbstractActivation, C: Float[Real, "2 2"]):
    """I21 = ⟨g'(x1) x1 x2⟩ = C12 (c + 2 C11 c_q), C the covariance of (x1, x2) (paper, App. D)."""
    C = _covariance(C, 2)
    a = _pair(activation, C, 0, 1)
    return C[0, 1] * (a.c[0] + 2.0 * C[0, 0] * a.c_q[0])


@in_float64
def I22(activation: AbstractActivation, C: Float[Real, "2 2"]):
    """I22 = ⟨g'(x1) x2²⟩ = C22 c + 2 C12² c_q, C the covariance of (x1, x2) (paper, App. D)."""
    C = _covariance(C, 2)
    a = _pair(activation, C, 0, 1)
    return C[1, 1] * a.c[0] + 2.0 * C[0, 1] ** 2 * a.c_q[0]


@in_float64
def I3(activation: AbstractActivation, C: Float[Real, "3 3"]):
    """I3 = ⟨g'(x1) x2 g(x3)⟩ = C12 S(1,3) + C23 P(1,3), C that of (x1, x2, x3) (paper, App. D)."""
    C = _covariance(C, 3)
    a = _pair(activation, C, 0, 2)
    return C[0, 1] * a.S[0, 1] + C[1, 2] * a.P[0, 1]
