"""The learning rules: SGD and its variants, Oja, Sanger, Hebb."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from odeae.base.checks import flag, scalar
from odeae.base.messages import explains_arguments, one_of
from odeae.base.precision import ArrayLike, Real, is_traced
from odeae.model.autoencoder import Autoencoder
from odeae.model.rule import AbstractRule, Rates
from odeae.model.schedules import as_schedule


@explains_arguments
class SGD(AbstractRule):
    """Online SGD on the loss ‖x − x̂‖²/(2D).

    A step moves V, W and b by η/D times gradients of order one, so D steps are one unit of time.
    Rates and decay may be traced.

    Args:
        lr: The rate η of all parts, of order one and positive.
        lr_encoder: The rate of W in place of `lr`; 0 freezes W. Not for tied weights.
        lr_decoder: The rate of V and of the output bias in place of `lr`; 0 freezes them. Not for
            tied weights.
        lr_bias: The rate of the hidden biases in place of `lr`; 0 freezes them.
        weight_decay: κ. It acts on W, V and the output bias (not on hidden biases) as −κ/D per
            step, and is not multiplied by η.
        truncated: Whether neuron k learns from the reconstruction by neurons 1 … k alone, in both
            updates, so that each neuron finds its own principal component.
        gradient: For tied weights, which path of the gradient trains them: "full" (both),
            "encoder" or "decoder". Biases are trained in any case, hidden ones at `lr_bias`, the
            output bias at the decoder's rate.
        schedule: A factor of all rates (not of the decay) as a function of t = steps/D, for example
            `CosineSchedule(end=200)`; None for constant rates. A function of your own that changes
            within less than a thousandth of the last time must say when, in an attribute `jumps`.

    Raises:
        ValueError: Unless lr > 0, the other rates and the decay are ≥ 0, and all are finite; and
            for an unknown `gradient` or a schedule that can't be called.

    Source: the paper (arXiv:2201.02115), for `truncated` its section 3.5; docs/theory.md 1, 4, 5.

    Example:
        >>> rule = odeae.SGD(lr=1.0, weight_decay=0.01, schedule=odeae.CosineSchedule(end=200))
        >>> problem = odeae.Problem(spectrum, odeae.Autoencoder(3), rule)
    """

    lr: Float[Real, "*batch"]
    lr_encoder: Float[Real, "*batch"] | None
    lr_decoder: Float[Real, "*batch"] | None
    lr_bias: Float[Real, "*batch"] | None
    weight_decay: Float[Real, "*batch"]
    truncated: bool = eqx.field(static=True)
    gradient: str = eqx.field(static=True)
    schedule: Callable[..., Any] | None

    def __init__(
        self,
        lr: ArrayLike = 1.0,
        lr_encoder: ArrayLike | None = None,
        lr_decoder: ArrayLike | None = None,
        lr_bias: ArrayLike | None = None,
        weight_decay: ArrayLike = 0.0,
        truncated: bool = False,
        gradient: str = "full",
        schedule: Callable[..., Any] | None = None,
    ) -> None:
        self.lr = scalar("lr", lr, above=0.0)
        rates = {"lr_encoder": lr_encoder, "lr_decoder": lr_decoder, "lr_bias": lr_bias}
        for name, rate in rates.items():
            setattr(self, name, None if rate is None else scalar(name, rate, at_least=0.0))
        self.weight_decay = scalar("weight_decay", weight_decay, at_least=0.0)
        self.truncated = flag("truncated", truncated)
        self.gradient = one_of("gradient", gradient, ["full", "encoder", "decoder"])
        self.schedule = as_schedule(schedule)

    @property
    def title(self) -> str:
        """The name in titles: SGD, truncated SGD, SGD (encoder only), …"""
        name = "truncated SGD" if self.truncated else "SGD"
        return name if self.gradient == "full" else f"{name} ({self.gradient} only)"

    @property
    def feedback(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The neurons whose output is subtracted: "lower" if truncated, else "all"."""
        return "lower" if self.truncated else "all"

    def rates(self, network: Autoencoder) -> Rates:
        """Return each part's own rate, or else `lr`; 0 for an untrained path of tied weights."""
        own = (self.lr_encoder, self.lr_decoder, self.lr_bias)
        encoder, decoder, bias = (self.lr if rate is None else rate for rate in own)
        output = decoder  # the output bias is not tied, so `gradient` doesn't concern it
        if self.gradient == "encoder":
            decoder = np.zeros(())
        if self.gradient == "decoder":
            encoder = np.zeros(())
        return Rates(encoder, decoder, bias, output)

    def check(self, network: Autoencoder) -> None:
        """Raise `ValueError` for options that this network doesn't have."""
        if self.truncated and network.tied:
            raise ValueError(
                "`truncated` SGD is for untied weights; with tied linear ones use odeae.Sanger()"
            )
        if self.truncated and network.output_bias:
            raise ValueError(
                "`truncated` SGD can't train an `output_bias`: only the last neuron would see it"
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
        lr: The rate η, of order one and positive.
        weight_decay: κ, which acts as −κ/D per step.
        schedule: As for `SGD`.
    """

    lr: Float[Real, "*batch"]
    weight_decay: Float[Real, "*batch"]
    schedule: Callable[..., Any] | None

    def __init__(
        self,
        lr: ArrayLike = 1.0,
        weight_decay: ArrayLike = 0.0,
        schedule: Callable[..., Any] | None = None,
    ) -> None:
        self.lr = scalar("lr", lr, above=0.0)
        self.weight_decay = scalar("weight_decay", weight_decay, at_least=0.0)
        self.schedule = as_schedule(schedule)

    def rates(self, network: Autoencoder) -> Rates:
        """Return the rate of the decoder path alone."""
        zero = np.zeros(())
        return Rates(zero, self.lr, zero, zero)

    def check(self, network: Autoencoder) -> None:
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

    The rule is for linear, tied networks of gain 1 without biases. At finite D
    v_k += (η/D) y_k (x − Σ_a y_a v_a), y_k = v_k·x/D. Neurons find the leading subspace.

    Args:
        lr: The rate η, of order one and positive. May be traced.
        weight_decay: κ, which acts as −κ/D per step. May be traced.
        schedule: A factor of the rate as a function of t = steps/D, as for `SGD`.

    Raises:
        ValueError: If a number is out of range or the schedule can't be called; `Problem` raises it
            for other networks.

    Source: Oja (1982, 1989); docs/theory.md 5.

    Example:
        >>> network = odeae.Autoencoder(2, "linear", tied=True)
        >>> problem = odeae.Problem(spectrum, network, odeae.Oja())
    """

    feedback = "all"

    def __init__(
        self,
        lr: ArrayLike = 1.0,
        weight_decay: ArrayLike = 0.0,
        schedule: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, schedule)


@explains_arguments
class Sanger(AbstractHebbian):
    """Sanger's rule, du_k = η (ρ̃ u_k − Σ_{a≤k} Q_ka u_a): neuron k finds component k.

    The rule is for linear, tied networks of gain 1 without biases. At finite D
    v_k += (η/D) y_k (x − Σ_{a≤k} y_a v_a), y_k = v_k·x/D.

    Args:
        lr: The rate η, of order one and positive. May be traced.
        weight_decay: κ, which acts as −κ/D per step. May be traced.
        schedule: A factor of the rate as a function of t = steps/D, as for `SGD`.

    Raises:
        ValueError: If a number is out of range or the schedule can't be called; `Problem` raises it
            for other networks.

    Source: Sanger (1989); docs/theory.md 5.

    Example:
        >>> network = odeae.Autoencoder(2, "linear", tied=True)
        >>> problem = odeae.Problem(spectrum, network, odeae.Sanger())
    """

    feedback = "lower"

    def __init__(
        self,
        lr: ArrayLike = 1.0,
        weight_decay: ArrayLike = 0.0,
        schedule: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, schedule)

    def symmetry(self, network: Autoencoder) -> str:
        """Return "none": a neuron sees only its own output and the earlier ones'."""
        return "none"


@explains_arguments
class Hebb(AbstractHebbian):
    """Hebb's rule with decay, du = η ρ̃ u − κ u; weights grow without bound unless κ > η ρ̃_max.

    The rule is for linear, tied networks of gain 1 without biases. At finite D
    v_k += (η/D) y_k x − (κ/D) v_k, y_k = v_k·x/D.

    Args:
        lr: The rate η, of order one and positive. May be traced.
        weight_decay: κ, which acts as −κ/D per step. May be traced.
        schedule: A factor of the rate as a function of t = steps/D, as for `SGD`.

    Raises:
        ValueError: If a number is out of range or the schedule can't be called; `Problem` raises it
            for other networks.

    Source: Hebb (1949); docs/theory.md 5.

    Example:
        >>> network = odeae.Autoencoder(2, "linear", tied=True)
        >>> problem = odeae.Problem(spectrum, network, odeae.Hebb(weight_decay=2.0))
    """

    feedback = "none"

    def __init__(
        self,
        lr: ArrayLike = 1.0,
        weight_decay: ArrayLike = 0.0,
        schedule: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, schedule)

    def symmetry(self, network: Autoencoder) -> str:
        """Return "linear": neurons don't see each other, so they may be mixed linearly."""
        return "linear"


RULES: dict[str, type[AbstractRule]] = {"SGD": SGD, "Oja": Oja, "Sanger": Sanger, "Hebb": Hebb}
