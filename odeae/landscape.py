"""The landscape of linear autoencoders: critical points, saddles and ways down, gradient flows.

x̂ = A B x with decoder A (D, d) and encoder B (d, D), loss L = tr (I − AB) Σ (I − AB)ᵀ for inputs
of covariance Σ. There is no ½ (as in Baldi & Hornik 1989): in the package's units, Σ = Ω/D, B = W
and A = Vᵀ/√D, the error e is L/2. Learning curves in closed form are in `odeae.linear`.

Components are counted from 0 at the largest eigenvalue. Source: docs/theory.md 7.
"""

import itertools
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.base.checks import array, scalar, whole, wholes
from odeae.base.checks import covariance as check_covariance
from odeae.base.messages import one_of, shortened
from odeae.base.precision import Real, in_float64, is_traced

MOST = 1_000_000  # critical points in one list


class CriticalPoint(NamedTuple):
    """All weights with AB = P_I, the projector on the eigenvectors I; they are one orbit of GL(d).

    `components`: I, of size r ≤ d. `loss`: Σ_{i∉I} ρ_i. `negative`, `flat`: negative and zero
    eigenvalues of the Hessian of L in the 2Dd weights; the others are positive.
    """

    components: tuple[int, ...]
    loss: float
    negative: int
    flat: int


class Factors(NamedTuple):
    """Decoder A (D, d) and encoder B (d, D)."""

    A: Float[Real, "dim hidden"]
    B: Float[Real, "hidden dim"]


class Descent(NamedTuple):
    """Factors a finite way down from a saddle, and the exact `change` of the loss (negative)."""

    A: Float[Real, "dim hidden"]
    B: Float[Real, "hidden dim"]
    change: float


@in_float64
def reconstruction_loss(A: Any, B: Any, covariance: Any) -> Float[Real, ""]:
    """L = tr (I − AB) Σ (I − AB)ᵀ = ⟨‖x − ABx‖²⟩, twice the error at Σ = Ω/D."""
    A, B, sigma = _weights(A, B, covariance)
    rest = jnp.eye(sigma.shape[0]) - A @ B
    return jnp.sum((rest @ sigma) * rest)


def critical_points(covariance: Any, hidden: int) -> list[CriticalPoint]:
    """Return all critical points of L, by loss: Σ_{r≤d} C(D, r) of them, one for each |I| ≤ d.

    They are A = U_I C, B = G U_Iᵀ with C G = 1, U_I the eigenvectors I: those with r = d are the
    projections of Baldi & Hornik; those with r < d leave d − r neurons out. Negative directions:
    one for each pair j ∈ I, k ∉ I with ρ_k > ρ_j, and (d − r)(D − r) that put a free neuron to use.
    Flat ones: 2rd − r², the dimension of the orbit. I = top d is the only minimum, all
    others are strict saddles; there is no maximum.

    Raises `ValueError` if an eigenvalue is 0 or two are equal (to 1e-10 of the largest): critical
    points then are continuous families, of other numbers of flat directions. Needs d ≤ D.
    """
    values, _, hidden = _spectrum(covariance, hidden)
    D = len(values)
    count = sum(math.comb(D, r) for r in range(hidden + 1))
    if count > MOST:
        raise ValueError(
            f"`hidden` = {hidden} of {D} inputs has {count:,} critical points, more than {MOST:,}; "
            "odeae.landscape.critical_point describes one of them"
        )
    sizes = range(hidden + 1)
    chosen = itertools.chain(*(itertools.combinations(range(D), r) for r in sizes))
    return sorted((_point(values, inside, hidden) for inside in chosen), key=lambda p: p.loss)


def critical_point(covariance: Any, components: Any, hidden: int) -> CriticalPoint:
    """Return the critical point of `components` I alone; arguments and errors as above."""
    values, _, hidden = _spectrum(covariance, hidden)
    return _point(values, _components(components, len(values), hidden), hidden)


