"""The loss of linear autoencoders and its gradient flows."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

from odeae.base.checks import array, scalar
from odeae.base.checks import covariance as check_covariance
from odeae.base.messages import one_of
from odeae.base.precision import ArrayLike, Real, in_float64


class Factors(NamedTuple):
    """The weights of a linear autoencoder, x̂ = A B x.

    Attributes:
        A: Decoder, (D, d); Vᵀ/√D in the package's units.
        B: Encoder, (d, D); W in the package's units.

    Example:
        >>> A, B = odeae.landscape.critical_weights(np.diag([3.0, 2.0, 1.0]), [0], hidden=1)
    """

    A: Float[Real, "dim hidden"]
    B: Float[Real, "hidden dim"]


@in_float64
def reconstruction_loss(A: ArrayLike, B: ArrayLike, covariance: ArrayLike) -> Float[Real, ""]:
    """Return the loss L = tr (I − AB) Σ (I − AB)ᵀ = ⟨‖x − ABx‖²⟩, twice the error at Σ = Ω/D.

    Args:
        A: Decoder, (D, d).
        B: Encoder, (d, D).
        covariance: Σ, (D, D).

    Returns:
        L, a scalar.

    Raises:
        ValueError: If shapes don't fit together or Σ is no covariance.

    Source: docs/theory.md 7.

    Example:
        >>> float(odeae.landscape.reconstruction_loss([[1.0], [0.0]], [[1.0, 0.0]], np.eye(2)))
        1.0
    """
    decoder, encoder, sigma = _weights(A, B, covariance)
    rest = jnp.eye(sigma.shape[0]) - decoder @ encoder
    return jnp.sum((rest @ sigma) * rest)


@in_float64
def flow(A: ArrayLike, B: ArrayLike, covariance: ArrayLike) -> Factors:
    """Return the gradient flow dA = (Σ − ABΣ) Bᵀ, dB = Aᵀ (Σ − ABΣ), minus half the gradient of L.

    This is gradient flow on e: `odeae.predict` integrates it for a linear network, from
    `state_from_weights(problem, W=B, V=√D Aᵀ)`. Aᵀ A − B Bᵀ is conserved.

    Args:
        A: Decoder, (D, d).
        B: Encoder, (d, D).
        covariance: Σ, (D, D); Ω/D for time in steps/D.

    Returns:
        dA/dt (D, d) and dB/dt (d, D).

    Raises:
        ValueError: If shapes don't fit together or Σ is no covariance.

    Source: docs/theory.md 7.

    Example:
        >>> dA, dB = odeae.landscape.flow([[1.0], [0.0]], [[1.0, 0.0]], np.eye(2))
    """
    decoder, encoder, sigma = _weights(A, B, covariance)
    left = sigma - decoder @ (encoder @ sigma)
    return Factors(left @ encoder.T, decoder.T @ left)


@in_float64
def tied_flow(
    W: ArrayLike, covariance: ArrayLike, gradient: str = "encoder"
) -> Float[Real, "hidden dim"]:
    """Return the flow of tied weights, B = W and A = Wᵀ, along one path of the gradient or both.

    From almost every start the flows "decoder" and "full" end at the top-d subspace. The flow
    "encoder" does not: every W with orthonormal rows is a fixed point of it, so it stops at the
    first one that it meets, which is near the top subspace only from small starts.

    Args:
        W: Weights, (d, D).
        covariance: Σ, (D, D); Ω/D for time in steps/D.
        gradient: "encoder" for dW = W (Σ − WᵀWΣ) = (1 − WWᵀ) WΣ; "decoder" for
            dW = W (Σ − ΣWᵀW), Oja's subspace rule; "full" for their sum, minus half the gradient
            of L.

    Returns:
        dW/dt, (d, D).

    Raises:
        ValueError: If shapes don't fit together, Σ is no covariance or `gradient` is unknown.

    Source: docs/theory.md 7.

    Example:
        >>> odeae.landscape.tied_flow([[0.5, 0.0]], np.eye(2), "decoder").tolist()
        [[0.375, 0.0]]
    """
    w, sigma = _tied(W, covariance)
    one_of("gradient", gradient, ["full", "encoder", "decoder"])
    seen = w @ sigma
    encoder, decoder = seen - w @ (w.T @ seen), seen - (seen @ w.T) @ w
    return {"full": encoder + decoder, "encoder": encoder, "decoder": decoder}[gradient]


@in_float64
def tied_energy(W: ArrayLike, eigenvalue: ArrayLike = 1.0) -> Float[Real, ""]:
    """Return E = ¼ρ Σ_i (1 − |w_i|²)² + ½ρ Σ_{i<j} ⟨w_i, w_j⟩² = ¼ρ ‖1 − WWᵀ‖² of rows w_i of W.

    For isotropic inputs, Σ = ρ1, the `tied_flow` of one path is −∂E/∂W, of both paths twice that:
    neurons want unit length and repel each other. Each pair i < j counts once.

    Args:
        W: Weights, (d, D).
        eigenvalue: ρ; ρ/D for time in steps/D.

    Returns:
        E, a scalar.

    Raises:
        ValueError: If W is no matrix or ρ is negative.

    Source: docs/theory.md 7.

    Example:
        >>> float(odeae.landscape.tied_energy([[1.0, 0.0], [0.0, 0.0]]))
        0.25
    """
    w = array("W", W, (None, None))
    lam = scalar("eigenvalue", eigenvalue, at_least=0.0)
    overlap = w @ w.T
    lengths, pairs = jnp.diagonal(overlap), jnp.triu(overlap, 1)
    return 0.25 * lam * jnp.sum((1.0 - lengths) ** 2) + 0.5 * lam * jnp.sum(pairs**2)


def _weights(A: ArrayLike, B: ArrayLike, given: ArrayLike) -> tuple[Real, Real, Real]:
    sigma = check_covariance("covariance", given)
    decoder = array("A", A, (sigma.shape[0], None))
    return decoder, array("B", B, (decoder.shape[1], sigma.shape[0])), sigma


def _tied(W: ArrayLike, given: ArrayLike) -> tuple[Real, Real]:
    sigma = check_covariance("covariance", given)
    return array("W", W, (None, sigma.shape[0])), sigma
