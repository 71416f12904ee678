"""Sweeps: one learning curve for every point of a grid of parameters, stored as they come."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import itertools
import math
import os
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from odeae.base.checks import flag, scalar, warn, whole
from odeae.base.compiler import with_whole_vectors
from odeae.base.messages import explains_arguments, one_of, shortened
from odeae.base.precision import float64, in_float64, is_traced, to_numpy
from odeae.base.status import Status
from odeae.base.times import save_times
from odeae.base.version import __version__
from odeae.model.problem import Problem, check_state
from odeae.model.schedules import check_schedule
from odeae.model.state import State
from odeae.sweeps.fingerprints import fingerprints
from odeae.sweeps.store import FINGERPRINTS, Layout, Variable, open_store, opened
from odeae.theory.equations import Equations, equations_of
from odeae.theory.lanes import TOO_MANY
from odeae.theory.predict import start_of
from odeae.theory.quantities import QUANTITIES
from odeae.theory.queue import in_lanes, solve_lanes
from odeae.theory.regime import finite_size, warn_outside
from odeae.theory.strategy import MAX_STEPS, check_solver, explicit_steps, solve_alone, solve_each

if TYPE_CHECKING:
    import xarray

CHUNK = 1024  # lanes of a block: half a second's work for small problems
CHUNK_EACH = 16  # of problems that are solved one after another
MOST_BUILT = 256  # points that are built in advance to see how wide their networks are
LANE = "lane"  # the dim of zipped parameters
_RESERVED = {LANE, "time", "k", "l", "status", "stop_time", "final_excess", *QUANTITIES}
_ATTRS = {
    "time": {"units": "steps/D", "long_name": "time"},
    "error": {"long_name": "generalisation error, ‖x − x̂‖²/(2D) averaged over x"},
    "excess": {"long_name": "error above the PCA error of rank K"},
    "error_clean": {"long_name": "generalisation error on clean inputs"},
    "Q1": {"long_name": "W Ω Wᵀ/D"},
    "R1": {"long_name": "V Ω Wᵀ/D^(3/2)"},
    "T1": {"long_name": "V Ω Vᵀ/D²"},
    "T0": {"long_name": "V Vᵀ/D"},
    "Q0": {"long_name": "W Wᵀ/D"},
    "bias": {"long_name": "hidden biases"},
    "status": {
        "long_name": "how the solve ended",
        "flag_values": [-1, *(int(s) for s in Status)],
        "flag_meanings": " ".join(["not_computed", *(s.name.lower() for s in Status)]),
    },
    "stop_time": {"units": "steps/D", "long_name": "time that was reached"},
    "final_excess": {"long_name": "error at the last time above the PCA error of rank K"},
}


@explains_arguments
def sweep(
    build: Callable[..., tuple[Problem, State]],
    grid: dict[str, Any],
    times: Any,
    zip: bool = False,
    store: str | os.PathLike | None = None,
    *,
    save: Any = (),
    rtol: Any = 1e-6,
    atol: Any = None,
    solver: Any = None,
    max_steps: int | None = None,
    chunk: int | None = None,
    workers: int | None = None,
    executor: Any = None,
    progress: bool = False,
) -> "xarray.Dataset":
    """Predict the curve of every point of a grid of parameters.

    `build(**values)` returns the problem and the initial state for one value of each parameter of
    `grid`, a dict of name → values. They are crossed, or with `zip=True` taken side by side
    (equally many of each). Numbers are traced where `build` can be traced over them, so that a
    thousand lanes cost one call; all other values (sizes, names, rules) are taken one by one, and
    `build` is called in Python for each.

    Returns an `xarray.Dataset` with one dim per parameter (zipped: one dim, `lane`) and `time`:
    `error`, what else `save` names (excess, error_clean, Q1, R1, T1, T0, Q0, bias; NaN beyond the
    neurons of a network smaller than the largest), `status` (0: ok, others as in `odeae.Status`),
    `stop_time` (steps/D) and `final_excess`, the error at the last time above the PCA error of
    rank K. A curve that fails is NaN after `stop_time` and disturbs no other.

    `times`, `rtol`, `atol`, `solver`, `max_steps` as in `predict`. Problems of up to 8 neurons with
    closed averages, a constant or smooth rate and the default solver are solved side by side, all
    others one after another; with that solver, a curve that turns out stiff or needs many steps is
    solved again alone, by the solvers that `predict` chooses, and `max_steps` counts anew. `chunk`:
    how many curves are computed and stored at once.

    `store`: a folder for a Zarr store, filled chunk by chunk. Killed at any moment it loses the
    chunks in work, and the same call goes on with the rest; the result is the same to the last
    bit. The dataset then reads from the store what is asked of it, so that a sweep can be larger
    than the memory. What is stored is checked first: damaged chunks are computed again, and the
    problems and states of at most 100 of the stored chunks (1000 curves, where `build` can't be
    traced over any number), evenly chosen, are built again and compared with those that were
    solved. A stored sweep, finished or not, is extended by the same call with more values (more
    seeds, a finer axis; zipped: more lanes): what is stored is kept, bit for bit, and only the rest
    is computed, into a hidden folder beside the store (`.NAME.extended`) that takes the store's
    place once all is done. `odeae.open_sweep` opens a store. Needs `pip install 'odeae[sweep]'`.

    `workers`: processes on this machine. `executor`: anything with `submit`, or a pool of
    `odeae.workers` (processes, accelerators, Dask, SLURM): one that isn't open yet is opened for
    as long as something is computed. `progress`: a bar on stderr.

    Raises `ValueError` for a grid, `build` or store that don't fit, before anything is computed;
    `RuntimeError` if the store is in use or a worker dies.
    """
    plan = _plan(
        build, grid, times, flag("zip", zip), save, rtol, atol, solver, max_steps, chunk, store
    )
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
        done = np.zeros(plan.layout.n_chunks, bool) if target is None else target.done()
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


def _computed(plan: "_Plan", done: Any, executor: Any, progress: bool) -> Iterator:
    """Compute the blocks that are not done, in any order, with a bar that counts curves."""
    from odeae.sweeps.futures import completed

    todo = [int(i) for i in np.flatnonzero(~done)]
    results = completed(functools.partial(_compute, plan), todo, executor)
    if not progress:
        yield from results
        return
    from tqdm import tqdm

    sizes = [math.prod(plan.layout.shape(i, "status")) for i in range(len(done))]
    first = sum(size for size, is_done in itertools.zip_longest(sizes, done) if is_done)
    with tqdm(total=sum(sizes), initial=first, unit=" curves", smoothing=0.1) as bar:
        for i, values in results:
            yield i, values
            bar.update(sizes[i])


def _compute(plan: "_Plan", i: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    return plan.compute(i)


def _check_made(plan: "_Plan", store: Any, blocks: np.ndarray, made: np.ndarray) -> None:
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
            f"{_described(first)}{more}: give another path, or delete it to start anew"
        )


@dataclass
class _Plan:
    """A sweep, checked: what to build, how to solve it, and how its lanes are cut into blocks."""

    build: Callable
    columns: dict[str, Any]  # name → array of numbers, or list
    traced: tuple[str, ...]
    zipped: bool
    hidden: int  # of the widest network
    times: np.ndarray
    save: tuple[str, ...]
    rtol: np.ndarray
    atol: np.ndarray | None
    solver: Any
    max_steps: int
    automatic: bool  # whether the solver may change
    layout: Layout = field(init=False)
    known: np.ndarray | None = None  # lanes that a store has already: they stay empty
    built: dict = field(
        default_factory=dict
    )  # compiled builders, by the values that aren't traced and size

    def __getstate__(self):
        return self.__dict__ | {"built": {}}

    def variables(self) -> dict[str, Variable]:
        """What is stored of every lane."""
        T, K = len(self.times), self.hidden
        shapes = {
            "error": (("time",), (T,)),
            "excess": (("time",), (T,)),
            "error_clean": (("time",), (T,)),
            "bias": (("time", "k"), (T, K)),
        }
        pairs = (("time", "k", "l"), (T, K, K))
        kinds = {name: (*shapes.get(name, pairs), "float64") for name in ["error", *self.save]}
        kinds["stop_time"] = kinds["final_excess"] = ((), (), "float64")
        kinds["status"] = ((), (), "int8")
        return {
            name: Variable(dims, shape, dtype, _ATTRS[name])
            for name, (dims, shape, dtype) in kinds.items()
        }

    def empty(self) -> dict[str, np.ndarray]:
        """Arrays for the whole sweep, without any result."""
        lanes = tuple(self.layout.lanes.values())
        return {
            name: np.full((*lanes, *v.shape), -1 if v.dtype == "int8" else np.nan, v.dtype)
            for name, v in self.layout.variables.items()
        }

    def dataset(self, arrays: dict[str, np.ndarray]) -> "xarray.Dataset":
        """The dataset of arrays in memory, as a store would give it."""
        import json

        import xarray

        variables = {
            name: ((*self.layout.lanes, *v.dims), arrays[name], v.attrs)
            for name, v in self.layout.variables.items()
        }
        attrs = {"configuration": json.dumps(self.layout.configuration)}
        return xarray.Dataset(variables, self.layout.coords, attrs)

    def lanes(self, i: int) -> list[dict[str, int]]:
        """Which value of each parameter the lanes of block i have, in C order."""
        block = self.layout.block(i)
        if self.zipped:
            return [dict.fromkeys(self.columns, at) for at in range(block[0].start, block[0].stop)]
        axes = [range(s.start, s.stop) for s in block]
        return [dict(zip(self.columns, at, strict=True)) for at in itertools.product(*axes)]

    def laid_out(self, size: int, configuration: dict) -> Layout:
        """How the lanes are cut into blocks of at most `size`."""
        columns = self.columns
        if self.zipped:
            lanes = {LANE: len(next(iter(columns.values())))}
            cut = (min(size, lanes[LANE]),)
            dims = dict.fromkeys(columns, (LANE,))
        else:
            lanes = {name: len(values) for name, values in columns.items()}
            cut = _cut(list(lanes.values()), [name not in self.traced for name in columns], size)
            dims = {name: (name,) for name in columns}
        coords = {name: (dims[name], _labels(name, x), {}) for name, x in columns.items()}
        coords["time"] = (("time",), self.times, _ATTRS["time"])
        return Layout(lanes, cut, self.variables(), coords, configuration)

    @in_float64
    def traces_right(self, places: list[dict[str, int]], made: list[Any]) -> bool:
        """Whether the traced `build` gives what Python `made` at these places of the grid."""
        if not self.traced:
            return True
        full = math.prod(self.layout.chunk)  # the size that most blocks need as well
        for first in range(0, len(places), full):
            try:
                groups = list(self._built(places[first : first + full], full))
            except Exception:  # whatever a function of the user's raises on a tracer
                return False
            for which, tree in groups:
                for i, lane in enumerate(which):
                    if not _alike(_taken(tree, i), made[first + lane]):
                        return False
        return True

    @in_float64
    def sketches(self, lanes: list[dict[str, int]]) -> np.ndarray:
        """What `_sketch` says of these lanes, (n,)."""
        out = np.full(len(lanes), np.nan)
        for which, tree in self._built(lanes):
            out[which] = _sketch(tree)
        return out

    @in_float64
    def compute(self, i: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Solve block i; returns every variable in the block's shape, and the lanes' sketches."""
        lanes = self.lanes(i)
        out = {
            name: np.full((len(lanes), *v.shape), np.nan if v.dtype == "float64" else -1, v.dtype)
            for name, v in self.layout.variables.items()
        }
        families = {}  # lanes of one structure, whatever values made it
        made = np.full(len(lanes), np.nan)
        todo = np.arange(len(lanes))
        if self.known is not None:
            todo = np.flatnonzero(~self.known[self.layout.block(i)])
        for members, tree in self._built([lanes[lane] for lane in todo]):
            which = todo[members]
            made[which] = _sketch(tree)
            leaves, kind = jax.tree.flatten(tree)
            key = (kind, *((x.shape[:-1], x.dtype) for x in leaves))
            families.setdefault(key, []).append((which, tree))
        for family in families.values():
            which = np.concatenate([lanes for lanes, _ in family])
            tree = jax.tree.map(
                lambda *x: np.concatenate(x, axis=-1), *(tree for _, tree in family)
            )
            equations, states = tree
            self._solve(i, which, equations, states, out)
        values = {name: x.reshape(self.layout.shape(i, name)) for name, x in out.items()}
        return values, made

    def _built(
        self, lanes: list[dict[str, int]], size: int | None = None
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """(lanes, their equations and states, lane axis last), group by group.

        `size`: for how many lanes `build` is compiled, by default as few as will do.
        """
        fixed = [name for name in self.columns if name not in self.traced]
        groups = {}
        for lane, at in enumerate(lanes):
            groups.setdefault(tuple(at[name] for name in fixed), []).append(lane)
        for at, members in groups.items():
            one = self._group(at, fixed, [lanes[lane] for lane in members], size)
            yield np.array(members), one

    def _group(
        self, at: tuple, fixed: list[str], lanes: list[dict[str, int]], size: int | None
    ) -> Any:
        """Equations and states of lanes that differ in traced values alone."""
        values = {name: self.columns[name][j] for name, j in zip(fixed, at, strict=True)}
        n = len(lanes)
        if not self.traced:
            one = to_numpy(_lane(self.build, _plain(values)))
            return jax.tree.map(lambda x: np.repeat(np.asarray(x)[..., None], n, -1), one)
        size = size or min(_power_of_two(n), math.prod(self.layout.chunk))  # few to compile for
        fill = [lanes[min(i, n - 1)] for i in range(size)]
        numbers = [self.columns[name][[lane[name] for lane in fill]] for name in self.traced]
        if (at, size) not in self.built:
            self.built[at, size] = _traced(self.build, values, self.traced, numbers)
        tree = self.built[at, size](*numbers)
        return jax.tree.map(lambda x: np.asarray(x)[..., :n], tree)

    def _values(self, i: int, lane: int) -> dict[str, Any]:
        """The values of all parameters in one lane of block i."""
        return _at(self.columns, self.lanes(i)[lane])

    def _solve(self, i, which, equations, states, out) -> None:
        """Solve lanes of one structure and put them into `out`."""
        n, K = len(which), equations.network.hidden
        if self.hidden < K:
            point = _described(self._values(i, int(which[0])))
            raise ValueError(
                f"build({point}) has {K} neurons, more than all "
                f"points that were looked at before ({self.hidden} at most): put the widest "
                "network first or last in the grid"
            )
        steps = explicit_steps(equations, self.max_steps) if self.automatic else self.max_steps
        changes = steps < self.max_steps
        if in_lanes(equations, self.solver):
            size = min(_power_of_two(n), math.prod(self.layout.chunk))
            fill = np.minimum(np.arange(size), n - 1)
            equations, states = jax.tree.map(lambda x: x[..., fill], (equations, states))
            solved = with_whole_vectors(solve_lanes)(
                equations, states, np.asarray(n), self.times, self.rtol, self.atol,
                np.asarray(steps), self.save,
                too_many=np.asarray(TOO_MANY if changes else np.inf, float),
            )  # fmt: skip
        else:
            solved = solve_each(
                equations, states, self.times, self.rtol, self.atol, self.solver,
                steps, self.save,
            )  # fmt: skip
        *solved, lost = jax.tree.map(lambda x: np.array(x[:n]), solved)
        unpaid = changes & (solved[2] == Status.BUDGET)
        self._finish(equations, states, solved, unpaid | (lost & (solved[2] == Status.OK)))
        values, final_excess, status, stop_time = solved
        for name, x in values.items():
            fits = np.full((n, *out[name].shape[1:]), np.nan)
            fits[(slice(None), slice(None), *(slice(K),) * (x.ndim - 2))] = x
            out[name][which] = fits
        out["status"][which] = status
        out["stop_time"][which] = stop_time
        out["final_excess"][which] = final_excess

    def _finish(self, equations, states, solved, which) -> None:
        """Solve again, each alone, lanes that are stiff or have lost a mode."""
        solver = None if self.automatic else self.solver
        for lane in np.flatnonzero(which):
            one, state = _taken((equations, states), lane)
            alone = solve_alone(
                one, state, self.times, self.rtol, self.atol, solver, self.max_steps, self.save
            )
            for all_lanes, own in zip(*map(jax.tree.leaves, (solved, alone)), strict=True):
                all_lanes[lane] = own


def _taken(lanes: Any, i: Any) -> Any:
    return jax.tree.map(lambda x: x[..., i], lanes)


def _alike(a: Any, b: Any) -> bool:
    """Whether two lanes have the same numbers, to 1e-9 of the largest of each array."""
    leaves = [[np.asarray(x, float) for x in jax.tree.leaves(lane)] for lane in (a, b)]
    return [x.shape for x in leaves[0]] == [x.shape for x in leaves[1]] and all(
        np.all((x == y) | (np.isnan(x) & np.isnan(y)) | (np.abs(x - y) <= 1e-9 * _largest(y)))
        for x, y in zip(*leaves, strict=True)
    )


def _largest(x: np.ndarray) -> float:
    return float(np.max(np.abs(x), initial=0.0))


def _power_of_two(n: int) -> int:
    """The next power of two: one compiled program serves many sizes."""
    return 1 << (n - 1).bit_length()


def _lane(build: Callable, values: dict[str, Any]) -> tuple[Equations, State]:
    """What a lane is made of: equations and initial state."""
    problem, state = _made(build, values)
    return equations_of(problem), check_state(problem, state)


def _made(build: Callable, values: dict[str, Any]) -> tuple[Problem, State]:
    made = build(**values)
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], Problem)):
        raise ValueError(f"`build` must return a problem and a state, got {shortened(made)}")
    return made