def critical_weights(covariance: Any, components: Any, hidden: int, mixing: Any = None) -> Factors:
    """Factors of a critical point: A = [U_I, 0] G, B = G⁻¹ [U_I, 0]ᵀ.

    `mixing`: G (d, d), the identity by default; every invertible one gives the same AB, and all
    weights with AB = P_I that are critical come about in this way.
    """
    values, vectors, hidden = _spectrum(covariance, hidden)
    chosen = vectors[:, list(_components(components, len(values), hidden))]
    A = np.zeros((len(values), hidden))
    A[:, : chosen.shape[1]] = chosen
    if mixing is None:
        return Factors(A, A.T.copy())
    G = array("mixing", mixing, (hidden, hidden))
    if np.linalg.matrix_rank(G) < hidden:
        raise ValueError("`mixing` must be invertible")
    return Factors(A @ G, np.linalg.solve(G, A.T))


def descend(
    covariance: Any,
    components: Any,
    hidden: int,
    size: Any,
    pair: tuple[int | None, int] | None = None,
) -> Descent:
    """Go down from a saddle by turning u_j → (u_j + ε u_k)/√(1 + ε²), ε = `size`, A = Bᵀ.

    The loss changes by exactly −ε² (ρ_k − ρ_j)/(1 + ε²). `pair`: (j, k) with j ∈ I, k ∉ I and
    ρ_k > ρ_j; None: the worst component inside and the best outside. j None takes a neuron that
    is free (r < d) instead, A and B both gaining ε u_k: −ρ_k ε² (2 − ε²), down for ε² < 2.

    Raises `ValueError` at the minimum, and for a pair that does not lead down.
    Source: Baldi & Hornik (1989), Prop. 3.
    """
    values, vectors, hidden = _spectrum(covariance, hidden)
    inside = _components(components, len(values), hidden)
    eps = float(scalar("size", size))
    j, k = _pair(values, inside, hidden, pair)
    if j is None and eps**2 >= 2.0:
        raise ValueError(f"`size` must be below √2 for a neuron that is free, got {eps:g}")
    A = critical_weights(covariance, inside, hidden).A
    if j is None:
        A[:, len(inside)] = eps * vectors[:, k]
        return Descent(A, A.T.copy(), float(-values[k] * eps**2 * (2.0 - eps**2)))
    turned = (vectors[:, j] + eps * vectors[:, k]) / np.sqrt(1.0 + eps**2)
    A[:, inside.index(j)] = turned
    change = -(eps**2) * (values[k] - values[j]) / (1.0 + eps**2)
    return Descent(A, A.T.copy(), float(change))


@in_float64
def flow(A: Any, B: Any, covariance: Any) -> Factors:
    """Gradient flow dA = (Σ − ABΣ) Bᵀ, dB = Aᵀ (Σ − ABΣ): minus half the gradient of L.

    That is gradient flow on e, so `odeae.predict` on a linear network, from
    `state_from_weights(problem, W=B, V=√D Aᵀ)`, integrates it. Aᵀ A − B Bᵀ is conserved.
    """
    A, B, sigma = _weights(A, B, covariance)
    left = sigma - A @ (B @ sigma)
    return Factors(left @ B.T, A.T @ left)


@in_float64
def tied_flow(W: Any, covariance: Any, gradient: str = "encoder") -> Float[Real, "hidden dim"]:
    """Flow of tied weights, B = W and A = Wᵀ (d, D), along one path of the gradient or both.

    "encoder": dW = W (Σ − WᵀWΣ) = (1 − WWᵀ) WΣ; "decoder": dW = W (Σ − ΣWᵀW), Oja's subspace
    rule; "full": their sum, minus half the gradient of L. From almost every start the last two
    end at the top-d subspace. The first does not: every W with orthonormal rows is a
    fixed point of it, so it stops at the first one, near the top only from small starts.
    """
    W, sigma = _tied(W, covariance)
    one_of("gradient", gradient, ["full", "encoder", "decoder"])
    seen = W @ sigma
    encoder, decoder = seen - W @ (W.T @ seen), seen - (seen @ W.T) @ W
    return {"full": encoder + decoder, "encoder": encoder, "decoder": decoder}[gradient]


