"""Learning rules: one drift at D → ∞ and, beside it, the finite-D step that it is the limit of."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.averages.activations import Linear, mean_output, mean_slope, overlap
from odeae.base.checks import described, flag, scalar
from odeae.base.compiler import computed_once
from odeae.base.contractions import diagonal, lower, mixed, on_diagonal
from odeae.base.messages import explains_arguments, one_of
from odeae.base.precision import Real, in_float64, is_traced
from odeae.model.autoencoder import Autoencoder, Weights
from odeae.model.gradient_noise import gradient_covariance
from odeae.model.schedules import as_schedule
from odeae.model.state import Inputs, Modes, Overlaps, Unknowns, total_overlaps


def generalisation_error(
    network: Autoencoder,
    total: Overlaps,
    bias: Float[Real, "hidden *lanes"],
    trace: Float[Real, "*lanes"],
) -> Float[Real, "*lanes"]:
    """e = ½ tr Ω/D − Σ_k c_k R_kk + ½ Σ_kl T0_kl G_kl (docs/theory.md 4), `trace` = tr Ω/D.

    An output bias adds Σ_k T0_k0 ⟨g_k⟩ + ½ T0_00 (5). Exact at every D for Gaussian inputs.
    """
    q, b = diagonal(total.Q1), bias if network.bias else None
    c = mean_slope(network.activation, q, b)
    G = overlap(network.activation, total.Q1, b)
    explained = jnp.sum(c * diagonal(total.R1), axis=0)
    e = 0.5 * trace - explained + 0.5 * jnp.sum(total.T0 * G, axis=(0, 1))
    if total.output is not None:
        t0, mean = total.output.T0, mean_output(network.activation, q, b)
        e = e + jnp.sum(t0[:-1] * mean, axis=0) + 0.5 * t0[-1]
    return e


class MeanField(NamedTuple):
    """All that one mode feels of the others: sums over modes (docs/theory.md 4).

    `Q1`, `T0` (K, K); `R` (K,), the diagonal of R1; `output` (K,), T0_k0 of an output bias.
    """

    Q1: Real
    T0: Real
    R: Real
    output: Real | None


def mean_field(rows: Modes, rho: Real, total: Overlaps) -> MeanField:
    """The mean field of rows with scaled eigenvalues `rho` and order parameters `total`."""
    R = jnp.sum(rho[:, None] * rows.decoder * rows.encoder, axis=0)  # of R1 the diagonal alone
    return MeanField(total.Q1, total.T0, R, None if total.output is None else total.output.T0[:-1])


class AbstractRule(eqx.Module):
    """A learning rule: which reconstruction a neuron sees, at which rates its parts move.

    `weight_decay`: κ, acts on all weights but the hidden biases as −κ/D per step and carries no
    rate. `schedule`: a function of t = steps/D, a factor of all rates, or None. `feedback`: whose
    output is taken away from what neuron k learns from: "all", "lower" (neurons a ≤ k) or "none".
    """

    weight_decay: eqx.AbstractVar[Any]
    schedule: eqx.AbstractVar[Any]
    feedback: eqx.AbstractVar[str]

    __repr__ = described

    @abc.abstractmethod
    def rates(self, network: Autoencoder) -> tuple[Real, Real, Real, Real]:
        """Return (η_w, η_v, η_b, η_0): of encoder path, decoder path, hidden and output bias."""

    @abc.abstractmethod
    def check(self, network: Autoencoder) -> None:
        """Raise `ValueError` for a network that this rule can't train."""

    def factor(self, t: Float[Real, ""]) -> Any:
        """Factor of all rates at t = steps/D."""
        return 1.0 if self.schedule is None else self.schedule(t)

    def seen(self, pairs: Float[Real, "hidden hidden *lanes"]) -> Real:
        """m_ka × a pair quantity: 0 where neuron k doesn't see neuron a (docs/theory.md 5)."""
        if self.feedback == "all":
            return pairs
        return lower(pairs) if self.feedback == "lower" else jnp.zeros_like(pairs)

    def drift(
        self, network: Autoencoder, inputs: Inputs, unknowns: Unknowns, factor: Any = 1.0
    ) -> Unknowns:
        """Return d(unknowns)/dt: the equations of motion of docs/theory.md 4 and 5.

        dw = η_w [ρ̃ c u + ρ̃_in ((2 c_q R − Σ_a m T0 S) w − Σ_a m T0 P w_a)] − κ w
        du = η_v [ρ̃ c w − Σ_a m G u_a] − κ u,  db = η_b [c_b R − Σ_a m T0 B]

        Sums include an output bias, a neuron of constant output. Tied rows w = s u move by their
        decoder part plus s times their encoder part. For SGD with the full gradient, neither
        truncated nor with decay, these are minus the rates times ∂e/∂(w, u, b) (∂e/∂u if tied).
        """
        rows, bias, added = unknowns
        total = total_overlaps(unknowns, inputs)
        field = mean_field(rows, inputs.rho, total)
        moved, db, to_w = self.motion(network, inputs, rows, bias, field, factor)
        if added is not None:  # the same map as dw, and what the steps of SGD make anew
            A = inputs.noise * to_w - self.weight_decay * jnp.eye(network.hidden)
            made = gradient_covariance(network, total, bias, self.seen(total.T0))
            lr_w = factor * self.rates(network)[0]
            half = A @ added + 0.5 * lr_w**2 * inputs.noise * made
            added = half + half.T  # symmetric to the last bit
        return Unknowns(moved, db, added)

    def motion(
        self,
        network: Autoencoder,
        inputs: Inputs,
        rows: Modes,
        bias: Float[Real, "hidden *lanes"],
        field: MeanField,
        factor: Any = 1.0,
    ) -> tuple[Modes, Real, Real]:
        """Return d(rows)/dt, d(bias)/dt in a given mean field, and the pairs that act on w.

        Linear in the rows, and apart from the mean field none of them feels another.
        """
        w, u, rho = rows.encoder, rows.decoder, inputs.rho[:, None]
        lr_w, lr_u, lr_b, lr_0 = (factor * rate for rate in self.rates(network))
        q, R = diagonal(field.Q1), field.R
        b = bias if network.bias else None
        T0 = self.seen(field.T0)

        def pairs():
            """Return all that concerns pairs, with the rates; rows, which are many, come later."""
            a = network.activation.averages(field.Q1, b)
            own = 2.0 * a.c_q * R - jnp.sum(T0 * a.S, axis=1)
            back = a.c_b * R - jnp.sum(T0 * a.B, axis=1)
            mean = None
            if field.output is not None:
                mean = mean_output(network.activation, q, b)
                own = own - field.output * a.c_b
                back = back - field.output * a.c
            pull, push = on_diagonal(own) - T0 * a.P, self.seen(a.G)
            return lr_w * a.c, lr_u * a.c, lr_w * pull, lr_u * push, back, mean

        from_u, from_w, to_w, to_u, back, mean = computed_once(pairs, w)
        encoder = rho * (from_u[None] * u) + (rho + inputs.noise) * mixed(w, to_w)
        decoder = rho * (from_w[None] * w) - mixed(u, to_u)
        output = None
        if rows.output is not None and mean is not None:
            decoder = decoder - lr_u * rows.output[:, None] * mean[None]
            output = -lr_0 * (jnp.sum(u * mean[None], axis=1) + rows.output)
            output = output - self.weight_decay * rows.output
        if network.tied:
            du = decoder + network.gain * encoder - self.weight_decay * u
            dw = network.gain * du
        else:
            dw = encoder - self.weight_decay * w
            du = decoder - self.weight_decay * u
        db = lr_b * back if network.bias else 0.0 * bias
        return Modes(dw, du, output), db, to_w

    @in_float64
    def update(
        self,
        network: Autoencoder,
        weights: Weights,
        x: Float[Real, " dim"],
        corrupted: Float[Real, " dim"],
        factor: Any = 1.0,
    ) -> Weights:
        """Return the weights after one step on target x and input `corrupted` (docs/theory.md 1).

        Neuron k learns from Δ^k = x − Σ_a m_ka v_a g_a: v_k += (η_v/D) g_k Δ^k,
        w_k += (η_w/D) (v_k·Δ^k/D) g'_k x_in/√D, b_k += (η_b/D) (v_k·Δ^k/D) g'_k.
        """
        W, V, b, v0 = weights
        dim = x.shape[-1]
        lr_w, lr_v, lr_b, lr_0 = (factor * rate / dim for rate in self.rates(network))
        field = W @ corrupted / np.sqrt(dim) + b
        hidden = network.activation(field)
        if self.feedback == "lower":
            residual = x[None, :] - jnp.cumsum(hidden[:, None] * V, axis=0)
            along = jnp.sum(V * residual, axis=1)
            outer = hidden[:, None] * residual
        else:
            residual = x - hidden @ V if self.feedback == "all" else x
            residual = residual if v0 is None else residual - v0
            along = V @ residual
            outer = jnp.outer(hidden, residual)
        back = (along / dim) * network.activation.slope(field)
        decay = 1.0 - self.weight_decay / dim
        V = decay * V + lr_v * outer
        if network.tied:
            V = V + network.gain * lr_w * jnp.outer(back, corrupted)
            W = network.gain * V / np.sqrt(dim)
        else:
            W = decay * W + lr_w * jnp.outer(back, corrupted / np.sqrt(dim))
        if network.bias:
            b = b + lr_b * back
        return Weights(W, V, b, None if v0 is None else decay * v0 + lr_0 * residual)


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
        return encoder, decoder, bias, output

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