def _traced(
    build: Callable, values: dict[str, Any], traced: tuple[str, ...], numbers: list
) -> Callable:
    """The compiled `build` of many lanes, one number of each for every traced parameter."""

    def lane(*numbers):
        return _lane(build, {**_plain(values), **dict(zip(traced, numbers, strict=True))})

    lowered = jax.jit(jax.vmap(lane, out_axes=-1)).lower(*numbers)
    # It runs for milliseconds, so that to optimise it would take longer.
    return lowered.compile({"xla_backend_optimization_level": "0"})


def _plan(build, grid, times, zipped, save, rtol, atol, solver, max_steps, chunk, store) -> _Plan:
    """Check all that can be checked before anything is computed."""
    if not callable(build):
        raise ValueError(f"`build` must be a function of the parameters, got {build!r:.60}")
    columns = _columns(grid, zipped)
    rtol = scalar("rtol", rtol, above=0.0)
    if rtol > 0.1:
        raise ValueError(f"`rtol` must be at most 0.1, got {float(rtol):g}")
    if not np.iterable(save):
        raise ValueError(f"`save` must hold names such as 'Q1', got {save!r:.60}")
    names = (save,) if isinstance(save, str) else tuple(save)
    for name in names:
        one_of("save", name, list(QUANTITIES))
    times = save_times(times)
    places = _places(columns, zipped)
    probes = [_at(columns, place) for place in places]
    code = fingerprints(build, "build")
    problems, made = zip(*(_probe(build, values, times) for values in probes), strict=True)
    warn_outside(max(problems, key=finite_size), times[-1])
    plan = _Plan(
        build=build,
        columns=columns,
        traced=_traceable(build, columns, probes[0]),
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
        problem, _ = _probe(build, _at(columns, place), times)
        plan.hidden = max(plan.hidden, problem.autoencoder.hidden)
    now = fingerprints(build, "build")
    digests = {
        f"build({_described(values)})": _digest(lane)
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


def _traced_right(plan: _Plan, size: int, places: list[dict[str, int]], made: list[Any]) -> _Plan:
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


def _widths(plan: _Plan) -> list[dict[str, int]]:
    """Places of the grid, all if they aren't too many, that may have networks of another width."""
    fixed = {name: x for name, x in plan.columns.items() if name not in plan.traced}
    if not fixed:
        return []
    if plan.zipped:
        labels = [_labels(name, x).tolist() for name, x in fixed.items()]
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


def _columns(grid: Any, zipped: bool) -> dict[str, Any]:
    """The values of each parameter: an array of finite numbers, or a list of anything else."""
    if not isinstance(grid, dict) or not grid:
        raise ValueError(f"`grid` must be a dict of parameter → values, got {grid!r:.60}")
    columns = {}
    for name, values in grid.items():
        if not (isinstance(name, str) and name.isidentifier()):
            raise ValueError(f"a parameter must be the name of an argument, got {name!r}")
        if name in _RESERVED:
            raise ValueError(f"a parameter can't be called {name!r}, as results are: rename it")
        if is_traced(values):
            raise ValueError(f"`grid[{name!r}]` must hold values, got a traced array")
        if isinstance(values, str) or not np.iterable(values):
            raise ValueError(f"`grid[{name!r}]` must be a list of values, got {values!r:.60}")
        values = [_from_array(v) for v in values]
        if not values:
            raise ValueError(f"`grid[{name!r}]` must hold at least one value, got none")
        for v in values:
            if isinstance(v, complex | np.complexfloating):
                raise ValueError(f"`grid[{name!r}]` must hold no complex numbers, got {v:g}")
            if isinstance(v, int) and not -(2**63) <= v < 2**63:
                raise ValueError(f"`grid[{name!r}]` must hold numbers below 2^63, got {v!r:.60}")
        if all(isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in values):
            values = np.asarray(values)
            bad = ~np.isfinite(values)
            if np.any(bad):
                i = int(np.argmax(bad))
                raise ValueError(f"`grid[{name!r}]` must be finite, got {values[i]} at index {i}")
            values = values.astype(int if values.dtype.kind in "iu" else float)
        if not zipped and len(np.unique(_labels(name, values))) < len(values):
            raise ValueError(f"`grid[{name!r}]` must hold each value once, got {values!r:.80}")
        columns[name] = values
    sizes = {name: len(values) for name, values in columns.items()}
    if zipped and len(set(sizes.values())) > 1:
        raise ValueError(f"zipped parameters must have equally many values, got {sizes}")
    return columns


def _from_array(value: Any) -> Any:
    """Python's own ints and bools, and single numbers of JAX, as Python and NumPy have them."""
    if isinstance(value, jax.Array) and value.ndim == 0 and value.dtype.kind in "biufc":
        value = np.asarray(value)[()]
    return value.item() if isinstance(value, np.integer | np.bool_) else value


def _labels(name: str, values: Any) -> np.ndarray:
    """The coordinate of a parameter: numbers, bools and text as they are, else short texts."""
    if isinstance(values, np.ndarray) or all(isinstance(v, bool) for v in values):
        return np.asarray(values)
    return np.array([v if isinstance(v, str) else " ".join(repr(v).split())[:200] for v in values])


def _places(columns: dict[str, Any], zipped: bool) -> list[dict[str, int]]:
    """Some points of the grid: both ends of each range of numbers, and every other value.

    Bounds that a value can break are found there; they also tell one `build` from another.
    """
    places = [dict.fromkeys(columns, 0), {name: len(v) - 1 for name, v in columns.items()}]
    for name, values in columns.items():
        ends = range(len(values))
        if isinstance(values, np.ndarray):
            ends = [int(np.argmin(values)), len(values) // 2, int(np.argmax(values))]
        for i in ends:
            places.append(dict.fromkeys(columns, i) if zipped else {**places[0], name: i})
    distinct = {tuple(place.items()): place for place in places}
    return list(distinct.values())


def _at(columns: dict[str, Any], place: dict[str, int]) -> dict[str, Any]:
    return {name: columns[name][i] for name, i in place.items()}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Python's numbers for NumPy's: a build may ask for an int."""
    return {name: v.item() if isinstance(v, np.generic) else v for name, v in values.items()}


def _described(values: dict[str, Any]) -> str:
    texts = {
        name: f"{v:.6g}" if isinstance(v, float) else f"{v!r:.40}"
        for name, v in _plain(values).items()
    }
    return ", ".join(f"{name}={text}" for name, text in texts.items())


@in_float64
def _probe(
    build: Callable, values: dict[str, Any], times: Any
) -> tuple[Problem, tuple[Equations, State]]:
    """Build one problem and its lane, of concrete values; errors say which."""
    try:
        problem, state = _made(build, _plain(values))
        lane = equations_of(problem), check_state(problem, state)
        check_schedule(problem.rule.schedule, times[-1])
        start_of(state, None, times)
    except Exception as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"build({_described(values)}) raised {type(error).__name__}: {said}"
        ) from error
    return problem, lane


def _digest(lane: Any) -> str:
    """A fingerprint of problem and state, to ten digits: machines differ in the last ones."""
    leaves, kind = jax.tree.flatten(to_numpy(lane))
    numbers = ["/".join(f"{x:.9e}" for x in np.ravel(leaf).astype(float)) for leaf in leaves]
    text = "|".join([re.sub(r" at 0x[0-9a-f]+", "", str(kind)), *numbers])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sketch(lanes: Any) -> np.ndarray:
    """One number per lane, (n,), that a change of the lane's problem or state changes.

    It changes as little as they do. So it's compared with a tolerance, and a million numbers are
    told from others on every machine, where some digest of them would differ by a last digit.
    """
    leaves, kind = jax.tree.flatten(lanes)
    text = re.sub(r" at 0x[0-9a-f]+", "", f"{kind} {[leaf.shape[:-1] for leaf in leaves]}")
    structure = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32
    total = np.full(leaves[0].shape[-1], structure)
    for seed, leaf in enumerate(leaves):
        rows = np.reshape(np.asarray(leaf, float), (-1, leaf.shape[-1]))
        odd = ~np.isfinite(rows)
        rows = np.where(odd, 0.0, rows)
        largest = np.max(np.abs(rows), axis=0, initial=0.0)
        scale = np.where(largest > 0, largest, 1.0)
        weights = np.random.default_rng(seed).uniform(0.5, 1.5, 1 + len(rows))
        total += weights[0] * np.log(scale) + weights[1:] @ (rows / scale + odd)
    return total


def _traceable(build: Callable, columns: dict[str, Any], first: dict[str, Any]) -> tuple[str, ...]:
    """The parameters that `build` can be traced over: not those that decide shapes or rules."""
    numbers = [name for name, values in columns.items() if isinstance(values, np.ndarray)]
    refused = _refusal(build, numbers, first)
    if refused is None:
        return tuple(numbers)
    alone = {name: _refusal(build, [name], first) for name in numbers}
    traced = [name for name in numbers if alone[name] is None]
    if traced and _refusal(build, traced, first) is not None:
        traced = []
    for name in numbers:
        if name not in traced and columns[name].dtype.kind == "f" and len(columns[name]) > 8:
            warn(
                f"`build` can't be traced over {name!r} ({alone[name] or refused}), so it's called "
                "once for each value; a traced number can't be used in `if`, `int()` or NumPy"
            )
    return tuple(traced)


def _refusal(build: Callable, names: list[str], first: dict[str, Any]) -> str | None:
    """Why `build` can't be traced over these parameters, or None."""

    def one(*numbers):
        return _lane(build, {**first, **dict(zip(names, numbers, strict=True))})

    try:
        with float64():
            jax.eval_shape(one, *(jnp.asarray(first[name]) for name in names))
    except Exception as error:  # whatever a function of the user's raises on a tracer
        return textwrap.shorten(f"{type(error).__name__}: {error}", 100, placeholder="…")
    return None


def _cut(sizes: list[int], fixed: list[bool], target: int) -> tuple[int, ...]:
    """Blocks of at most `target` lanes: whole trailing dims, one value of what isn't traced."""
    cut = [1] * len(sizes)
    left = target
    for i in reversed(range(len(sizes))):
        if not fixed[i]:
            cut[i] = min(sizes[i], left)
            left //= cut[i]
    return tuple(cut)
