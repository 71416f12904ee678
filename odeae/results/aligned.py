"""Curves of neurons that each sit on one principal component."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.base.precision import Real, in_float64
from odeae.model.problem import Problem, leading_spikes
from odeae.model.state import Components, OrderParameters, OutputOverlaps, Overlaps
from odeae.results.trajectory import Trajectory


class AlignedTrajectory(Trajectory):
    """A learning curve of the aligned ansatz (docs/theory.md 8): neuron k has spike k for itself.

    A `Trajectory` with two more fields, from which all others follow.

    Attributes:
        encoder: (T, K), α_k, the entry of w_k on spike k.
        decoder: (T, K), β_k, the entry of u_k on spike k.

    Example:
        >>> odeae.predict_aligned(problem, odeae.log_times(1e6), 1.0, 0.5).product[-1]
    """

    encoder: Float[Real, "*batch times hidden"] | None = None
    decoder: Float[Real, "*batch times hidden"] | None = None

    @property
    @in_float64
    def product(self) -> Real:
        """α_k β_k, (T, K): what the linear part of neuron k passes on of spike k."""
        return jnp.asarray(self.encoder) * jnp.asarray(self.decoder)


def aligned_trajectory(
    problem: Problem,
    times: Real,
    encoder: Real,
    decoder: Real,
    bias: Real,
    error: Real,
    excess: Real,
    **others: Any,
) -> AlignedTrajectory:
    """The whole curve of α, β and b, each (T, K), NaN where it was not reached.

    On the spikes order parameters are diagonal, and there is nothing in the bulk. `others`: the
    other fields of a `Trajectory`.
    """
    inputs, K = problem.inputs, problem.autoencoder.hidden
    rho, squares = inputs.rho[None, :K], (encoder**2, encoder * decoder, decoder**2)
    diagonals = (
        (rho + inputs.noise) * squares[0], rho * squares[1], rho * squares[2], squares[2],
        squares[0] / inputs.dim,
    )  # fmt: skip
    zero = jnp.where(jnp.isfinite(encoder), 0.0, jnp.nan)
    output = None
    if problem.autoencoder.output_bias:  # it stays at 0
        with_itself = jnp.concatenate([zero, zero[:, :1]], axis=1)
        output = OutputOverlaps(zero, with_itself, with_itself)
    Q1, R1, T1, T0, Q0 = (x[:, :, None] * jnp.eye(K)[None] for x in diagonals)
    spikes = Overlaps(Q1, R1, T1, T0, Q0, output)
    none = jnp.broadcast_to(zero[:, :, None], (*zero.shape, K))
    bulk = Overlaps(none, none, none, none, none, output)
    which = leading_spikes(problem)
    assert which is not None  # there are at least K spikes
    own = (which[:, None] == np.arange(K)[None])[None]
    along = (jnp.where(own, x[:, None], zero[:, None]) for x in (encoder, decoder))
    return AlignedTrajectory(
        times=times,
        error=error,
        order_parameters=OrderParameters(spikes, bulk),
        bias=bias,
        problem=problem,
        components=Components(*along),
        above_pca=excess,
        encoder=encoder,
        decoder=decoder,
        **others,
    )