def _set_common(self, lr: Any, weight_decay: Any, schedule: Any) -> None:
    self.lr = scalar("lr", lr, above=0.0)
    self.weight_decay = scalar("weight_decay", weight_decay, at_least=0.0)
    self.schedule = as_schedule(schedule)


def _decoder_alone(self, network: Autoencoder) -> tuple[Real, Real, Real, Real]:
    """Return (0, η, 0, 0): the decoder path alone."""
    zero = np.zeros(())
    return zero, self.lr, zero, zero


def _check_linear_tied(self, network: Autoencoder) -> None:
    """Raise `ValueError` unless the network is linear and tied, without biases."""
    gain = network.gain
    missing = [
        text
        for text, good in (
            ('activation="linear"', isinstance(network.activation, Linear)),
            ("tied=True", network.tied),
            ("gain=1.0", not is_traced(gain) and np.all(gain == 1.0)),
            ("bias=False", not network.bias),
            ("output_bias=False", not network.output_bias),
        )
        if not good
    ]
    if missing:
        raise ValueError(
            f"{type(self).__name__}'s rule trains linear, tied networks of gain 1 without biases: "
            f"the autoencoder needs {', '.join(missing)}"
        )


@explains_arguments
class Oja(AbstractRule):
    """Oja's subspace rule, du = η (ρ̃ u − Q u) with Q = Σ ρ̃ u uᵀ; Oja's own rule is K = 1.

    For linear, tied networks of gain 1: v_k += (η/D) y_k (x − Σ_a y_a v_a), y_k = v_k·x/D. `lr`,
    `weight_decay`, `schedule` as for `SGD`. Source: docs/theory.md 5; Oja (1982, 1989).
    """

    lr: Float[Real, "*batch"]
    weight_decay: Float[Real, "*batch"]
    schedule: Any

    def __init__(self, lr: Any = 1.0, weight_decay: Any = 0.0, schedule: Any = None):
        _set_common(self, lr, weight_decay, schedule)

    feedback = "all"
    rates = _decoder_alone
    check = _check_linear_tied


