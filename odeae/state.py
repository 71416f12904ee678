"""The state (rows of every mode), and what is derived from it: order parameters and densities."""

from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.checks import array, numbers, scalar, whole
from odeae.precision import Real, in_float64, is_traced
from odeae.spectrum import Eigenvalues, Spectrum

if TYPE_CHECKING:
    from odeae.problem import Problem


class Modes(eqx.Module):
    """Encoder rows w and decoder rows u of N modes, each (N, K) (docs/theory.md §2).

    w_τ = (ψ_τ·w_k)_k is not scaled; u_τ = (ψ_τ·v_k)_k/√D: both are O(1) on a spike.
    """

    encoder: Float[Real, "modes hidden"]
    decoder: Float[Real, "modes hidden"]


class State(eqx.Module):
    """What the theory integrates: rows of the spikes, rows of the bulk bins, hidden biases (K,).

    A bin of m modes is represented by min(m, 2K) rows with the Gram matrix of the m modes.
    """

    spikes: Modes
    bulk: Modes
    bias: Float[Real, " hidden"]

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


@in_float64
def random_state(
    problem: "Problem",
    encoder_std: Any = 0.1,
    decoder_std: Any = 0.1,
    bias: Any = 0.0,
    seed: Any = 0,
) -> State:
    """State of weights with independent Gaussian entries, at D → ∞ for the bulk.

    `encoder_std`, `decoder_std`: standard deviation of the entries of W and V (so u has
    decoder_std/√D). `bias`: value of every hidden bias, or (K,). `seed`: of the spikes' rows, which
    don't self-average: another seed is another member of the ensemble. Bins of at least 2K modes
    hold exactly their expected Gram matrix, smaller bins random rows.

    Stds, bias and seed may be traced. Source: docs/theory.md §2.
    """
    spectrum, hidden = _parts(problem)
    s_w = scalar("encoder_std", encoder_std, at_least=0.0)
    s_u = scalar("decoder_std", decoder_std, at_least=0.0) / np.sqrt(spectrum.dim)
    if not is_traced(seed):
        seed = whole("seed", seed, at_least=0)
    spike_key, *bin_keys = jax.random.split(jax.random.key(seed), 1 + len(spectrum.multiplicity))

    def draw(key, n):
        z = jax.random.normal(key, (2, n, hidden))
        return Modes(s_w * z[0], s_u * z[1])

    none, eye = jnp.zeros((hidden, hidden)), jnp.eye(hidden)
    bulk = [Modes(jnp.zeros((0, hidden)), jnp.zeros((0, hidden)))]
    for key, m in zip(bin_keys, spectrum.multiplicity, strict=True):
        if m >= 2 * hidden:
            root = np.sqrt(float(m))
            w, u = jnp.concatenate([s_w * eye, none]), jnp.concatenate([none, s_u * eye])
            bulk.append(Modes(root * w, root * u))
        else:
            bulk.append(draw(key, m))
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *bulk)
    return State(draw(spike_key, spectrum.spikes.shape[0]), joined, _bias(problem, bias))


@in_float64
def aligned_state(problem: "Problem", encoder: Any = 1.0, decoder: Any = 1.0) -> State:
    """State with w_k = `encoder` and u_k = `decoder` on spike k and nothing elsewhere.

    Both may be scalars or (K,). Needs K ≤ M spikes. Source: paper App. C, docs/theory.md §8.
    """
    spectrum, hidden = _parts(problem)
    spikes, rows = spectrum.spikes.shape[0], sum(spectrum.bulk_rows(hidden))
    if hidden > spikes:
        raise ValueError(
            f"an aligned state needs one spike per neuron: got {hidden} neurons and {spikes} "
            "spikes; give the spectrum more `spikes`"
        )

    def on_spikes(name, value):
        value = _per_neuron(name, value, hidden)
        return jnp.zeros((spikes, hidden)).at[:hidden].set(jnp.diag(value))

    bulk = Modes(jnp.zeros((rows, hidden)), jnp.zeros((rows, hidden)))
    modes = Modes(on_spikes("encoder", encoder), on_spikes("decoder", decoder))
    return State(modes, bulk, jnp.zeros(hidden))


