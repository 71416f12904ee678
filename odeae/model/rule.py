"""Learning rules: the abstract class, with one drift and one update at finite D."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.averages.activation import mean_output
from odeae.base.checks import described
from odeae.base.compiler import computed_once
from odeae.base.contractions import diagonal, lower, mixed, on_diagonal
from odeae.base.precision import Real, Scalar, in_float64
from odeae.model.autoencoder import Autoencoder, Weights
from odeae.model.gradient_noise import gradient_covariance
from odeae.model.state import Inputs, Modes, Overlaps, State, total_overlaps


class MeanField(NamedTuple):
    """The sums over modes through which a mode feels the others (docs/theory.md 4).

    Attributes:
        Q1: (K, K).
        T0: (K, K).
        R: The diagonal of R1, (K,).
        output: T0_k0 of an output bias, (K,); None without one.
    """

    Q1: Real
    T0: Real
    R: Real
    output: Real | None


def mean_field(rows: Modes, rho: Real, total: Overlaps) -> MeanField:
    """Return the mean field of rows with scaled eigenvalues `rho` and order parameters `total`."""
    R = jnp.sum(rho[:, None] * rows.decoder * rows.encoder, axis=0)  # only the diagonal of R1
    return MeanField(total.Q1, total.T0, R, None if total.output is None else total.output.T0[:-1])


class Rates(NamedTuple):
    """Learning rates of the four parts of a network.

    Attributes:
        encoder: η_w, of the path through the encoder.
        decoder: η_v, of the path through the decoder.
        bias: η_b, of the hidden biases.
        output: η_0, of the output bias.
    """

    encoder: Real
    decoder: Real
    bias: Real
    output: Real


class AbstractRule(eqx.Module):
    """A learning rule: which reconstruction a neuron sees, and at which rates its parts move.

    To add a rule, write a subclass in a file of your own, with the attributes below, `rates` and
    `check`. The drift and the step at finite D follow from them (docs/extending.md).

    Source: docs/theory.md 4 and 5.

    Attributes:
        weight_decay: κ. It acts on all weights except the hidden biases, as −κ/D per step, and is
            not multiplied by a rate.
        schedule: A function of t = steps/D that returns the factor of all rates, or None.
        feedback: The neurons whose output is subtracted from the input that neuron k learns from:
            "all", "lower" (neurons a ≤ k) or "none".
        title: The name of the rule in titles.

    Example:
        >>> [odeae.SGD().feedback, odeae.Sanger().feedback, odeae.Hebb().feedback]
        ['all', 'lower', 'none']
    """

    weight_decay: eqx.AbstractVar[Any]
    schedule: eqx.AbstractVar[Any]
    feedback: eqx.AbstractVar[str]

    __repr__ = described

    @abc.abstractmethod
    def rates(self, network: Autoencoder) -> Rates:
        """Return the rates (η_w, η_v, η_b, η_0) with which this rule trains a network."""

    @abc.abstractmethod
    def check(self, network: Autoencoder) -> None:
        """Raise `ValueError` for a network that this rule can't train."""

    @property
    def title(self) -> str:
        """The name of the rule in titles."""
        return type(self).__name__

    def symmetry(self, network: Autoencoder) -> str:
        """Return which change of the weights (w, v) of all neurons keeps the error and the drift.

        The change is (A w, A⁻ᵀ v): with any A for "linear", an orthogonal A for "rotation", a
        positive diagonal A for "scale"; there is none for "none".
        """
        decay, kind = float(self.weight_decay) > 0.0, network.activation.symmetry
        free = not (network.tied or decay)
        if kind == "scale":
            return "scale" if free else "none"
        if kind != "linear":
            return "none"
        if self.feedback == "lower":  # a neuron of truncated SGD doesn't see the later ones
            return "none" if decay else "scale"
        return "linear" if free else "rotation"

    def factor(self, t: Float[Real, ""]) -> Scalar:
        """Return the factor of all rates at t = steps/D."""
        return 1.0 if self.schedule is None else self.schedule(t)

    def seen(self, pairs: Float[Real, "hidden hidden *lanes"]) -> Real:
        """Return m_ka × pairs: 0 where neuron k doesn't see neuron a (docs/theory.md 5)."""
        if self.feedback == "all":
            return pairs
        return lower(pairs) if self.feedback == "lower" else jnp.zeros_like(pairs)

    def drift(
        self, network: Autoencoder, inputs: Inputs, state: State, factor: Scalar = 1.0
    ) -> State:
        """Return d(state)/dt: the equations of motion of docs/theory.md 4 and 5.

        dw = η_w [ρ̃ c u + ρ̃_in ((2 c_q R − Σ_a m T0 S) w − Σ_a m T0 P w_a)] − κ w
        du = η_v [ρ̃ c w − Σ_a m G u_a] − κ u,  db = η_b [c_b R − Σ_a m T0 B]

        Sums include an output bias, a neuron of constant output. Tied rows w = s u move by their
        decoder part plus s times their encoder part. For SGD with the full gradient, neither
        truncated nor with decay, these are minus the rates times ∂e/∂(w, u, b) (∂e/∂u if tied).
        """
        rows, bias, added = state.rows, state.bias, state.diffusion
        total = total_overlaps(state, inputs)
        field = mean_field(rows, inputs.rho, total)
        moved, db, to_w = self.motion(network, inputs, rows, bias, field, factor)
        if added is not None:  # the linear map of dw, and the new noise of SGD's steps
            A = inputs.noise * to_w - self.weight_decay * jnp.eye(network.hidden)
            made = gradient_covariance(network, total, bias, self.seen(total.T0))
            lr_w = factor * self.rates(network)[0]
            half = A @ added + 0.5 * lr_w**2 * inputs.noise * made
            added = half + half.T  # symmetric to the last bit
        return State(rows=moved, n_spikes=state.n_spikes, bias=db, diffusion=added)

    def motion(
        self,
        network: Autoencoder,
        inputs: Inputs,
        rows: Modes,
        bias: Float[Real, "hidden *lanes"],
        field: MeanField,
        factor: Scalar = 1.0,
    ) -> tuple[Modes, Real, Real]:
        """Return d(rows)/dt, d(bias)/dt in a given mean field, and the pairs that act on w.

        The result is linear in the rows. Rows feel each other only through the mean field.
        """
        w, u, rho = rows.encoder, rows.decoder, inputs.rho[:, None]
        lr_w, lr_u, lr_b, lr_0 = (factor * rate for rate in self.rates(network))
        q, R = diagonal(field.Q1), field.R
        b = bias if network.bias else None
        T0 = self.seen(field.T0)

        def pairs() -> tuple[Any, ...]:
            """Return all terms of neurons and pairs, with the rates; there are many more rows."""
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
        factor: Scalar = 1.0,
    ) -> Weights:
        """Return the weights after one step at finite D (docs/theory.md 1).

        Args:
            network: The network.
            weights: Its weights before the step, in the basis of `x`.
            x: The target, (D,).
            corrupted: The input that the network sees, (D,): x, or x with noise.
            factor: Factor of all rates.

        Returns:
            The weights after the step.

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
