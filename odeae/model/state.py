"""The state (rows of every mode), and what is derived from it: order parameters and densities."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.base.checks import described, shown
from odeae.base.contractions import gram
from odeae.base.messages import shortened
from odeae.base.precision import Real, is_traced
from odeae.model.leading import bulk_rows
from odeae.model.spectrum import Spectrum

# Any shape: outside a solve batch axes come first, inside a solve the axis of lanes comes last.
Batched = Float[Real, "..."]


class Inputs(eqx.Module):
    """What the equations of motion know of the inputs; nothing has the size of D.

    Attributes:
        rho: (rows,), scaled eigenvalue ρ̃ = ρ/D of every row of a state, spikes first.
        noise: s²/D, what a corruption of variance s² adds to each ρ̃.
        trace: tr Ω/D.
        dim: D.
        n_spikes: How many of the rows are spikes.
    """

    rho: Real
    noise: Real
    trace: Real
    dim: Real
    n_spikes: int = eqx.field(static=True)


class Modes(eqx.Module):
    """Rows of N modes: where the neurons' weights point along each mode (docs/theory.md 2).

    Attributes:
        encoder: (N, K), w_τ = (ψ_τ·w_k)_k, not scaled; O(1) on a spike.
        decoder: (N, K), u_τ = (ψ_τ·v_k)_k/√D; O(1) on a spike.
        output: (N,), u_0 = ψ_τ·v_0/√D; None for networks without an output bias.

    Example:
        >>> odeae.random_state(problem).spikes.decoder
    """

    encoder: Batched
    decoder: Batched
    output: Batched | None = None

    __repr__ = described


class State(eqx.Module):
    """What the theory integrates: a row for every mode and the hidden biases (docs/theory.md 2).

    The drift is the same for all rows, so they lie in one array, those of the spikes first. A bin
    of m modes is represented by at most as many rows as a mode has independent columns (2K for an
    untied network), with the Gram matrix of the m modes. A batch leads with its own axes.

    Args:
        spikes: Rows of the spikes, M of them.
        bulk: Rows of the bulk bins.
        bias: Hidden biases (K,).
        diffusion: Σ w wᵀ (K, K) that the noise of the steps has added (docs/theory.md 5), None
            where the noise is left out.
        time: Where the state stands, in steps/D, if a solve ended in it; None, which is 0, for a
            fresh state.
        rows: All rows instead of `spikes` and `bulk`, the first `n_spikes` of them spikes.
        n_spikes: Goes with `rows`.

    Example:
        >>> state = odeae.random_state(problem)
        >>> silent = odeae.Modes(0.0 * state.spikes.encoder, state.spikes.decoder)
        >>> other = dataclasses.replace(state, spikes=silent)
    """

    rows: Modes
    bias: Batched
    diffusion: Batched | None
    time: Batched | None
    n_spikes: int = eqx.field(static=True)

    def __init__(
        self,
        spikes: Modes | None = None,
        bulk: Modes | None = None,
        bias: Batched | None = None,
        diffusion: Batched | None = None,
        time: Batched | None = None,
        *,
        rows: Modes | None = None,
        n_spikes: int | None = None,
    ):
        if rows is None or spikes is not None or bulk is not None:
            whole = None if rows is None or n_spikes is None else (rows, n_spikes)
            spikes = _part("spikes", spikes, whole)
            bulk = _part("bulk", bulk, whole)
            rows, n_spikes = _joined(spikes, bulk), np.shape(spikes.decoder)[-2]
        if bias is None or n_spikes is None:
            raise ValueError(f"`{'bias' if bias is None else 'n_spikes'}` must be given, got None")
        self.rows, self.n_spikes = rows, n_spikes
        self.bias, self.diffusion, self.time = bias, diffusion, time

    @property
    def spikes(self) -> Modes:
        """Rows of the spikes, (…, M, K)."""
        return _cut(self.rows, slice(None, self.n_spikes))

    @property
    def bulk(self) -> Modes:
        """Rows of the bulk bins, (…, rows, K)."""
        return _cut(self.rows, slice(self.n_spikes, None))

    @property
    def start(self) -> Real:
        """The time at which it stands, 0 for a fresh state."""
        return np.zeros(()) if self.time is None else self.time

    def without_time(self) -> "State":
        """The same as a fresh state, for which programs are compiled that know no time."""
        return dataclasses.replace(self, time=None)

    def __repr__(self):
        names = ("spikes", "bulk", "bias", "diffusion", "time")
        matrices = self.rows.encoder, self.rows.decoder
        if not all(isinstance(x, jax.Array | np.ndarray) for x in matrices):
            names = ("rows", "n_spikes", *names[2:])  # shapes, filters and the like have no views
        return f"State({', '.join(f'{name}={shown(getattr(self, name))}' for name in names)})"


def _part(name: str, given: Modes | None, whole: tuple[Modes, int] | None) -> Modes:
    """Return the given part, or cut it from all rows."""
    if given is None and whole is not None:
        rows, n = whole
        return _cut(rows, slice(None, n) if name == "spikes" else slice(n, None))
    if not isinstance(given, Modes):
        raise ValueError(f"`{name}` must be odeae Modes, got {shortened(given)}")
    return given


def _joined(spikes: Modes, bulk: Modes) -> Modes:
    """Rows of two parts in one array each; NumPy's where both are."""
    return Modes(
        _concatenated("encoder", spikes.encoder, bulk.encoder, -2),
        _concatenated("decoder", spikes.decoder, bulk.decoder, -2),
        None
        if spikes.output is None and bulk.output is None
        else _concatenated("output", spikes.output, bulk.output, -1),
    )


