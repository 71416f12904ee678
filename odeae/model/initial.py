"""Initial states, random, aligned or from weights, and weights drawn for a state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry2x32_p

from odeae.base.checks import array, close, grain_of, numbers, scalar, whole
from odeae.base.messages import explains_arguments
from odeae.base.precision import ArrayLike, Real, in_float64, is_traced
from odeae.model.autoencoder import Autoencoder, Weights
from odeae.model.layout import columns_of, rows_of
from odeae.model.leading import bulk_rows
from odeae.model.problem import Problem, check_state, sizes
from odeae.model.state import Modes, State


@explains_arguments
@in_float64
def random_state(
    problem: Problem,
    encoder_std: ArrayLike | None = None,
    decoder_std: ArrayLike = 0.1,
    bias: ArrayLike = 0.0,
    seed: ArrayLike = 0,
) -> State:
    """Return the state of weights with independent Gaussian entries, at D → ∞ for the bulk.

    Rows of the spikes are random: they don't self-average, so another seed is another member of the
    ensemble. A bin with at least as many modes as a mode has columns (2K, if untied) has exactly
    its expected Gram matrix; smaller bins have random rows.

    Args:
        problem: The problem that the state is for.
        encoder_std: Standard deviation of the entries of W, 0.1 by default; must not be given for
            tied weights. May be traced.
        decoder_std: Standard deviation of the entries of V, so that u has decoder_std/√D. May be
            traced.
        bias: Value of the hidden biases, a number or (K,). An output bias starts at 0. May be
            traced.
        seed: Seed of the random rows, a whole number. May be traced.

    Returns:
        The state, at t = 0.

    Raises:
        ValueError: If a standard deviation is negative, `encoder_std` is given for tied weights,
            there is a bias in a network without biases, or the seed is no whole number.

    Source: docs/theory.md 2.

    Example:
        >>> state = odeae.random_state(problem, encoder_std=0.01, decoder_std=0.01, seed=1)
    """
    (spectrum, hidden), network = sizes(problem), problem.autoencoder
    if network.tied and encoder_std is not None:
        raise ValueError("`encoder_std` must not be given for tied weights: give `decoder_std`")
    s_w = scalar("encoder_std", 0.1 if encoder_std is None else encoder_std, at_least=0.0)
    s_u = scalar("decoder_std", decoder_std, at_least=0.0) / np.sqrt(spectrum.dim)
    stds = [s_u] * hidden if network.tied else [s_w] * hidden + [s_u] * hidden
    width, spikes = network.width, spectrum.spikes.shape[0]
    counts = [spikes, *bulk_rows(spectrum, width)]
    draws = _draws(seed, counts, hidden)  # traced in a user's program, even for a plain seed
    xp: Any = jnp if is_traced((stds, draws, network.gain)) else np  # NumPy compiles nothing
    stds = xp.stack([*stds, np.zeros(())][:width])
    exact = [np.full((spikes, width), np.nan)]  # NaN where rows are random
    for m, n in zip(spectrum.multiplicity, counts[1:], strict=True):
        exact.append(np.sqrt(float(m)) * np.eye(n) if m >= width else np.full((n, width), np.nan))
    exact = np.concatenate(exact)
    drawn = _columns(network, *xp.asarray(draws))
    columns = xp.where(np.isnan(exact), drawn, exact) * stds[None, :]
    return State(rows=rows_of(network, columns), n_spikes=spikes, bias=_bias(problem, bias))


def _draws(seed: Any, counts: list[int], hidden: int) -> Real:
    """Return standard normal numbers (2, rows, K) of encoder and decoder rows.

    `counts` are the numbers of rows of the parts. Each part has its own random stream, which
    depends only on the seed and on the place of the part.
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
def _normals(seed: Any, streams: Real, places: Real) -> Real:
    """Return numbers of `jax.random.normal` in float64, one for each stream and place in it.

    A stream is a key of `jax.random.split(jax.random.key(seed))`, with JAX's default generator. The
    user's settings of generator, offset and flags have no effect (JAX would look them up when a
    user's `jit` is compiled). All streams share one program, because each new length of a stream
    would compile for half a second.
    """
    unsigned = seed.astype(jnp.uint32 if seed.dtype.itemsize <= 4 else jnp.uint64)
    halves = (unsigned.astype(jnp.uint64) >> np.uint64(32), unsigned)
    key = tuple(jnp.broadcast_to(half.astype(jnp.uint32), places.shape) for half in halves)

    def deeper(i: Any, key: Any) -> Any:  # a loop, so that threefry is compiled once
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
def aligned_state(
    problem: Problem, encoder: ArrayLike | None = None, decoder: ArrayLike = 1.0
) -> State:
    """Return the state in which neuron k sits on spike k, with zero weights on all other modes.

    Args:
        problem: The problem that the state is for, with at least as many spikes as neurons.
        encoder: w_k on spike k (not scaled), a number or (K,), 1 by default; must not be given for
            tied weights. May be traced.
        decoder: u_k = ψ_k·v_k/√D on spike k, a number or (K,). May be traced.

    Returns:
        The state, at t = 0, with biases 0.

    Raises:
        ValueError: If there are fewer spikes than neurons, or `encoder` is given for tied weights.

    Source: the paper (arXiv:2201.02115), Appendix C; docs/theory.md 8.

    Example:
        >>> state = odeae.aligned_state(problem, encoder=0.1, decoder=0.1)
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

    own = per_neuron("encoder", 1.0 if encoder is None else encoder, hidden)
    return state_on_spikes(problem, own, per_neuron("decoder", decoder, hidden))


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
    problem: Problem,
    W: ArrayLike | None,
    V: ArrayLike,
    bias: ArrayLike | None = None,
    output_bias: ArrayLike | None = None,
) -> State:
    """Return the state of given weights.

    A bin of more modes than a mode has columns keeps the Gram matrix of its weights exactly, in as
    many rows as there are columns. Weights may be traced; first derivatives with respect to them
    are exact.

    Args:
        problem: The problem that the state is for.
        W: Encoder weights, (K, D), not scaled, in the eigenbasis, with eigenvalues in the order as
            given. Weights in the input space become these by `W @ spectrum.basis`. None for tied
            weights.
        V: Decoder weights, (K, D), in the same basis, not scaled.
        bias: Hidden biases, a number or (K,); None for 0.
        output_bias: v_0, (D,), in the same basis; None for 0.

    Returns:
        The state, at t = 0.

    Raises:
        ValueError: For wrong shapes, entries that are not finite, and parts that the network
            doesn't have.

    Source: docs/theory.md 2.

    Example:
        >>> W, V = rng.standard_normal((2, 3, 1000))
        >>> state = odeae.state_from_weights(problem, 0.1 * W, 0.1 * V)
    """
    spectrum, network = sizes(problem)[0], problem.autoencoder
    weights = check_weights(problem, W, V, bias, output_bias)
    root, output = np.sqrt(spectrum.dim), weights.output_bias
    modes = Modes(
        weights.encoder.T, weights.decoder.T / root, None if output is None else output / root
    )
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
    return State(rows=rows, n_spikes=spectrum.spikes.shape[0], bias=weights.bias)


def check_weights(
    problem: Problem,
    W: ArrayLike | None,
    V: ArrayLike | None,
    bias: ArrayLike | None = None,
    output_bias: ArrayLike | None = None,
) -> Weights:
    """Return weights of the problem's shapes, (K, D) and so on; a tied encoder is made from V.

    Raises `ValueError` for wrong shapes, entries that are not finite and parts that the network
    doesn't have.
    """
    (spectrum, hidden), network = sizes(problem), problem.autoencoder
    shape = (hidden, spectrum.dim)
    decoder = array("V", V, shape)
    encoder = None if network.tied and W is None else array("W", W, shape)
    if network.tied:
        made = network.gain * decoder / np.sqrt(spectrum.dim)
        if encoder is None:
            encoder = made
        elif not is_traced((encoder, made)) and not close(encoder, made, grain_of(W, V)):
            raise ValueError("`W` must be None for tied weights, which are gain V/√D")
        # A given encoder is kept, so that runs that go on have the same bits.
    if output_bias is not None and not network.output_bias:
        raise ValueError(
            "`output_bias` must be None for an autoencoder without; construct it with "
            "Autoencoder(..., output_bias=True)"
        )
    output: Real | None = None
    if network.output_bias:
        zero = np.zeros(spectrum.dim)
        output = zero if output_bias is None else array("output_bias", output_bias, zero.shape)
    return Weights(encoder, decoder, _bias(problem, 0.0 if bias is None else bias), output)


def _columns(network: Autoencoder, w: Real, u: Real) -> Real:
    """Return columns of encoder rows w (unless tied), decoder rows u and an output bias of 0."""
    xp: Any = jnp if is_traced((w, u)) else np
    output = np.zeros((u.shape[0], int(network.output_bias)))
    return xp.concatenate([u, output] if network.tied else [w, u, output], axis=1)


def _compress(block: Real) -> Real:
    """Return as many rows as columns, with the Gram matrix of the block's rows.

    The rotation Q is held fixed in derivatives. First derivatives of functions of the Gram matrix
    stay exact, d(QQᵀx)ᵀx = dxᵀx, and finite where the derivative of Q is not (rank below 2K).
    """
    Q = jax.lax.stop_gradient(jnp.linalg.qr(jax.lax.stop_gradient(block))[0])
    return Q.T @ block


@explains_arguments
@in_float64
def draw_weights(problem: Problem, state: State, seed: int | list[int] = 0) -> Weights:
    """Draw weights at finite D that have a given state.

    Spikes get the state's rows. The modes of a bin get its rows, turned by a random (Haar)
    isometry, so every bin has exactly the state's Gram matrix. The error of these weights is
    therefore the error of the state, to rounding, where all eigenvalues of a bin are equal.

    Args:
        problem: The problem.
        state: A state of this problem.
        seed: Seed of the isometries, a whole number or a list of them.

    Returns:
        Weights W and V (K, D), not scaled, in the eigenbasis, with eigenvalues in the order as
        given.

    Raises:
        ValueError: If the state is one of another problem, or a seed is no whole number ≥ 0.

    Source: docs/theory.md 2.

    Example:
        >>> weights = odeae.draw_weights(problem, state, seed=1)
        >>> weights.decoder.shape
        (3, 1000)
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


def per_neuron(name: str, value: ArrayLike, hidden: int) -> Real:
    """Return a number for each neuron, (K,), of one number or of (K,)."""
    given = numbers(name, value)
    given = array(name, given, (hidden,) if given.ndim else ())
    return (jnp if is_traced(given) else np).broadcast_to(given, (hidden,))


def _bias(problem: Problem, bias: ArrayLike) -> Real:
    value = per_neuron("bias", bias, problem.autoencoder.hidden)
    if not problem.autoencoder.bias and not is_traced(value) and np.any(np.asarray(value)):
        raise ValueError(
            "`bias` must be 0 for an autoencoder without biases; construct it with "
            "Autoencoder(..., bias=True), in the shell --bias (and SGD(lr_bias=0.0) to keep them "
            "fixed)"
        )
    return value
