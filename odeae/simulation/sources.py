"""Where the inputs of a simulation come from: Gaussian ones, or rows of data."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from odeae.base.rows import Rows, as_rows
from odeae.model.problem import Problem

# Independent streams of every run: inputs, held-out inputs, initial weights, corruption of both.
_INPUTS, _TEST, START, NOISE, TEST_NOISE = range(5)


def block_length(dim: int) -> int:
    """Steps whose inputs are drawn at once; a function of D alone, so that streams never change."""
    return int(np.clip(2**18 // dim, 8, 256))


def normals_of(parts, runs, shape):
    """Standard normals (runs, *shape) of `parts` = (seed, stream, block), run by run the same.

    They are those of JAX's default generator and flags, whatever a script has chosen.
    """
    with jax.threefry_partitionable(True):
        return _draw(parts, runs, shape)


@eqx.filter_jit
def _draw(parts, runs, shape):
    """The normals, drawn in float32: a step costs half, and 1e-7 is far below any noise."""
    # the key of the seed, without jax_random_seed_offset, which jax.random.key would add
    halves = jnp.stack([parts[0] >> 32, parts[0] & 0xFFFFFFFF]).astype(jnp.uint32)

    def one(run):
        key = jax.random.wrap_key_data(halves, impl="threefry2x32")
        for part in (run, parts[1], parts[2]):
            key = jax.random.fold_in(key, part)
        return jax.random.normal(key, shape, jnp.float32).astype(jnp.float64)

    return jax.vmap(one)(runs)


class GaussianInputs:
    """Gaussian inputs in the eigenbasis: normals times the square root of the eigenvalues."""

    def __init__(self, problem: Problem, seed: int, runs: int, test_samples: int):
        self.dim, self.seed, self.runs = problem.spectrum.dim, seed, np.arange(runs)
        self.scale = np.sqrt(problem.spectrum.eigenvalues())
        self.test = self.normals(_TEST, 0, test_samples) * self.scale[None, None]

    def normals(self, stream: int, block: int, count: int):
        """Return standard normal numbers (runs, count, D) of one stream and block."""
        return normals_of(np.asarray([self.seed, stream, block]), self.runs, (count, self.dim))

    def block(self, number: int):
        """Return the inputs of one block of steps, (runs, steps, D)."""
        return self.normals(_INPUTS, number, block_length(self.dim))


class RealInputs:
    """Rows of a data matrix, mean removed, in their own basis; a part is held out per run."""

    def __init__(self, problem, seed, runs, test_samples, data: Rows, resample, end):
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
        """Return the rows `index`, (n, D), without their mean."""
        once, place = np.unique(index, return_inverse=True)  # a file is read front to back
        rows = self.data[once]
        bad = ~np.isfinite(rows).all(axis=1)
        if bad.any():
            raise ValueError(f"`data` must be finite, got NaN or infinity in row {once[bad][0]}")
        return rows[place] - self.mean

    def block(self, number: int):
        """Return the inputs of one block of steps, (runs, steps, D)."""
        length = block_length(self.dim)
        runs = []
        for run, train in enumerate(self.train):
            if self.resample:
                rng = np.random.default_rng([self.seed, run, _INPUTS, number])
                runs.append(train[rng.integers(len(train), size=length)])
            else:
                runs.append(np.resize(train[number * length : (number + 1) * length], length))
        return np.stack([self.rows(index) for index in runs])


def check_data(problem: Problem, data: Any, flatten: bool) -> Rows:
    """Return `data` as rows of the problem's D, whose basis is known; else `ValueError`."""
    spectrum = problem.spectrum
    if spectrum.basis is None:
        raise ValueError(
            "`data` needs a spectrum with a basis: build it with Spectrum.from_data or "
            "from_covariance"
        )
    rows = as_rows("data", data, flatten)
    if rows.shape[1] != spectrum.dim:
        hint = "; is it transposed?" if rows.shape[0] == spectrum.dim else ""
        raise ValueError(
            f"`data` must have shape (rows, {spectrum.dim}) like the spectrum, got "
            f"{rows.shape}{hint}"
        )
    if len(rows) < 2:
        raise ValueError(f"`data` must have at least two rows, got {len(rows)}")
    return rows


def check_size(runs: int, dim: int, vectors: int, inputs: int, end: float) -> None:
    """Raise `ValueError` for runs that no memory holds or no step counter counts."""
    need = 8 * runs * dim * (vectors + inputs)
    if need > 16 * 2**30:
        raise ValueError(
            f"{runs} runs of {vectors // 2} neurons at D={dim}, with {inputs} inputs at once, need "
            f"about {need / 2**30:.0f} GiB; give fewer `runs` or `test_samples`, or a spectrum of "
            "smaller `dim` (theory alone has no such limit)"
        )
    if end * dim > 2**53:
        raise ValueError(f"`times` must end before 2^53 steps, got {end:g} × D={dim}")
