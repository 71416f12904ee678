"""Initial states: random, aligned, from weights; and weights drawn for a state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odeae.autoencoder import Autoencoder, Weights
from odeae.checks import array, close, numbers, scalar, whole
from odeae.precision import Real, in_float64, is_traced
from odeae.problem import Problem, check_state, sizes
from odeae.spectrum import bulk_rows
from odeae.state import Modes, State


@in_float64
def random_state(
    problem: Problem,
    encoder_std: Any = None,
    decoder_std: Any = 0.1,
    bias: Any = 0.0,
    seed: Any = 0,
) -> State:
    """State of weights with independent Gaussian entries, at D → ∞ for the bulk.

    `encoder_std`, `decoder_std`: standard deviation of the entries of W and V (so u has
    decoder_std/√D); 0.1 by default. Tied weights have only `decoder_std`. `bias`: value of every
    hidden bias, or (K,); an output bias starts at 0. `seed`: of the spikes' rows, which don't
    self-average: another seed is another member of the ensemble. Bins of at least as many modes as
    a mode has columns (2K, untied) hold exactly their expected Gram matrix, smaller bins random
    rows.

    Stds, bias and seed may be traced. Source: docs/theory.md §2.
    """
    (spectrum, hidden), network = sizes(problem), problem.autoencoder
    if network.tied and encoder_std is not None:
        raise ValueError("`encoder_std` must not be given for tied weights: give `decoder_std`")
    s_w = scalar("encoder_std", 0.1 if encoder_std is None else encoder_std, at_least=0.0)
    s_u = scalar("decoder_std", decoder_std, at_least=0.0) / np.sqrt(spectrum.dim)
    if not is_traced(seed):
        seed = whole("seed", seed, at_least=0)
    spike_key, *bin_keys = jax.random.split(jax.random.key(seed), 1 + len(spectrum.multiplicity))
    stds = [s_u] * hidden if network.tied else [s_w] * hidden + [s_u] * hidden
    stds = jnp.stack([jnp.asarray(std) for std in [*stds, 0.0][: network.width]])

    def draw(key, n):
        columns = _columns(network, *jax.random.normal(key, (2, n, hidden)))
        return network.modes(columns * stds[None, :])

    bulk = [network.modes(jnp.zeros((0, network.width)))]
    for key, m in zip(bin_keys, spectrum.multiplicity, strict=True):
        if m >= network.width:
            bulk.append(network.modes(np.sqrt(float(m)) * jnp.diag(stds)))
        else:
            bulk.append(draw(key, m))
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *bulk)
    return State(draw(spike_key, spectrum.spikes.shape[0]), joined, _bias(problem, bias))


@in_float64
def aligned_state(problem: Problem, encoder: Any = None, decoder: Any = 1.0) -> State:
    """State with w_k = `encoder` and u_k = `decoder` on spike k and nothing elsewhere.

    Both may be scalars or (K,), 1 by default; tied weights have only `decoder`. Needs K ≤ M
    spikes. Source: paper App. C, docs/theory.md §8.
    """
    (spectrum, hidden), network = sizes(problem), problem.autoencoder
    spikes, rows = spectrum.spikes.shape[0], sum(bulk_rows(spectrum, network.width))
    if hidden > spikes:
        raise ValueError(
            f"an aligned state needs one spike per neuron: got {hidden} neurons and {spikes} "
            "spikes; give the spectrum more `spikes`"
        )
    if network.tied and encoder is not None:
        raise ValueError("`encoder` must not be given for tied weights: give `decoder`")

    def on_spikes(name, value):
        value = _per_neuron(name, value, hidden)
        return jnp.zeros((spikes, hidden)).at[:hidden].set(jnp.diag(value))

    w = on_spikes("encoder", 1.0 if encoder is None else encoder)
    columns = _columns(network, w, on_spikes("decoder", decoder))
    bulk = network.modes(jnp.zeros((rows, network.width)))
    return State(network.modes(columns), bulk, jnp.zeros(hidden))


@in_float64
def state_from_weights(
    problem: Problem, W: Any, V: Any, bias: Any = None, output_bias: Any = None
) -> State:
    """State of given weights W, V (K, D), in the eigenbasis, eigenvalue order as given.

    Entries are those of the weights themselves (for weights in the input space: W @ basis). For
    tied weights W is None. A bin of more modes than a mode has columns keeps their Gram matrix
    exactly, in that many rows. `bias`: (K,) or None for 0. `output_bias`: v_0 (D,), None for 0.
    Weights may be traced; first derivatives with respect to them are exact.

    Raises `ValueError` for wrong shapes and entries that are not finite.
    """
    spectrum, network = sizes(problem)[0], problem.autoencoder
    W, V, bias, output = check_weights(problem, W, V, bias, output_bias)
    root = np.sqrt(spectrum.dim)
    modes = Modes(W.T, V.T / root, None if output is None else output / root)
    columns = network.columns(modes)
    if spectrum.order is not None:
        columns = columns[spectrum.order]
    bulk, start = [], spectrum.spikes.shape[0]
    for m, n in zip(spectrum.multiplicity, bulk_rows(spectrum, network.width), strict=True):
        block = columns[start : start + m]
        bulk.append(block if m == n else _compress(block))
        start += m
    joined = jnp.concatenate([jnp.zeros((0, network.width)), *bulk])
    spikes = columns[: spectrum.spikes.shape[0]]
    return State(network.modes(spikes), network.modes(joined), bias)


def check_weights(
    problem: Problem, W: Any, V: Any, bias: Any = None, output_bias: Any = None
) -> Weights:
    """Weights of the problem's shapes, (K, D) and so on; a tied encoder is made from V.

    Raises `ValueError` for wrong shapes, entries that are not finite and parts that the network
    doesn't have.
    """
    (spectrum, hidden), network = sizes(problem), problem.autoencoder
    shape = (hidden, spectrum.dim)
    V = array("V", V, shape)
    if network.tied:
        encoder = network.gain * V / np.sqrt(spectrum.dim)
        if W is not None:
            W = array("W", W, shape)
            if not is_traced((W, encoder)) and not close(W, encoder):
                raise ValueError("`W` must be None for tied weights, which are gain V/√D")
        W = encoder if W is None else W  # runs that go on keep theirs, to the last bit
    else:
        W = array("W", W, shape)
    if output_bias is not None and not network.output_bias:
        raise ValueError(
            "`output_bias` must be None for an autoencoder without; construct it with "
            "Autoencoder(..., output_bias=True)"
        )
    if network.output_bias:
        zero = np.zeros(spectrum.dim)
        output_bias = zero if output_bias is None else array("output_bias", output_bias, zero.shape)
    return Weights(W, V, _bias(problem, 0.0 if bias is None else bias), output_bias)


def _columns(network: Autoencoder, w, u):
    """Columns of decoder rows u, of encoder rows w unless tied, and of an output bias of 0."""
    output = jnp.zeros((u.shape[0], int(network.output_bias)))
    return jnp.concatenate([u, output] if network.tied else [w, u, output], axis=1)


def _compress(block):
    """As many rows as columns with the Gram matrix of the block's rows.

    The rotation Q is held fixed: first derivatives of all that depends on the Gram matrix stay
    exact, d(QQᵀx)ᵀx = dxᵀx, and finite where the derivative of Q is not (rank below 2K).
    """
    Q = jax.lax.stop_gradient(jnp.linalg.qr(jax.lax.stop_gradient(block))[0])
    return Q.T @ block


@in_float64
def draw_weights(problem: Problem, state: State, seed: int | list[int] = 0) -> Weights:
    """Weights of a state, W and V (K, D) in the eigenbasis, eigenvalue order as given.

    Spikes get the state's rows; the modes of a bin get its rows turned by a random (Haar)
    isometry, so that every bin has exactly the state's Gram matrix. Hence the error of these
    weights is the state's to rounding where a bin's eigenvalues are equal.
    """
    spectrum, network = sizes(problem)[0], problem.autoencoder
    check_state(problem, state)
    seeds = seed if isinstance(seed, list) else [seed]
    rng = np.random.default_rng([whole("seed", part, at_least=0) for part in seeds])
    parts = [network.columns(state.spikes)]
    bulk, start = network.columns(state.bulk), 0
    for m, n in zip(spectrum.multiplicity, bulk_rows(spectrum, network.width), strict=True):
        block = bulk[start : start + n]
        start += n
        if m >= network.width:
            isometry, r = np.linalg.qr(rng.standard_normal((m, n)))
            block = (isometry * np.sign(np.diag(r))) @ block
        parts.append(block)
    columns = np.concatenate(parts)
    if spectrum.order is not None:
        given = np.empty_like(columns)
        given[spectrum.order] = columns
        columns = given
    root, K = np.sqrt(spectrum.dim), network.hidden
    encoder = np.asarray(network.gain) * columns if network.tied else columns
    decoder = columns if network.tied else columns[:, K:]
    output = root * columns[:, -1] if network.output_bias else None
    V = root * decoder[:, :K].T
    return Weights(encoder[:, :K].T.copy(), V, np.array(state.bias), output)


def _per_neuron(name: str, value: Any, hidden: int) -> Real:
    value = numbers(name, value)
    value = array(name, value, (hidden,) if value.ndim else ())
    return jnp.broadcast_to(value, (hidden,))


def _bias(problem: Problem, bias: Any) -> Real:
    value = _per_neuron("bias", bias, problem.autoencoder.hidden)
    if not problem.autoencoder.bias and not is_traced(value) and np.any(np.asarray(value)):
        raise ValueError(
            "`bias` must be 0 for an autoencoder without biases; construct it with "
            "Autoencoder(..., bias=True), in the shell --bias (and SGD(lr_bias=0.0) to keep them "
            "fixed)"
        )
    return value
