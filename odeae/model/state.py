"""The state (rows of every mode), and what is derived from it: order parameters and densities."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.base.checks import described
from odeae.base.contractions import gram
from odeae.base.precision import Real
from odeae.model.leading import bulk_rows
from odeae.model.spectrum import Spectrum

# Of what a batch leads with its own axes and lanes, inside a solve, end with theirs.
Batched = Float[Real, "..."]


class Inputs(NamedTuple):
    """What the equations of motion know of the inputs; nothing has the size of D.

    `spikes` (M,) and `bulk` (rows,): scaled eigenvalue ρ̃ = ρ/D of every row of a state. `noise`:
    s²/D, what a corruption of variance s² adds to each. `trace`: tr Ω/D. `dim`: D.
    """

    spikes: Real
    bulk: Real
    noise: Real
    trace: Real
    dim: Real

    @property
    def rho(self) -> Real:
        """ρ̃ of all rows, spikes first."""
        return jnp.concatenate([self.spikes, self.bulk])


class Modes(eqx.Module):
    """Encoder rows w and decoder rows u of N modes, each (N, K) (docs/theory.md 2).

    w_τ = (ψ_τ·w_k)_k is not scaled; u_τ = (ψ_τ·v_k)_k/√D: both are O(1) on a spike. `output` (N,):
    u_0 = ψ_τ·v_0/√D, None for networks without an output bias.
    """

    encoder: Batched
    decoder: Batched
    output: Batched | None = None

    __repr__ = described


class State(eqx.Module):
    """What the theory integrates: rows of the spikes, rows of the bulk bins, hidden biases (K,).

    A bin of m modes is represented by at most as many rows as a mode has independent columns (2K
    for an untied network), with the Gram matrix of the m modes. `diffusion` (K, K): Σ w wᵀ that the
    noise of the steps has added (docs/theory.md 5), None where that is left out. `time`: where it
    stands, in steps/D, for a state that a solve ended in; None, which is 0, for a fresh one.
    """

    spikes: Modes
    bulk: Modes
    bias: Batched
    diffusion: Batched | None = None
    time: Batched | None = None

    @property
    def start(self) -> Real:
        """The time at which it stands, 0 for a fresh state."""
        return np.zeros(()) if self.time is None else self.time

    def without_time(self) -> "State":
        """The same as a fresh state, for which programs are compiled that know no time."""
        return State(self.spikes, self.bulk, self.bias, self.diffusion)

    __repr__ = described

    def unknowns(self) -> "Unknowns":
        """The same with the rows of spikes and bulk in one."""
        return Unknowns(self.rows(), self.bias, self.diffusion)

    @classmethod
    def from_rows(
        cls,
        rows: Modes,
        spikes: int,
        bias: Float[Real, "hidden *lanes"],
        diffusion: Float[Real, "hidden hidden"] | None = None,
    ) -> "State":
        """State of all rows, the first `spikes` of which are spikes."""
        first = jax.tree.map(lambda row: row[:spikes], rows)
        rest = jax.tree.map(lambda row: row[spikes:], rows)
        return cls(first, rest, bias, diffusion)

    def rows(self) -> Modes:
        """All rows, spikes first: the drift is the same for both."""
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), self.spikes, self.bulk)


class Unknowns(NamedTuple):
    """A state whose rows are not divided, spikes first: what the equations of motion are about."""

    rows: Modes
    bias: Batched
    diffusion: Batched | None = None

    def state(self, spikes: int) -> State:
        """State of these, the first `spikes` rows of which are spikes."""
        return State.from_rows(self.rows, spikes, self.bias, self.diffusion)


class OutputOverlaps(eqx.Module):
    """Overlaps of an output bias v_0: R1[k] = v_0 Ω w_k/D^{3/2}, shape (…, K).

    T1 and T0 (…, K + 1): v_0 Ω v_k/D² and v_0·v_k/D, the last entry being that of v_0 with itself.
    """

    R1: Batched
    T1: Batched
    T0: Batched


class Overlaps(eqx.Module):
    """Order parameters (…, K, K) of one part of the spectrum, in the paper's normalisation.

    Q1 = Σ ρ̃ w wᵀ = W Ω Wᵀ/D, R1 = Σ ρ̃ u wᵀ = V Ω Wᵀ/D^{3/2}, T1 = Σ ρ̃ u uᵀ = V Ω Vᵀ/D²,
    T0 = Σ u uᵀ = V Vᵀ/D, Q0 = Σ w wᵀ/D = W Wᵀ/D. With inputs corrupted at variance s², Q1 is
    the covariance of the fields they make, W (Ω + s²) Wᵀ/D. `output`: of an output bias, or None.
    """

    Q1: Batched
    R1: Batched
    T1: Batched
    T0: Batched
    Q0: Batched
    output: OutputOverlaps | None = None


class OrderParameters(eqx.Module):
    """Order parameters, split into spikes and bulk; `total()` is their sum."""

    spikes: Overlaps
    bulk: Overlaps

    def total(self) -> Overlaps:
        """Sum of the parts: the order parameters of the equations of motion."""
        return jax.tree.map(lambda a, b: a + b, self.spikes, self.bulk)


class ModeDensities(eqx.Module):
    """Densities q = w wᵀ, r = u wᵀ, t = u uᵀ, each (…, modes, K, K); a bin holds its mean mode."""

    q: Float[Real, "*batch modes hidden hidden"]
    r: Float[Real, "*batch modes hidden hidden"]
    t: Float[Real, "*batch modes hidden hidden"]


class Densities(eqx.Module):
    """The paper's densities, split into spikes (one each) and bulk (one per bin)."""

    spikes: ModeDensities
    bulk: ModeDensities


