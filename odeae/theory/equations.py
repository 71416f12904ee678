"""One problem as a solver sees it: a flat vector and its drift."""

import equinox as eqx
import jax.numpy as jnp

from odeae.base.precision import Real
from odeae.model.autoencoder import Autoencoder
from odeae.model.layout import Layout
from odeae.model.leading import Leading, leading_modes
from odeae.model.problem import Problem
from odeae.model.rule import AbstractRule
from odeae.model.spectrum import Spectrum
from odeae.model.state import HUGE, Inputs, Modes, State

# Modes that have decayed to this size count as lost: below 1e-150 no tolerance follows them.
LOST = 1e-140


class Equations(eqx.Module):
    """A problem as a solver sees it: arrays alone, so that another D doesn't compile anew.

    Attributes:
        rule: The learning rule.
        network: The autoencoder.
        inputs: Eigenvalues and noise.
        bins: The spectrum of the densities, if they are saved.
        components: The spikes along which rows are saved.
        diffusion: Whether what the noise of the steps adds is followed.
        leading: The modes that PCA keeps, if the excess is saved.
    """

    rule: AbstractRule
    network: Autoencoder
    inputs: Inputs
    bins: Spectrum | None
    components: Real | None
    diffusion: bool = eqx.field(static=True)
    leading: Leading | None = None

    @property
    def layout(self) -> Layout:
        """Where each number of a state lies in the flat vector."""
        inputs = self.inputs
        return Layout(self.network, inputs.n_spikes, inputs.rho.shape[0], self.diffusion)


def equations_of(problem: Problem, bins=None, components=None, diffusion=False) -> Equations:
    """The equations of a problem; `bins`, `components`, `diffusion` as in `Equations`."""
    leading = leading_modes(problem.spectrum, problem.autoencoder.hidden)
    return Equations(
        problem.rule, problem.autoencoder, problem.inputs, bins, components, diffusion, leading
    )


# Module-level functions: a fresh lambda per call would make every call compile again.
def vector_field(t, y, equations: Equations):
    """Return the drift of a packed state at time t."""
    rule, layout = equations.rule, equations.layout
    factor = rule.factor(t)
    return layout.pack(rule.drift(equations.network, equations.inputs, layout.unpack(y), factor))


def is_huge(y):
    """Whether a number has grown beyond what can be followed, or is none."""
    return ~(jnp.max(jnp.abs(y)) < HUGE)


def surroundings(equations: Equations, size):
    """For each entry of packed rows, the size of the terms that its rate of change is made of.

    An entry is fed by the other weight of its neuron in that mode, and by all neurons of the mode
    in proportion to how much the neuron takes part: w_τk feels u_τk and Σ_a M_ka w_τa. A bias and
    an output bias are fed by all weights of their neuron and of their mode.
    """
    network, layout = equations.network, equations.layout
    state = layout.unpack(size)
    rows, added = state.rows, state.diffusion
    weights = rows.decoder if network.tied else jnp.maximum(rows.encoder, rows.decoder)
    mode, neuron = jnp.max(weights, axis=1), jnp.max(weights, axis=0)
    largest = jnp.max(neuron, axis=0)
    share = neuron / jnp.where(largest > 0.0, largest, 1.0)
    output = None
    if rows.output is not None:
        output = mode = jnp.maximum(mode, rows.output)
    weights = weights + mode[:, None] * share[None]
    if added is not None:
        spread = jnp.sqrt(jnp.abs(jnp.diagonal(added)))
        added = spread[:, None] * spread[None, :]
    rows = Modes(weights, weights, output)
    return layout.pack(State(rows=rows, n_spikes=state.n_spikes, bias=neuron, diffusion=added))


def mode_sizes(equations: Equations, size):
    """Largest weight of every mode, of packed rows of absolute values `size`."""
    rows = equations.layout.unpack(size).rows
    return jnp.max(jnp.maximum(rows.encoder, rows.decoder), axis=1)
