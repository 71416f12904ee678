"""Online SGD at finite D: what the theory is the limit of, measured in the theory's units."""

import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from odeae.base.checks import flag, numbers, whole
from odeae.base.files import as_path, check_ending, check_output
from odeae.base.messages import explains_arguments, shortened
from odeae.base.precision import in_float64, is_traced, to_numpy
from odeae.base.rows import Rows, as_rows
from odeae.base.status import Status
from odeae.base.times import save_times
from odeae.model.autoencoder import Autoencoder, Weights
from odeae.model.errors import generalisation_error
from odeae.model.initial import check_weights, draw_weights
from odeae.model.problem import Problem, leading_spikes, sizes
from odeae.model.rule import AbstractRule
from odeae.model.schedules import check_schedule
from odeae.model.state import HUGE, Components, Modes, OrderParameters, State, overlaps
from odeae.results.checkpoint import Checkpoint
from odeae.results.trajectory import Trajectory, settings_json

T = TypeVar("T")

# Independent streams of every run: inputs, held-out inputs, initial weights, corruption of both.
_INPUTS, _TEST, START, _NOISE, _TEST_NOISE = range(5)

# Runs are kept every so many seconds where a file for them was given.
_EVERY = 30.0


def _block_length(dim: int) -> int:
    """Steps whose inputs are drawn at once; a function of D alone, so that streams never change."""
    return int(np.clip(2**18 // dim, 8, 256))


def _normals(parts, runs, shape):
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


@eqx.filter_jit
def _advance(rule: AbstractRule, network, weights, x, scale, noise, deviation, first, span):
    """Steps span[0] … span[1] − 1 of a block of targets x (runs, steps, D), scaled per entry.

    `noise` (runs, steps, D): standard normals, times `deviation` the corruption; None without.
    `first`: number of the block's first step; step n is taken at the rate of t = n/D.
    """
    dim = x.shape[-1]

    def step(i, weights):
        def at(values):
            return jax.lax.dynamic_index_in_dim(values, i, axis=1, keepdims=False)

        target = at(x) * scale[None]
        given = target if noise is None else target + deviation * at(noise)
        factor = rule.factor((first + i) / dim)
        return jax.vmap(rule.update, (None, 0, 0, 0, None))(network, weights, target, given, factor)

    return jax.lax.fori_loop(span[0], span[1], step, weights)


@eqx.filter_jit
def _measure(network: Autoencoder, weights, inputs, is_spike, leading, basis, test):
    """Order parameters, error, held-out error and rows of the leading spikes of every run."""
    rho, dim = inputs.spikes, inputs.spikes.shape[0]

    def one(weights, target, given):
        W, V, b, v0 = weights
        if basis is not None:
            W, V = W @ basis, V @ basis
            v0 = None if v0 is None else v0 @ basis
        modes = Modes(W.T, V.T / np.sqrt(dim), None if v0 is None else v0 / np.sqrt(dim))

        def part(mask):  # T0 has no factor ρ̃, so modes are masked, not eigenvalues
            def masked(row):
                return row * mask.reshape(-1, *[1] * (row.ndim - 1))

            return overlaps(jax.tree.map(masked, modes), rho, inputs)

        split = OrderParameters(part(is_spike), part(1.0 - is_spike))
        error = generalisation_error(network, split.total(), b, inputs.trace)
        gap = target - network.output(weights, given)
        test = jnp.mean(jnp.sum(jnp.square(gap), axis=1)) / (2.0 * dim)
        along = None
        if leading is not None:
            along = Components(modes.encoder[leading], modes.decoder[leading])
        return split, error, test, along

    return jax.lax.map(lambda args: one(*args), (weights, *test))


class _Gaussian:
    """Gaussian inputs in the eigenbasis: normals times the square root of the eigenvalues."""

    def __init__(self, problem: Problem, seed: int, runs: int, test_samples: int):
        self.dim, self.seed, self.runs = problem.spectrum.dim, seed, np.arange(runs)
        self.scale = np.sqrt(problem.spectrum.eigenvalues())
        self.test = self.normals(_TEST, 0, test_samples) * self.scale[None, None]

    def normals(self, stream: int, block: int, count: int):
        return _normals(np.asarray([self.seed, stream, block]), self.runs, (count, self.dim))

    def block(self, number: int):
        return self.normals(_INPUTS, number, _block_length(self.dim))


class _Real:
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
        once, place = np.unique(index, return_inverse=True)  # a file is read front to back
        rows = self.data[once]
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


@explains_arguments
@in_float64
def simulate(
    problem: Problem,
    state: State | None,
    times: Any,
    runs: int | None = None,
    seed: int | None = None,
    data: Any = None,
    weights: Any = None,
    *,
    resample: bool | None = None,
    test_samples: int | None = None,
    flatten: bool = False,
    checkpoint: str | os.PathLike | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Trajectory:
    """Run online SGD at the problem's own D, several independent runs at once.

    Args:
        problem: what is learnt, by what network and rule. With `noise`, inputs (also held-out ones)
            are corrupted, targets are not.
        state: every run starts from weights drawn for it (`draw_weights`, another draw per run).
        times: (T,), steps/D, rounded to whole steps, those that coincide then being saved once; the
            result's `times` are what was used.
        runs: independent runs, 8 by default.
        seed: of inputs and initial weights, 0 by default.
        data: None for Gaussian inputs of the spectrum's covariance, or a matrix (n, D) of real
            inputs in any form that `Spectrum.from_data` takes. Rows (less the spectrum's mean) are
            drawn, from files only those that are used. The spectrum must come from data or a
            covariance, so that its basis is known. A tenth of the rows, at most `test_samples` of
            them, is held out of each run for `test_error`; Gaussian inputs are held out afresh.
        weights: start from these instead of a state: a `Checkpoint` of earlier runs, which goes on
            exactly where they stopped (their runs, seed, `resample` and `test_samples`, steps
            counted on), or (W, V), (W, V, bias) or (W, V, bias, output_bias), of shapes (K, D),
            (K, D), (K,), (D,) for all runs or with a leading run axis; in the eigenbasis. W is None
            for tied weights.
        resample: draw rows of `data` with replacement (True, the default), or go through them once
            in random order (False).
        test_samples: held-out samples of each run, 500 by default.
        flatten: take images (n, H, W) in `data` as rows, as `Spectrum.from_data` does.
        checkpoint: a netCDF file that keeps the runs: written every 30 s, at the end, and where the
            program is interrupted, each time whole or not at all. After an interrupt,
            `simulate(problem, None, times, weights=odeae.load(checkpoint).weights)` goes on as if
            nothing had happened; the file has one time more, that of the interrupt.
        overwrite: replace a `checkpoint` that exists.
        progress: a bar on stderr.

    Returns:
        A `Trajectory` with a leading run axis: order parameters and `error` by the theory's
        definitions from the weights (exact for Gaussian inputs), `test_error` by plain averaging,
        and the `weights` the runs ended with. A run that diverges keeps its part, with status and
        NaN.

    Raises:
        ValueError: arguments of wrong kinds or shapes, or that contradict the `Checkpoint`: another
            problem, other data, another number of runs or seed.
        OSError: `checkpoint` can't be written, or exists (unless `overwrite`).

    Example:
        `simulate(problem, random_state(problem), log_times(20, 40), runs=4, checkpoint="runs.nc")`
    """
    if is_traced((problem, state, times)):
        raise ValueError("simulate needs concrete values; it can't be called under jit, vmap, grad")
    (spectrum, hidden), network = sizes(problem), problem.autoencoder
    dim = spectrum.dim
    kind = f"SGD on {'Gaussian' if data is None else 'real'} inputs"
    earlier = weights if isinstance(weights, Checkpoint) else None
    kept = {}
    if earlier is not None:
        kept = json.loads(earlier.about)
        kept |= {"runs": len(earlier.weights.bias), "seed": earlier.seed}
    overwrite, flatten = flag("overwrite", overwrite), flag("flatten", flatten)
    progress = flag("progress", progress)
    runs = _settled("runs", runs, kept, 8, whole)
    seed = _settled("seed", seed, kept, 0, lambda name, n: whole(name, n, at_least=0))
    resample = _settled("resample", resample, kept, True, flag)
    test_samples = whole(
        "test_samples", kept.get("test_samples", 500) if test_samples is None else test_samples
    )
    times = save_times(times)
    copies = 1 if problem.noise == 0 else 2  # of the inputs
    _check_size(runs, dim, 2 * hidden, copies * (_block_length(dim) + test_samples), times[-1])
    steps = np.unique(np.round(np.asarray(times) * dim).astype(np.int64))
    check_schedule(problem.rule.schedule, times[-1])
    if checkpoint is not None:
        checkpoint = check_ending(as_path("checkpoint", checkpoint), (".nc",))
        check_output(checkpoint, overwrite)

    rows = None if data is None else _check_data(problem, data, flatten)
    basis = None if rows is None else spectrum.basis
    about, first = _about(problem, rows), 0
    if earlier is not None:
        if earlier.source != kind:
            raise ValueError(f"`weights` are of {earlier.source} and can't go on with {kind}")
        _check_same(kept, about)
        first = earlier.step
        start = _given_weights(problem, earlier.weights, runs)
    else:
        if weights is not None:
            start = _given_weights(problem, weights, runs)
        else:
            start = _drawn_weights(problem, state, seed, runs)
            first = 0 if state is None else int(np.round(float(state.start) * dim))
        if basis is not None:
            W, V, b, v0 = start
            start = Weights(W @ basis.T, V @ basis.T, b, None if v0 is None else v0 @ basis.T)
    if steps[0] < first:
        whose = "state's" if earlier is None else "weights'"
        raise ValueError(
            f"`times` must not begin before the {whose} own time {first / dim:.6g}, got "
            f"{times[0]:g}"
        )
    if rows is None:
        source = _Gaussian(problem, seed, runs, test_samples)
    else:
        source = _Real(problem, seed, runs, test_samples, rows, resample, int(steps[-1]))

    is_spike = np.zeros(dim)
    order = np.arange(dim) if spectrum.order is None else spectrum.order
    is_spike[order[: spectrum.spikes.shape[0]]] = 1.0
    leading = leading_spikes(problem)
    leading = None if leading is None else order[leading]
    rho = spectrum.eigenvalues() / dim
    inputs = problem.inputs._replace(spikes=rho, bulk=np.zeros(0), trace=rho.sum())
    keys, length = np.arange(runs), _block_length(dim)
    deviation, noise = np.sqrt(problem.noise), None
    test = (source.test, source.test)
    if deviation > 0:
        corruption = _normals(np.asarray([seed, _TEST_NOISE, 0]), keys, source.test.shape[1:])
        test = (source.test, source.test + deviation * corruption)

    def measured(step: int, now: Weights) -> tuple:
        values = _measure(network, now, inputs, is_spike, leading, basis, test)
        return step, now.bias, values

    def trajectory(saves: list[tuple], step: int, now: Weights) -> Trajectory:
        """What was saved, and what the weights of this step are, saved or not."""
        if not saves or saves[-1][0] != step:
            saves = [*saves, measured(step, now)]
        return _trajectory(
            problem,
            saves,
            Checkpoint(to_numpy(now), step, seed, kind, json.dumps(about | own)),
            state if weights is None else None,
            settings_json(seed=seed, first_step=first, **own),
        )

    own = {"resample": resample, "test_samples": test_samples}
    saves, loaded, x, written = [], -1, None, time.monotonic()
    # one assignment, so that an interrupt finds weights and the step that they are of
    at, now = here = first, jax.tree.map(jnp.asarray, start)
    try:
        with tqdm(total=int(steps[-1]) - first, unit="step", disable=not progress) as bar:
            for target in steps.tolist():
                while at < target:
                    block = at // length
                    if block != loaded:
                        loaded, x = block, source.block(block)
                        if deviation > 0:
                            noise = _normals(np.asarray([seed, _NOISE, block]), keys, (length, dim))
                    stop, offset = min(target, (block + 1) * length), block * length
                    here = stop, _advance(
                        problem.rule, network, now, x, source.scale, noise, deviation,
                        np.asarray(float(offset)), np.asarray([at - offset, stop - offset]),
                    )  # fmt: skip
                    bar.update(stop - at)
                    at, now = here
                    if checkpoint is not None and time.monotonic() - written > _EVERY:
                        trajectory(saves, at, now).save(checkpoint, overwrite=True)
                        written = time.monotonic()
                saves.append(measured(at, now))
    except (KeyboardInterrupt, SystemExit) as error:
        if checkpoint is None:
            error.add_note("nothing is kept: give simulate a file, checkpoint='runs.nc'")
        else:
            trajectory(saves, *here).save(checkpoint, overwrite=True)
            path = os.fspath(checkpoint)
            error.add_note(
                f"the runs to t={here[0] / dim:.6g} are kept in {path!r}: go on with "
                f"simulate(problem, None, times, weights=odeae.load({path!r}).weights)"
            )
        raise
    result = trajectory(saves, at, now)
    if checkpoint is not None:
        result.save(checkpoint, overwrite=True)
    return result


def _trajectory(
    problem: Problem, saves: list[tuple], weights: Checkpoint, initial: State | None, settings: str
) -> Trajectory:
    """The curve of what was saved (step, bias, values of `_measure`), NaN where a run has ended."""
    steps, biases, values = zip(*saves, strict=True)
    split, error, test, along = jax.tree.map(lambda *parts: np.stack(parts, axis=1), *values)
    bias, used = np.stack(biases, axis=1), np.asarray(steps) / problem.spectrum.dim
    total = split.total()
    squares = [problem.spectrum.dim * total.Q0, total.T0]
    size = np.max([np.einsum("rtkk->rtk", x).max(axis=-1) for x in squares], axis=0)
    followed = size < HUGE**2  # False for NaN
    resolved = np.isfinite(error) & np.isfinite(test) & followed
    good = np.logical_and.accumulate(resolved, axis=1)
    ended, last = good.all(axis=1), np.maximum(good.sum(axis=1) - 1, 0)
    # the weights of a run may be fine where the averages of its activation are not resolved
    stop = np.arange(len(test)), np.argmin(good, axis=1)
    fine = followed[stop] & np.isfinite(test[stop])
    status = np.where(fine, Status.UNRESOLVED, Status.DIVERGED)
    split, error, test, bias, along = jax.tree.map(
        lambda a: np.where(good.reshape(good.shape + (1,) * (a.ndim - 2)), a, np.nan),
        (split, error, test, bias, along),
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
        components=along,
        weights=weights,
        initial=initial,
        source=weights.source,
        settings=settings,
    )


def _settled(
    name: str, given: Any, kept: dict[str, Any], default: T, check: Callable[[str, Any], T]
) -> T:
    """What was given, else what the runs that go on have, else the default."""
    given = None if given is None else check(name, given)
    if given is not None and given != kept.get(name, given):
        raise ValueError(
            f"`{name}` can't change: the runs that go on have {kept[name]}, got {given}; leave it "
            "out"
        )
    return kept.get(name, default) if given is None else given


def _about(problem: Problem, rows: Rows | None) -> dict[str, Any]:
    """What runs belong to, by dotted names, in JSON's types: problem and data, in few numbers.

    Of eigenvalues weighted sums, of functions values, of data the shape and a digest of three rows.
    """
    spectrum, dim = problem.spectrum, problem.spectrum.dim
    distinct = 0.5 + np.arange(dim) * 0.6180339887498949 % 1.0  # another weight for every mode

    def total(values: Any) -> float:
        return float(np.abs(values) @ distinct[: len(values)])

    lumped = [spectrum.spikes, np.repeat(spectrum.bulk, spectrum.multiplicity) / dim]
    about = {
        "spectrum.dim": dim,
        "spectrum.spikes": len(spectrum.spikes),
        "spectrum.bins": len(spectrum.bulk),
        "spectrum.trace": float(spectrum.trace),
        "spectrum.eigenvalues": [total(spectrum.eigenvalues()), total(np.concatenate(lumped))],
        "spectrum.mean": 0.0 if spectrum.mean is None else total(spectrum.mean),
        **_values("autoencoder", problem.autoencoder, (-1.3, 0.4, 2.1)),
        **_values("rule", problem.rule, (0.3, 1.7, 40.0)),
        "noise": float(problem.noise),
    }
    if rows is not None:
        few = rows[sorted({0, len(rows) // 2, len(rows) - 1})]
        digest = hashlib.sha256(np.ascontiguousarray(few).tobytes()).hexdigest()
        about |= {"data.shape": list(rows.shape), "data.rows": digest[:16]}
    return about


def _values(name: str, part: Any, points: tuple[float, ...]) -> dict[str, Any]:
    """All values of a module, by dotted names; of functions those at `points`."""
    if dataclasses.is_dataclass(part):
        found: dict[str, Any] = {name: type(part).__name__}
        for field in dataclasses.fields(part):
            found |= _values(f"{name}.{field.name}", getattr(part, field.name), points)
        return found
    if callable(part):
        part = [np.asarray(part(np.asarray(point))).tolist() for point in points]
    return {name: part.tolist() if hasattr(part, "tolist") else part}


def _check_same(kept: dict[str, Any], about: dict[str, Any]) -> None:
    """Raise `ValueError` if what earlier runs belong to differs from what they should go on with.

    Numbers may differ by rounding: of an eigenbasis that was computed again, for example.
    """

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, list) and isinstance(b, list):
            return len(a) == len(b) and all(map(same, a, b))
        if isinstance(a, float) and isinstance(b, float):
            return math.isclose(a, b, rel_tol=1e-9) or (a != a and b != b)
        return a == b

    for name, value in about.items():
        if name in kept and not same(kept[name], value):
            raise ValueError(
                f"`weights` are of runs with another {name.replace('.', ' ', 1)}: "
                f"{shortened(kept[name])}, got {shortened(value)}; go on with the same"
            )


def _drawn_weights(problem: Problem, state: State | None, seed: int, runs: int) -> Weights:
    if state is None:
        raise ValueError("give a `state` or `weights` to start from, got neither")
    drawn = [draw_weights(problem, state, [seed, run, START]) for run in range(runs)]
    return jax.tree.map(lambda *parts: np.stack(parts), *drawn)


_LETTERS = dict(zip(Weights._fields, ("W", "V", "bias", "output_bias"), strict=True))


def _given_weights(problem: Problem, weights: Any, runs: int) -> Weights:
    if not isinstance(weights, tuple | list) or len(weights) not in (2, 3, 4):
        raise ValueError(
            "`weights` must be a Checkpoint, (W, V), (W, V, bias) or (W, V, bias, output_bias), "
            f"got {type(weights).__name__}"
        )
    axes = (2, 2, 1, 1)  # of one run
    parts = (*weights, None, None)[:4]
    for name, value in zip(Weights._fields, parts, strict=True):
        if value is not None:
            numbers(name, value)
    # Their dtype says how they were rounded.
    parts = tuple(value if value is None else np.asarray(value) for value in parts)

    def of_run(run: int) -> Weights:
        own = [
            p if p is None or p.ndim != n + 1 else p[run] for p, n in zip(parts, axes, strict=True)
        ]
        return check_weights(problem, *own)

    for name, part, n in zip(Weights._fields, parts, axes, strict=True):
        if part is not None and part.ndim == n + 1 and len(part) != runs:
            raise ValueError(
                f"`weights` must hold {_LETTERS[name]} of {runs} runs, got {len(part)}"
            )
    return jax.tree.map(lambda *values: np.stack(values), *map(of_run, range(runs)))


def _check_data(problem: Problem, data: Any, flatten: bool) -> Rows:
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


def _check_size(runs: int, dim: int, vectors: int, inputs: int, end: float) -> None:
    need = 8 * runs * dim * (vectors + inputs)
    if need > 16 * 2**30:
        raise ValueError(
            f"{runs} runs of {vectors // 2} neurons at D={dim}, with {inputs} inputs at once, need "
            f"about {need / 2**30:.0f} GiB; give fewer `runs` or `test_samples`, or a spectrum of "
            "smaller `dim` (theory alone has no such limit)"
        )
    if end * dim > 2**53:
        raise ValueError(f"`times` must end before 2^53 steps, got {end:g} × D={dim}")
