"""Critical points of the loss of linear autoencoders, and ways down from saddles."""

import itertools
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from odeae.base.checks import array, scalar, whole, wholes
from odeae.base.checks import covariance as check_covariance
from odeae.base.messages import shortened
from odeae.base.precision import ArrayLike, Real, is_traced
from odeae.landscape.flows import Factors

MOST = 1_000_000  # largest number of critical points in one list


class CriticalPoint(NamedTuple):
    """A critical point of the loss: all weights with AB = P_I, the projector on eigenvectors I.

    These weights are one orbit of GL(d).

    Attributes:
        components: I, the chosen components, of size r ≤ d; 0 is the largest eigenvalue.
        loss: Σ_{i∉I} ρ_i.
        negative: How many eigenvalues of the Hessian of L in the 2Dd weights are negative.
        flat: How many are zero; the others are positive.

    Example:
        >>> odeae.landscape.critical_point(np.diag([3.0, 2.0, 1.0]), [1], hidden=1)
        CriticalPoint(components=(1,), loss=4.0, negative=1, flat=1)
    """

    components: tuple[int, ...]
    loss: float
    negative: int
    flat: int


class Descent(NamedTuple):
    """Weights a finite way down from a saddle, from `descend`.

    Attributes:
        A: Decoder, (D, d).
        B: Encoder, (d, D).
        change: The exact change of the loss L, which is negative.

    Example:
        >>> odeae.landscape.descend(np.diag([3.0, 2.0, 1.0]), [1], hidden=1, size=1.0).change
        -0.5
    """

    A: Float[Real, "dim hidden"]
    B: Float[Real, "hidden dim"]
    change: float


