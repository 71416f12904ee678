"""The store of a sweep on disk: one Zarr v3 group, filled block by block, that no kill can spoil.

`xarray.open_zarr(path)` opens it at any time as the dataset of the whole sweep; what isn't computed
yet has `status` −1 and is NaN elsewhere. Zarr encodes in memory only, and the files are put in
place here, because the order in which they reach the disk is what makes a store safe:

- a file is written beside its place, flushed, then moved into it, so it's whole or not there;
- the `status` of a block is placed after all else of that block is on disk, so a block without
  one is computed again, and a block with one is complete unless somebody damaged it later;
- a digest of all files of a block lies beside its `status`; a block that isn't what was written (a
  file is missing, swapped, changed or of another store) is computed again;
- a store that gets more lanes is filled anew beside the old one, which it replaces at the end;
- the group's own `zarr.json` is placed after all else of a new store, so a folder with one is a
  store, and without one it's an interrupted creation, made anew.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import math
import operator
import os
import re
import shutil
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import numpy as np

from odeae.base.optional import needed_package

if TYPE_CHECKING:
    import xarray

_FORMAT = "odeae sweep, version 2"
# These lie inside the array `status`: Zarr warns of files it doesn't know in a group.
_LOCK = ".odeae-lock"
_DIGEST = ".{}.digest"  # of the block whose status is in the file {}
_FILL = {"f": math.nan, "i": -1, "u": 0, "b": False}  # by kind of dtype: what isn't computed yet
# In the name of a fingerprint of code: instructions differ from one Python to the next.
IN_PYTHON = " in Python "
FINGERPRINTS = "problems"  # in a configuration: what only follows from all the rest
_SEAL = "sha256"  # in the group's attributes: of all that a new store holds
_NOTHING = type("Nothing", (), {"__repr__": lambda self: "nothing"})()  # what a dict lacks
_ANEW = "give another path, or delete it to start anew"
_Check = Callable[[np.ndarray, np.ndarray], None]


class Variable(NamedTuple):
    """What is computed for every lane: `dims` and `shape` are those after the lane dims."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    attrs: dict


