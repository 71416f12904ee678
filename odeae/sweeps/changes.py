"""What differs between a store and the sweep that is to be written to it, in words for people."""

import itertools
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from odeae.sweeps.layout import FINGERPRINTS, IN_PYTHON, Layout

ANEW = "give another path, or delete it to start anew"
_NOTHING = type("Nothing", (), {"__repr__": lambda self: "nothing"})()  # what a dict lacks


def places_among(folder: Path, stored: Layout, now: Layout) -> list[np.ndarray] | None:
    """Where the lanes of the store in `folder` are among those of now, for each lane dim.

    Returns None for the same sweep. Raises `ValueError`, naming what changed, for any other than
    one to which values along lane dims were added.
    """
    told = changes(stored, now)
    if not told:
        return None
    places = _places(stored, now)
    if places is not None:  # what was extended is no other: only a fingerprint may tell
        told = _other_fingerprints(stored, now)
    if told:
        more = f" and {len(told) - 3} more" if len(told) > 3 else ""
        said = f"{', '.join(told[:3])}{more}"
        raise ValueError(f"{str(folder)!r} holds another sweep: {said}: {ANEW}")
    return places


def changes(stored: Layout, now: Layout) -> list[str]:
    """Where two layouts differ: values first, fingerprints only if nothing else tells."""
    return _differing(stored, now) or _other_fingerprints(stored, now)


def _differing(stored: Layout, now: Layout) -> list[str]:
    pairs = zip(_described(stored), _described(now), strict=True)
    return list(itertools.chain(*(_differences(*pair) for pair in pairs)))


def _other_fingerprints(stored: Layout, now: Layout) -> list[str]:
    # Of code, only what both know: another Python has other instructions.
    before, after = (x.configuration.get(FINGERPRINTS, {}) for x in (stored, now))
    changed = [name for name in before if name in after and before[name] != after[name]]
    return [
        f"`{name.partition(IN_PYTHON)[0]}` was changed"
        if IN_PYTHON in name
        else f"`{name}` now makes another problem or state"
        for name in changed
    ]


def _described(layout: Layout) -> tuple[dict, dict, dict]:
    """All of `layout` as nested dicts to compare: values, shapes, configuration."""
    values = {name: values.tolist() for name, (_, values, _) in layout.coords.items()}
    coords = {
        name: {"dims": dims, "dtype": "text" if x.dtype.kind == "U" else x.dtype.name, "attrs": a}
        for name, (dims, x, a) in layout.coords.items()
    }
    shapes = {
        "lanes": ", ".join(f"{name} {size}" for name, size in layout.lanes.items()),  # ordered
        "coords": coords,
        "variables": {name: v._asdict() for name, v in layout.variables.items()},
        "chunk": layout.chunk,
    }
    configuration = {k: v for k, v in layout.configuration.items() if k != FINGERPRINTS}
    return values, shapes, configuration


def _places(stored: Layout, now: Layout) -> list[np.ndarray] | None:
    """Where the stored values are among those of now, for each lane dim.

    None if some of them are missing, or if more than the values along lane dims differs.
    """
    if list(stored.lanes) != list(now.lanes) or _differing(_lasting(stored), _lasting(now)):
        return None
    for name, variable in stored.variables.items():
        # A wider network makes more rows and columns, which are NaN for narrower ones.
        if any(map(operator.gt, variable.shape, now.variables[name].shape)):
            return None
    rows = [_rows(stored), _rows(now)]
    if rows[0] == rows[1]:
        return None
    places = []
    for before, after in zip(*rows, strict=True):
        where: dict[Any, list[int]] = {}
        for i, row in enumerate(after):
            where.setdefault(row, []).append(i)
        found = [where[row].pop(0) if where.get(row) else -1 for row in before]
        if -1 in found:
            return None
        places.append(np.array(found))
    return places


def _rows(layout: Layout) -> list[list[tuple]]:
    """What stands at each place of each lane dim: the values of the coordinates along it."""
    rows = []
    for dim, size in layout.lanes.items():
        along = [x.tolist() for _, (dims, x, _) in sorted(layout.coords.items()) if dims == (dim,)]
        rows.append(list(zip(*along, strict=True)) or [(i, size) for i in range(size)])
    return rows


def _lasting(layout: Layout) -> Layout:
    """A layout with all that an extension leaves as it is, and nothing else."""
    free = [(dim,) for dim in layout.lanes]
    coords = {
        n: (dims, x[:0] if dims in free else x, a) for n, (dims, x, a) in layout.coords.items()
    }
    variables = {name: v._replace(shape=()) for name, v in layout.variables.items()}
    return Layout({}, (), variables, coords, layout.configuration)


def _differences(stored: Any, now: Any, name: str = "") -> Iterator[str]:
    """Say where two nested values differ, as "`solver.rtol`: stored 1e-06, now 1e-05"."""
    if isinstance(stored, dict) and isinstance(now, dict):
        for key in {**now, **stored}:
            inner = f"{name}.{key}" if name else str(key)
            yield from _differences(stored.get(key, _NOTHING), now.get(key, _NOTHING), inner)
    elif isinstance(stored, list) and isinstance(now, list):
        if len(stored) != len(now):
            yield f"`{name}`: stored {len(stored)} values, now {len(now)}"
            return
        for i, pair in enumerate(zip(stored, now, strict=True)):
            if found := list(_differences(*pair, f"{name}[{i}]")):
                yield found[0]  # one of maybe thousands
                return
    elif stored != now and not (stored != stored and now != now):  # two NaN are no difference
        yield "`{}`: stored {}, now {}".format(name, *_shortened(stored, now))


def _shortened(stored: Any, now: Any) -> list[str]:
    """Both values as short text, of long ones from shortly before they part."""
    texts = [" ".join(repr(value).split()) for value in (stored, now)]
    parted = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), 0)
    if max(map(len, texts)) > 60 and parted > 20:
        texts = ["…" + text[parted - 20 :] for text in texts]
    return [text if len(text) <= 60 else text[:57] + "..." for text in texts]
