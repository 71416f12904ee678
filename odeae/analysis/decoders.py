"""The best decoder of given encoders, and the error that it leaves."""

import jax.numpy as jnp
from jaxtyping import Float

from odeae.averages.activation import mean_output, mean_slope, overlap
from odeae.averages.special import safe_sqrt
from odeae.base.contractions import diagonal
from odeae.base.messages import explains_arguments
from odeae.base.precision import Real, in_float64
from odeae.model.errors import excess_error
from odeae.model.leading import leading_modes
from odeae.model.problem import Problem, check_state
from odeae.model.state import Modes, State, total_overlaps


@explains_arguments
@in_float64
def best_decoder(problem: Problem, state: State) -> State:
    """Return `state` with the decoder that has the least error for its encoder and biases.

    The error is quadratic in the decoder. Its minimum, for each mode, is u = G⁻¹ (ρ̃ c∘w). With an
    output bias it is u = (G − m mᵀ)⁻¹ (ρ̃ c∘w) and u_0 = −m·u with m = ⟨g⟩, so that the mean output
    vanishes. If several decoders are equally good (neurons that are copies of each other, or dead),
    the one with the least Σ_k G_kk u_k² is taken. Rates and decay have no influence. The result is
    exact for the lumped rows of a bulk, too.

    Args:
        problem: The problem, with untied weights.
        state: A state of this problem.

    Returns:
        The state, with the same encoder and biases.

    Raises:
        ValueError: For tied weights, whose decoder is not free.

    Source: docs/theory.md 8.

    Example:
        >>> best = odeae.best_decoder(problem, state)
        >>> bool(problem.error(best) <= problem.error(state))
        True
    """
    state = check_state(problem, state)
    network, inputs = problem.autoencoder, problem.inputs
    if network.tied:
        raise ValueError(
            "`problem` must be untied: tied weights have no separate decoder to choose"
        )
    rows, total = state.rows, total_overlaps(state, inputs)
    q, b = diagonal(total.Q1), state.bias if network.bias else None
    c, G = mean_slope(network.activation, q, b), overlap(network.activation, total.Q1, b)
    mean = mean_output(network.activation, q, b) if network.output_bias else None
    if mean is not None:
        G = G - mean[:, None] * mean[None, :]
    decoder = (inputs.rho[:, None] * c[None, :] * rows.encoder) @ _inverse(G)
    output = None if mean is None else -decoder @ mean
    rows = Modes(jnp.asarray(rows.encoder), decoder, output)
    return State(rows=rows, n_spikes=state.n_spikes, bias=state.bias)


def _inverse(G: Real) -> Real:
    """Return the pseudo-inverse of a covariance, for variances of any sizes."""
    size = safe_sqrt(jnp.maximum(diagonal(G), 0.0))
    scale = jnp.where(size > 0, 1.0 / jnp.where(size > 0, size, 1.0), 0.0)
    scale = scale[:, None] * scale[None, :]
    return scale * jnp.linalg.pinv(scale * G, rtol=1e-13 * G.shape[0], hermitian=True)


@explains_arguments
@in_float64
def residual(problem: Problem, state: State) -> Float[Real, ""]:
    """Return the residual of an encoder: the excess error that its best decoder leaves.

    The excess is the error above the PCA error of rank K, here of `best_decoder(problem, state)`,
    to all its digits. For a sigmoidal neuron on one mode it is ½ ρ̃ (1 − y/arcsin y), y = q/(1 + q),
    q = ρ̃ α². It vanishes only where the encoder spans the leading components and nothing
    non-linear is left.

    Args:
        problem: The problem, with untied weights.
        state: A state of this problem.

    Returns:
        The excess error, a scalar.

    Raises:
        ValueError: For tied weights, whose decoder is not free.

    Source: docs/theory.md 8.

    Example:
        >>> float(odeae.residual(problem, state)) > 0.0
        True
    """
    best, network = best_decoder(problem, state), problem.autoencoder
    leading = leading_modes(problem.spectrum, network.hidden)
    return excess_error(network, problem.inputs, leading, best)