def _concatenated(name: str, a: Any, b: Any, axis: int) -> Real:
    xp: Any = jnp if is_traced((a, b)) else np  # JAX would round float64 outside of x64
    try:
        return xp.concatenate([a, b], axis=axis)
    except (ValueError, TypeError) as error:
        shapes = ["None" if x is None else np.shape(x) for x in (a, b)]
        raise ValueError(
            f"`spikes.{name}` and `bulk.{name}` must be rows of the same neurons (and batch), got "
            f"shapes {shapes[0]} and {shapes[1]}"
        ) from error


def _cut(rows: Modes, part: slice) -> Modes:
    """Some of the rows, of states whose batch axes lead."""
    if not hasattr(rows.decoder, "ndim"):  # what eqx.tree_at puts into its place
        raise TypeError(
            "`spikes` and `bulk` are views of a State's `rows`, which can't be replaced in place: "
            "use tree_at on `rows`, or dataclasses.replace(state, spikes=odeae.Modes(w, u))"
        )
    (encoder, decoder, *output), kind = jax.tree.flatten(rows)
    matrices = [x[..., part, :] for x in (encoder, decoder)]
    return jax.tree.unflatten(kind, [*matrices, *(x[..., part] for x in output)])


class OutputOverlaps(eqx.Module):
    """Overlaps of an output bias v_0: R1[k] = v_0 Ω w_k/D^{3/2}, shape (…, K).

    T1 and T0 (…, K + 1): v_0 Ω v_k/D² and v_0·v_k/D, the last entry being that of v_0 with itself.
    """

    R1: Batched
    T1: Batched
    T0: Batched


class Overlaps(eqx.Module):
    """Order parameters (…, K, K) of one part of the spectrum, in the paper's normalisation.

    Attributes:
        Q1: Σ ρ̃ w wᵀ = W Ω Wᵀ/D. With inputs corrupted at variance s², the covariance of the
            neurons' fields, W (Ω + s²) Wᵀ/D.
        R1: Σ ρ̃ u wᵀ = V Ω Wᵀ/D^{3/2}.
        T1: Σ ρ̃ u uᵀ = V Ω Vᵀ/D².
        T0: Σ u uᵀ = V Vᵀ/D.
        Q0: Σ w wᵀ/D = W Wᵀ/D.
        output: The overlaps of an output bias, or None.
    """

    Q1: Batched
    R1: Batched
    T1: Batched
    T0: Batched
    Q0: Batched
    output: OutputOverlaps | None = None


class OrderParameters(eqx.Module):
    """Order parameters, split into spikes and bulk; `total()` is their sum.

    Attributes:
        spikes: Overlaps of the rows of the spikes.
        bulk: Overlaps of the rows of the bulk.

    Example:
        >>> problem.order_parameters(state).total().Q1
    """

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
    """The paper's densities q = w wᵀ, r = u wᵀ, t = u uᵀ, (…, modes, K, K).

    Attributes:
        spikes: `q`, `r`, `t` of each spike.
        bulk: Those of the mean mode of each bin.

    Example:
        >>> odeae.predict(problem, state, times, densities=True).densities.bulk.q
    """

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
    """Order parameters of a state (or of lanes, their axis last), split into spikes and bulk."""
    n = inputs.n_spikes

    def part(rows):
        return overlaps(jax.tree.map(lambda x: x[rows], state.rows), inputs.rho[rows], inputs)

    bulk = _with_diffusion(part(slice(n, None)), state.diffusion, inputs)
    return OrderParameters(part(slice(None, n)), bulk)


def total_overlaps(state: State, inputs: Inputs) -> Overlaps:
    """`order_parameters(...).total()` at half the cost, from all rows at once."""
    return _with_diffusion(overlaps(state.rows, inputs.rho, inputs), state.diffusion, inputs)


def field_variances(state: State, inputs: Inputs) -> Float[Real, " hidden"]:
    """The diagonal of Q1, at the cost of a vector."""
    q, added = (inputs.rho + inputs.noise) @ jnp.square(state.rows.encoder), state.diffusion
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
