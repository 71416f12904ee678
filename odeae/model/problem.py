"""A problem: a spectrum, an autoencoder, a learning rule."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.base.checks import close, grain_of, numbers, scalar
from odeae.base.messages import explains_arguments, html_table
from odeae.base.precision import ArrayLike, Real, in_float64, is_traced
from odeae.model.autoencoder import Autoencoder
from odeae.model.descriptions import describe_problem
from odeae.model.errors import generalisation_error
from odeae.model.leading import bulk_eigenvalues, bulk_rows
from odeae.model.rule import AbstractRule
from odeae.model.rules import SGD
from odeae.model.spectrum import Spectrum
from odeae.model.state import Inputs, Modes, OrderParameters, State, order_parameters


@explains_arguments
class Problem(eqx.Module):
    """A spectrum, an autoencoder and a learning rule: all that a curve depends on but its start.

    Args:
        spectrum: The eigenvalues of the inputs' covariance.
        autoencoder: The network.
        rule: How the network learns, `SGD()` by default.
        noise: Variance s² of isotropic Gaussian noise added to each entry of the input, but not to
            the target (denoising). The theory holds for s² = O(1), and for s² = O(D) as the limit
            of small rates (docs/theory.md 5). May be traced.

    Raises:
        ValueError: If there are more neurons than modes, for negative noise, and for networks that
            the rule can't train.

    Example:
        >>> spectrum = odeae.Spectrum.spiked([1.0, 0.6, 0.3], dim=1000, bulk=1.0)
        >>> problem = odeae.Problem(spectrum, odeae.Autoencoder(2), odeae.SGD(lr=0.5))
        >>> problem.error(odeae.random_state(problem))
    """

    spectrum: Spectrum
    autoencoder: Autoencoder
    rule: AbstractRule
    noise: Float[Real, "*batch"]

    def __init__(
        self,
        spectrum: Spectrum,
        autoencoder: Autoencoder,
        rule: AbstractRule | None = None,
        noise: ArrayLike = 0.0,
    ):
        for name, value, kind in (
            ("spectrum", spectrum, Spectrum),
            ("autoencoder", autoencoder, Autoencoder),
            ("rule", SGD() if rule is None else rule, AbstractRule),
        ):
            if not isinstance(value, kind):
                want = "rule such as SGD()" if kind is AbstractRule else kind.__name__
                got = type(value).__name__
                if isinstance(value, type):
                    got = f"the class {value.__name__}, write {value.__name__}()"
                elif isinstance(value, Spectrum | Autoencoder | AbstractRule):
                    got += "; write Problem(spectrum, autoencoder, rule, noise)"
                raise ValueError(f"`{name}` must be an odeae {want}, got {got}")
            setattr(self, name, value)
        self.noise = scalar("noise", noise, at_least=0.0)
        if autoencoder.hidden > spectrum.dim:
            raise ValueError(
                f"`hidden` must be at most the number of modes, {spectrum.dim}, got "
                f"{autoencoder.hidden}"
            )
        self.rule.check(autoencoder)

    def __repr__(self) -> str:
        return f"Problem({'; '.join(f'{n}: {text}' for n, text in describe_problem(self).items())})"

    def __str__(self) -> str:
        return "\n".join(["Problem", *(f"  {n:<8} {x}" for n, x in describe_problem(self).items())])

    def _repr_html_(self) -> str:
        return html_table("Problem", describe_problem(self).items())

    @property
    def inputs(self) -> Inputs:
        """What the equations of motion know of the inputs."""
        spectrum, dim = self.spectrum, np.asarray(float(self.spectrum.dim))
        bulk = bulk_eigenvalues(spectrum, self.autoencoder.width)
        xp: Any = jnp if is_traced((spectrum.spikes, bulk)) else np
        rho = xp.concatenate([spectrum.spikes, bulk])
        return Inputs(rho, self.noise / dim, spectrum.trace, dim, spectrum.spikes.shape[0])

    def without_basis(self) -> "Problem":
        """The same problem without what has the size of D: eigenvectors, mean, given order."""
        spectrum = self.spectrum
        bare = Spectrum(spectrum.spikes, spectrum.bulk, spectrum.multiplicity)
        return eqx.tree_at(lambda p: p.spectrum, self, bare)

    @in_float64
    def order_parameters(self, state: State) -> OrderParameters:
        """Order parameters of a state, split into spikes and bulk."""
        state = check_state(self, state)
        return _order_parameters(state, self.inputs)

    @in_float64
    def error(self, state: State) -> Float[Real, ""]:
        """Generalisation error e = ⟨‖x − x̂‖²⟩/(2D) of a state, on inputs as they are (corrupted).

        For plain SGD at rate 1 without decay, its gradient is minus the drift.
        """
        state = check_state(self, state)
        return _error(self.autoencoder, self.inputs, state)

    @in_float64
    def drift(self, state: State, t: ArrayLike | None = None) -> State:
        """d(state)/dt at t = steps/D, by default the state's own, which a schedule looks at."""
        state = check_state(self, state)
        t = scalar("t", state.start if t is None else t, at_least=0.0)
        return _drift(self.rule, self.autoencoder, self.inputs, state, t)


