"""Initial states: random, aligned, from weights; and weights drawn for a state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odeae.checks import array, numbers, scalar, whole
from odeae.precision import Real, in_float64, is_traced
from odeae.problem import Problem, check_state, sizes
from odeae.state import Modes, State


@in_float64
def random_state(
    problem: Problem,
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
    spectrum, hidden = sizes(problem)
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
def aligned_state(problem: Problem, encoder: Any = 1.0, decoder: Any = 1.0) -> State:
    """State with w_k = `encoder` and u_k = `decoder` on spike k and nothing elsewhere.

    Both may be scalars or (K,). Needs K ≤ M spikes. Source: paper App. C, docs/theory.md §8.
    """
    spectrum, hidden = sizes(problem)
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
def state_from_weights(problem: Problem, W: Any, V: Any, bias: Any = None) -> State:
    """State of given weights W, V (K, D), in the eigenbasis, eigenvalue order as given.

    Entries are those of the weights themselves (for weights in the input space: W @ basis). A bin
    of more than 2K modes keeps their Gram matrix exactly, in 2K rows. `bias`: (K,) or None for 0.
    Weights may be traced; first derivatives with respect to them are exact.

    Raises `ValueError` for wrong shapes and entries that are not finite.
    """
    spectrum, hidden = sizes(problem)
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
    problem: Problem, state: State, seed: int | list[int] = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Weights W, V (K, D) of a state, in the eigenbasis, eigenvalue order as given.

    Spikes get the state's rows; the modes of a bin get its rows turned by a random (Haar)
    isometry, so that every bin has exactly the state's Gram matrix. Hence the error of these
    weights is the state's to rounding where a bin's eigenvalues are equal.
    """
    spectrum, hidden = sizes(problem)
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


def _per_neuron(name: str, value: Any, hidden: int) -> Real:
    value = numbers(name, value)
    value = array(name, value, (hidden,) if value.ndim else ())
    return jnp.broadcast_to(value, (hidden,))


def _bias(problem: Problem, bias: Any) -> Real:
    value = _per_neuron("bias", bias, problem.autoencoder.hidden)
    if not problem.autoencoder.bias and not is_traced(value) and np.any(np.asarray(value)):
        raise ValueError(
            "`bias` must be 0 for an autoencoder without biases; construct it with "
            "Autoencoder(..., bias=True) (and SGD(lr_bias=0.0) to keep them fixed)"
        )
    return value
