"""One problem as a solver sees it: a flat vector of rows and its drift."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from odeae.base.precision import Real
from odeae.model.autoencoder import Autoencoder
from odeae.model.leading import Leading, leading_modes
from odeae.model.problem import Problem
from odeae.model.rule import AbstractRule
from odeae.model.spectrum import Spectrum
from odeae.model.state import HUGE, Inputs, Modes, State, Unknowns

# Modes that have decayed to this size count as lost: below 1e-150 no tolerance follows them.
LOST = 1e-140


class Equations(eqx.Module):
    """What the vector field needs: nothing of size D, and no D that would make it compile again."""

    rule: AbstractRule
    network: Autoencoder
    inputs: Inputs
    bins: Spectrum | None  # of the densities, if they are saved
    components: Real | None  # spikes along which the rows are saved
    diffusion: bool = eqx.field(static=True)
    leading: Leading | None = None  # of the error above PCA, if that is saved

    def pack(self, state: State) -> jax.Array:
        """The flat vector that diffrax integrates (one leaf is fastest)."""
        return self.vector(state.unknowns())

    def state(self, y) -> State:
        """Return the state of what `pack` made."""
        return self.unknowns(y).state(self.inputs.spikes.shape[0])

    def vector(self, unknowns: Unknowns) -> jax.Array:
        """The same as `pack` of what is not divided, which spares a copy in every drift."""
        parts = [self.network.pack(unknowns.rows)]
        if self.network.bias:
            parts.append(unknowns.bias)
        if unknowns.diffusion is not None:
            parts.append(unknowns.diffusion.ravel())
        return jnp.concatenate(parts) if len(parts) > 1 else parts[0]

    def unknowns(self, y) -> Unknowns:
        """Return the unknowns of a packed vector."""
        hidden, width = self.network.hidden, self.network.width
        rows = self.inputs.spikes.shape[0] + self.inputs.bulk.shape[0]
        modes = self.network.unpack(y[: rows * width], rows)
        rest = y[rows * width :]
        # Of NumPy's where y is: what `predict` returns is made outside of double precision.
        bias = rest[:hidden] if self.network.bias else np.zeros((hidden, *y.shape[1:]))
        added = rest[-(hidden**2) :].reshape(hidden, hidden) if self.diffusion else None
        return Unknowns(modes, bias, added)


def equations_of(problem: Problem, bins=None, components=None, diffusion=False) -> Equations:
    """The equations of a problem; `bins`, `components`, `diffusion` as there."""
    leading = leading_modes(problem.spectrum, problem.autoencoder.hidden)
    return Equations(
        problem.rule, problem.autoencoder, problem.inputs, bins, components, diffusion, leading
    )


# Module-level functions: a fresh lambda per call would make every call compile again.
def vector_field(t, y, equations: Equations):
    """Return the drift of packed rows at time t."""
    rule = equations.rule
    unknowns = equations.unknowns(y)
    return equations.vector(
        rule.drift(equations.network, equations.inputs, unknowns, rule.factor(t))
    )


def is_huge(y):
    """Whether a number has grown beyond what can be followed, or is none."""
    return ~(jnp.max(jnp.abs(y)) < HUGE)


def surroundings(equations: Equations, size):
    """For each entry of packed rows, the size of the terms that its rate of change is made of.

    An entry is fed by the other weight of its neuron in that mode, and by all neurons of the mode
    in proportion to how much the neuron takes part: w_τk feels u_τk and Σ_a M_ka w_τa. A bias and
    an output bias are fed by all weights of their neuron and of their mode.
    """
    network, (rows, _, added) = equations.network, equations.unknowns(size)
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
    return equations.vector(Unknowns(Modes(weights, weights, output), neuron, added))


def mode_sizes(equations: Equations, size):
    """Largest weight of every mode, of packed rows of absolute values `size`."""
    rows = equations.unknowns(size).rows
    return jnp.max(jnp.maximum(rows.encoder, rows.decoder), axis=1)