@in_float64
def state_from_weights(problem: "Problem", W: Any, V: Any, bias: Any = None) -> State:
    """State of given weights W, V (K, D), in the eigenbasis, eigenvalue order as given.

    Entries are those of the weights themselves (for weights in the input space: W @ basis). A bin
    of more than 2K modes keeps their Gram matrix exactly, in 2K rows. `bias`: (K,) or None for 0.
    Weights may be traced; first derivatives with respect to them are exact.

    Raises `ValueError` for wrong shapes and entries that are not finite.
    """
    spectrum, hidden = _parts(problem)
    W = array("W", W, (hidden, spectrum.dim))
    V = array("V", V, (hidden, spectrum.dim))
    rows = jnp.concatenate([W, V / np.sqrt(spectrum.dim)]).T
    if spectrum.order is not None:
        rows = rows[spectrum.order]
    bulk, start = [], spectrum.spikes.shape[0]
    for m, n in zip(spectrum.multiplicity, spectrum.bulk_rows(hidden), strict=True):
        block = rows[start : start + m]
        bulk.append(block if m == n else _compress(block))
        start += m
    spikes = rows[: spectrum.spikes.shape[0]]
    joined = jnp.concatenate([jnp.zeros((0, 2 * hidden)), *bulk])
    return State(
        Modes(spikes[:, :hidden], spikes[:, hidden:]),
        Modes(joined[:, :hidden], joined[:, hidden:]),
        _bias(problem, 0.0 if bias is None else bias),
    )


def _compress(block):
    """2K rows with the Gram matrix of the block's m > 2K rows.

    The rotation Q is held fixed: first derivatives of all that depends on the Gram matrix stay
    exact, d(QQᵀx)ᵀx = dxᵀx, and finite where the derivative of Q is not (rank below 2K).
    """
    Q = jax.lax.stop_gradient(jnp.linalg.qr(jax.lax.stop_gradient(block))[0])
    return Q.T @ block


def draw_weights(
    problem: "Problem", state: State, seed: int | list[int] = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Weights W, V (K, D) of a state, in the eigenbasis, eigenvalue order as given.

    Spikes get the state's rows; the modes of a bin get its rows turned by a random (Haar)
    isometry, so that every bin has exactly the state's Gram matrix. Hence the error of these
    weights is the state's to rounding where a bin's eigenvalues are equal.
    """
    spectrum, hidden = _parts(problem)
    check_state(problem, state)
    seeds = seed if isinstance(seed, list) else [seed]
    rng = np.random.default_rng([whole("seed", part, at_least=0) for part in seeds])
    parts = [np.concatenate([state.spikes.encoder, state.spikes.decoder], axis=1)]
    bulk = np.concatenate([state.bulk.encoder, state.bulk.decoder], axis=1)
    start = 0
    for m, n in zip(spectrum.multiplicity, spectrum.bulk_rows(hidden), strict=True):
        block = bulk[start : start + n]
        start += n
        if m >= 2 * hidden:
            isometry, r = np.linalg.qr(rng.standard_normal((m, n)))
            block = (isometry * np.sign(np.diag(r))) @ block
        parts.append(block)
    rows = np.concatenate(parts)
    if spectrum.order is not None:
        given = np.empty_like(rows)
        given[spectrum.order] = rows
        rows = given
    return rows[:, :hidden].T.copy(), np.sqrt(spectrum.dim) * rows[:, hidden:].T


def check_state(problem: "Problem", state: State) -> None:
    """Raise `ValueError` if `state` is none, or one made for a problem of another shape."""
    if not isinstance(state, State):
        raise ValueError(f"`state` must be an odeae State, got {type(state).__name__}")
    spectrum, hidden = _parts(problem)
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


def _parts(problem: "Problem") -> tuple[Spectrum, int]:
    """Spectrum and number of hidden neurons of a problem."""
    if not isinstance(getattr(problem, "spectrum", None), Spectrum):
        raise ValueError(f"`problem` must be an odeae Problem, got {type(problem).__name__}")
    return problem.spectrum, problem.autoencoder.hidden


def _per_neuron(name: str, value: Any, hidden: int) -> Real:
    value = numbers(name, value)
    value = array(name, value, (hidden,) if value.ndim else ())
    return jnp.broadcast_to(value, (hidden,))


def _bias(problem: "Problem", bias: Any) -> Real:
    value = _per_neuron("bias", bias, problem.autoencoder.hidden)
    if not problem.autoencoder.bias and not is_traced(value) and np.any(np.asarray(value)):
        raise ValueError(
            "`bias` must be 0 for an autoencoder without biases; construct it with "
            "Autoencoder(..., bias=True) (and SGD(lr_bias=0.0) to keep them fixed)"
        )
    return value