@dataclass(frozen=True, eq=False)
class Layout:
    """What a store holds and how it's cut: lanes, blocks, variables, coordinates, configuration.

    `lanes` are the leading dims of every variable and their sizes; a block of `chunk` lanes (one
    entry per lane dim; those at the end may be shorter) is computed and written at once. `status`,
    one int8 per lane, must be among the `variables`. `coords` map a name to dims, values (numbers,
    bools or strings) and attributes. `configuration` is everything else that the results depend on,
    in values that JSON knows; its `FINGERPRINTS`, if any, tell apart what nothing else does. Raises
    `ValueError` for what can't be stored.
    """

    lanes: dict[str, int]
    chunk: tuple[int, ...]
    variables: dict[str, Variable]
    coords: dict[str, tuple[tuple[str, ...], np.ndarray, dict]]
    configuration: dict

    def __post_init__(self):
        for name in [*self.lanes, *self.variables, *self.coords]:
            if not re.fullmatch(r"(?!__|zarr\.json$)[^\s/.][^\s/]*", name):
                raise ValueError(
                    f"{name!r} can't name a variable or dim: no spaces, `/`, `.x`, `__x`"
                )
        variables = {name: _checked_variable(name, v) for name, v in self.variables.items()}
        coords = {name: _checked_coord(name, *coord) for name, coord in self.coords.items()}
        if "status" not in variables or variables["status"][:3] != ((), (), "int8"):
            raise ValueError("`variables` must hold `status`, one int8 per lane without other dims")
        # What was checked stays: a caller's later change of an array or a dict must not reach it.
        object.__setattr__(self, "lanes", dict(self.lanes))
        object.__setattr__(self, "variables", variables)
        object.__setattr__(self, "coords", coords)
        object.__setattr__(self, "configuration", _plain("configuration", self.configuration))
        _check_sizes(self)

    @property
    def grid(self) -> tuple[int, ...]:
        """How many blocks lie along each lane dim."""
        return tuple(-(-n // c) for n, c in zip(self.lanes.values(), self.chunk, strict=True))

    @property
    def n_chunks(self) -> int:
        """How many blocks there are."""
        return math.prod(self.grid)

    def block(self, i: SupportsIndex) -> tuple[slice, ...]:
        """Return the lanes of block `i`, one slice per lane dim; blocks count in C order."""
        lanes = zip(self._place(i), self.chunk, self.lanes.values(), strict=True)
        return tuple(slice(at * size, min((at + 1) * size, n)) for at, size, n in lanes)

    def shape(self, i: SupportsIndex, name: str) -> tuple[int, ...]:
        """Return the shape in which variable `name` of block `i` is written."""
        return (*(s.stop - s.start for s in self.block(i)), *self.variables[name].shape)

    def _place(self, i: SupportsIndex) -> tuple[int, ...]:
        number = operator.index(i)
        if not 0 <= number < self.n_chunks:
            raise ValueError(f"`i` must be a block from 0 to {self.n_chunks - 1}, got {number}")
        return tuple(int(at) for at in np.unravel_index(number, self.grid))

    def _file(self, i: SupportsIndex, name: str) -> str:
        """The file of variable `name` of block `i`, inside that variable's own folder."""
        return ".".join(["c", *map(str, self._place(i)), *("0" for _ in self.variables[name].dims)])


class Store:
    """A store held open by `open_store`."""

    def __init__(self, path: Path, layout: Layout):
        self.path = path
        self.layout = layout
        self._source: _Source | None = None
        self._arrays, self._encoded = _encoder(layout)
        self._done = np.zeros(layout.n_chunks, bool)
        self._seal = ""
        self._open = True

    @property
    def known(self) -> np.ndarray | None:
        """Which lanes are taken over from a smaller store, bool of the lanes' shape, if any."""
        return None if self._source is None else self._source.known

    def done(self) -> np.ndarray:
        """Return which blocks are complete on disk and what was written, bool (n_chunks,)."""
        return self._done.copy()

    def write(
        self, i: SupportsIndex, values: dict[str, np.ndarray], made: Iterable[float] = ()
    ) -> None:
        """Write block `i`, each variable of shape (*block, *variable.shape) and of its own dtype.

        `made`, one number per lane, says what the lanes were computed from; it's kept beside the
        block. Lanes that are `known` may hold anything: they're taken over. On return the block is
        complete and on disk. Threads may write different blocks at once. Raises `ValueError` for
        values that don't fit, `RuntimeError` for a block that is complete already or a closed
        store, `OSError` for a full or read-only disk; none of them changes the blocks that are
        complete.
        """
        arrays = _checked_values(self.layout, i, values)
        if not self._open:
            raise RuntimeError(f"the store {str(self.path)!r} is closed: write within `open_store`")
        place = {name: self.path / name / self.layout._file(i, name) for name in arrays}
        status = place["status"]
        if os.path.lexists(status):
            raise RuntimeError(f"block {i} of the store {str(self.path)!r} is complete already")
        about = [float(x) for x in made]
        if self._source is not None:
            arrays, about = self._source.fill(self.layout.block(i), arrays, about)
        data = {name: self._encode(i, name, array) for name, array in arrays.items()}
        digest = {"sha256": _digest(self._seal, status.name, data, about), "made": about}
        files = {place[name]: data[name] for name in data if name != "status"}
        files[status.with_name(_DIGEST.format(status.name))] = json.dumps(digest).encode()
        with _explained(self.path):
            _put(files, last={status: data["status"]})
        self._done[operator.index(i)] = True

    def _encode(self, i: SupportsIndex, name: str, array: np.ndarray) -> bytes:
        self._arrays[name][self.layout.block(i)] = array
        return self._encoded.pop(f"{name}/{self.layout._file(i, name)}").to_bytes()


@contextlib.contextmanager
def open_store(
    path: str | os.PathLike,
    layout: Layout,
    check: _Check | None = None,
) -> Iterator[Store]:
    """Create the store `path` or go on with it, alone: nobody else can open it until the end.

    Every block is read and checked. Those that aren't what was written are removed, with one
    warning, so that they're computed again. A store that is complete is only read: permission to
    read it is enough. `check(blocks, made)` is called before anything is changed, with the numbers
    of the blocks that are complete and what was written as `made` of every lane; it may raise.

    A store whose values (coordinates along the lane dims) are all among those of `layout`, and
    which is the same in all else, is extended: a new store is filled beside it, in the hidden
    folder `.NAME.extended`, and takes its place once it's complete. `Store.known` says which lanes
    are taken over, bit for bit; `write` fills them in. Until then, the old one stays as it is, and
    a killed extension goes on with the same call.

    Raises `ValueError` for a path that holds anything but a store of this very layout and
    configuration, which is then left as it is; `RuntimeError` while another process writes to it;
    `OSError` for a disk that is full or can't be written; `ImportError` without Zarr.
    """
    _zarr()
    folder = _local(path)
    if not folder.parent.is_dir():
        raise FileNotFoundError(
            f"the folder {str(folder.parent)!r} of the store does not exist; create it first"
        )
    _finish_exchange(folder)
    with contextlib.ExitStack() as held:
        found, places = _meant(folder, layout)
        store = Store(folder, layout)
        blocks = _blocks(found) if found and not places and _has_all(found) else None
        if found is not None and blocks is not None and blocks.done.all():
            if check is not None:
                check(np.flatnonzero(blocks.done), blocks.made)
            store._seal, store._done = found.seal, blocks.done
            _remove_lock(folder)
        else:
            held.enter_context(_locked(folder))
            # Looked at again: until the lock was ours, another process may have been at work.
            found, places = _meant(folder, layout)
            if found is not None and places:
                store = held.enter_context(_extended(found, layout, places, check))
            else:
                _prepare(store, found, check)
        try:
            yield store
        finally:
            store._open = False


@contextlib.contextmanager
def _extended(
    old: "_Found", layout: Layout, places: list[np.ndarray], check: _Check | None
) -> Iterator[Store]:
    """Fill a store of `layout` beside that of `old`, and exchange them once it's complete."""
    folder = old.folder
    before, store = _blocks(old), Store(_beside(folder), layout)
    known = np.zeros(tuple(layout.lanes.values()), bool)
    made = np.full(known.shape, np.nan)
    known[np.ix_(*places)] = _lanes_of(old.layout, before.done)
    made[np.ix_(*places)] = before.made
    blocks = [known[layout.block(i)] for i in range(layout.n_chunks)]
    with _locked(store.path):
        found = _found(store.path)
        if found is not None and _changes(found.layout, layout):
            raise ValueError(
                f"{str(folder)!r} is being extended to other values already: finish this by the "
                f"call that began it, or delete {str(store.path)!r} to drop what it computed"
            )
        if check is not None and known.any():
            check(np.flatnonzero([block.any() for block in blocks]), made)
        _remove_damaged(folder, old.layout, before)
        _prepare(store, found, check)
        store._source = _Source(old, places, known, made)
        for i in np.flatnonzero([block.all() for block in blocks] & ~store._done).tolist():
            shapes = {name: layout.shape(i, name) for name in layout.variables}
            nothing = {n: np.zeros(s, layout.variables[n].dtype) for n, s in shapes.items()}
            store.write(i, nothing, made[layout.block(i)].ravel())
        try:
            yield store
        finally:
            store._open = False
    if store._done.all():
        _exchange(folder)


def _lanes_of(layout: Layout, done: np.ndarray) -> np.ndarray:
    """Which lanes lie in these blocks, bool of the lanes' shape."""
    lanes = np.zeros(tuple(layout.lanes.values()), bool)
    for i in np.flatnonzero(done).tolist():
        lanes[layout.block(i)] = True
    return lanes


def _prepare(store: Store, found: "_Found | None", check: _Check | None) -> None:
    """Create the store, or make the one that was found ready to go on; the lock is ours."""
    folder, layout = store.path, store.layout
    if found is None:
        with _explained(folder):
            store._seal = _create(folder, store)
        return
    blocks = _blocks(found)
    if check is not None and blocks.done.any():
        check(np.flatnonzero(blocks.done), blocks.made)
    _remove_damaged(folder, layout, blocks)
    with _explained(folder):
        _remove_partial(folder, layout)
    store._seal, store._done = found.seal, blocks.done


def open_sweep(path: str | os.PathLike) -> "xarray.Dataset":
    """Open the store of a sweep, as `sweep(..., store=path)` returned it.

    Every block (a chunk of the curves) is read once and compared with its digest. What the
    dataset holds is read from the store when it's asked for. Curves that aren't computed yet
    have `status` −1 and are NaN.

    Args:
        path: the folder of the store.

    Returns:
        The dataset: one dim per parameter (zipped: `lane`) and `time` (steps/D); `error`, what
        else was saved, `status`, `stop_time` (steps/D) and `final_excess`.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if `path` holds something else, or if a block was damaged: it says which.
        ImportError: without Zarr: `pip install 'odeae[sweep]'`.

    Example:
        >>> data = odeae.open_sweep("runs.zarr")  # doctest: +SKIP
        >>> data.final_excess.where(data.status == 0).min("seed")  # doctest: +SKIP
    """
    _zarr()
    folder = _local(path)
    _finish_exchange(folder)
    found = _found(folder)
    if found is None:
        raise FileNotFoundError(f"there is no sweep at {str(folder)!r}: give the path of a store")
    damaged = _blocks(found).damaged
    if damaged:
        named, more = damaged[:5], len(damaged) - 5
        last = f"{more} more" if more > 0 else str(named.pop())
        text = " and ".join([", ".join(map(str, named)), last] if named else [last])
        one = len(damaged) == 1
        raise ValueError(
            f"block{'' if one else 's'} {text} of {found.layout.n_chunks} in {str(folder)!r} "
            f"{'is' if one else 'are'} damaged: run the same sweep again, which computes "
            f"{'it' if one else 'them'} anew"
        )
    return opened(folder)


def opened(path: str | os.PathLike) -> "xarray.Dataset":
    """The dataset of a store whose blocks were checked, as `sweep` gives it from memory."""
    import xarray

    from odeae.sweeps.pinned import PinnedStore

    # Absolute: the script may change its folder before the values are read.
    data = xarray.open_zarr(PinnedStore(_local(path)), chunks=None)
    for name in ("format", _SEAL):
        del data.attrs[name]
    # Zarr reads text of any length, NumPy's own kind has one length for all.
    texts = {name: x for name, x in data.coords.items() if x.dtype.kind in "TO"}
    return data.assign_coords(
        {name: (x.dims, np.array(x.values.tolist(), str), x.attrs) for name, x in texts.items()}
    )


def _checked_variable(name: str, variable: Variable) -> Variable:
    dims, shape, dtype, attrs = variable
    if len(dims) != len(shape) or any(size < 1 for size in shape):
        raise ValueError(f"`{name}` must have one size for each of {dims}, got {_short(shape)}")
    try:
        known = np.dtype(dtype)
    except TypeError:
        known = np.dtype(object)
    if known.kind not in _FILL or known.itemsize > 8 or known.name != dtype:
        raise ValueError(f"`{name}` must have a real dtype such as 'float64', got {_short(dtype)}")
    return Variable(tuple(dims), tuple(shape), dtype, _plain(f"{name}.attrs", attrs))


def _checked_coord(name: str, dims: tuple, values: Any, attrs: dict) -> tuple:
    array = np.array(values)
    if array.dtype.kind not in "biufU" or (array.dtype.kind == "f" and array.dtype.itemsize > 8):
        raise ValueError(
            f"coordinate `{name}` must hold real numbers, bools or strings, got {_short(values)}"
        )
    if array.ndim != len(dims) or array.size == 0:
        raise ValueError(
            f"coordinate `{name}` must have one size for each of {dims}, got shape {array.shape}"
        )
    native = array.astype(array.dtype.newbyteorder("="))
    return tuple(dims), native, _plain(f"{name}.attrs", attrs)


def _check_sizes(layout: Layout) -> None:
    """Raise `ValueError` if a dim has two sizes, or a lane dim comes twice."""
    lanes = layout.lanes
    if not lanes or len(lanes) != len(layout.chunk) or min(*lanes.values(), *layout.chunk) < 1:
        raise ValueError(
            "`lanes` and `chunk` must have one size of at least 1 for each lane dim, "
            f"got {_short(lanes)} and {_short(layout.chunk)}"
        )
    known: dict[str, tuple[int, str]] = {name: (size, "lanes") for name, size in lanes.items()}
    shapes = {
        name: ((*lanes, *v.dims), (*lanes.values(), *v.shape))
        for name, v in layout.variables.items()
    }
    shapes |= {name: (dims, values.shape) for name, (dims, values, _) in layout.coords.items()}
    for name, (dims, shape) in shapes.items():
        if len(set(dims)) != len(dims):
            raise ValueError(f"`{name}` must have each dim once, got {_short(dims)}")
        for dim, size in zip(dims, shape, strict=True):
            first, where = known.setdefault(dim, (size, f"`{name}`"))
            if size != first:
                raise ValueError(f"dim `{dim}` has size {first} in {where}, {size} in `{name}`")
    for name, (dims, _) in shapes.items():
        if name in known and (dims != (name,) or name in layout.variables):
            raise ValueError(f"`{name}` is a dim, so it can only be a coordinate along itself")
    if both := set(layout.variables) & set(layout.coords):
        raise ValueError(f"`{min(both)}` is both a variable and a coordinate")


def _plain(name: str, values: dict) -> dict:
    """Return a dict as JSON gives it back; raises `ValueError` for what JSON doesn't know."""
    try:
        return json.loads(json.dumps(values))
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must hold what JSON knows, got {_short(values)}") from error


def _checked_values(layout: Layout, i: SupportsIndex, values: dict) -> dict[str, np.ndarray]:
    """Return the arrays of block `i` if all of them, and nothing else, fit without a cast."""
    if set(values) != set(layout.variables):
        raise ValueError(
            f"a block must hold {', '.join(layout.variables)}, got {', '.join(values) or 'nothing'}"
        )
    arrays = {name: np.asarray(value) for name, value in values.items()}
    for name, array in arrays.items():
        want = (layout.shape(i, name), np.dtype(layout.variables[name].dtype))
        if (array.shape, array.dtype) != want:
            raise ValueError(
                f"`{name}` of block {i} must be {want[1]} of shape {want[0]}, "
                f"got {array.dtype} of shape {array.shape}"
            )
    return arrays


def _kind(values: np.ndarray) -> str:
    return "text" if values.dtype.kind == "U" else values.dtype.name


def _zarr() -> Any:
    return needed_package("zarr", "sweep")


def _local(path: str | os.PathLike) -> Path:
    if re.match(r"[A-Za-z][A-Za-z0-9+.:-]+:/", os.fspath(path)):
        raise ValueError(
            f"the store must be a path on a local disk, got {os.fspath(path)!r}: "
            "give a folder's name, and copy it there afterwards"
        )
    return Path(os.path.abspath(path))  # absolute: the script may change its folder later


# What Zarr does: encoding and decoding, never on the files of a block.


def _encoder(layout: Layout) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return Zarr arrays in memory, and the dict in which their files appear as they're set.

    The dict starts with the whole of an empty store: metadata and coordinates. All settings on
    which the files depend are pinned: another release of Zarr must go on with what is there.
    """
    zarr = _zarr()
    from zarr.codecs import BytesCodec, ZstdCodec

    files: dict[str, Any] = {}
    memory = zarr.storage.MemoryStore(files)
    beside = [name for name, (dims, _, _) in layout.coords.items() if dims != (name,)]
    about = {"format": _FORMAT, "configuration": json.dumps(layout.configuration)}
    if beside:
        about["coordinates"] = " ".join(beside)  # how xarray knows them from variables
    group = zarr.create_group(memory, zarr_format=3, attributes=about)
    packing = {
        "compressors": [ZstdCodec(level=3, checksum=True)],
        "filters": None,
        "chunk_key_encoding": {"name": "default", "separator": "."},  # one folder per variable
        "config": {"write_empty_chunks": True},  # a block of NaN is computed, too
    }
    arrays = {}
    for name, variable in layout.variables.items():
        dtype = np.dtype(variable.dtype)
        arrays[name] = group.create_array(
            name,
            shape=(*layout.lanes.values(), *variable.shape),
            chunks=(*layout.chunk, *variable.shape),
            dtype=dtype,
            fill_value=dtype.type(_FILL[dtype.kind]),
            dimension_names=(*layout.lanes, *variable.dims),
            attributes=variable.attrs,
            serializer=BytesCodec(endian="little"),
            **packing,
        )
    for name, (dims, values, attrs) in layout.coords.items():
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=values.shape,
            dtype=str if values.dtype.kind == "U" else values.dtype,  # the one text of Zarr's spec
            dimension_names=dims,
            attributes=attrs,
            **packing,
        )
        array[...] = values
    with warnings.catch_warnings():
        # xarray warns where the summary is missing, Zarr where it's written.
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(memory, zarr_format=3)
    return arrays, files


def _stored(folder: Path, root: dict) -> Layout:
    """Return the layout of the store in `folder`, whose own `zarr.json` is `root`."""
    zarr = _zarr()
    store = zarr.storage.LocalStore(folder, read_only=True)
    group = zarr.open_group(store, mode="r", use_consolidated=False)
    arrays = {name: group[name] for name in root["consolidated_metadata"]["metadata"]}
    lanes, chunk = arrays["status"].metadata.dimension_names, arrays["status"].chunks
    beside = root["attributes"].get("coordinates", "").split()
    variables, coords = {}, {}
    for name, array in arrays.items():
        dims, attrs = tuple(array.metadata.dimension_names or ()), dict(array.attrs)
        if name in beside or dims == (name,):
            values = np.asarray(array[...])
            text = values.dtype.kind in "TO"  # NumPy's and Python's own, by Zarr's release
            coords[name] = (dims, np.array(values.tolist(), dtype=str) if text else values, attrs)
        else:
            n = len(lanes)
            variables[name] = Variable(dims[n:], array.shape[n:], array.dtype.name, attrs)
    configuration = json.loads(root["attributes"]["configuration"])
    sizes = dict(zip(lanes, arrays["status"].shape, strict=True))
    return Layout(sizes, tuple(chunk), variables, coords, configuration)


# What is at a path, and whether it's the store that was meant.


class _Found(NamedTuple):
    """A store that is there: `seal` is the digest of all but its blocks."""

    folder: Path
    layout: Layout
    seal: str


def _found(folder: Path) -> _Found | None:
    """Return the store in `folder`; None if one may be created there.

    Raises `ValueError` for anything else.
    """
    with _explained(folder, "read"):
        if not os.path.lexists(folder):
            return None
        if not folder.is_dir():
            raise ValueError(f"{str(folder)!r} isn't a folder, so no store: give another path")
        root = folder / "zarr.json"
        if not root.exists():
            if _is_unfinished(folder):
                return None
            if not root.exists():  # another process may have finished it just now
                raise ValueError(
                    f"{str(folder)!r} is neither empty nor a store (no `zarr.json` in it): {_ANEW}"
                )
        about = _read_root(folder)
        try:
            layout = _stored(folder, about)
            seal = _sealed(about, {name: (folder / name).read_bytes() for name in _fixed(layout)})
            if seal != about["attributes"].get(_SEAL):
                raise ValueError("its metadata or coordinates aren't those that were written")
        except PermissionError:
            raise
        except Exception as error:  # whatever Zarr and json raise on what isn't theirs
            said = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"the store {str(folder)!r} is damaged ({_cut(said)}): {_ANEW}"
            ) from error
    return _Found(folder, layout, seal)


def _meant(folder: Path, layout: Layout) -> tuple[_Found | None, list[np.ndarray] | None]:
    """Return the store of `layout` in `folder`; None if it may be created there.

    If it's one that `layout` extends, return also where its values are among the new ones, one
    array for each lane dim. Raises `ValueError` for anything else.
    """
    found = _found(folder)
    if found is None or not (changes := _changes(found.layout, layout)):
        return found, None
    places = _places(found.layout, layout)
    if places is None:
        raise _another(folder, changes)
    before, now = (x.configuration.get(FINGERPRINTS, {}) for x in (found.layout, layout))
    if told := _other_fingerprints(before, now):
        raise _another(folder, told)
    return found, places


def _places(stored: Layout, now: Layout) -> list[np.ndarray] | None:
    """Where the stored values are among those of now, for each lane dim.

    None if some of them are missing, or if more than the values along lane dims differs.
    """
    if list(stored.lanes) != list(now.lanes) or any(_differences(_lasting(stored), _lasting(now))):
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


def _lasting(layout: Layout) -> dict:
    """All that an extension leaves as it is."""
    values, shapes, configuration, _ = _described(layout)
    free = [(dim,) for dim in layout.lanes]
    kept = {name: x for name, x in values.items() if layout.coords[name][0] not in free}
    variables = {name: v._replace(shape=())._asdict() for name, v in layout.variables.items()}
    return {"values": kept, "coords": shapes["coords"], "variables": variables, **configuration}


class _Source(NamedTuple):
    """A store whose lanes are taken over: where they are among the new ones, and which."""

    old: _Found
    places: list[np.ndarray]
    known: np.ndarray
    made: np.ndarray

    def fill(
        self, block: tuple[slice, ...], arrays: dict[str, np.ndarray], made: list[float]
    ) -> tuple[dict[str, np.ndarray], list[float]]:
        """Return what a block holds, with the stored values in the lanes that are known."""
        known = self.known[block]
        if not known.any():
            return arrays, made
        new, old = [], []  # for each dim: which lanes of the block, and where they were
        for lanes, at in zip(block, self.places, strict=True):
            here = (at >= lanes.start) & (at < lanes.stop)
            new.append(at[here] - lanes.start)
            old.append(np.flatnonzero(here))
        zarr = _zarr()
        store = zarr.storage.LocalStore(self.old.folder, read_only=True)
        group = zarr.open_group(store, mode="r", use_consolidated=False)
        filled = {}
        for name, array in arrays.items():
            shape = self.old.layout.variables[name].shape
            stored = np.full(array.shape, _FILL[array.dtype.kind], array.dtype)
            at = np.ix_(*new, *map(np.arange, shape))
            stored[at] = group[name].oindex[(*old, *(slice(None) for _ in shape))]
            filled[name] = np.where(known.reshape(known.shape + (1,) * len(shape)), stored, array)
        if made:
            made = np.where(known.ravel(), self.made[block].ravel(), made).tolist()
        return filled, made


def _another(folder: Path, changes: list[str]) -> ValueError:
    more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
    return ValueError(
        f"{str(folder)!r} holds another sweep: {', '.join(changes[:3])}{more}: {_ANEW}"
    )


# Digests: what makes damage known.


class _Blocks(NamedTuple):
    """Blocks of a store: which are complete (n_chunks,), and which have a status, but are not."""

    done: np.ndarray
    damaged: list[int]
    made: np.ndarray  # of every lane that is done, NaN elsewhere


def _blocks(found: _Found) -> _Blocks:
    """Read every block that has a status and compare it with its digest."""
    layout = found.layout
    done = np.zeros(layout.n_chunks, bool)
    made, damaged = np.full(tuple(layout.lanes.values()), np.nan), []
    with _explained(found.folder, "read"):
        files = set(os.listdir(found.folder / "status"))
        for i in range(layout.n_chunks):
            if layout._file(i, "status") in files:
                about = _intact(found, i)
                done[i] = about is not None
                if about is None:
                    damaged.append(i)
                elif about:
                    made[layout.block(i)] = np.reshape(about, layout.shape(i, "status"))
    return _Blocks(done, damaged, made)


def _intact(found: _Found, i: int) -> list[float] | None:
    """Return what was written as `made` of block i; None if a file isn't what was written."""
    folder, layout = found.folder, found.layout
    status = layout._file(i, "status")
    try:
        stored = json.loads((folder / "status" / _DIGEST.format(status)).read_bytes())
        names = layout.variables
        data = {name: (folder / name / layout._file(i, name)).read_bytes() for name in names}
        digest = _digest(found.seal, status, data, stored["made"])
        return stored["made"] if digest == stored["sha256"] else None
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # ValueError: not JSON
        return None


def _digest(seal: str, place: str, data: dict[str, bytes], made: list[float]) -> str:
    """The digest of a block: of its files, its place, its store and `made`."""
    parts = [f"{name} {hashlib.sha256(data[name]).hexdigest()}" for name in sorted(data)]
    return hashlib.sha256("\n".join([seal, place, json.dumps(made), *parts]).encode()).hexdigest()


def _sealed(root: dict, files: dict[str, bytes]) -> str:
    """The digest of all that a new store holds; other attributes may be added to the group."""
    own = {
        name: root["attributes"].get(name) for name in ("format", "configuration", "coordinates")
    }
    text = json.dumps([own, root["consolidated_metadata"]], sort_keys=True)
    parts = [f"{name} {hashlib.sha256(files[name]).hexdigest()}" for name in sorted(files)]
    return hashlib.sha256("\n".join([text, *parts]).encode()).hexdigest()


def _fixed(layout: Layout) -> list[str]:
    """The files of a new store except for the group's own: metadata and coordinates."""
    coords = [f"{name}/c{'.0' * len(dims)}" for name, (dims, _, _) in layout.coords.items()]
    return [f"{name}/zarr.json" for name in (*layout.variables, *layout.coords)] + coords


def _has_all(found: _Found) -> bool:
    with _explained(found.folder, "read"):
        files = set(os.listdir(found.folder / "status"))
    layout = found.layout
    return files.issuperset(layout._file(i, "status") for i in range(layout.n_chunks))


def _remove_damaged(folder: Path, layout: Layout, blocks: _Blocks) -> None:
    """Remove the files of damaged blocks, `status` first, and say so."""
    if not blocks.damaged:
        return
    with _explained(folder):
        for i in blocks.damaged:
            names = ["status", *(name for name in layout.variables if name != "status")]
            files = [folder / name / layout._file(i, name) for name in names]
            files.insert(1, files[0].with_name(_DIGEST.format(files[0].name)))
            for file in files:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(file)
    warnings.warn(
        f"{len(blocks.damaged)} of {layout.n_chunks} blocks of the store {str(folder)!r} were "
        "damaged (files missing or changed): they are computed again",
        stacklevel=5,
    )


def _read_root(folder: Path) -> dict:
    """Return the group's own `zarr.json`; raises `ValueError` if it isn't a store's."""
    try:
        root = json.loads((folder / "zarr.json").read_bytes())
    except ValueError as error:
        raise ValueError(
            f"the store {str(folder)!r} is damaged (its `zarr.json` can't be read): {_ANEW}"
        ) from error
    attributes = root.get("attributes") if isinstance(root, dict) else None
    made = attributes.get("format") if isinstance(attributes, dict) else None
    if made != _FORMAT:
        got = f"in the format {_short(made)}, not {_FORMAT!r}" if made else "that no sweep wrote"
        raise ValueError(f"{str(folder)!r} holds Zarr data {got}: give another path")
    return root


def _is_unfinished(folder: Path) -> bool:
    """Whether `folder` is empty or holds no more than an interrupted `_create` leaves.

    That is the lock, metadata and coordinates in one folder per array, and no complete block.
    """
    entries = {entry.name: entry for entry in os.scandir(folder)}
    top = entries.pop(".zarr.json.partial", None)
    if not all(entry.is_dir(follow_symlinks=False) for entry in entries.values()):
        return False
    try:
        files = {name: set(os.listdir(entry)) for name, entry in entries.items()}
    except FileNotFoundError:
        return True  # another process is removing its own: the lock will tell
    status = files.pop("status", set())
    if _LOCK not in status:  # it's made first and removed last
        return not (top or files or status)
    own = re.compile(r"zarr\.json|c(\.0)*|\.(zarr\.json|c(\.0)*)\.partial")
    return status <= {_LOCK, "zarr.json", ".zarr.json.partial"} and all(
        own.fullmatch(file) for names in files.values() for file in names
    )


def _changes(stored: Layout, now: Layout) -> list[str]:
    """Where two layouts differ: values first, fingerprints only if nothing else tells."""
    pairs = zip(_described(stored), _described(now), strict=True)
    *told, (before, after) = pairs
    told = list(itertools.chain(*(_differences(*pair) for pair in told)))
    before, after = before[FINGERPRINTS], after[FINGERPRINTS]
    return told or _other_fingerprints(before, after)


def _other_fingerprints(before: dict, now: dict) -> list[str]:
    # Of code, only what both know: another Python has other instructions.
    changed = [name for name in before if name in now and before[name] != now[name]]
    return [
        f"`{name.partition(IN_PYTHON)[0]}` was changed"
        if IN_PYTHON in name
        else f"`{name}` now makes another problem or state"
        for name in changed
    ]


def _described(layout: Layout) -> tuple[dict, dict, dict, dict]:
    """All of `layout` as nested dicts to compare: values, shapes, configuration, fingerprints."""
    values = {name: values.tolist() for name, (_, values, _) in layout.coords.items()}
    configuration = dict(layout.configuration)
    fingerprints = {FINGERPRINTS: configuration.pop(FINGERPRINTS, {})}
    coords = {
        name: {"dims": dims, "dtype": _kind(values), "attrs": attrs}
        for name, (dims, values, attrs) in layout.coords.items()
    }
    shapes = {
        "lanes": ", ".join(f"{name} {size}" for name, size in layout.lanes.items()),  # ordered
        "coords": coords,
        "variables": {name: v._asdict() for name, v in layout.variables.items()},
        "chunk": layout.chunk,
    }
    return values, shapes, configuration, fingerprints


def _differences(stored: Any, now: Any, name: str = "") -> Iterator[str]:
    """Say where two nested values differ, as "`solver.rtol`: stored 1e-06, now 1e-05"."""
    if isinstance(stored, dict) and isinstance(now, dict):
        for key in {**now, **stored}:
            inner = f"{name}.{key}" if name else str(key)
            yield from _differences(stored.get(key, _NOTHING), now.get(key, _NOTHING), inner)
    elif isinstance(stored, list) and isinstance(now, list):
        if name == "time":
            name = "times"  # as `sweep` calls them; one that moved tells less than where they end
            before, after = (f"{len(x)} values to {x[-1]:.6g}" for x in (stored, now))
            if before != after:
                yield f"`{name}`: stored {before}, now {after.replace(' values', '')}"
                return
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
    if max(map(len, texts)) > 60:
        parted = [i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b]
        start = max(0, (parted[0] if parted else min(map(len, texts))) - 20)
        texts = ["…" * (start > 0) + text[start:] for text in texts]
    return [_cut(text) for text in texts]


def _short(value: Any) -> str:
    return _cut(" ".join(repr(value).split()))


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


# Files and folders: everything below is about the order in which they reach the disk.


@contextlib.contextmanager
def _explained(folder: Path, verb: str = "write") -> Iterator[None]:
    """Raise an `OSError` again as one line that says where, why and what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
        text = f"can't {verb} the store {str(folder)!r}: {reason}"
        if verb == "write":
            text += "; what is complete is kept, and running again goes on from there"
        raise (OSError(error.errno, text) if error.errno else OSError(text)) from error


def _put(files: dict[Path, bytes], last: dict[Path, bytes]) -> None:
    """Place `files`, then `last`: whoever sees `last`, even after a power cut, sees all of them.

    An error takes away what was written beside the places.
    """
    beside = {path: path.with_name(f".{path.name}.partial") for path in [*files, *last]}
    try:
        for path, data in [*files.items(), *last.items()]:
            _write(beside[path], data)
        for step in (files, last):
            for path in step:
                os.replace(beside[path], path)
            for folder in {path.parent for path in step}:
                _sync(folder)
    except BaseException:
        for path in beside.values():
            with contextlib.suppress(OSError):
                os.unlink(path)
        raise


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        view = memoryview(data)
        while view:  # a disk that fills up takes a part first
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    """Flush the names in `folder`."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such call for folders
            raise
    finally:
        os.close(descriptor)


def _create(folder: Path, store: Store) -> str:
    """Make an empty store of what an earlier attempt may have left of one; an error leaves none.

    Returns its seal.
    """
    try:
        _clear(folder)
        for place in (folder / "status", folder):  # the lock marks what follows as ours
            _sync(place)
        with contextlib.suppress(PermissionError):  # a folder may be closed to us, what's in it not
            _sync(folder.parent)
        keys = list(store._encoded)
        data = {key: store._encoded.pop(key).to_bytes() for key in keys}
        about = json.loads(data.pop("zarr.json"))
        seal = about["attributes"][_SEAL] = _sealed(about, data)
        files = {folder / key: content for key, content in data.items()}
        for name in {key.rpartition("/")[0] for key in keys} - {"", "status"}:
            os.mkdir(folder / name)
        _sync(folder)
        _put(files, last={folder / "zarr.json": json.dumps(about, indent=2).encode()})
        return seal
    except BaseException:
        with contextlib.suppress(OSError):
            _clear(folder)
        raise


def _clear(folder: Path) -> None:
    """Remove an unfinished store except for the lock; only for what `_is_unfinished` knows."""
    for file in ("zarr.json", ".zarr.json.partial"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(folder / file)
    for inner in [Path(entry) for entry in os.scandir(folder)]:
        for file in os.listdir(inner):
            if file != _LOCK:
                os.unlink(inner / file)
        if inner.name != "status":
            os.rmdir(inner)


def _remove_partial(folder: Path, layout: Layout) -> None:
    """Remove the files of a write that was killed: nobody writes but the holder of the lock."""
    for name in layout.variables:
        for file in os.listdir(folder / name):
            if re.fullmatch(r"\.(c[.0-9]*|\.c[.0-9]*\.digest)\.partial", file):
                os.unlink(folder / name / file)


def _beside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.extended")


def _replaced(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


def _exchange(folder: Path) -> None:
    """Put the complete store beside `folder` in its place; both locks' ends are near."""
    with _explained(folder):
        os.replace(folder, _replaced(folder))
        _sync(folder.parent)
        os.replace(_beside(folder), folder)
        _sync(folder.parent)
    shutil.rmtree(_replaced(folder), ignore_errors=True)


def _finish_exchange(folder: Path) -> None:
    """Do the rest of an exchange that was killed on its way."""
    replaced = _replaced(folder)
    if not os.path.lexists(replaced):
        return
    # If the store is in its place, only litter is left, which may stay on a disk that is read-only.
    errors = (OSError, RuntimeError) if os.path.lexists(folder) else ()
    with contextlib.suppress(*errors), _explained(folder), _locked(replaced):
        if not os.path.lexists(folder):
            there = (_beside(folder) / "zarr.json").exists()
            os.replace(_beside(folder) if there else replaced, folder)
            _sync(folder.parent)
        shutil.rmtree(replaced, ignore_errors=True)


def _remove_lock(folder: Path) -> None:
    """Remove the lock of a process that was killed after the last block; it needn't succeed."""
    if (folder / "status" / _LOCK).exists():
        with contextlib.suppress(OSError, RuntimeError), _locked(folder):
            pass


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of the store in `folder`, which is made if it's missing.

    The lock is the system's (`flock`): it ends with its holder, however that one dies. The file
    only says who holds it, and is removed at the end.
    """
    made = not folder.exists()
    try:
        with _explained(folder):
            descriptor = _acquire(folder)
        try:
            yield
        finally:
            place = folder / "status" / _LOCK
            with contextlib.suppress(OSError):  # a lock's file left behind does no harm
                if _is_same(descriptor, place):  # not so if another store took this one's place
                    os.unlink(place)
            os.close(descriptor)
    finally:
        for inner in [folder / "status", *([folder] if made else [])]:
            with contextlib.suppress(OSError):  # it's empty only if no store could be created
                os.rmdir(inner)


def _acquire(folder: Path) -> int:
    """Return the descriptor that holds the lock; raises `RuntimeError` if another process has it.

    The file is unlinked by its holder while it's held, so whoever opened it before that gets the
    lock of a file that is no longer there: the check afterwards finds out, and all starts over.
    """
    try:
        import fcntl
    except ImportError as error:
        raise OSError("stores need the file locks of Linux or macOS") from error
    place = folder / "status" / _LOCK
    while True:
        try:
            for inner in (folder, folder / "status"):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(inner)
            descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            if not folder.parent.is_dir():
                raise
            continue  # another process could not create the store and removed its folder again
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(descriptor, place):
                with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"pid {os.getpid()} on {socket.gethostname()}".encode())
                return descriptor
        except BlockingIOError as error:
            holder = os.read(descriptor, 1000).decode(errors="replace") or "not yet named"
            os.close(descriptor)
            raise RuntimeError(
                f"another process ({holder}) is writing to the store {str(folder)!r}: "
                "wait for it, or give another path"
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
