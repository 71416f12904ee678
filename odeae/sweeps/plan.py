"""A sweep that is ready to be computed, block by block."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from odeae.base.compiler import with_whole_vectors
from odeae.base.precision import in_float64, to_numpy
from odeae.base.status import Status
from odeae.results.variables import attributes
from odeae.sweeps.grid import LANE, described_values, labels_of, plain_value, value_at
from odeae.sweeps.layout import Layout, Variable
from odeae.sweeps.probes import lane_of, sketch, traced_lane
from odeae.theory.lanes import TOO_MANY
from odeae.theory.queue import in_lanes, solve_lanes
from odeae.theory.strategy import explicit_steps, solve_alone, solve_each

if TYPE_CHECKING:
    import xarray


@dataclass
class Plan:
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
            name: Variable(dims, shape, dtype, attributes(name, not_computed=True))
            for name, (dims, shape, dtype) in kinds.items()
        }

    def empty(self) -> dict[str, np.ndarray]:
        """Arrays for the whole sweep, without any result."""
        return {name: v.empty(self.layout.shape) for name, v in self.layout.variables.items()}

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
        coords = {name: (dims[name], labels_of(name, x), {}) for name, x in columns.items()}
        coords["time"] = (("time",), self.times, attributes("time"))
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
        """What `sketch` says of these lanes, (n,)."""
        out = np.full(len(lanes), np.nan)
        for which, tree in self._built(lanes):
            out[which] = sketch(tree)
        return out

    @in_float64
    def compute(self, i: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Solve block i; returns every variable in the block's shape, and the lanes' sketches."""
        lanes = self.lanes(i)
        out = {name: v.empty((len(lanes),)) for name, v in self.layout.variables.items()}
        families = {}  # lanes of one structure, whatever values made it
        made = np.full(len(lanes), np.nan)
        todo = np.arange(len(lanes))
        if self.known is not None:
            todo = np.flatnonzero(~self.known[self.layout.block(i)])
        for members, tree in self._built([lanes[lane] for lane in todo]):
            which = todo[members]
            made[which] = sketch(tree)
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
        values = {name: x.reshape(*self.layout.size(i), *x.shape[1:]) for name, x in out.items()}
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
            one = to_numpy(lane_of(self.build, plain_value(values)))
            return jax.tree.map(lambda x: np.repeat(np.asarray(x)[..., None], n, -1), one)
        size = size or min(_power_of_two(n), math.prod(self.layout.chunk))  # few to compile for
        fill = [lanes[min(i, n - 1)] for i in range(size)]
        numbers = [self.columns[name][[lane[name] for lane in fill]] for name in self.traced]
        if (at, size) not in self.built:
            self.built[at, size] = traced_lane(self.build, values, self.traced, numbers)
        tree = self.built[at, size](*numbers)
        return jax.tree.map(lambda x: np.asarray(x)[..., :n], tree)

    def _values(self, i: int, lane: int) -> dict[str, Any]:
        """The values of all parameters in one lane of block i."""
        return value_at(self.columns, self.lanes(i)[lane])

    def _solve(self, i, which, equations, states, out) -> None:
        """Solve lanes of one structure and put them into `out`."""
        n, K = len(which), equations.network.hidden
        if self.hidden < K:
            point = described_values(self._values(i, int(which[0])))
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


def _cut(sizes: list[int], fixed: list[bool], target: int) -> tuple[int, ...]:
    """Blocks of at most `target` lanes: whole trailing dims, one value of what isn't traced."""
    cut = [1] * len(sizes)
    left = target
    for i in reversed(range(len(sizes))):
        if not fixed[i]:
            cut[i] = min(sizes[i], left)
            left //= cut[i]
    return tuple(cut)
