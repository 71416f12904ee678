"""Online SGD at finite D: what the theory is the limit of, measured in the theory's units."""

import functools
import json
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from odeae.base.checks import flag, whole
from odeae.base.files import as_path, check_ending, check_output
from odeae.base.messages import explains_arguments
from odeae.base.precision import ArrayLike, in_float64, is_traced, to_numpy
from odeae.base.rows import Data
from odeae.base.times import save_times
from odeae.model.autoencoder import Weights
from odeae.model.problem import Problem, sizes
from odeae.model.rule import AbstractRule
from odeae.model.schedules import check_schedule
from odeae.model.state import State
from odeae.results.checkpoint import Checkpoint, GivenWeights
from odeae.results.trajectory import Trajectory, settings_json
from odeae.simulation.measuring import curve_of, meter
from odeae.simulation.resuming import about_runs, check_same_runs, check_whole, starting_weights
from odeae.simulation.sources import (
    NOISE,
    GaussianInputs,
    RealInputs,
    block_length,
    check_data,
    check_size,
    normals_of,
)

T = TypeVar("T")


# Runs are kept every so many seconds where a file for them was given.
_EVERY = 30.0


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


@explains_arguments
@in_float64
def simulate(
    problem: Problem,
    state: State | None,
    times: ArrayLike,
    runs: int | None = None,
    seed: int | None = None,
    data: Data | None = None,
    weights: Checkpoint | GivenWeights | None = None,
    *,
    resample: bool | None = None,
    test_samples: int | None = None,
    flatten: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
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
    spectrum, hidden = sizes(problem)
    dim = spectrum.dim
    kind = f"SGD on {'Gaussian' if data is None else 'real'} inputs"
    earlier = weights if isinstance(weights, Checkpoint) else None
    kept = {}
    if earlier is not None:
        kept = json.loads(earlier.about)
        check_whole(kept)
        kept |= {"runs": len(earlier.weights.bias), "seed": earlier.seed}
    overwrite, flatten = flag("overwrite", overwrite), flag("flatten", flatten)
    progress = flag("progress", progress)
    runs = _settled("runs", runs, kept, 8, whole)
    seed = _settled("seed", seed, kept, 0, lambda name, n: whole(name, n, at_least=0))
    resample = _settled("resample", resample, kept, True, flag)
    test_samples = whole(
        "test_samples", kept.get("test_samples", 500) if test_samples is None else test_samples
    )
    asked = save_times(times)
    copies = 1 if problem.noise == 0 else 2  # of the inputs
    check_size(runs, dim, 2 * hidden, copies * (block_length(dim) + test_samples), asked[-1])
    steps = np.unique(np.round(np.asarray(asked) * dim).astype(np.int64))
    check_schedule(problem.rule.schedule, asked[-1])
    if checkpoint is not None:
        checkpoint = check_ending(as_path("checkpoint", checkpoint), (".nc",))
        check_output(checkpoint, overwrite)

    rows = None if data is None else check_data(problem, data, flatten)
    basis = None if rows is None else spectrum.basis
    about = about_runs(problem, rows)
    if earlier is not None and earlier.source != kind:
        raise ValueError(f"`weights` are of {earlier.source} and can't go on with {kind}")
    check_same_runs(kept, about)
    start, first = starting_weights(problem, state, weights, seed, runs, basis)
    if steps[0] < first:
        whose = "state's" if earlier is None else "weights'"
        whose += f" own time {first / dim:.6g}"
        raise ValueError(f"`times` must not begin before the {whose}, got {asked[0]:g}")
    if rows is None:
        source = GaussianInputs(problem, seed, runs, test_samples)
    else:
        source = RealInputs(problem, seed, runs, test_samples, rows, resample, int(steps[-1]))
    measure, advance = meter(problem, source, seed, basis), _stepper(problem, source, seed)
    own = {"resample": resample, "test_samples": test_samples}

    def trajectory(saves: list[tuple], step: int, now: Weights) -> Trajectory:
        """What was saved, and what the weights of this step are, saved or not."""
        if not saves or saves[-1][0] != step:
            saves = [*saves, measure(step, now)]
        return curve_of(
            problem,
            saves,
            Checkpoint(to_numpy(now), step, seed, kind, json.dumps(about | own)),
            state if weights is None else None,
            first,
            settings_json(seed=seed, first_step=first, **own),
        )

    def keep(*done: Any) -> None:
        if checkpoint is not None:
            trajectory(*done).save(checkpoint, overwrite=True)

    begun = first, jax.tree.map(jnp.asarray, start)
    note = functools.partial(_interrupted, checkpoint, dim)
    with tqdm(total=int(steps[-1]) - first, unit="step", disable=not progress) as bar:
        done = _run(steps.tolist(), begun, advance, measure, keep, note, bar)
    result = trajectory(*done)
    if checkpoint is not None:
        result.save(checkpoint, overwrite=True)
    return result


def _run(
    steps: list[int], begun: tuple[int, Weights], advance: Callable, measure: Callable,
    keep: Callable, note: Callable[[int], str], bar: tqdm,
) -> tuple[list[tuple], int, Weights]:  # fmt: skip
    """Take weights through all steps; return what was measured, the last step and its weights.

    `keep` is called now and then, and before an interrupt goes on its way with a `note`.
    """
    saves, written = [], time.monotonic()
    # one assignment, so that an interrupt finds weights and the step that they are of
    at, now = here = begun
    try:
        for target in steps:
            while at < target:
                here = advance(now, at, target)
                bar.update(here[0] - at)
                at, now = here
                if time.monotonic() - written > _EVERY:
                    keep(saves, at, now)
                    written = time.monotonic()
            saves.append(measure(at, now))
    except (KeyboardInterrupt, SystemExit) as error:
        keep(saves, *here)
        error.add_note(note(here[0]))
        raise
    return saves, at, now


def _stepper(
    problem: Problem, source: GaussianInputs | RealInputs, seed: int
) -> Callable[[Weights, int, int], tuple[int, Weights]]:
    """A function that takes weights on from one step towards another, up to the block's end."""
    dim, runs = problem.spectrum.dim, len(source.test)
    length, deviation = block_length(dim), np.sqrt(problem.noise)
    drawn: dict[int, tuple] = {}  # the inputs and the noise of the last block

    def inputs(block: int) -> tuple:
        if block not in drawn:
            drawn.clear()
            noise = None
            if deviation > 0:
                key = np.asarray([seed, NOISE, block])
                noise = normals_of(key, np.arange(runs), (length, dim))
            drawn[block] = source.block(block), noise
        return drawn[block]

    def advance(weights: Weights, at: int, target: int) -> tuple[int, Weights]:
        block = at // length
        stop, offset = min(target, (block + 1) * length), block * length
        x, noise = inputs(block)
        return stop, _advance(
            problem.rule, problem.autoencoder, weights, x, source.scale, noise, deviation,
            np.asarray(float(offset)), np.asarray([at - offset, stop - offset]),
        )  # fmt: skip

    return advance


def _interrupted(checkpoint: Any, dim: int, step: int) -> str:
    """What an interrupt says of the runs."""
    if checkpoint is None:
        return "nothing is kept: give simulate a file, checkpoint='runs.nc'"
    path = os.fspath(checkpoint)
    return (
        f"the runs to t={step / dim:.6g} are kept in {path!r}: go on with "
        f"simulate(problem, None, times, weights=odeae.load({path!r}).weights)"
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