@in_float64
def tied_energy(W: Any, eigenvalue: Any = 1.0) -> Float[Real, ""]:
    """E = ¼ρ Σ_i (1 − |w_i|²)² + ½ρ Σ_{i<j} ⟨w_i, w_j⟩² = ¼ρ ‖1 − WWᵀ‖² of rows w_i of W (d, D).

    For isotropic inputs, Σ = ρ1, `tied_flow` of one path is −∂E/∂W (of both, twice that): neurons
    want unit length and repel each other. Every pair counts once: i ≠ j would count it twice.
    """
    W = array("W", W, (None, None))
    lam = scalar("eigenvalue", eigenvalue, at_least=0.0)
    overlap = W @ W.T
    lengths, pairs = jnp.diagonal(overlap), jnp.triu(overlap, 1)
    return 0.25 * lam * jnp.sum((1.0 - lengths) ** 2) + 0.5 * lam * jnp.sum(pairs**2)


def _point(values: np.ndarray, inside: tuple[int, ...], hidden: int) -> CriticalPoint:
    D, r = len(values), len(inside)
    out = [k for k in range(D) if k not in inside]
    better = sum(k < j for j in inside for k in out)  # values fall
    return CriticalPoint(
        inside,
        float(values[out].sum()),
        negative=better + (hidden - r) * (D - r),
        flat=2 * r * hidden - r**2,
    )


def _pair(values, inside, hidden, pair) -> tuple[int | None, int]:
    """The pair (j, k) to turn, checked; None is the steepest."""
    out = [k for k in range(len(values)) if k not in inside]
    free = len(inside) < hidden
    if pair is None:
        if free:
            return None, out[0]
        pair = (inside[-1], out[0]) if out else (0, 0)
        if not out or pair[0] < pair[1]:
            raise ValueError("`components` must be a saddle: from the minimum no way leads down")
    j, k = pair if isinstance(pair, tuple | list) and len(pair) == 2 else (-1, -1)
    j, k = (one if one is None else whole("pair", one, at_least=-1) for one in (j, k))
    if k is None or k not in out or not (free if j is None else j in inside and k < j):
        raise ValueError(
            f"`pair` must be (j, k) with j in {inside}, k outside and ρ_k > ρ_j (or j None where "
            f"fewer than {hidden} components are chosen), got {shortened(pair)}"
        )
    return j, k


def _spectrum(given: Any, hidden: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Eigenvalues, falling and distinct, and eigenvectors in columns; `hidden` checked."""
    if is_traced(given):
        raise ValueError("`covariance` must not be traced here: eigenvectors are chosen from it")
    values, vectors = np.linalg.eigh(check_covariance("covariance", given))
    values, vectors = values[::-1], vectors[:, ::-1]
    hidden = whole("hidden", hidden, at_most=len(values))
    gaps = np.append(values[:-1] - values[1:], values[-1])
    if np.any(gaps <= 1e-10 * values[0]):
        raise ValueError(
            "`covariance` must have eigenvalues that are positive and all different: others have "
            f"continuous families of critical points; got {shortened(values.tolist())}"
        )
    return values, vectors, hidden


def _components(given: Any, dim: int, hidden: int) -> tuple[int, ...]:
    chosen = tuple(sorted(wholes("components", given, at_least=0, at_most=dim - 1)))
    if len(set(chosen)) < len(chosen) or len(chosen) > hidden:
        raise ValueError(
            f"`components` must be at most `hidden` = {hidden} different numbers, got "
            f"{shortened(chosen)}"
        )
    return chosen


def _weights(A: Any, B: Any, given: Any) -> tuple[Real, Real, Real]:
    sigma = check_covariance("covariance", given)
    A = array("A", A, (sigma.shape[0], None))
    return A, array("B", B, (A.shape[1], sigma.shape[0])), sigma


def _tied(W: Any, given: Any) -> tuple[Real, Real]:
    sigma = check_covariance("covariance", given)
    return array("W", W, (None, sigma.shape[0])), sigma
