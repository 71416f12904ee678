"""Online SGD at finite D: what the theory is the limit of, measured in the theory's units."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from odeae.activations import AbstractActivation
from odeae.checks import array, numbers, save_times, whole
from odeae.initial import draw_weights
from odeae.precision import as_float, in_float64, is_traced, to_numpy
from odeae.problem import Problem, check_state, sizes
from odeae.rules import AbstractRule, Weights, generalisation_error
from odeae.state import Modes, OrderParameters, State, overlaps
from odeae.trajectory import Checkpoint, Status, Trajectory, settings_json

# Three independent streams of every run: inputs, held-out inputs, initial weights.
_INPUTS, _TEST, _START = range(3)


def _block_length(dim: int) -> int:
    """Steps whose inputs are drawn at once; a function of D alone, so that streams never change."""
    return int(np.clip(2**18 // dim, 8, 256))


@eqx.filter_jit
def _normals(parts, runs, shape):
    """Standard normals (runs, *shape) of `parts` = (seed, stream, block), run by run the same.

    Drawn in float32, which halves the cost of a step; their grain of 1e-7 is far below any noise.
    """

    def one(run):
        key = jax.random.key(parts[0])
        for part in (run, parts[1], parts[2]):
            key = jax.random.fold_in(key, part)
        return jax.random.normal(key, shape, jnp.float32).astype(jnp.float64)

    return jax.vmap(one)(runs)


@eqx.filter_jit
def _advance(rule: AbstractRule, activation, trained_bias, weights, x, scale, start, stop):
    """Steps `start` … `stop` − 1 of a block of inputs x (runs, steps, D), scaled per entry."""

    def step(i, weights):
        now = jax.lax.dynamic_index_in_dim(x, i, axis=1, keepdims=False) * scale[None]
        return jax.vmap(lambda w, x: rule.update(activation, w, x, trained_bias))(weights, now)

    return jax.lax.fori_loop(start, stop, step, weights)


@eqx.filter_jit
def _measure(activation: AbstractActivation, trained_bias, weights, rho, is_spike, basis, x_test):
    """Order parameters, error and held-out error of every run."""
    dim = rho.shape[0]

    def one(weights, x_test):
        W, V, b = weights
        if basis is not None:
            W, V = W @ basis, V @ basis
        modes, scaled = Modes(W.T, V.T / np.sqrt(dim)), rho / dim
        # T0 has no factor ρ̃, so modes are masked, not eigenvalues
        parts = [
            overlaps(jax.tree.map(lambda row, m=mask: row * m[:, None], modes), scaled)
            for mask in (is_spike, 1.0 - is_spike)
        ]
        split = OrderParameters(*parts)
        bias = b if trained_bias else None
        error = generalisation_error(activation, split.total(), bias, jnp.sum(scaled))
        W, V, b = weights
        hidden = activation(x_test @ W.T / np.sqrt(dim) + b[None])
        test = jnp.mean(jnp.sum(jnp.square(x_test - hidden @ V), axis=1)) / (2.0 * dim)
        return split, error, test

    return jax.lax.map(lambda args: one(*args), (weights, x_test))


class _Gaussian:
    """Gaussian inputs in the eigenbasis: normals times the square root of the eigenvalues."""

    def __init__(self, problem: Problem, seed: int, runs: int, test_samples: int):
        self.dim, self.seed, self.runs = problem.spectrum.dim, seed, np.arange(runs)
        self.scale = np.sqrt(problem.spectrum.eigenvalues())
        self.test = self.normals(_TEST, 0, test_samples) * self.scale[None, None]

    def normals(self, stream: int, block: int, count: int):
        key = np.asarray([self.seed, stream, block])
        return _normals(key, self.runs, (count, self.dim))

    def block(self, number: int):
        return self.normals(_INPUTS, number, _block_length(self.dim))


class _Real:
    """Rows of a data matrix, mean removed, in their own basis; a part is held out per run."""

    def __init__(self, problem, seed, runs, test_samples, data, resample, end):
        spectrum = problem.spectrum
        self.dim, self.data, self.resample, self.seed = spectrum.dim, data, resample, seed
        self.scale = np.ones(spectrum.dim)
        self.mean = 0.0 if spectrum.mean is None else spectrum.mean
        n = data.shape[0]
        held = max(1, n // 10)
        shuffled = [np.random.default_rng([seed, run, _TEST]).permutation(n) for run in range(runs)]
        self.train = np.stack([rows[held:] for rows in shuffled])
        self.test = np.stack([self.rows(rows[:held][:test_samples]) for rows in shuffled])
        if not resample and end > self.train.shape[1]:
            raise ValueError(
                f"`times` ask for {end} steps, but once through the data there are "
                f"{self.train.shape[1]} samples ({n} less those held out): end at "
                f"t={self.train.shape[1] / self.dim:.4g}, or pass resample=True"
            )

    def rows(self, index: np.ndarray) -> np.ndarray:
        once, place = np.unique(index, return_inverse=True)  # a file is read front to back
        rows = as_float(self.data[once])
        bad = ~np.isfinite(rows).all(axis=1)
        if bad.any():
            raise ValueError(f"`data` must be finite, got NaN or infinity in row {once[bad][0]}")
        return rows[place] - self.mean

    def block(self, number: int):
        length = _block_length(self.dim)
        runs = []
        for run, train in enumerate(self.train):
            if self.resample:
                rng = np.random.default_rng([self.seed, run, _INPUTS, number])
                runs.append(train[rng.integers(len(train), size=length)])
            else:
                runs.append(np.resize(train[number * length : (number + 1) * length], length))
        return np.stack([self.rows(index) for index in runs])


@in_float64
def simulate(
    problem: Problem,
    state: State | None,
    times: Any,
    runs: int = 8,
    seed: int = 0,
    data: Any = None,
    weights: Any = None,
    *,
    resample: bool = True,
    test_samples: int = 500,
    progress: bool = False,
) -> Trajectory:
    """Run online SGD at the problem's own D, several independent runs at once.

    `state`: every run starts from weights drawn for it (`draw_weights`, another draw per run).
    `times` (T,): steps/D, rounded to whole steps, those that coincide then being saved once; the
    result's `times` are what was used.
    `data`: None for Gaussian inputs of the spectrum's covariance, or a matrix (n, D) of real
    inputs, also memory-mapped, whose rows (less the spectrum's mean) are drawn with replacement
    (`resample=True`) or in random order once through; the spectrum must come from data or a
    covariance, so that its basis is known. A tenth of the rows, at most `test_samples` of them,
    is held out of each run for `test_error`; Gaussian inputs are held out afresh.
    `weights`: start from these instead of a state: a `Checkpoint` of earlier runs, which goes on
    exactly where they stopped (same seed, steps counted on), or (W, V) or (W, V, bias), of shapes
    (K, D), (K, D), (K,) for all runs or with a leading run axis; in the eigenbasis.

    Returns a `Trajectory` with a leading run axis: order parameters and `error` by the theory's
    definitions from the weights (exact for Gaussian inputs), `test_error` by plain averaging, and
    the `weights` the runs ended with. A run that diverges keeps its part, with status and NaN.

    Raises `ValueError` for arguments of wrong kinds or shapes.
    """
    if is_traced((problem, state, times)):
        raise ValueError("simulate needs concrete values; it can't be called under jit, vmap, grad")
    (spectrum, hidden), autoencoder = sizes(problem), problem.autoencoder
    dim = spectrum.dim
    runs, seed = whole("runs", runs), whole("seed", seed, at_least=0)
    test_samples = whole("test_samples", test_samples)
    times = save_times(times)
    count = len(weights.weights.bias) if isinstance(weights, Checkpoint) else runs
    _check_size(count, hidden, dim, test_samples, times[-1])
    steps = np.unique(np.round(np.asarray(times) * dim).astype(np.int64))

    kind = f"SGD on {'Gaussian' if data is None else 'real'} inputs"
    data = None if data is None else _check_data(problem, data)
    basis = None if data is None else spectrum.basis
    first = 0
    if isinstance(weights, Checkpoint):
        asked, runs = runs, count
        first, seed = weights.step, weights.seed
        start = _given_weights(problem, weights.weights, runs)
        if asked not in (runs, 8):  # 8 is the default
            raise ValueError(f"`runs` can't change: the `weights` are of {runs} runs, got {asked}")
        if weights.source != kind:
            raise ValueError(f"`weights` are of {weights.source} and can't go on with {kind}")
        if steps[0] < first:
            raise ValueError(
                f"`times` must not begin before the weights' own time {first / dim:.6g}, got "
                f"{times[0]:g}"
            )
    else:
        if weights is not None:
            start = _given_weights(problem, weights, runs)
        else:
            start = _drawn_weights(problem, state, seed, runs)
        if basis is not None:
            start = Weights(start.encoder @ basis.T, start.decoder @ basis.T, start.bias)
    if data is None:
        source = _Gaussian(problem, seed, runs, test_samples)
    else:
        source = _Real(problem, seed, runs, test_samples, data, resample, int(steps[-1]))
    now = jax.tree.map(jnp.asarray, start)

    is_spike = np.zeros(dim)
    order = np.arange(dim) if spectrum.order is None else spectrum.order
    is_spike[order[: spectrum.spikes.shape[0]]] = 1.0
    rho, length = spectrum.eigenvalues(), _block_length(dim)
    measured, biases, at, loaded, x = [], [], first, -1, None
    with tqdm(total=int(steps[-1]) - first, unit="step", disable=not progress) as bar:
        for target in steps:
            while at < target:
                block = at // length
                if block != loaded:
                    loaded, x = block, source.block(block)
                stop = min(int(target), (block + 1) * length)
                offset = block * length
                now = _advance(
                    problem.rule, autoencoder.activation, autoencoder.bias, now, x, source.scale,
                    jnp.asarray(at - offset), jnp.asarray(stop - offset),
                )  # fmt: skip
                bar.update(stop - at)
                at = stop
            biases.append(now.bias)
            measured.append(
                _measure(
                    autoencoder.activation, autoencoder.bias, now, rho, is_spike, basis,
                    source.test,
                )
            )  # fmt: skip
    split, error, test = jax.tree.map(lambda *saves: np.stack(saves, axis=1), *measured)
    bias = np.stack(biases, axis=1)
    used = steps / dim

    good = np.logical_and.accumulate(np.isfinite(error) & np.isfinite(test), axis=1)
    ended, last = good.all(axis=1), np.maximum(good.sum(axis=1) - 1, 0)
    # the weights of a run may be fine where the averages of its activation are not resolved
    finite_at_stop = np.isfinite(test[np.arange(len(test)), np.argmin(good, axis=1)])
    status = np.where(finite_at_stop, Status.UNRESOLVED, Status.DIVERGED)
    split, error, test, bias = jax.tree.map(
        lambda a: np.where(good.reshape(good.shape + (1,) * (a.ndim - 2)), a, np.nan),
        (split, error, test, bias),
    )
    return Trajectory(
        used,
        error,
        split,
        bias,
        np.where(ended, Status.OK, status),
        used[last],
        problem,
        test_error=test,
        weights=Checkpoint(to_numpy(now), int(at), seed, kind),
        initial=state if weights is None else None,
        source=kind,
        settings=settings_json(
            seed=seed, first_step=first, resample=resample, test_samples=test_samples
        ),
    )


def _drawn_weights(problem: Problem, state: State | None, seed: int, runs: int) -> Weights:
    if state is None:
        raise ValueError("give a `state` or `weights` to start from, got neither")
    check_state(problem, state)
    drawn = [draw_weights(problem, state, [seed, run, _START]) for run in range(runs)]
    bias = np.tile(np.asarray(state.bias), (runs, 1))
    return Weights(np.stack([w for w, _ in drawn]), np.stack([v for _, v in drawn]), bias)


def _given_weights(problem: Problem, weights: Any, runs: int) -> Weights:
    hidden, dim = problem.autoencoder.hidden, problem.spectrum.dim
    if not isinstance(weights, tuple | list) or len(weights) not in (2, 3):
        raise ValueError(
            f"`weights` must be a Checkpoint, (W, V) or (W, V, bias), got {type(weights).__name__}"
        )
    W, V, b = (*weights, None)[:3]
    parts = []
    for name, value, shape in (
        ("W", W, (hidden, dim)),
        ("V", V, (hidden, dim)),
        ("bias", np.zeros(hidden) if b is None else b, (hidden,)),
    ):
        with_runs = np.ndim(value) == len(shape) + 1  # pyright: ignore[reportArgumentType]
        value = array(name, value, (runs, *shape) if with_runs else shape)
        parts.append(np.array(np.broadcast_to(value, (runs, *shape))))
    if not problem.autoencoder.bias and np.any(parts[2]):
        raise ValueError("`bias` must be 0 for an autoencoder without biases")
    return Weights(*parts)


def _check_data(problem: Problem, data: Any) -> Any:
    spectrum = problem.spectrum
    if spectrum.basis is None:
        raise ValueError(
            "`data` needs a spectrum with a basis: build it with Spectrum.from_data or "
            "from_covariance"
        )
    if not hasattr(data, "shape"):
        data = numbers("data", data)
    if np.dtype(data.dtype).kind not in "biuf":
        raise ValueError(f"`data` must hold real numbers, got dtype {data.dtype}")
    if len(data.shape) != 2 or data.shape[1] != spectrum.dim:
        raise ValueError(
            f"`data` must have shape (rows, {spectrum.dim}) like the spectrum, got "
            f"{tuple(data.shape)}"
        )
    if data.shape[0] < 2:
        raise ValueError(f"`data` must have at least two rows, got {data.shape[0]}")
    return data


def _check_size(runs: int, hidden: int, dim: int, test_samples: int, end: float) -> None:
    numbers = runs * dim * (2 * hidden + _block_length(dim) + test_samples)
    if numbers * 8 > 16 * 2**30:
        raise ValueError(
            f"{runs} runs of {hidden} neurons at D={dim} with {test_samples} test samples need "
            f"about {numbers * 8 / 2**30:.0f} GiB; give fewer `runs` or `test_samples`, or a "
            "spectrum of smaller `dim` (theory alone has no such limit)"
        )
    if end * dim > 2**53:
        raise ValueError(f"`times` must end before 2^53 steps, got {end:g} × D={dim}")
