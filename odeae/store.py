"""The store of a sweep on disk: one Zarr v3 group, filled block by block, that no kill can spoil.

`xarray.open_zarr(path)` opens it at any time as the dataset of the whole sweep; what isn't computed
yet has `status` −1 and is NaN elsewhere. Zarr encodes in memory only, and the files are put in
place here, because the order in which they reach the disk is what makes a store safe:

- a file is written beside its place, flushed, then moved into it, so it's whole or not there;
- the `status` of a block is placed after all else of that block is on disk, so a block with a
  `status` is complete, and a block without one is computed again;
- the group's own `zarr.json` is placed after all else of a new store, so a folder with one is a
  store, and without one it's an interrupted creation, made anew.
"""

import contextlib
import errno
import itertools
import json
import math
import operator
import os
import re
import socket
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from odeae.fingerprints import IN_PYTHON

_FORMAT = "odeae sweep, version 1"
_LOCK = ".odeae-lock"  # inside the array `status`: Zarr warns of files it doesn't know in a group
_FILL = {"f": math.nan, "i": -1, "u": 0, "b": False}  # by kind of dtype: what isn't computed yet
FINGERPRINTS = "problems"  # in a configuration: what only follows from all the rest
_NOTHING = type("Nothing", (), {"__repr__": lambda self: "nothing"})()  # what a dict lacks
_ANEW = "give another path, or delete it to start anew"


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
        self._arrays, self._encoded = _encoder(layout)
        self._open = True

    def done(self) -> np.ndarray:
        """Return which blocks are complete on disk, bool (n_chunks,)."""
        with _explained(self.path, "read"):
            files = set(os.listdir(self.path / "status"))
        blocks = itertools.product(*map(range, self.layout.grid))
        return np.array([".".join(["c", *map(str, at)]) in files for at in blocks])

    def write(self, i: SupportsIndex, values: dict[str, np.ndarray]) -> None:
        """Write block `i`, each variable of shape (*block, *variable.shape) and of its own dtype.

        On return the block is complete and on disk. Threads may write different blocks at once.
        Raises `ValueError` for values that don't fit, `RuntimeError` for a block that is complete
        already or a closed store, `OSError` for a full or read-only disk; none of them changes the
        blocks that are complete.
        """
        arrays = _checked_values(self.layout, i, values)
        if not self._open:
            raise RuntimeError(f"the store {str(self.path)!r} is closed: write within `open_store`")
        place = {name: self.path / name / self.layout._file(i, name) for name in arrays}
        if os.path.lexists(place["status"]):
            raise RuntimeError(f"block {i} of the store {str(self.path)!r} is complete already")
        files = {place[name]: self._encode(i, name, array) for name, array in arrays.items()}
        status = place["status"]
        with _explained(self.path):
            _put(files, last={status: files.pop(status)})

    def _encode(self, i: SupportsIndex, name: str, array: np.ndarray) -> bytes:
        self._arrays[name][self.layout.block(i)] = array
        return self._encoded.pop(f"{name}/{self.layout._file(i, name)}").to_bytes()


@contextlib.contextmanager
def open_store(path: str | os.PathLike, layout: Layout) -> Iterator[Store]:
    """Create the store `path` or go on with it, alone: nobody else can open it until the end.

    A store that is complete is only read: permission to read it is enough.

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
    store = Store(folder, layout)
    with contextlib.ExitStack() as held:
        if _is_there(folder, layout) and store.done().all():
            _remove_lock(folder)
        else:
            held.enter_context(_locked(folder))
            # Looked at again: until the lock was ours, another process may have been at work.
            there = _is_there(folder, layout)
            with _explained(folder):
                if there:
                    _remove_partial(folder, layout)
                else:
                    _create(folder, store)
        try:
            yield store
        finally:
            store._open = False


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
    try:
        import zarr
    except ImportError as error:
        raise ImportError(
            "a store needs Zarr, which isn't installed: pip install 'odeae[sweep]', or in a clone "
            "pip install '.[sweep]'"
        ) from error
    return zarr


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


def _is_there(folder: Path, layout: Layout) -> bool:
    """Whether `folder` holds the store of `layout`; False if it may be created there.

    Raises `ValueError` for anything else.
    """
    with _explained(folder, "read"):
        if not os.path.lexists(folder):
            return False
        if not folder.is_dir():
            raise ValueError(f"{str(folder)!r} isn't a folder, so no store: give another path")
        root = folder / "zarr.json"
        if not root.exists():
            if _is_unfinished(folder):
                return False
            if not root.exists():  # another process may have finished it just now
                raise ValueError(
                    f"{str(folder)!r} is neither empty nor a store (no `zarr.json` in it): {_ANEW}"
                )
        about = _read_root(folder)
        try:
            stored = _stored(folder, about)
        except PermissionError:
            raise
        except Exception as error:  # whatever Zarr and json raise on what isn't theirs
            said = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"the store {str(folder)!r} is damaged ({_cut(said)}): {_ANEW}"
            ) from error
    if changes := _changes(stored, layout):
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        raise ValueError(
            f"{str(folder)!r} holds another sweep: {', '.join(changes[:3])}{more}: {_ANEW}"
        )
    return True


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
    # Of code, only what both know: another Python has other instructions.
    both = {n for n in before | after if IN_PYTHON not in n or (n in before and n in after)}
    changed = [n for n in before | after if n in both and before.get(n) != after.get(n)]
    return told or [
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


def _create(folder: Path, store: Store) -> None:
    """Make an empty store of what an earlier attempt may have left of one; an error leaves none."""
    try:
        _clear(folder)
        for place in (folder / "status", folder):  # the lock marks what follows as ours
            _sync(place)
        with contextlib.suppress(PermissionError):  # a folder may be closed to us, what's in it not
            _sync(folder.parent)
        keys = list(store._encoded)
        files = {folder / key: store._encoded.pop(key).to_bytes() for key in keys}
        for name in {key.rpartition("/")[0] for key in keys} - {"", "status"}:
            os.mkdir(folder / name)
        _sync(folder)
        root = folder / "zarr.json"
        _put(files, last={root: files.pop(root)})
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
            if re.fullmatch(r"\.c[.0-9]*\.partial", file):
                os.unlink(folder / name / file)


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
            with contextlib.suppress(OSError):  # a lock's file left behind does no harm
                os.unlink(folder / "status" / _LOCK)
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
