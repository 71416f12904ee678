"""The store of a sweep on disk: opened alone, filled block by block, extended, and read again.

`xarray.open_zarr(path)` opens it at any time as the dataset of the whole sweep; what isn't computed
yet has `status` −1 and is NaN elsewhere. A process that is killed (`kill -9`) spoils nothing: files
are whole or not there, in an order that tells what is complete (see `blocks`), and a store that
gets more lanes is filled anew beside the old one, which it replaces at the end. Nothing is flushed
for power cuts: after one, chunks may be found damaged, which are computed again, or a store that is
seconds old, which has to be deleted.
"""

import contextlib
import functools
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from odeae.base.optional import needed_package
from odeae.sweeps import blocks as files
from odeae.sweeps.blocks import Found, explained
from odeae.sweeps.changes import changes, places_among
from odeae.sweeps.layout import Layout
from odeae.sweeps.layout import Variable as Variable

if TYPE_CHECKING:
    import xarray

_Check = Callable[[np.ndarray, np.ndarray], None]


class Store:
    """A store held open by `open_store`: which blocks are `done`, which lanes are `known`."""

    def __init__(self, found: Found, done: np.ndarray, source: "_Source | None" = None):
        self.found = found
        self.done = done  # which blocks are complete on disk and what was written, (n_chunks,)
        # Lanes that are taken over from a smaller store, bool of the lanes' shape, if any.
        self.known = None if source is None else source.known
        self._source = source

    @functools.cached_property
    def _arrays(self) -> dict[str, Any]:
        return files.arrays_of(self.found.folder, self.found.layout.variables, writable=True)

    def write(self, i: int, values: dict[str, np.ndarray], made: Iterable[float] = ()) -> None:
        """Write block `i`, each variable of shape (*block, *variable.shape) and of its own dtype.

        `made`, one number per lane, says what the lanes were computed from; it's kept beside the
        block. Lanes that are `known` may hold anything: they're taken over. On return the block is
        complete. Raises `OSError` for a full or read-only disk, which changes no other block.
        """
        about = [float(x) for x in made]
        with explained(self.found.folder):
            if self._source is not None:
                block = self.found.layout.block(i)
                values, about = self._source.fill(block, values, about)
            files.write_block(self.found, self._arrays, i, values, about)
        self.done[i] = True


@contextlib.contextmanager
def open_store(
    path: str | os.PathLike[str], layout: Layout, check: _Check | None = None
) -> Iterator[Store]:
    """Create the store `path` or go on with it, alone: nobody else can open it until the end.

    Every block is read and checked; damaged ones are removed, with one warning, to be computed
    again. A store that is complete is only read: permission to read it is enough. Before anything
    is changed, `check(blocks, made)` is called with the numbers of the blocks that are complete and
    what was written as `made` of every lane; it may raise.

    A store is extended if its values (coordinates along the lane dims) are all among those of
    `layout` and all else is the same: a new store is filled in the hidden folder `.NAME.extended`
    and takes its place once it's complete; a killed extension goes on with the same call.

    Raises `ValueError` for a path that holds anything else, which is left as it is; `RuntimeError`
    while another process writes to it; `OSError` for a disk that is full or can't be written;
    `ImportError` without Zarr or filelock.
    """
    for package in ("zarr", "filelock"):
        needed_package(package, "sweep")
    folder = _local(path)
    if not folder.parent.is_dir():
        raise FileNotFoundError(
            f"the folder {str(folder.parent)!r} of the store does not exist; create it first"
        )
    _finish_exchange(folder)
    found = files.find(folder)
    if found and places_among(folder, found.layout, layout) is None and found.done().all():
        blocks = files.read_blocks(found)
        if blocks.done.all():
            _call(check, blocks.done, blocks.made)
            yield Store(found, blocks.done)
            return
    with _locked(folder):
        store = _opened(folder, layout, check)
        yield store
        if store.found.folder != folder and store.done.all():
            _exchange(folder)


def _opened(folder: Path, layout: Layout, check: _Check | None) -> Store:
    """The store to be filled, in `folder` or, if it's extended, beside it; the lock is ours."""
    # Looked at again: until the lock was ours, another process may have been at work.
    found = there = files.find(folder)
    places = None if found is None else places_among(folder, found.layout, layout)
    home, source, before = folder, None, None
    if found is not None and places is not None:
        home, before = _beside(folder), files.read_blocks(found)
        there, source = files.find(home), _Source.of(found, before, places, layout)
        if there is not None and changes(there.layout, layout):
            raise ValueError(
                f"{str(folder)!r} is being extended to other values already: finish this by the "
                f"call that began it, or delete {str(home)!r} to drop what it computed"
            )
        _call(check, source.blocks(layout, np.any), source.made)
    blocks = None if there is None else files.read_blocks(there)
    if blocks is not None:
        _call(check, blocks.done, blocks.made)
    if found is not None and before is not None:  # files change from here on
        files.clear(found, before)
    if there is None or blocks is None:
        there = files.create(home, layout)
        blocks = files.read_blocks(there)
    files.clear(there, blocks)
    store = Store(there, blocks.done, source)
    if source is not None:
        for i in np.flatnonzero(source.blocks(layout, np.all) & ~store.done).tolist():
            nothing = {name: v.empty(layout.size(i)) for name, v in layout.variables.items()}
            store.write(i, nothing, source.made[layout.block(i)].ravel())
    return store


def _call(check: _Check | None, done: np.ndarray, made: np.ndarray) -> None:
    if check is not None and done.any():
        check(np.flatnonzero(done), made)