class Components(eqx.Module):
    """Rows (…, spikes, K) of the leading spikes: where neurons point along principal components."""

    encoder: Float[Real, "*batch components hidden"]
    decoder: Float[Real, "*batch components hidden"]


def overlaps(modes: Modes, rho: Float[Real, "modes *lanes"], inputs: Inputs) -> Overlaps:
    """Order parameters of rows with scaled eigenvalues `rho` (docs/theory.md 2 and 5)."""
    w, u, output = modes.encoder, modes.decoder, None
    if modes.output is not None:
        u0 = modes.output[:, None]
        both = jnp.concatenate([u, u0], axis=1)
        output = OutputOverlaps(
            *(x[0] for x in (gram(u0, w, rho), gram(u0, both, rho), gram(u0, both)))
        )
    Q0 = gram(w, w) / inputs.dim
    Q1 = gram(w, w, rho + inputs.noise)
    return Overlaps(Q1, gram(u, w, rho), gram(u, u, rho), gram(u, u), Q0, output)


def order_parameters(state: State, inputs: Inputs) -> OrderParameters:
    """Order parameters of a state, split into spikes and bulk."""
    spikes = overlaps(state.spikes, inputs.spikes, inputs)
    bulk = overlaps(state.bulk, inputs.bulk, inputs)
    return OrderParameters(spikes, _with_diffusion(bulk, state.diffusion, inputs))


def total_overlaps(unknowns: Unknowns, inputs: Inputs) -> Overlaps:
    """`order_parameters(...).total()`, at half the cost: that of all rows at once."""
    total = overlaps(unknowns.rows, inputs.rho, inputs)
    return _with_diffusion(total, unknowns.diffusion, inputs)


def field_variances(unknowns: Unknowns, inputs: Inputs) -> Float[Real, " hidden"]:
    """The diagonal of Q1, at the cost of a vector."""
    q, added = (inputs.rho + inputs.noise) @ jnp.square(unknowns.rows.encoder), unknowns.diffusion
    return q if added is None else q + inputs.noise * jnp.diagonal(added)


def _with_diffusion(part: Overlaps, added: Batched | None, inputs: Inputs) -> Overlaps:
    """Add what the noise of the steps left in the bulk, where ρ̃_in = s²/D up to O(1/D)."""
    if added is None:
        return part
    values = (part.Q1 + inputs.noise * added, part.Q0 + added / inputs.dim)
    return eqx.tree_at(lambda part: (part.Q1, part.Q0), part, values)


def densities(state: State, spectrum: Spectrum, width: int) -> Densities:
    """Densities of a state: outer products of each spike's row, their mean over each bin.

    `width`: independent columns of a row, which says how many rows a bin has.
    """

    def outer(modes: Modes) -> ModeDensities:
        w, u = modes.encoder, modes.decoder
        return ModeDensities(
            w[:, :, None] * w[:, None, :],
            u[:, :, None] * w[:, None, :],
            u[:, :, None] * u[:, None, :],
        )

    bins = np.repeat(np.arange(len(spectrum.multiplicity)), bulk_rows(spectrum, width))
    count = np.asarray(spectrum.multiplicity, float)[:, None, None]

    def mean_of_bin(x):
        return jnp.zeros((len(spectrum.multiplicity), *x.shape[1:])).at[bins].add(x) / count

    return Densities(outer(state.spikes), jax.tree.map(mean_of_bin, outer(state.bulk)))


# Weights that have grown to this size count as diverged: products of four of them don't overflow.
HUGE = 1e50
