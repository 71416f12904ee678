"""Learning rules: one drift at D → ∞ and, beside it, the finite-D step that it is the limit of."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from odeae.base.checks import flag, scalar
from odeae.base.messages import explains_arguments, one_of
from odeae.base.precision import Real, is_traced
from odeae.model.rule import AbstractRule, Rates
from odeae.model.schedules import as_schedule


@explains_arguments
class SGD(AbstractRule):
    """Online SGD on ‖x − x̂‖²/(2D) (docs/theory.md 1, 4 and 5).

    `lr`: the rate η of all parts; `lr_encoder`, `lr_decoder`, `lr_bias` replace it for one part
    (0 freezes the part). Scaling: a step moves V by η/D, W and b by η/D times order-one
    gradients, so that D steps are one unit of time. `weight_decay`: κ, acts on W, V and the output
    bias (not on hidden biases) as −κ/D per step and carries no η. All may be traced.

    `truncated`: neuron k learns from the reconstruction by neurons 1 … k alone, in both updates,
    so that each finds its own principal component (paper 3.5).
    `gradient`: for tied weights, the path(s) of the gradient that train them: "full", "encoder" or
    "decoder"; tied weights have one rate, `lr`. Biases are trained in any case: hidden ones at
    `lr_bias`, the output bias at the decoder's rate.
    `schedule`: a factor of all rates as a function of t = steps/D (not of the decay), for example
    `CosineSchedule(end=200)`; None keeps them constant. A function of your own that does something
    within less than a thousandth of the last time says when in an attribute `jumps`.

    Raises `ValueError` unless lr > 0, the other rates and the decay are ≥ 0, and all are finite.
    """

    lr: Float[Real, "*batch"]
    lr_encoder: Float[Real, "*batch"] | None
    lr_decoder: Float[Real, "*batch"] | None
    lr_bias: Float[Real, "*batch"] | None
    weight_decay: Float[Real, "*batch"]
    truncated: bool = eqx.field(static=True)
    gradient: str = eqx.field(static=True)
    schedule: Any

    def __init__(
        self,
        lr: Any = 1.0,
        lr_encoder: Any = None,
        lr_decoder: Any = None,
        lr_bias: Any = None,
        weight_decay: Any = 0.0,
        truncated: bool = False,
        gradient: str = "full",
        schedule: Any = None,
    ):
        self.lr = scalar("lr", lr, above=0.0)
        rates = {"lr_encoder": lr_encoder, "lr_decoder": lr_decoder, "lr_bias": lr_bias}
        for name, rate in rates.items():
            setattr(self, name, None if rate is None else scalar(name, rate, at_least=0.0))
        self.weight_decay = scalar("weight_decay", weight_decay, at_least=0.0)
        self.truncated = flag("truncated", truncated)
        self.gradient = one_of("gradient", gradient, ["full", "encoder", "decoder"])
        self.schedule = as_schedule(schedule)

    @property
    def title(self):
        """SGD, truncated SGD, SGD (encoder only), …"""
        name = "truncated SGD" if self.truncated else "SGD"
        return name if self.gradient == "full" else f"{name} ({self.gradient} only)"

    @property
    def feedback(self):  # pyright: ignore[reportIncompatibleVariableOverride]  # as equinox has it
        """Neurons a ≤ k if truncated, else all."""
        return "lower" if self.truncated else "all"

    def rates(self, network):
        """Return each part's own rate, or else `lr`; 0 for an untrained path of tied weights."""
        own = (self.lr_encoder, self.lr_decoder, self.lr_bias)
        encoder, decoder, bias = (self.lr if rate is None else rate for rate in own)
        output = decoder  # not tied to anything, so `gradient` doesn't concern it
        if self.gradient == "encoder":
            decoder = np.zeros(())
        if self.gradient == "decoder":
            encoder = np.zeros(())
        return Rates(encoder, decoder, bias, output)

    def check(self, network):
        """Raise `ValueError` for options that this network doesn't have."""
        if self.truncated and network.tied:
            raise ValueError(
                "`truncated` SGD is for untied weights; with tied linear ones use odeae.Sanger()"
            )
        if self.truncated and network.output_bias:
            raise ValueError(
                "`truncated` SGD can't train an `output_bias`: no neuron but the last would see it"
            )
        if self.gradient != "full" and not network.tied:
            raise ValueError(
                f'`gradient` "{self.gradient}" is for tied weights; in an untied network freeze a '
                "part with lr_encoder=0.0 or lr_decoder=0.0"
            )
        for name in ("lr_encoder", "lr_decoder"):
            if network.tied and getattr(self, name) is not None:
                raise ValueError(
                    f"`{name}` must not be given for tied weights, which have one rate, `lr`; "
                    '`gradient` "encoder" or "decoder" trains one path alone'
                )