def critical_points(covariance: ArrayLike, hidden: int) -> list[CriticalPoint]:
    """Return all critical points of L: one for each set I of at most d components.

    They are A = U_I C, B = G U_Iᵀ with C G = 1, where U_I are the eigenvectors I. Points with r = d
    components are the projections of Baldi & Hornik; points with r < d leave d − r neurons unused.
    There is a negative direction for each pair j ∈ I, k ∉ I with ρ_k > ρ_j, and (d − r)(D − r) more
    that put an unused neuron to use. 2rd − r² directions are flat, the dimension of the orbit. The
    top d components are the only minimum, all other points are strict saddles; there is no maximum.

    Args:
        covariance: Σ, (D, D), with positive and distinct eigenvalues.
        hidden: d, the number of neurons, at most D.

    Returns:
        The Σ_{r≤d} C(D, r) critical points, by rising loss.

    Raises:
        ValueError: If an eigenvalue is 0 or two are equal (to 1e-10 of the largest), because
            critical points are then continuous families with other numbers of flat directions; if
            d > D; if Σ is traced or no covariance; or if there are over a million points.

    Source: Baldi & Hornik (1989); docs/theory.md 7.

    Example:
        >>> len(odeae.landscape.critical_points(np.diag([3.0, 2.0, 1.0]), hidden=2))
        7
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


def critical_point(covariance: ArrayLike, components: Iterable[int], hidden: int) -> CriticalPoint:
    """Return the critical point of one set of components.

    Args:
        covariance: Σ, (D, D), with positive and distinct eigenvalues.
        components: I, at most d different numbers; 0 is the largest eigenvalue.
        hidden: d, the number of neurons, at most D.

    Returns:
        The critical point, as in `critical_points`.

    Raises:
        ValueError: As `critical_points`, and if `components` are no such numbers.

    Source: Baldi & Hornik (1989); docs/theory.md 7.

    Example:
        >>> odeae.landscape.critical_point(np.diag([3.0, 2.0, 1.0]), [0, 1], hidden=2).negative
        0
    """
    values, _, hidden = _spectrum(covariance, hidden)
    return _point(values, _components(components, len(values), hidden), hidden)


def critical_weights(
    covariance: ArrayLike,
    components: Iterable[int],
    hidden: int,
    mixing: ArrayLike | None = None,
) -> Factors:
    """Return weights of a critical point: A = [U_I, 0] G, B = G⁻¹ [U_I, 0]ᵀ.

    Every invertible G gives the same AB, and all critical weights with AB = P_I have this form.

    Args:
        covariance: Σ, (D, D), with positive and distinct eigenvalues.
        components: I, at most d different numbers; 0 is the largest eigenvalue.
        hidden: d, the number of neurons, at most D.
        mixing: G, (d, d), invertible; None for the identity.

    Returns:
        Decoder A (D, d) and encoder B (d, D).

    Raises:
        ValueError: As `critical_point`, and if `mixing` is not invertible or not (d, d).

    Source: Baldi & Hornik (1989); docs/theory.md 7.

    Example:
        >>> A, B = odeae.landscape.critical_weights(np.diag([3.0, 2.0, 1.0]), [0, 2], hidden=2)
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
    covariance: ArrayLike,
    components: Iterable[int],
    hidden: int,
    size: ArrayLike,
    pair: tuple[int | None, int] | None = None,
) -> Descent:
    """Go down from a saddle by turning u_j → (u_j + ε u_k)/√(1 + ε²), with A = Bᵀ.

    The loss changes by exactly −ε² (ρ_k − ρ_j)/(1 + ε²). An unused neuron (r < d) may learn u_k
    instead: A and B both gain ε u_k, and the loss changes by −ρ_k ε² (2 − ε²), down for ε² < 2.

    Args:
        covariance: Σ, (D, D), with positive and distinct eigenvalues.
        components: I of the saddle, at most d different numbers; 0 is the largest eigenvalue.
        hidden: d, the number of neurons, at most D.
        size: ε.
        pair: (j, k) with j ∈ I, k ∉ I and ρ_k > ρ_j, or (None, k) for an unused neuron. None takes
            the best component outside, for an unused neuron or else for the worst one inside.

    Returns:
        The weights and the change of the loss.

    Raises:
        ValueError: At the minimum, for a pair that doesn't lead down, for ε² ≥ 2 with an unused
            neuron, and as `critical_point`.

    Source: Baldi & Hornik (1989), Prop. 3; docs/theory.md 7.

    Example:
        >>> down = odeae.landscape.descend(np.diag([3.0, 2.0, 1.0]), [1], hidden=1, size=0.1)
    """
    values, vectors, hidden = _spectrum(covariance, hidden)
    inside = _components(components, len(values), hidden)
    eps = float(scalar("size", size))
    j, k = _pair(values, inside, hidden, pair)
    if j is None and eps**2 >= 2.0:
        raise ValueError(f"`size` must be below √2 for an unused neuron, got {eps:g}")
    A = critical_weights(covariance, inside, hidden).A
    if j is None:
        A[:, len(inside)] = eps * vectors[:, k]
        return Descent(A, A.T.copy(), float(-values[k] * eps**2 * (2.0 - eps**2)))
    turned = (vectors[:, j] + eps * vectors[:, k]) / np.sqrt(1.0 + eps**2)
    A[:, inside.index(j)] = turned
    change = -(eps**2) * (values[k] - values[j]) / (1.0 + eps**2)
    return Descent(A, A.T.copy(), float(change))


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


def _pair(
    values: np.ndarray, inside: tuple[int, ...], hidden: int, pair: tuple[int | None, int] | None
) -> tuple[int | None, int]:
    """Return the pair (j, k) to turn, after checks; the steepest one for None."""
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


def _spectrum(given: ArrayLike, hidden: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return eigenvalues, falling and distinct, eigenvectors in columns, and checked `hidden`."""
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


def _components(given: Iterable[int], dim: int, hidden: int) -> tuple[int, ...]:
    chosen = tuple(sorted(wholes("components", given, at_least=0, at_most=dim - 1)))
    if len(set(chosen)) < len(chosen) or len(chosen) > hidden:
        raise ValueError(
            f"`components` must be at most `hidden` = {hidden} different numbers, got "
            f"{shortened(chosen)}"
        )
    return chosen
