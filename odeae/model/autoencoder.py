"""The network: its number of neurons, its activation, tied or untied weights, its biases."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.averages.activation import AbstractActivation
from odeae.averages.by_name import as_activation
from odeae.base.checks import described, flag, scalar, whole
from odeae.base.messages import explains_arguments, shortened
from odeae.base.precision import ArrayLike, Real, in_float64, is_traced


class Weights(NamedTuple):
    """The weights of a network at finite D, in the eigenbasis or in the input space.

    A leading axis may count runs. In a tied network W = gain V/√D.

    Attributes:
        encoder: W, (K, D); its entries are not scaled.
        decoder: V, (K, D); its entries are not scaled.
        bias: Hidden biases b, (K,).
        output_bias: v_0, (D,); None for networks without an output bias.

    Example:
        >>> odeae.draw_weights(problem, state).encoder.shape
        (3, 1000)
    """

    encoder: Real
    decoder: Real
    bias: Real
    output_bias: Real | None = None


@explains_arguments
class Autoencoder(eqx.Module):
    """A shallow autoencoder x̂ = Σ_k v_k g(w_k·x/√D + b_k) + v_0 with K hidden neurons.

    Args:
        hidden: K, the number of neurons.
        activation: The name of an activation (erf, relu, linear, tanh, gelu), or an activation.
        tied: Whether each neuron has one weight vector, w_k = gain v_k/√D, so that its field is
            gain v_k·x/D.
        bias: Whether the hidden neurons have biases b, trained at the rule's `lr_bias`. Without
            them b = 0.
        output_bias: Whether there is a trained vector v_0 (D,). Without it v_0 = 0.
        gain: The paper's fixed factor between tied weights, positive. May be traced.

    Raises:
        ValueError: If `hidden` is no whole number of at least 1, the activation is unknown, the
            gain is not positive, or the gain is not 1 in an untied network.

    Source: the paper (arXiv:2201.02115); docs/theory.md 1 and 5.

    Example:
        >>> odeae.Autoencoder(3, "relu", bias=True).hidden
        3
    """

    hidden: int = eqx.field(static=True)
    activation: AbstractActivation
    tied: bool = eqx.field(static=True)
    bias: bool = eqx.field(static=True)
    output_bias: bool = eqx.field(static=True)
    gain: Float[Real, "*batch"]

    __repr__ = described

    def __init__(
        self,
        hidden: int,
        activation: str | AbstractActivation = "erf",
        tied: bool = False,
        bias: bool = False,
        output_bias: bool = False,
        gain: ArrayLike = 1.0,
    ) -> None:
        if isinstance(hidden, str | AbstractActivation):
            raise ValueError(
                f"`hidden`, the number of neurons, must come first, got {shortened(hidden)}; write "
                "Autoencoder(hidden, activation)"
            )
        self.hidden = whole("hidden", hidden)
        self.activation = as_activation(activation)
        self.tied = flag("tied", tied)
        self.bias = flag("bias", bias, "its start is the state's")
        hint = "state_from_weights sets its start, which is 0 otherwise"
        self.output_bias = flag("output_bias", output_bias, hint)
        self.gain = scalar("gain", gain, above=0.0)
        if not self.tied and (is_traced(self.gain) or self.gain != 1.0):
            raise ValueError("`gain` is the factor between tied weights: it needs tied=True")

    @property
    def width(self) -> int:
        """The number of independent columns of a mode's row: w and u (only u if tied), and u_0."""
        return self.hidden * (1 if self.tied else 2) + self.output_bias

    @in_float64
    def output(self, weights: Weights, x: Float[Real, "*batch dim"]) -> Float[Real, "*batch dim"]:
        """Return the reconstruction x̂ of inputs.

        Args:
            weights: Weights of the network, of one run.
            x: Inputs, (…, D), in the basis of the weights.

        Returns:
            x̂, (…, D).
        """
        W, V, b, v0 = weights
        fields = x @ W.T / np.sqrt(x.shape[-1])
        output = self.activation(fields + jnp.broadcast_to(b, fields.shape)) @ V
        return output if v0 is None else output + jnp.broadcast_to(v0, output.shape)