@explains_arguments
class Sanger(AbstractRule):
    """Sanger's rule, du_k = η (ρ̃ u_k − Σ_{a≤k} Q_ka u_a): neuron k finds component k.

    For linear, tied networks of gain 1: v_k += (η/D) y_k (x − Σ_{a≤k} y_a v_a), y_k = v_k·x/D.
    `lr`, `weight_decay`, `schedule` as for `SGD`. Source: docs/theory.md 5; Sanger (1989).
    """

    lr: Float[Real, "*batch"]
    weight_decay: Float[Real, "*batch"]
    schedule: Any

    def __init__(self, lr: Any = 1.0, weight_decay: Any = 0.0, schedule: Any = None):
        _set_common(self, lr, weight_decay, schedule)

    feedback = "lower"
    rates = _decoder_alone
    check = _check_linear_tied


@explains_arguments
class Hebb(AbstractRule):
    """Hebb's rule with decay, du = η ρ̃ u − κ u; it grows without bound unless κ > η ρ̃_max.

    For linear, tied networks of gain 1: v_k += (η/D) y_k x − (κ/D) v_k, y_k = v_k·x/D. `lr`,
    `weight_decay`, `schedule` as for `SGD`. Source: docs/theory.md 5; Hebb (1949).
    """

    lr: Float[Real, "*batch"]
    weight_decay: Float[Real, "*batch"]
    schedule: Any

    def __init__(self, lr: Any = 1.0, weight_decay: Any = 0.0, schedule: Any = None):
        _set_common(self, lr, weight_decay, schedule)

    feedback = "none"
    rates = _decoder_alone
    check = _check_linear_tied


RULES = {"SGD": SGD, "Oja": Oja, "Sanger": Sanger, "Hebb": Hebb}
