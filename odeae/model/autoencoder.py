"""The network: how many neurons, which activation, what is tied and which biases there are."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.averages.activation import AbstractActivation
from odeae.averages.by_name import as_activation
from odeae.base.checks import described, flag, scalar, whole
from odeae.base.messages import explains_arguments, shortened
from odeae.base.precision import Real, in_float64, is_traced


class Weights(NamedTuple):
    """Weights of a finite network: encoder W and decoder V (K, D), hidden biases b (K,).

    `output_bias`: v_0 (D,), None for networks without. In a tied network W = gain V/√D.
    """

    encoder: Real
    decoder: Real
    bias: Real
    output_bias: Real | None = None


@explains_arguments
class Autoencoder(eqx.Module):
    """A shallow autoencoder x̂ = Σ_k v_k g(w_k·x/√D + b_k) + v_0 with `hidden` = K neurons.

    `activation`: a name (erf, relu, linear, tanh, gelu) or an activation. `tied`: one weight vector
    per neuron, w_k = gain v_k/√D, so that its field is gain v_k·x/D; `gain` is the paper's fixed
    factor and may be traced. `bias`: whether the hidden neurons have biases, trained at the rule's
    `lr_bias`; without, b = 0. `output_bias`: whether there is a trained vector v_0 (D,); without,
    v_0 = 0. Source: docs/theory.md 1 and 5.

    Raises `ValueError` for a gain that is not positive, or not 1 in an untied network.
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
        gain: Any = 1.0,
    ):
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
        """Independent columns of a mode's row: w and u (only u if tied), and u_0."""
        return self.hidden * (1 if self.tied else 2) + self.output_bias

    @in_float64
    def output(self, weights: Weights, x: Float[Real, "*batch dim"]) -> Float[Real, "*batch dim"]:
        """x̂ of inputs x (…, D), in the basis of the weights."""
        W, V, b, v0 = weights
        fields = x @ W.T / np.sqrt(x.shape[-1])
        output = self.activation(fields + jnp.broadcast_to(b, fields.shape)) @ V
        return output if v0 is None else output + jnp.broadcast_to(v0, output.shape)
