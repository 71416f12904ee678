"""Smooth activations whose averages are computed by quadrature."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Float

from odeae.averages.activation import AbstractActivation
from odeae.averages.gradient_noise import by_nodes
from odeae.averages.special import det2, safe_ratio, safe_sqrt
from odeae.averages.values import Moments, Pairs, PerNeuron
from odeae.base.checks import raised, scalar
from odeae.base.messages import explains_arguments, shortened
from odeae.base.named import itself, portable_state
from odeae.base.precision import Real, float64, is_traced

# Largest q_max/scale²: pairs of neurons need 500 q_max/scale² nodes, which then fill GiBs.
_WIDEST = 1e6


def _derivatives(fn: Callable[..., Any], order: int) -> list[Callable[..., Any]]:
    """Return [fn, fn', …] up to `order`, each elementwise."""
    functions = [fn]
    for _ in range(order):
        last = functions[-1]
        functions.append(lambda x, f=last: jax.jvp(f, (x,), (jnp.ones_like(x),))[1])
    return functions


def _plain(value: Any) -> Any:
    """Return a NumPy scalar as a plain number, because Equinox treats NumPy scalars as arrays."""
    return value.item() if isinstance(value, np.generic | np.ndarray) and not value.ndim else value


@explains_arguments
class Quadrature(AbstractActivation):
    """Any smooth activation, whose averages are computed by the trapezoidal rule.

    The error of the trapezoidal rule falls exponentially with the number of nodes for smooth
    functions. Averages are accurate to 1e-8, in units of √(G11 G22) and the like, for field
    variances q ≤ `q_max`. At larger q concrete calls raise `ValueError`, and traced calls return
    NaN, which `predict` reports as a status.

    Args:
        fn: The activation, an elementwise JAX function such as `jnp.tanh` or
            `functools.partial(jax.nn.gelu, approximate=False)`.
        scale: The length over which `fn` bends: 1 for tanh(x), 0.2 for tanh(5x). Nodes are spaced
            in proportion to it.
        q_max: The largest field variance that is resolved. The cost of a drift grows like
            q_max/scale² once fields are that large. A function that grows fast, such as x³, needs
            a smaller one.

    Raises:
        ValueError: If `fn` has a kink or a jump (a quadrature would miss the δ in g''), if the
            nodes don't resolve it, if JAX can't differentiate it three times, or if `scale` or
            `q_max` is not positive or needs too many nodes.

    Source: docs/theory.md 3.

    Example:
        >>> network = odeae.Autoencoder(3, odeae.Quadrature(jnp.tanh))
        >>> steep = odeae.Quadrature(lambda x: jnp.tanh(5.0 * x), scale=0.2)
    """

    fn: Callable[..., Any] = eqx.field(static=True)
    scale: float = eqx.field(static=True, converter=_plain, default=1.0)
    q_max: float = eqx.field(static=True, converter=_plain, default=100.0)

    __getstate__ = portable_state
    __copy__ = __deepcopy__ = itself

    def __check_init__(self) -> None:
        if not callable(self.fn):
            raise ValueError(f"`fn` must be an elementwise JAX function, got {shortened(self.fn)}")
        scalar("scale", self.scale, above=0.0)
        scalar("q_max", self.q_max, above=0.0)
        if not is_traced((self.scale, self.q_max)) and self.q_max > _WIDEST * self.scale**2:
            raise ValueError(
                f"`q_max` must be at most {_WIDEST:.0e} scale² = {_WIDEST * self.scale**2:g}, "
                f"because more nodes don't fit into memory, got {float(self.q_max):g}"
            )
        try:
            hash(self.fn)
        except TypeError as error:
            raise ValueError(
                f"`fn` must be hashable, got a {type(self.fn).__name__}, which is not; wrap it in "
                "a function, such as `lambda x: fn(x)`"
            ) from error
        _check_once(self)

    def __call__(self, x: Float[Real, "..."]) -> Float[Real, "..."]:
        """Return fn(x)."""
        return self.fn(x)

    def slope(self, x: Float[Real, "..."]) -> Float[Real, "..."]:
        """Return fn'(x)."""
        return _derivatives(self.fn, 1)[1](x)

    def slopes(self, q: PerNeuron, b: PerNeuron | None) -> tuple[Real, Real, Real]:
        """Return c = E[g'], c_q = ½ E[g'''] and c_b = E[g'']."""
        _, g1, g2, g3 = self._moments(q, b, 3)
        return g1, 0.5 * g3, g2

    def mean(self, q: PerNeuron, b: PerNeuron | None) -> Real:
        """Return E[g]."""
        return self._moments(q, b, 0)[0]

    def _moments(self, q: PerNeuron, b: PerNeuron | None, order: int) -> tuple[Real, ...]:
        """Return E of fn and of its derivatives up to `order`."""

        def at(nodes: tuple[Any, Any]) -> tuple[Real, ...]:
            z, weight = nodes
            x = safe_sqrt(q)[:, None] * z[None, :] + (0.0 if b is None else b[:, None])
            return tuple(f(x) @ weight for f in _derivatives(self.fn, order))

        return self.over_nodes(q, at)

    def pairs(self, p: Pairs) -> tuple[Real, Real, Real, Real]:
        """Return (G, P, S, B): average over λ2 given λ1, then over λ1."""
        q = p.q1[:, 0]
        s1 = safe_sqrt(p.q1)
        root = safe_sqrt(det2(p.q1, p.q12, p.q12, p.q2))
        mean, deviation = safe_ratio(p.q12, s1), safe_ratio(root, s1)
        deviation = jnp.where(p.q1 > 0, deviation, safe_sqrt(p.q2))
        biases = jnp.zeros_like(q) if p.b2 is None else p.b2[0]

        def at(nodes: tuple[Any, Any]) -> tuple[Real, ...]:
            z, weight = nodes

            def row(neuron: tuple[Real, ...]) -> tuple[Real, ...]:  # neuron 1 with all neurons 2
                s1, mean, deviation, b1 = neuron
                g, g1, g2 = (f(s1 * z + b1) for f in _derivatives(self.fn, 2))
                x2 = jnp.outer(deviation, z)[:, None, :] + jnp.outer(mean, z)[:, :, None]
                x2 = x2 + biases[:, None, None]
                f, f1 = (h(x2) @ weight for h in _derivatives(self.fn, 1))
                return f @ (weight * g), f1 @ (weight * g1), f @ (weight * g2), f @ (weight * g1)

            return jax.lax.map(row, (s1[:, 0], mean, deviation, biases))

        G, P, S, B = self.over_nodes(q, at)
        return G, P, S, B

    def check_variance(self, q: Float[Real, "*batch hidden"]) -> None:
        """Raise `ValueError` if a concrete variance is above q_max."""
        if not is_traced(q) and np.any(np.asarray(q) > self.q_max):
            raise ValueError(
                f"this Quadrature resolves field variances up to q_max={self.q_max:g}, got "
                f"q={float(np.max(q)):g}; construct it with a larger `q_max`"
            )

    def resolves(self, q: Float[Real, "..."]) -> Real:
        """Return whether all variances are finite and at most q_max."""
        return jnp.all(q <= self.q_max)

    @property
    def name(self) -> str:
        """The name of a known function, such as tanh, or "own function"."""
        return next((n for n, f in NAMED_FUNCTIONS.items() if f is self.fn), "own function")

    @property
    def largest_variance(self) -> float:
        """The largest field variance that is resolved, `q_max`."""
        return self.q_max

    def moments(self, q: Float[Real, " hidden"], b: Float[Real, " hidden"] | None) -> Moments:
        """Return the averages to 1e-7, because the nodes end at 7 standard deviations.

        With r = g − cλ, N = E[r²], N_q = E[(g' − c)²] + E[r g''] and N_b = 2 E[r g'] (Price).
        """
        c, c_q, c_b = self.slopes(q, b)

        def at(nodes: tuple[Any, Any]) -> tuple[Real, ...]:
            z, weight = nodes
            field = safe_sqrt(q)[:, None] * z[None, :]
            x = field if b is None else field + b[:, None]
            g, g1, g2 = (derivative(x) for derivative in _derivatives(self.fn, 2))
            r = g - c[:, None] * field
            N_q = jnp.square(g1 - c[:, None]) + r * g2
            return jnp.square(r) @ weight, N_q @ weight, 2.0 * (r * g1) @ weight

        return Moments(c, c_q, c_b, *self.over_nodes(q, at))

    def lacks_gradient_covariance(self, hidden: int) -> str | None:
        """Return why K > 2 is impossible (each of the four fields needs nodes); None for K ≤ 2."""
        if hidden <= 2:
            return None
        return (
            f"by quadrature only for K ≤ 2, got hidden={hidden}; erf, relu and linear units have "
            "no such limit"
        )

    def gradient_covariance(
        self,
        mean: Float[Real, " fields"],
        cov: Float[Real, "fields fields"],
        M: Float[Real, "hidden hidden"],
        shift: Float[Real, " hidden"],
    ) -> Float[Real, "hidden hidden"]:
        """Return ⟨a_k a_m⟩ of one or two neurons."""
        return by_nodes(self, mean, cov, M, shift)

    def over_nodes(
        self, q: Float[Real, "..."], function: Callable[[tuple[Any, Any]], tuple[Real, ...]]
    ) -> tuple[Real, ...]:
        """Return function((z, weights)), a tuple, with nodes z that resolve fn at variances q.

        The nodes z and weights average over a standard normal. The result is NaN if a variance
        exceeds q_max.
        """
        limits, rules = self._levels()
        level = sum((jnp.max(q) > limit).astype(int) for limit in limits[:-1])
        values = jax.lax.switch(level, [functools.partial(function, rule) for rule in rules])
        return tuple(jnp.where(self.resolves(q), v, jnp.nan) for v in values)

    def _levels(self) -> tuple[list[float], list[tuple[np.ndarray, np.ndarray]]]:
        """Return the largest variance of each rule, and the rules (nodes z, weights)."""
        limits = [self.q_max / 100.0, self.q_max / 10.0, self.q_max]
        return limits, [_trapezoid(min(0.4, 0.32 * self.scale / limit**0.5)) for limit in limits]

    def check_smooth_and_resolved(self) -> None:
        """Raise `ValueError` unless fn is smooth (panel by panel) and agrees with finer rules."""
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

    def _evaluate(self, points: list[np.ndarray]) -> list[np.ndarray]:
        """Return fn and three derivatives at each array of points, from one compiled call."""

        def all_orders(x: Real) -> Real:
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
    """Check a Quadrature once for each function and numbers, because the check compiles."""
    quadrature.check_smooth_and_resolved()


def _trapezoid(step: float, reach: float = 7.0) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights of E over a standard normal; the error is about exp(−2π²/step²)."""
    n = int(np.ceil(reach / step))
    z = step * np.arange(-n, n + 1)
    weight = np.exp(-0.5 * z * z)
    return z, weight / np.sum(weight)


def gelu(x: Real) -> Real:
    """Return the exact GELU, x Φ(x)."""
    return x * ndtr(x)


NAMED_FUNCTIONS: dict[str, Callable[..., Any]] = {"tanh": jnp.tanh, "gelu": gelu}
