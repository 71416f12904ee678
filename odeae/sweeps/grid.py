"""The grid of a sweep: its columns of values, their labels and places."""

from typing import Any

import jax
import numpy as np

from odeae.base.precision import is_traced
from odeae.theory.quantities import QUANTITIES

LANE = "lane"  # the dim of zipped parameters


_RESERVED = {LANE, "time", "k", "l", "status", "stop_time", "final_excess", *QUANTITIES}


def columns_of(grid: Any, zipped: bool) -> dict[str, Any]:
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
        if not zipped and len(np.unique(labels_of(name, values))) < len(values):
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


def labels_of(name: str, values: Any) -> np.ndarray:
    """The coordinate of a parameter: numbers, bools and text as they are, else short texts."""
    if isinstance(values, np.ndarray) or all(isinstance(v, bool) for v in values):
        return np.asarray(values)
    return np.array([v if isinstance(v, str) else " ".join(repr(v).split())[:200] for v in values])


def places_of(columns: dict[str, Any], zipped: bool) -> list[dict[str, int]]:
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


def value_at(columns: dict[str, Any], place: dict[str, int]) -> dict[str, Any]:
    """Return the values at a place of the grid, by name."""
    return {name: columns[name][i] for name, i in place.items()}


def plain_value(values: dict[str, Any]) -> dict[str, Any]:
    """Python's numbers for NumPy's: a build may ask for an int."""
    return {name: v.item() if isinstance(v, np.generic) else v for name, v in values.items()}


def described_values(values: dict[str, Any]) -> str:
    """Return name=value, … for a message."""
    texts = {
        name: f"{v:.6g}" if isinstance(v, float) else f"{v!r:.40}"
        for name, v in plain_value(values).items()
    }
    return ", ".join(f"{name}={text}" for name, text in texts.items())
