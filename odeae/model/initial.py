"""Initial states: random, aligned, from weights; and weights drawn for a state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry2x32_p

from odeae.base.checks import array, close, grain_of, numbers, scalar, whole
from odeae.base.messages import explains_arguments
from odeae.base.precision import Real, in_float64, is_traced
from odeae.model.autoencoder import Autoencoder, Weights
from odeae.model.layout import columns_of, rows_of
from odeae.model.leading import bulk_rows
from odeae.model.problem import Problem, check_state, sizes
from odeae.model.state import Modes, State


@explains_arguments
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

    Stds, bias and seed may be traced. Source: docs/theory.md 2.
    """
    (spectrum, hidden), network = sizes(problem), problem.autoencoder
    if network.tied and encoder_std is not None:
        raise ValueError("`encoder_std` must not be given for tied weights: give `decoder_std`")
    s_w = scalar("encoder_std", 0.1 if encoder_std is None else encoder_std, at_least=0.0)
    s_u = scalar("decoder_std", decoder_std, at_least=0.0) / np.sqrt(spectrum.dim)
    stds = [s_u] * hidden if network.tied else [s_w] * hidden + [s_u] * hidden
    width, spikes = network.width, spectrum.spikes.shape[0]
    counts = [spikes, *bulk_rows(spectrum, width)]
    draws = _draws(seed, counts, hidden)  # in a user's program traced, whatever the seed is
    xp: Any = jnp if is_traced((stds, draws, network.gain)) else np  # NumPy need not be compiled
    stds = xp.stack([*stds, np.zeros(())][:width])
    exact = [np.full((spikes, width), np.nan)]  # NaN where rows are random
    for m, n in zip(spectrum.multiplicity, counts[1:], strict=True):
        exact.append(np.sqrt(float(m)) * np.eye(n) if m >= width else np.full((n, width), np.nan))
    exact = np.concatenate(exact)
    drawn = _columns(network, *xp.asarray(draws))
    columns = xp.where(np.isnan(exact), drawn, exact) * stds[None, :]
    return State(rows=rows_of(network, columns), n_spikes=spikes, bias=_bias(problem, bias))


def _draws(seed: Any, counts: list[int], hidden: int) -> Real:
    """Standard normal numbers (2, rows, K) of encoder and decoder rows, a stream for each part.

    `counts`: numbers of rows of the parts. A part's numbers depend on nothing but the seed and
    which part it is.
    """
    places = [np.arange(2 * n * hidden).reshape(2, n, hidden) for n in counts]
    streams = np.repeat(np.arange(len(counts)), counts)
    streams, places = np.broadcast_arrays(streams[:, None], np.concatenate(places, axis=1))
    if is_traced(seed):
        if not jnp.issubdtype(seed.dtype, jnp.integer) or seed.ndim:
            raise ValueError(f"`seed` must be a whole number, got a traced {seed.aval.str_short()}")
    else:
        seed = np.int64(whole("seed", seed, at_least=0))
    return _normals(seed, streams.astype(np.uint32), places.astype(np.uint32))


@jax.jit
def _normals(seed, streams, places):
    """Numbers of `jax.random.normal` in float64, one for each stream and place in it.

    A stream is a key of `jax.random.split(jax.random.key(seed))`, as JAX makes it by default. The
    generator, offset and flags that JAX has been set to play no part (they would be looked up when
    a user's `jit` is compiled). All streams share one program: each length of a stream would be
    compiled anew, in half a second.
    """
    unsigned = seed.astype(jnp.uint32 if seed.dtype.itemsize <= 4 else jnp.uint64)
    halves = (unsigned.astype(jnp.uint64) >> np.uint64(32), unsigned)
    key = tuple(jnp.broadcast_to(half.astype(jnp.uint32), places.shape) for half in halves)

    def deeper(i, key):  # a loop, so that threefry is compiled once
        count = jnp.where(i == 0, streams, places)
        return tuple(threefry2x32_p.bind(*key, jnp.zeros_like(count), count))

    high, low = (word.astype(jnp.uint64) for word in jax.lax.fori_loop(0, 2, deeper, key))
    mantissa = ((high << np.uint64(32)) | low) >> np.uint64(12)
    one = np.ones((), np.float64)
    unit = jax.lax.bitcast_convert_type(mantissa | one.view(np.uint64), jnp.float64) - one
    lowest = np.nextafter(-one, np.zeros(()))
    uniform = jnp.maximum(lowest, unit * (one - lowest) + lowest)
    return np.sqrt(2.0) * jax.lax.erf_inv(uniform)


