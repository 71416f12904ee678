"""Learning rules: for each, the drift of the theory and the finite-D update it is the limit of."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.activations import AbstractActivation, mean_slope, overlap
from odeae.checks import scalar
from odeae.precision import Real
from odeae.state import Modes, Overlaps, overlaps


class Weights(NamedTuple):
    """Weights of a finite network: encoder W and decoder V (K, D), hidden biases b (K,)."""

    encoder: Real
    decoder: Real
    bias: Real


def generalisation_error(
    activation: AbstractActivation,
    total: Overlaps,
    bias: Float[Real, " hidden"] | None,
    trace: Float[Real, ""],
) -> Float[Real, ""]:
    """e = ½ tr Ω/D − Σ_k c_k R_kk + ½ Σ_kl T0_kl G_kl (docs/theory.md §4).

    `trace` is tr Ω/D. Exact at every D for Gaussian inputs.
    """
    c = mean_slope(activation, jnp.diagonal(total.Q1), bias)
    G = overlap(activation, total.Q1, bias)
    return 0.5 * trace - c @ jnp.diagonal(total.R1) + 0.5 * jnp.sum(total.T0 * G)


class AbstractRule(eqx.Module):
    """A learning rule: its drift at D → ∞ and one step at finite D."""

    def rates(self) -> tuple[Real, ...]:
        """Learning rates of the parts; the largest one sets the size of finite-D corrections."""
        return (np.asarray(1.0),)

    @abc.abstractmethod
    def drift(
        self,
        activation: AbstractActivation,
        rho: Float[Real, " modes"],
        modes: Modes,
        bias: Float[Real, " hidden"] | None,
    ) -> tuple[Modes, Float[Real, " hidden"] | None]:
        """Return d(rows)/dt and d(bias)/dt at rows with scaled eigenvalues `rho`."""

    @abc.abstractmethod
    def update(
        self,
        activation: AbstractActivation,
        weights: Weights,
        x: Float[Real, " dim"],
        trained_bias: bool,
    ) -> Weights:
        """Return the weights after one step on input x (D,)."""


class SGD(AbstractRule):
    """Online SGD on ‖x − x̂‖²/(2D), untied weights (docs/theory.md §1 and §4).

    `lr`: the rate η of all parts; `lr_encoder`, `lr_decoder`, `lr_bias` replace it for one part
    (0 freezes the part). Scaling: a step moves V by η/D, W and b by η/D times order-one
    gradients, so that D steps are one unit of time. `weight_decay`: κ, acts on W and V (not on
    biases) as −κ/D per step and carries no η. All may be traced.

    Raises `ValueError` unless lr > 0, the other rates and the decay are ≥ 0, and all are finite.
    """

    lr: Float[Real, "*batch"]
    lr_encoder: Float[Real, "*batch"] | None
    lr_decoder: Float[Real, "*batch"] | None
    lr_bias: Float[Real, "*batch"] | None
    weight_decay: Float[Real, "*batch"]

    def __init__(
        self,
        lr: Any = 1.0,
        lr_encoder: Any = None,
        lr_decoder: Any = None,
        lr_bias: Any = None,
        weight_decay: Any = 0.0,
    ):
        self.lr = scalar("lr", lr, above=0.0)
        rates = {"lr_encoder": lr_encoder, "lr_decoder": lr_decoder, "lr_bias": lr_bias}
        for name, rate in rates.items():
            setattr(self, name, None if rate is None else scalar(name, rate, at_least=0.0))
        self.weight_decay = scalar("weight_decay", weight_decay, at_least=0.0)

    def rates(self):
        """Return (η_w, η_v, η_b): each part's own rate, or else `lr`."""
        own = (self.lr_encoder, self.lr_decoder, self.lr_bias)
        return tuple(self.lr if rate is None else rate for rate in own)

    def drift(self, activation, rho, modes, bias):
        """Return the right-hand side of docs/theory.md §4, gradient flow on the error.

        dw = η_w ρ̃ [c u + (2 c_q R − Σ_a T0 S) w − Σ_a T0 P w_a] − κ w
        du = η_v [ρ̃ c w − Σ_a G u_a] − κ u,  db = η_b [c_b R − Σ_a T0 B]
        """
        w, u = modes.encoder, modes.decoder
        lr_w, lr_u, lr_b = self.rates()
        total = overlaps(modes, rho)
        a = activation.averages(total.Q1, bias)
        R, T0, rho, c = jnp.diagonal(total.R1), total.T0, rho[:, None], a.c[None, :]
        own = (2.0 * a.c_q * R - jnp.sum(T0 * a.S, axis=1))[None, :]
        dw = lr_w * rho * (c * u + own * w - w @ (T0 * a.P)) - self.weight_decay * w
        du = lr_u * (rho * c * w - u @ a.G) - self.weight_decay * u
        if bias is None:
            return Modes(dw, du), None
        return Modes(dw, du), lr_b * (a.c_b * R - jnp.sum(T0 * a.B, axis=1))

    def update(self, activation, weights, x, trained_bias):
        """Return the weights after one step on x (docs/theory.md §1)."""
        W, V, b = weights
        dim = x.shape[-1]
        lr_w, lr_v, lr_b = self.rates()
        field = W @ x / np.sqrt(dim) + b
        hidden = activation(field)
        residual = x - hidden @ V
        back = (V @ residual / dim) * activation.slope(field)
        decay = 1.0 - self.weight_decay / dim
        W = decay * W + (lr_w / dim) * jnp.outer(back, x / np.sqrt(dim))
        V = decay * V + (lr_v / dim) * jnp.outer(hidden, residual)
        return Weights(W, V, b + (lr_b / dim) * back if trained_bias else b)
