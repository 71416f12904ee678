"""A problem: a spectrum, an autoencoder, a learning rule."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.activations import AbstractActivation, activation
from odeae.checks import whole
from odeae.precision import Real, in_float64, is_traced
from odeae.rules import SGD, AbstractRule, generalisation_error
from odeae.spectrum import Spectrum
from odeae.state import OrderParameters, State, order_parameters


class Autoencoder(eqx.Module):
    """A shallow autoencoder x̂ = Σ_k v_k g(w_k·x/√D + b_k) with `hidden` = K neurons.

    `activation`: a name (erf, relu, linear, tanh, gelu) or an activation. `bias`: whether the
    hidden neurons have biases, trained at the rule's `lr_bias`; without, b = 0.
    """

    hidden: int = eqx.field(static=True)
    activation: AbstractActivation
    bias: bool = eqx.field(static=True)

    def __init__(
        self, hidden: int, activation: str | AbstractActivation = "erf", *, bias: bool = False
    ):
        self.hidden = whole("hidden", hidden)
        self.activation = _activation(activation)
        if not isinstance(bias, bool | np.bool_):
            raise ValueError(
                f"`bias` must be True or False, got {bias!r}; its start is the state's"
            )
        self.bias = bool(bias)


def _activation(value: Any) -> AbstractActivation:
    if isinstance(value, AbstractActivation):
        return value
    if isinstance(value, str):
        return activation(value)
    raise ValueError(
        f"`activation` must be a name or an activation such as odeae.Erf(), got {value!r}; for a "
        "function use odeae.Quadrature(fn)"
    )


class Problem(eqx.Module):
    """A spectrum, an autoencoder and a learning rule: all that a curve depends on but its start.

    Raises `ValueError` if there are more neurons than modes.
    """

    spectrum: Spectrum
    autoencoder: Autoencoder
    rule: AbstractRule

    def __init__(
        self, spectrum: Spectrum, autoencoder: Autoencoder, rule: AbstractRule | None = None
    ):
        for name, value, kind in (
            ("spectrum", spectrum, Spectrum),
            ("autoencoder", autoencoder, Autoencoder),
            ("rule", SGD() if rule is None else rule, AbstractRule),
        ):
            if not isinstance(value, kind):
                raise ValueError(f"`{name}` must be an odeae {kind.__name__}, got {value!r}")
            setattr(self, name, value)
        if autoencoder.hidden > spectrum.dim:
            raise ValueError(
                f"`hidden` must be at most the number of modes, {spectrum.dim}, got "
                f"{autoencoder.hidden}"
            )

    @in_float64
    def order_parameters(self, state: State) -> OrderParameters:
        """Order parameters of a state, split into spikes and bulk."""
        check_state(self, state)
        return order_parameters(state, self.spectrum.row_eigenvalues(self.autoencoder.hidden))

    @in_float64
    def error(self, state: State) -> Float[Real, ""]:
        """Generalisation error e = ⟨‖x − x̂‖²⟩/(2D) of a state; its gradient is minus the drift."""
        bias = state.bias if self.autoencoder.bias else None
        total = self.order_parameters(state).total()
        return generalisation_error(self.autoencoder.activation, total, bias, self.spectrum.trace)

    @in_float64
    def drift(self, state: State) -> State:
        """d(state)/dt, t = steps/D."""
        check_state(self, state)
        rho = self.spectrum.row_eigenvalues(self.autoencoder.hidden)
        split = rho.spikes.shape[0]
        bias = state.bias if self.autoencoder.bias else None
        modes, db = self.rule.drift(
            self.autoencoder.activation, jnp.concatenate(rho), state.rows(), bias
        )
        return State.from_rows(modes, split, 0.0 * state.bias if db is None else db)


def sizes(problem: Any) -> tuple[Spectrum, int]:
    """Spectrum and number of hidden neurons of a problem; raises `ValueError` for anything else."""
    if not isinstance(problem, Problem):
        raise ValueError(f"`problem` must be an odeae Problem, got {type(problem).__name__}")
    return problem.spectrum, problem.autoencoder.hidden


def check_state(problem: Problem, state: State) -> None:
    """Raise `ValueError` if `state` is none, or one made for a problem of another shape."""
    if not isinstance(state, State):
        raise ValueError(f"`state` must be an odeae State, got {type(state).__name__}")
    spectrum, hidden = sizes(problem)
    spikes = (spectrum.spikes.shape[0], hidden)
    bulk = (sum(spectrum.bulk_rows(hidden)), hidden)
    for name, part, shape in (
        ("spikes.encoder", state.spikes.encoder, spikes),
        ("spikes.decoder", state.spikes.decoder, spikes),
        ("bulk.encoder", state.bulk.encoder, bulk),
        ("bulk.decoder", state.bulk.decoder, bulk),
        ("bias", state.bias, (hidden,)),
    ):
        if np.shape(part) != shape:
            raise ValueError(
                f"`state` must have `{name}` of shape {shape} for this problem, got "
                f"{np.shape(part)}; make it with random_state, aligned_state or "
                "state_from_weights of the same problem"
            )
    if not problem.autoencoder.bias and not is_traced(state.bias) and np.any(state.bias):
        raise ValueError(
            "`state` must have no biases for an autoencoder without them, got non-zero ones; "
            "construct it with Autoencoder(..., bias=True)"
        )
