"""Sweeps: one learning curve for every point of a grid of parameters, stored as they come."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import diffrax
import numpy as np

from odeae.base.checks import flag, scalar, tolerance, warn, whole
from odeae.base.messages import explains_arguments, one_of
from odeae.base.precision import ArrayLike
from odeae.base.times import save_times
from odeae.base.version import __version__
from odeae.model.problem import Problem
from odeae.model.state import State
from odeae.sweeps.fingerprints import fingerprints
from odeae.sweeps.grid import columns_of, described_values, labels_of, places_of, value_at
from odeae.sweeps.layout import FINGERPRINTS
from odeae.sweeps.plan import Plan
from odeae.sweeps.probes import digest_of, probe, traceable
from odeae.sweeps.store import open_store, opened
from odeae.theory.quantities import QUANTITIES
from odeae.theory.queue import in_lanes
from odeae.theory.regime import finite_size, warn_outside
from odeae.theory.strategy import MAX_STEPS, check_solver

if TYPE_CHECKING:
    import xarray

CHUNK = 1024  # lanes of a block: half a second's work for small problems
CHUNK_EACH = 16  # of problems that are solved one after another
MOST_BUILT = 256  # points that are built in advance to see how wide their networks are


@explains_arguments
def sweep(
    build: Callable[..., tuple[Problem, State]],
    grid: Mapping[str, ArrayLike | Sequence[Any]],
    times: ArrayLike,
    zip: bool = False,
    store: str | os.PathLike[str] | None = None,
    *,
    save: str | Sequence[str] = (),
    rtol: ArrayLike = 1e-6,
    atol: ArrayLike | None = None,
    solver: diffrax.AbstractSolver[Any] | None = None,
    max_steps: int | None = None,
    chunk: int | None = None,
    workers: int | None = None,
    executor: Any = None,
    progress: bool = False,
) -> "xarray.Dataset":
    """Predict the curve of every point of a grid of parameters.

    Problems of up to 8 neurons with closed averages, a constant or smooth rate and the default
    solver are solved side by side, all others one after another. With the default solver a curve
    that turns out stiff or needs many steps is solved again alone, by the solvers that `predict`
    chooses, and `max_steps` counts anew. A curve that fails disturbs no other.

    A store is a folder that is filled chunk by chunk. If the sweep is killed at any moment, the
    store loses the chunks in work, and the same call goes on with the rest; the result is the same
    to the last bit (a power cut may damage more chunks, which are computed again). What is stored
    is checked first: damaged chunks are computed again, and the problems and states of at most 100
    of the stored chunks (1000 curves, where `build` can't be traced over any number), evenly
    chosen, are built again and compared with those that were solved. A stored sweep, finished or
    not, is extended by the same call with more values (more seeds, a finer axis; zipped: more
    lanes): what is stored is kept, bit for bit, and only the rest is computed, into a hidden folder
    beside the store (`.NAME.extended`) that takes the store's place once all is done.

    Args:
        build: A function of one value of each parameter, `build(**values)`, that returns the
            problem and the initial state. Numbers are traced where `build` can be traced over them,
            so that a thousand lanes cost one call; for each of all other values (sizes, names,
            rules) `build` is called in Python.
        grid: The values of each parameter, by its name. They are crossed.
        times: (T,), steps/D, as in `predict`.
        zip: Whether the values are taken side by side (equally many of each) instead.
        store: A folder for a Zarr store, which `odeae.open_sweep` opens; needs
            `pip install 'odeae[sweep]'`. The dataset then reads from the store what is asked of it,
            so that a sweep can be larger than the memory.
        save: What is kept beside the error: excess, error_clean, Q1, R1, T1, T0, Q0, bias (NaN
            beyond the neurons of a network smaller than the largest).
        rtol: As in `predict`.
        atol: As in `predict`.
        solver: As in `predict`.
        max_steps: As in `predict`.
        chunk: How many curves are computed and stored at once.
        workers: Processes on this machine.
        executor: Anything with `submit`, or a pool of `odeae.workers` (processes, accelerators,
            Dask, SLURM). A pool that isn't open yet is opened for as long as something is computed.
        progress: Whether to draw a bar on stderr.

    Returns:
        An `xarray.Dataset` with one dim per parameter (zipped: one dim, `lane`) and `time`:
        `error`, what `save` names, `status` (0: ok, others as in `odeae.Status`), `stop_time`
        (steps/D) and `final_excess`, the error at the last time above the PCA error of rank K. A
        curve that fails is NaN after `stop_time`.

    Raises:
        ValueError: For a grid, `build` or store that don't fit, before anything is computed.
        RuntimeError: If the store is in use or a worker dies.

    Example:
        >>> def build(lr, seed):
        ...     problem = odeae.Problem(spectrum, odeae.Autoencoder(2), odeae.SGD(lr_encoder=lr))
        ...     return problem, odeae.random_state(problem, seed=seed)
        >>> grid = {"lr": [0.5, 1.0, 2.0], "seed": range(8)}
        >>> odeae.sweep(build, grid, odeae.log_times(200)).final_excess.mean("seed")
    """
    plan = _plan(build, grid, times, flag("zip", zip), save, rtol, atol, solver, max_steps, chunk)
    flag("progress", progress)
    if store is not None and not isinstance(store, str | os.PathLike):
        raise ValueError(f"`store` must be the path of a folder, got {store!r:.60}")
    if workers is not None and executor is not None:
        raise ValueError("give either `workers` or `executor`, not both")
    if workers is not None:
        whole("workers", workers)
    if executor is not None and not (_has(executor, "submit") or _has(executor, "__enter__")):
        raise ValueError(
            f"`executor` must have a method submit(function, *args), got {executor!r:.60}"
        )
    with contextlib.ExitStack() as held:
        target = None
        if store is not None:
            check = functools.partial(_check_made, plan, store)
            target = held.enter_context(open_store(store, plan.layout, check))
        done = np.zeros(plan.layout.n_chunks, bool) if target is None else target.done
        memory = {} if target is not None else plan.empty()
        plan.known = None if target is None else target.known
        if workers is not None:
            from odeae.sweeps.workers import process_pool

            executor = process_pool(workers)
        if executor is not None and not _has(executor, "submit"):
            executor = None if done.all() else held.enter_context(executor)
        for i, (values, made) in _computed(plan, done, executor, progress):
            if target is None:
                for name, array in values.items():
                    memory[name][plan.layout.block(i)] = array
            else:
                target.write(i, values, made)
    return plan.dataset(memory) if store is None else opened(store)


def _has(value: Any, method: str) -> bool:
    return callable(getattr(value, method, None))


def _computed(plan: "Plan", done: Any, executor: Any, progress: bool) -> Iterator:
    """Compute the blocks that are not done, in any order, with a bar that counts curves."""
    from odeae.sweeps.futures import completed

    todo = [int(i) for i in np.flatnonzero(~done)]
    results = completed(functools.partial(_compute, plan), todo, executor)
    if not progress:
        yield from results
        return
    from tqdm import tqdm

    sizes = [math.prod(plan.layout.size(i)) for i in range(len(done))]
    first = sum(size for size, is_done in itertools.zip_longest(sizes, done) if is_done)
    with tqdm(total=sum(sizes), initial=first, unit=" curves", smoothing=0.1) as bar:
        for i, values in results:
            yield i, values
            bar.update(sizes[i])


def _compute(plan: "Plan", i: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    return plan.compute(i)


def _check_made(plan: "Plan", store: Any, blocks: np.ndarray, made: np.ndarray) -> None:
    """Build lanes of these blocks again; raises `ValueError` if they aren't those of `made`."""
    most = 100 if plan.traced else max(1, 1000 // math.prod(plan.layout.chunk))
    chosen = np.linspace(0, len(blocks) - 1, min(len(blocks), most)).round().astype(int)
    others = []
    for i in blocks[chosen].tolist():
        before = made[plan.layout.block(i)].ravel()
        known = np.isfinite(before)
        lanes = list(itertools.compress(plan.lanes(i), known))
        now = plan.sketches(lanes)
        # To ten digits: other machines and other sizes of a block differ in the last ones.
        differ = np.abs(now - before[known]) > 1e-10 * np.maximum(1.0, np.abs(now))
        others += itertools.compress(lanes, differ)
    if others:
        first = {name: plan.columns[name][at] for name, at in others[0].items()}
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise ValueError(
            f"{os.fspath(store)!r} holds another sweep: `build` makes another problem or state at "
            f"{described_values(first)}{more}: give another path, or delete it to start anew"
        )


def _plan(build, grid, times, zipped, save, rtol, atol, solver, max_steps, chunk) -> Plan:
    """Check all that can be checked before anything is computed."""
    if not callable(build):
        raise ValueError(f"`build` must be a function of the parameters, got {build!r:.60}")
    columns = columns_of(grid, zipped)
    rtol = tolerance(rtol)
    if not np.iterable(save):
        raise ValueError(f"`save` must hold names such as 'Q1', got {save!r:.60}")
    names = (save,) if isinstance(save, str) else tuple(save)
    for name in names:
        one_of("save", name, list(QUANTITIES))
    times = save_times(times)
    places = places_of(columns, zipped)
    probes = [value_at(columns, place) for place in places]
    code = fingerprints(build, "build")
    problems, made = zip(*(probe(build, values, times) for values in probes), strict=True)
    warn_outside(max(problems, key=finite_size), times[-1])
    plan = Plan(
        build=build,
        columns=columns,
        traced=traceable(build, columns, probes[0]),
        zipped=zipped,
        hidden=max(lane[0].network.hidden for lane in made),
        times=times,
        save=tuple(name for name in dict.fromkeys(names) if name != "error"),
        rtol=rtol,
        atol=None if atol is None else scalar("atol", atol, above=0.0),
        solver=check_solver(solver),
        automatic=solver is None,
        max_steps=MAX_STEPS if max_steps is None else whole("max_steps", max_steps),
    )
    each = not all(in_lanes(lane[0], plan.solver) for lane in made)
    size = (CHUNK_EACH if each else CHUNK) if chunk is None else whole("chunk", chunk)
    plan = _traced_right(plan, size, places, list(made))
    for place in _widths(plan):
        problem, _ = probe(build, value_at(columns, place), times)
        plan.hidden = max(plan.hidden, problem.autoencoder.hidden)
    now = fingerprints(build, "build")
    digests = {
        f"build({described_values(values)})": digest_of(lane)
        for values, lane in zip(probes, made, strict=True)
    }
    configuration = {
        "rtol": float(plan.rtol),
        "atol": None if plan.atol is None else float(plan.atol),
        "solver": "default" if solver is None else repr(solver),
        "max_steps": plan.max_steps,
        "versions": {
            "odeae": __version__,
            **{name: importlib.metadata.version(name) for name in ("jax", "diffrax")},
        },
        # What `build` itself changes when it's called (a counter, a cache) tells nothing.
        FINGERPRINTS: {n: text for n, text in code.items() if now.get(n) == text} | digests,
    }
    plan.layout = plan.laid_out(size, configuration)
    return plan


def _traced_right(plan: Plan, size: int, places: list[dict[str, int]], made: list[Any]) -> Plan:
    """The plan, or one that traces fewer parameters if `build` gives other numbers when traced."""

    def tracing(names):
        one = dataclasses.replace(plan, traced=tuple(names), built={})
        one.layout = one.laid_out(size, {})
        return one

    def right(names):
        return tracing(names).traces_right(places, made)

    whole = tracing(plan.traced)
    if whole.traces_right(places, made):
        return whole
    traced = [name for name in plan.traced if right([name])]
    traced = traced if right(traced) else []
    wrong = [name for name in plan.traced if name not in traced]
    warn(
        f"`build` makes something else when it's traced over {' and '.join(map(repr, wrong))} than "
        "when it's called with the numbers (traced whole numbers are int64: 10**-2 isn't 0.01, but "
        "10.0**-2 is), so it's called once for each value"
    )
    return tracing(traced)


def _widths(plan: Plan) -> list[dict[str, int]]:
    """Places of the grid, all if they aren't too many, that may have networks of another width."""
    fixed = {name: x for name, x in plan.columns.items() if name not in plan.traced}
    if not fixed:
        return []
    if plan.zipped:
        labels = [labels_of(name, x).tolist() for name, x in fixed.items()]
        distinct = {at: i for i, at in enumerate(zip(*labels, strict=True))}
        lanes = list(distinct.values())
        return [dict.fromkeys(plan.columns, lanes[i]) for i in _spread(len(lanes))]
    sizes = [len(x) for x in fixed.values()]
    at = np.array(np.unravel_index(_spread(math.prod(sizes)), sizes)).T
    first = dict.fromkeys(plan.columns, 0)
    return [first | dict(zip(fixed, place, strict=True)) for place in at.tolist()]


def _spread(n: int) -> list[int]:
    """At most `MOST_BUILT` of n numbers, evenly, with both ends."""
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, MOST_BUILT))})