class _Source(NamedTuple):
    """A store whose lanes are taken over: where they are among the new ones, and which."""

    old: Found
    places: list[np.ndarray]
    known: np.ndarray
    made: np.ndarray

    @classmethod
    def of(
        cls, old: Found, blocks: files.Blocks, places: list[np.ndarray], layout: Layout
    ) -> "_Source":
        """The lanes of these blocks of a store, among those of `layout`."""
        lanes = np.zeros(old.layout.shape, bool)
        for i in np.flatnonzero(blocks.done).tolist():
            lanes[old.layout.block(i)] = True
        known, made = np.zeros(layout.shape, bool), np.full(layout.shape, np.nan)
        known[np.ix_(*places)], made[np.ix_(*places)] = lanes, blocks.made
        return cls(old, places, known, made)

    def blocks(self, layout: Layout, which: Callable[[np.ndarray], Any]) -> np.ndarray:
        """Which blocks have any, or all, of their lanes taken over, bool (n_chunks,)."""
        return np.array([which(self.known[layout.block(i)]) for i in range(layout.n_chunks)])

    def fill(
        self, block: tuple[slice, ...], values: dict[str, np.ndarray], made: list[float]
    ) -> tuple[dict[str, np.ndarray], list[float]]:
        """Return what a block holds, with the stored values in the lanes that are known."""
        known = self.known[block]
        if not known.any():
            return values, made
        new, old = [], []  # for each dim: which lanes of the block, and where they were
        for lanes, at in zip(block, self.places, strict=True):
            here = (at >= lanes.start) & (at < lanes.stop)
            new.append(at[here] - lanes.start)
            old.append(np.flatnonzero(here))
        filled = {}
        for name, array in files.arrays_of(self.old.folder, values).items():
            variable = self.old.layout.variables[name]
            stored = np.full_like(values[name], variable.fill)
            at = np.ix_(*new, *map(np.arange, variable.shape))
            stored[at] = array.oindex[(*old, *(slice(None) for _ in variable.shape))]
            each = known.reshape(known.shape + (1,) * len(variable.shape))
            filled[name] = np.where(each, stored, values[name])
        if made:
            made = np.where(known.ravel(), self.made[block].ravel(), made).tolist()
        return filled, made


def open_sweep(path: str | os.PathLike[str]) -> "xarray.Dataset":
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
    needed_package("zarr", "sweep")
    folder = _local(path)
    _finish_exchange(folder)
    found = files.find(folder)
    if found is None:
        raise FileNotFoundError(f"there is no sweep at {str(folder)!r}: give the path of a store")
    if damaged := files.read_blocks(found).damaged:
        named = ", ".join([*map(str, damaged[:5]), *["…"] * (len(damaged) > 5)])
        raise ValueError(
            f"blocks {named} of {found.layout.n_chunks} in {str(folder)!r} are damaged: run the "
            "same sweep again, which computes them anew"
        )
    return opened(folder)


def opened(path: str | os.PathLike[str]) -> "xarray.Dataset":
    """The dataset of a store whose blocks were checked, as `sweep` gives it from memory."""
    import xarray

    from odeae.sweeps.pinned import PinnedStore

    # Absolute: the script may change its folder before the values are read.
    data = xarray.open_zarr(PinnedStore(_local(path)), chunks=None)
    for name in ("format", files.SEAL):
        del data.attrs[name]
    # Zarr reads text of any length, NumPy's own kind has one length for all.
    texts = {name: x for name, x in data.coords.items() if x.dtype.kind in "TO"}
    return data.assign_coords(
        {name: (x.dims, np.array(x.values.tolist(), str), x.attrs) for name, x in texts.items()}
    )


def _local(path: str | os.PathLike[str]) -> Path:
    if re.match(r"[A-Za-z][A-Za-z0-9+.:-]+:/", os.fspath(path)):
        raise ValueError(
            f"the store must be a path on a local disk, got {os.fspath(path)!r}: "
            "give a folder's name, and copy it there afterwards"
        )
    return Path(os.path.abspath(path))  # absolute: the script may change its folder later


def _beside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.extended")


def _replaced(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


def _exchange(folder: Path) -> None:
    """Put the complete store beside `folder` in its place; the lock is ours."""
    with explained(folder):
        os.replace(folder, _replaced(folder))
        os.replace(_beside(folder), folder)
    shutil.rmtree(_replaced(folder), ignore_errors=True)


def _finish_exchange(folder: Path) -> None:
    """Do the rest of an exchange that was killed on its way."""
    replaced = _replaced(folder)
    if not replaced.exists():
        return
    # If the store is in its place, only litter is left, which may stay on a disk that is read-only.
    with contextlib.suppress(*(OSError, RuntimeError) if folder.exists() else ()), _locked(folder):
        if not folder.exists():
            os.replace(_beside(folder) if _beside(folder).exists() else replaced, folder)
        shutil.rmtree(replaced, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of the store `folder`, a file beside it that says who holds it.

    The lock is the system's: it ends with its holder, however that one dies. Raises `RuntimeError`
    if another process has it.
    """
    filelock = needed_package("filelock", "sweep")
    path = folder.with_name(f".{folder.name}.lock")
    holder = ""
    with contextlib.suppress(OSError):  # some releases of filelock empty the file as they try
        holder = path.read_text()
    lock = filelock.FileLock(path, timeout=0, thread_local=False)
    try:
        with explained(folder):
            lock.acquire()
    except OSError as error:
        if not isinstance(error.__cause__, filelock.Timeout):
            raise
        raise RuntimeError(
            f"another process ({holder or 'not yet named'}) is writing to the store "
            f"{str(folder)!r}: wait for it, or give another path"
        ) from None
    try:
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
            path.write_text(f"pid {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # while it's held: who has opened it before sees that it's gone
        lock.release()
