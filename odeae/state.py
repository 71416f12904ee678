"""The state (rows of every mode), and what is derived from it: order parameters and densities."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.precision import Real
from odeae.spectrum import Eigenvalues, Spectrum


class Modes(eqx.Module):
    """Encoder rows w and decoder rows u of N modes, each (N, K) (docs/theory.md §2).

    w_τ = (ψ_τ·w_k)_k is not scaled; u_τ = (ψ_τ·v_k)_k/√D: both are O(1) on a spike.
    """

    encoder: Float[Real, "*batch modes hidden"]
    decoder: Float[Real, "*batch modes hidden"]


class State(eqx.Module):
    """What the theory integrates: rows of the spikes, rows of the bulk bins, hidden biases (K,).

    A bin of m modes is represented by min(m, 2K) rows with the Gram matrix of the m modes.
    """

    spikes: Modes
    bulk: Modes
    bias: Float[Real, "*batch hidden"]

    @classmethod
    def from_rows(cls, rows: Modes, spikes: int, bias: Float[Real, " hidden"]) -> "State":
        """State of all rows, the first `spikes` of which are spikes."""
        w, u = rows.encoder, rows.decoder
        return cls(Modes(w[:spikes], u[:spikes]), Modes(w[spikes:], u[spikes:]), bias)

    def rows(self) -> Modes:
        """All rows, spikes first: the drift is the same for both."""
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), self.spikes, self.bulk)


class Overlaps(eqx.Module):
    """Order parameters (…, K, K) of one part of the spectrum, in the paper's normalisation.

    Q1 = Σ ρ̃ w wᵀ = W Ω Wᵀ/D, R1 = Σ ρ̃ u wᵀ = V Ω Wᵀ/D^{3/2}, T1 = Σ ρ̃ u uᵀ = V Ω Vᵀ/D²,
    T0 = Σ u uᵀ = V Vᵀ/D.
    """

    Q1: Float[Real, "*batch hidden hidden"]
    R1: Float[Real, "*batch hidden hidden"]
    T1: Float[Real, "*batch hidden hidden"]
    T0: Float[Real, "*batch hidden hidden"]


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


def overlaps(modes: Modes, rho: Float[Real, " modes"]) -> Overlaps:
    """Order parameters of rows with scaled eigenvalues `rho` (docs/theory.md §2)."""
    w, u = modes.encoder, modes.decoder
    weighted = rho[:, None] * w
    return Overlaps(w.T @ weighted, u.T @ weighted, u.T @ (rho[:, None] * u), u.T @ u)


def order_parameters(state: State, rho: Eigenvalues) -> OrderParameters:
    """Order parameters of a state, split into spikes and bulk."""
    return OrderParameters(overlaps(state.spikes, rho.spikes), overlaps(state.bulk, rho.bulk))


def densities(state: State, spectrum: Spectrum) -> Densities:
    """Densities of a state: outer products of each spike's row, their mean over each bin."""
    hidden = state.bias.shape[-1]

    def outer(modes: Modes) -> ModeDensities:
        w, u = modes.encoder, modes.decoder
        return ModeDensities(
            w[:, :, None] * w[:, None, :],
            u[:, :, None] * w[:, None, :],
            u[:, :, None] * u[:, None, :],
        )

    bins = np.repeat(np.arange(len(spectrum.multiplicity)), spectrum.bulk_rows(hidden))
    count = np.asarray(spectrum.multiplicity, float)[:, None, None]

    def mean_of_bin(x):
        return jnp.zeros((len(spectrum.multiplicity), *x.shape[1:])).at[bins].add(x) / count

    return Densities(outer(state.spikes), jax.tree.map(mean_of_bin, outer(state.bulk)))