class AbstractHebbian(AbstractRule):
    """A rule for linear, tied networks: v_k += (η/D) y_k (x − Σ_a m_ka y_a v_a), y_k = v_k·x/D.

    Args:
        lr: The rate η.
        weight_decay: κ, −κ/D per step.
        schedule: As for `SGD`.
    """

    lr: Float[Real, "*batch"]
    weight_decay: Float[Real, "*batch"]
    schedule: Any

    def __init__(self, lr: Any = 1.0, weight_decay: Any = 0.0, schedule: Any = None):
        self.lr = scalar("lr", lr, above=0.0)
        self.weight_decay = scalar("weight_decay", weight_decay, at_least=0.0)
        self.schedule = as_schedule(schedule)

    def rates(self, network):
        """Return the rate of the decoder path alone."""
        zero = np.zeros(())
        return Rates(zero, self.lr, zero, zero)

    def check(self, network):
        """Raise `ValueError` unless the network is linear and tied, without biases."""
        gain = network.gain
        missing = [
            text
            for text, good in (
                ('activation="linear"', network.activation.symmetry == "linear"),
                ("tied=True", network.tied),
                ("gain=1.0", not is_traced(gain) and np.all(gain == 1.0)),
                ("bias=False", not network.bias),
                ("output_bias=False", not network.output_bias),
            )
            if not good
        ]
        if missing:
            raise ValueError(
                f"{type(self).__name__}'s rule trains linear, tied networks of gain 1 without "
                f"biases: the autoencoder needs {', '.join(missing)}"
            )


@explains_arguments
class Oja(AbstractHebbian):
    """Oja's subspace rule, du = η (ρ̃ u − Q u) with Q = Σ ρ̃ u uᵀ; Oja's own rule is K = 1.

    For linear, tied networks of gain 1: v_k += (η/D) y_k (x − Σ_a y_a v_a), y_k = v_k·x/D. `lr`,
    `weight_decay`, `schedule` as for `SGD`. Source: docs/theory.md 5; Oja (1982, 1989).
    """

    feedback = "all"

    def __init__(self, lr: Any = 1.0, weight_decay: Any = 0.0, schedule: Any = None):
        super().__init__(lr, weight_decay, schedule)


@explains_arguments
class Sanger(AbstractHebbian):
    """Sanger's rule, du_k = η (ρ̃ u_k − Σ_{a≤k} Q_ka u_a): neuron k finds component k.

    For linear, tied networks of gain 1: v_k += (η/D) y_k (x − Σ_{a≤k} y_a v_a), y_k = v_k·x/D.
    `lr`, `weight_decay`, `schedule` as for `SGD`. Source: docs/theory.md 5; Sanger (1989).
    """

    feedback = "lower"

    def __init__(self, lr: Any = 1.0, weight_decay: Any = 0.0, schedule: Any = None):
        super().__init__(lr, weight_decay, schedule)

    def symmetry(self, network):
        """None: a neuron sees its own weights and the earlier ones'."""
        return "none"


@explains_arguments
class Hebb(AbstractHebbian):
    """Hebb's rule with decay, du = η ρ̃ u − κ u; it grows without bound unless κ > η ρ̃_max.

    For linear, tied networks of gain 1: v_k += (η/D) y_k x − (κ/D) v_k, y_k = v_k·x/D. `lr`,
    `weight_decay`, `schedule` as for `SGD`. Source: docs/theory.md 5; Hebb (1949).
    """

    feedback = "none"

    def __init__(self, lr: Any = 1.0, weight_decay: Any = 0.0, schedule: Any = None):
        super().__init__(lr, weight_decay, schedule)

    def symmetry(self, network):
        """Any linear map of the neurons, which don't see each other."""
        return "linear"


RULES = {"SGD": SGD, "Oja": Oja, "Sanger": Sanger, "Hebb": Hebb}