# Compiled: operation by operation each of them takes seconds the first time.
_order_parameters = eqx.filter_jit(order_parameters)


@eqx.filter_jit
def _error(network, inputs, state):
    total = order_parameters(state, inputs).total()
    return generalisation_error(network, total, state.bias, inputs.trace)


@eqx.filter_jit
def _drift(rule, network, inputs, state, t):
    return rule.drift(network, inputs, state, rule.factor(t))


def sizes(problem: Problem) -> tuple[Spectrum, int]:
    """Spectrum and number of hidden neurons of a problem; raises `ValueError` for anything else."""
    if not isinstance(problem, Problem):
        order = "; the order is problem, state, times" if isinstance(problem, State) else ""
        raise ValueError(f"`problem` must be an odeae Problem, got {type(problem).__name__}{order}")
    return problem.spectrum, problem.autoencoder.hidden


def leading_spikes(problem: Problem) -> Real | None:
    """Indices of the spikes that are principal components 1, 2, …: all, or the first max(32, K).

    None without spikes. Their number depends on sizes alone, so eigenvalues may be traced.
    """
    spikes = problem.spectrum.spikes
    count = min(spikes.shape[0], max(32, problem.autoencoder.hidden))
    argsort = jnp.argsort if is_traced(spikes) else np.argsort  # NumPy's is faster at once
    return argsort(-spikes, stable=True)[:count] if count else None


def check_state(problem: Problem, state: State, diffusion: bool = False) -> State:
    """Return `state` in float64; raise `ValueError` if it is none, or one of another problem.

    Any operation of JAX outside of x64 makes the rows float32, and they may be whole numbers or
    lists: all these are taken as they are. `diffusion`: whether what the noise of the steps has
    added may be part of it.
    """
    spectrum, hidden = sizes(problem)
    if not isinstance(state, State):
        raise ValueError(
            f"`state` must be an odeae State, got {type(state).__name__}; make it with "
            "random_state, aligned_state or state_from_weights"
        )
    given, network = state, problem.autoencoder
    spikes, bulk = spectrum.spikes.shape[0], sum(bulk_rows(spectrum, network.width))
    parts = {}
    for name, part, shape in (
        ("spikes.encoder", state.spikes.encoder, (spikes, hidden)),
        ("spikes.decoder", state.spikes.decoder, (spikes, hidden)),
        ("spikes.output", state.spikes.output, (spikes,) if network.output_bias else None),
        ("bulk.encoder", state.bulk.encoder, (bulk, hidden)),
        ("bulk.decoder", state.bulk.decoder, (bulk, hidden)),
        ("bulk.output", state.bulk.output, (bulk,) if network.output_bias else None),
        ("bias", state.bias, (hidden,)),
    ):
        got = None if part is None else np.shape(part)
        if got != shape:
            raise ValueError(
                f"`state` must have `{name}` of shape {shape} for this problem, got {got}; make "
                "it with random_state, aligned_state or state_from_weights of the same problem"
            )
        parts[name] = None if part is None else numbers(f"state.{name}", part)
    spikes, bulk = (
        Modes(*(parts[f"{name}.{part}"] for part in ("encoder", "decoder", "output")))
        for name in ("spikes", "bulk")
    )
    added = None if state.diffusion is None else numbers("state.diffusion", state.diffusion)
    time = None if state.time is None else scalar("state.time", state.time, at_least=0.0)
    state = State(spikes, bulk, parts["bias"], added, time)
    if not network.bias and not is_traced(state.bias) and np.any(state.bias):
        raise ValueError(
            "`state` must have no biases for an autoencoder without them, got non-zero ones; "
            "construct it with Autoencoder(..., bias=True)"
        )
    if state.diffusion is not None and not diffusion:
        raise ValueError(
            "`state` must have no `diffusion`, got one: only predict(..., diffusion=True), which "
            "makes it, goes on with it"
        )
    if state.diffusion is not None and np.shape(state.diffusion) != (hidden, hidden):
        raise ValueError(
            f"`state` must have `diffusion` of shape {(hidden, hidden)} for this problem, got "
            f"{np.shape(state.diffusion)}"
        )
    for name, part, own in (
        ("spikes", state.spikes, given.spikes),
        ("bulk", state.bulk, given.bulk),
    ):
        if not network.tied or is_traced((part, network.gain)):
            continue
        grain = grain_of(own.encoder, own.decoder)
        if not close(part.encoder, network.gain * part.decoder, grain):
            raise ValueError(
                f"`state` must have `{name}.encoder` = gain × `{name}.decoder` for tied "
                "weights; make it with random_state, aligned_state or state_from_weights"
            )
    return state