@explains_arguments
@in_float64
def aligned_state(problem: Problem, encoder: Any = None, decoder: Any = 1.0) -> State:
    """State with w_k = `encoder` and u_k = `decoder` on spike k and nothing elsewhere.

    Both may be scalars or (K,), 1 by default; tied weights have only `decoder`. Needs K ≤ M
    spikes. Source: paper App. C, docs/theory.md 8.
    """
    (spectrum, hidden), network = sizes(problem), problem.autoencoder
    spikes = spectrum.spikes.shape[0]
    if hidden > spikes:
        raise ValueError(
            f"an aligned state needs one spike per neuron: got {hidden} neurons and {spikes} "
            "spikes; give the spectrum more `spikes`"
        )
    if network.tied and encoder is not None:
        raise ValueError("`encoder` must not be given for tied weights: give `decoder`")

    encoder = _per_neuron("encoder", 1.0 if encoder is None else encoder, hidden)
    return state_on_spikes(problem, encoder, _per_neuron("decoder", decoder, hidden))


def state_on_spikes(problem: Problem, encoder: Real, decoder: Real, bias: Any = None) -> State:
    """State with w_k = `encoder`[k] and u_k = `decoder`[k] on spike k, nothing elsewhere; (K,)."""
    spectrum, network = problem.spectrum, problem.autoencoder
    hidden, spikes = network.hidden, spectrum.spikes.shape[0]
    count = spikes + sum(bulk_rows(spectrum, network.width))

    def on_spikes(value):
        return jnp.zeros((count, hidden)).at[:hidden].set(jnp.diag(value))

    columns = _columns(network, on_spikes(encoder), on_spikes(decoder))
    bias = jnp.zeros(hidden) if bias is None else bias
    return State(rows=rows_of(network, columns), n_spikes=spikes, bias=bias)


@explains_arguments
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
    columns = columns_of(network, modes)
    if spectrum.order is not None:
        columns = columns[spectrum.order]
    start = spectrum.spikes.shape[0]
    parts = [columns[:start]]
    for m, n in zip(spectrum.multiplicity, bulk_rows(spectrum, network.width), strict=True):
        block = columns[start : start + m]
        parts.append(block if m == n else _compress(block))
        start += m
    rows = rows_of(network, jnp.concatenate(parts))
    return State(rows=rows, n_spikes=spectrum.spikes.shape[0], bias=bias)


def check_weights(
    problem: Problem, W: Any, V: Any, bias: Any = None, output_bias: Any = None
) -> Weights:
    """Weights of the problem's shapes, (K, D) and so on; a tied encoder is made from V.

    Raises `ValueError` for wrong shapes, entries that are not finite and parts that the network
    doesn't have.
    """
    (spectrum, hidden), network = sizes(problem), problem.autoencoder
    shape = (hidden, spectrum.dim)
    grain = grain_of(W, V)
    V = array("V", V, shape)
    if network.tied:
        encoder = network.gain * V / np.sqrt(spectrum.dim)
        if W is not None:
            W = array("W", W, shape)
            if not is_traced((W, encoder)) and not close(W, encoder, grain):
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
    xp: Any = jnp if is_traced((w, u)) else np
    output = np.zeros((u.shape[0], int(network.output_bias)))
    return xp.concatenate([u, output] if network.tied else [w, u, output], axis=1)


def _compress(block):
    """As many rows as columns with the Gram matrix of the block's rows.

    The rotation Q is held fixed: first derivatives of all that depends on the Gram matrix stay
    exact, d(QQᵀx)ᵀx = dxᵀx, and finite where the derivative of Q is not (rank below 2K).
    """
    Q = jax.lax.stop_gradient(jnp.linalg.qr(jax.lax.stop_gradient(block))[0])
    return Q.T @ block


@explains_arguments
@in_float64
def draw_weights(problem: Problem, state: State, seed: int | list[int] = 0) -> Weights:
    """Weights of a state, W and V (K, D) in the eigenbasis, eigenvalue order as given.

    Spikes get the state's rows; the modes of a bin get its rows turned by a random (Haar)
    isometry, so that every bin has exactly the state's Gram matrix. Hence the error of these
    weights is the state's to rounding where a bin's eigenvalues are equal.
    """
    spectrum, network = sizes(problem)[0], problem.autoencoder
    state = check_state(problem, state)
    seeds = seed if isinstance(seed, list) else [seed]
    rng = np.random.default_rng([whole("seed", part, at_least=0) for part in seeds])
    rows, start = columns_of(network, state.rows), state.n_spikes
    parts = [rows[:start]]
    for m, n in zip(spectrum.multiplicity, bulk_rows(spectrum, network.width), strict=True):
        block = rows[start : start + n]
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
    return (jnp if is_traced(value) else np).broadcast_to(value, (hidden,))


def _bias(problem: Problem, bias: Any) -> Real:
    value = _per_neuron("bias", bias, problem.autoencoder.hidden)
    if not problem.autoencoder.bias and not is_traced(value) and np.any(np.asarray(value)):
        raise ValueError(
            "`bias` must be 0 for an autoencoder without biases; construct it with "
            "Autoencoder(..., bias=True), in the shell --bias (and SGD(lr_bias=0.0) to keep them "
            "fixed)"
        )
    return value
