"""What the store of a sweep holds, and how its lanes are cut into blocks."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# In the name of a fingerprint of code: instructions differ from one Python to the next.
IN_PYTHON = " in Python "
FINGERPRINTS = "problems"  # in a configuration: what only follows from all the rest


class Variable(NamedTuple):
    """What is computed for every lane: `dims` and `shape` are those after the lane dims."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    attrs: dict

    @property
    def fill(self) -> float | int:
        """What stands where nothing is computed yet: NaN, for whole numbers −1."""
        return math.nan if np.dtype(self.dtype).kind == "f" else -1

    def empty(self, lanes: tuple[int, ...]) -> np.ndarray:
        """Return the array of so many lanes, (*lanes, *shape), before anything is computed."""
        return np.full((*lanes, *self.shape), self.fill, self.dtype)


@dataclass(frozen=True, eq=False)
class Layout:
    """What a store holds and how it's cut: lanes, blocks, variables, coordinates, configuration.

    `lanes` are the leading dims of every variable and their sizes; a block of `chunk` lanes (one
    entry per lane dim; those at the end may be shorter) is computed and written at once. One of the
    `variables` is `status`, one int8 per lane. `coords` map a name to dims, values (numbers, bools
    or strings) and attributes. `configuration` is everything else that the results depend on, in
    values that JSON knows; its `FINGERPRINTS`, if any, tell apart what nothing else does.
    """

    lanes: dict[str, int]
    chunk: tuple[int, ...]
    variables: dict[str, Variable]
    coords: dict[str, tuple[tuple[str, ...], np.ndarray, dict]]
    configuration: dict

    @property
    def shape(self) -> tuple[int, ...]:
        """How many lanes lie along each lane dim."""
        return tuple(self.lanes.values())

    @property
    def grid(self) -> tuple[int, ...]:
        """How many blocks lie along each lane dim."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.chunk, strict=True))

    @property
    def n_chunks(self) -> int:
        """How many blocks there are."""
        return math.prod(self.grid)

    def block(self, i: int) -> tuple[slice, ...]:
        """Return the lanes of block `i`, one slice per lane dim; blocks count in C order."""
        lanes = zip(np.unravel_index(i, self.grid), self.chunk, self.shape, strict=True)
        return tuple(slice(int(at) * size, min(int(at + 1) * size, n)) for at, size, n in lanes)

    def size(self, i: int) -> tuple[int, ...]:
        """Return how many lanes block `i` has along each lane dim."""
        return tuple(lanes.stop - lanes.start for lanes in self.block(i))

    def file(self, i: int, name: str) -> str:
        """Return the file of variable `name` of block `i`, as Zarr names it, in the store."""
        place = (*np.unravel_index(i, self.grid), *(0 for _ in self.variables[name].dims))
        return f"{name}/{'.'.join(['c', *map(str, place)])}"
