"""The averages of neurons and of pairs of neurons, and their arguments."""

from typing import NamedTuple, TypeAlias

from jaxtyping import Float

from odeae.base.precision import Real

# One number for each neuron, or for each pair of neurons; lanes add an axis at the end.
PerNeuron: TypeAlias = Float[Real, "hidden *lanes"]
PerPair: TypeAlias = Float[Real, "hidden hidden *lanes"]


class Averages(NamedTuple):
    """Gaussian averages of an activation g at fields λ + b with λ ~ N(0, Q).

    Source: docs/theory.md 3.

    Attributes:
        c: E[g'] of each neuron, (K,).
        c_q: ∂c/∂q of each neuron, (K,).
        c_b: ∂c/∂b of each neuron, (K,).
        G: G[k, a] = E[g_k g_a], (K, K).
        P: P[k, a] = E[g'_k g'_a], (K, K).
        S: S[k, a] = E[g''_k g_a], (K, K).
        B: B[k, a] = E[g'_k g_a], (K, K).
    """

    c: Real
    c_q: Real
    c_b: Real
    G: Real
    P: Real
    S: Real
    B: Real


class Moments(NamedTuple):
    """Averages of single neurons at field variances q and biases b, each of shape (K,).

    Source: docs/theory.md 3 and 8.

    Attributes:
        c: E[g'].
        c_q: ∂c/∂q.
        c_b: ∂c/∂b.
        N: E[(g(λ+b) − cλ)²] = G − c² q, the mean square of the output that is no linear function
            of the field.
        N_q: ∂N/∂q.
        N_b: ∂N/∂b.
    """

    c: Real
    c_q: Real
    c_b: Real
    N: Real
    N_q: Real
    N_b: Real


class Pairs(NamedTuple):
    """The covariances of all pairs (k, a) of neurons: views of Q and b that broadcast to (K, K).

    Attributes:
        q1: Variance Q_kk of the first neuron, (K, 1).
        q2: Variance Q_aa of the second neuron, (1, K).
        q12: Covariance Q_ka, (K, K).
        b1: Bias of the first neuron, (K, 1), or None without biases.
        b2: Bias of the second neuron, (1, K), or None without biases.
    """

    q1: Real
    q2: Real
    q12: Real
    b1: Real | None
    b2: Real | None
