"""The files of a store: one Zarr v3 group, read and written by Zarr itself, block by block.

Zarr puts every file in place whole or not at all. A new store is made beside its place and moved
there at once, so a folder with Zarr's metadata is whole. Of a block, `status` comes after all other
variables: a reader that sees one sees all of them. The digest of these files comes last, so a block
without one was cut off on its way, and one whose files don't fit it was damaged later.
"""

import contextlib
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from odeae.base.files import writing
from odeae.base.messages import first_line, shortened
from odeae.base.optional import needed_package
from odeae.sweeps.changes import ANEW
from odeae.sweeps.layout import Layout, Variable

_FORMAT = "odeae sweep, version 2"
SEAL = "sha256"  # in the group's attributes: of all that a new store holds


class Found(NamedTuple):
    """A store that is there: `seal` is the digest of all but its blocks."""

    folder: Path
    layout: Layout
    seal: str

    def digest(self, i: int) -> Path:
        """The file with the digest of block `i`, beside its status: elsewhere Zarr would warn."""
        status = self.folder / self.layout.file(i, "status")
        return status.with_name(f".{status.name}.digest")

    def done(self) -> np.ndarray:
        """Which blocks were written to their end, (n_chunks,), whatever became of them since."""
        there = set(os.listdir(self.folder / "status"))
        return np.array([self.digest(i).name in there for i in range(self.layout.n_chunks)])


class Blocks(NamedTuple):
    """Blocks of a store: which are complete (n_chunks,), and which were, but are damaged."""

    done: np.ndarray
    damaged: list[int]
    made: np.ndarray  # of every lane that is done, NaN elsewhere


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Raise an `OSError` of writing again as one line that says where, why and what to do."""
    try:
        yield
    except OSError as error:
        text = (
            f"can't write the store {str(folder)!r}: {error.strerror or first_line(error)}; what "
            "is complete is kept, and running again goes on from there"
        )
        raise (OSError(error.errno, text) if error.errno else OSError(text)) from error


def arrays_of(folder: Path, names: Iterable[str], writable: bool = False) -> dict[str, Any]:
    """Zarr's arrays of these names in the store in `folder`."""
    zarr = needed_package("zarr", "sweep")
    store = zarr.storage.LocalStore(folder, read_only=not writable)
    with zarr.config.set({"array.write_empty_chunks": True}):  # a block of NaN is computed, too
        group = zarr.open_group(store, mode="r+" if writable else "r", use_consolidated=False)
        return {name: group[name] for name in names}


def create(folder: Path, layout: Layout) -> Found:
    """Make an empty store in `folder`, which is missing or empty: all at once, or an error.

    All settings on which the files depend are pinned: another release of Zarr must go on with
    what is there.
    """
    new = folder.with_name(f".{folder.name}.new")
    with explained(folder):
        shutil.rmtree(new, ignore_errors=True)  # of a process that was killed: the lock is ours
        try:
            _fill(new, layout)
            about = json.loads((new / "zarr.json").read_bytes())
            seal = about["attributes"][SEAL] = _seal(new, layout, about)
            (new / "zarr.json").write_text(json.dumps(about, indent=2))
            os.replace(new, folder)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
    return Found(folder, layout, seal)


def _fill(folder: Path, layout: Layout) -> None:
    """Write the metadata and coordinates of an empty store."""
    zarr = needed_package("zarr", "sweep")
    from zarr.codecs import BytesCodec, ZstdCodec

    beside = [name for name, (dims, _, _) in layout.coords.items() if dims != (name,)]
    about = {"format": _FORMAT, "configuration": json.dumps(layout.configuration)}
    if beside:
        about["coordinates"] = " ".join(beside)  # how xarray knows them from variables
    store = zarr.storage.LocalStore(folder)
    group = zarr.create_group(store, zarr_format=3, attributes=about)
    common = {
        "compressors": [ZstdCodec(level=3, checksum=True)],
        "filters": None,
        "chunk_key_encoding": {"name": "default", "separator": "."},  # one folder per variable
        "config": {"write_empty_chunks": True},  # coordinates that are all 0 have a file, too
    }
    for name, v in layout.variables.items():
        group.create_array(
            name,
            shape=(*layout.shape, *v.shape),
            chunks=(*layout.chunk, *v.shape),
            dtype=v.dtype,
            fill_value=np.dtype(v.dtype).type(v.fill),
            dimension_names=(*layout.lanes, *v.dims),
            attributes=v.attrs,
            serializer=BytesCodec(endian="little"),
            **common,
        )
    for name, (dims, x, attrs) in layout.coords.items():
        dtype = str if x.dtype.kind == "U" else x.dtype  # the one text of Zarr's specification
        options = {"dimension_names": dims, "attributes": attrs, **common}
        array = group.create_array(name, shape=x.shape, chunks=x.shape, dtype=dtype, **options)
        array[...] = x
    with warnings.catch_warnings():
        # xarray warns where the summary is missing, Zarr where it's written.
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(store, zarr_format=3)


def find(folder: Path) -> Found | None:
    """Return the store in `folder`; None if one may be created there.

    Raises `ValueError` for anything else.
    """
    if not os.path.lexists(folder):
        return None
    if not folder.is_dir():
        raise ValueError(f"{str(folder)!r} isn't a folder, so no store: give another path")
    names = os.listdir(folder)
    if not names:
        return None
    if "zarr.json" not in names:
        raise ValueError(
            f"{str(folder)!r} is neither empty nor a store (no `zarr.json` in it): {ANEW}"
        )
    try:
        about = json.loads((folder / "zarr.json").read_bytes())
        made = about["attributes"].get("format")
        if made == _FORMAT:
            layout = _stored(folder, about)
            seal = _seal(folder, layout, about)
            if seal == about["attributes"].get(SEAL):
                return Found(folder, layout, seal)
            raise ValueError("its metadata or coordinates aren't those that were written")
    except PermissionError:
        raise
    except Exception as error:  # whatever Zarr and json raise on what isn't theirs
        raise ValueError(
            f"the store {str(folder)!r} is damaged ({first_line(error)[:60]}): {ANEW}"
        ) from error
    got = f"in the format {shortened(made)}, not {_FORMAT!r}" if made else "that no sweep wrote"
    raise ValueError(f"{str(folder)!r} holds Zarr data {got}: give another path")


def _stored(folder: Path, about: dict) -> Layout:
    """Return the layout of the store in `folder`, whose own `zarr.json` is `about`."""
    arrays = arrays_of(folder, about["consolidated_metadata"]["metadata"])
    lanes, chunk = arrays["status"].metadata.dimension_names, arrays["status"].chunks
    beside = about["attributes"].get("coordinates", "").split()
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
    configuration = json.loads(about["attributes"]["configuration"])
    sizes = dict(zip(lanes, arrays["status"].shape, strict=True))
    return Layout(sizes, tuple(chunk), variables, coords, configuration)


def _seal(folder: Path, layout: Layout, about: dict) -> str:
    """The digest of all that a new store holds; other attributes may be added to the group."""
    own = {
        name: about["attributes"].get(name) for name in ("format", "configuration", "coordinates")
    }
    text = json.dumps([own, about["consolidated_metadata"]], sort_keys=True)
    files = [f"{name}/zarr.json" for name in (*layout.variables, *layout.coords)]
    files += [f"{name}/c{'.0' * len(dims)}" for name, (dims, _, _) in layout.coords.items()]
    return _digest([text, *(f"{file} {_digest_of(folder / file)}" for file in sorted(files))])


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _digest_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _block_digest(found: Found, i: int, made: list[float]) -> str:
    """The digest of a block: of its files, its place, its store and `made`."""
    layout = found.layout
    place = layout.file(i, "status").rpartition("/")[2]
    parts = [
        f"{name} {_digest_of(found.folder / layout.file(i, name))}"
        for name in sorted(layout.variables)
    ]
    return _digest([found.seal, place, json.dumps(made), *parts])


def write_block(
    found: Found, arrays: dict[str, Any], i: int, values: dict[str, np.ndarray], made: list[float]
) -> None:
    """Write block `i` to Zarr's `arrays`: its status after all else, and then its digest."""
    for name in sorted(values, key=lambda name: name == "status"):
        arrays[name][found.layout.block(i)] = values[name]
    digest = {"sha256": _block_digest(found, i, made), "made": made}
    with writing(found.digest(i), overwrite=True) as beside:
        beside.write_text(json.dumps(digest))


def read_blocks(found: Found) -> Blocks:
    """Read every block that is done and compare it with its digest."""
    layout = found.layout
    made, damaged = np.full(layout.shape, np.nan), []
    there = set(os.listdir(found.folder / "status"))
    done = found.done()
    for i in np.flatnonzero(done).tolist():
        try:
            stored = json.loads(found.digest(i).read_bytes())
            if stored["sha256"] != _block_digest(found, i, stored["made"]):
                raise ValueError
        except (FileNotFoundError, ValueError, TypeError, KeyError):  # ValueError: or no JSON
            damaged.append(i)
            continue
        if stored["made"]:
            made[layout.block(i)] = np.reshape(stored["made"], layout.size(i))
    done[damaged] = False
    # A kill leaves one status without a digest, a copy without hidden files leaves all of them.
    status = [layout.file(i, "status").rpartition("/")[2] for i in range(layout.n_chunks)]
    bare = [i for i in np.flatnonzero(~done).tolist() if status[i] in there and i not in damaged]
    return Blocks(done, sorted(damaged + bare if len(bare) > 1 else damaged), made)


def clear(found: Found, blocks: Blocks) -> None:
    """Remove damaged blocks, `status` first, and what a killed process left half-written."""
    names = sorted(found.layout.variables, key=lambda name: name != "status")
    with explained(found.folder):
        for i in blocks.damaged:
            files = [found.folder / found.layout.file(i, name) for name in names]
            for file in [*files, found.digest(i)]:
                file.unlink(missing_ok=True)
        for pattern in ("*/*.partial", "status/..*"):  # as Zarr and `writing` name them
            for file in found.folder.glob(pattern):
                file.unlink()
    if blocks.damaged:
        from odeae.base.checks import warn

        warn(
            f"{len(blocks.damaged)} of {found.layout.n_chunks} blocks of the store "
            f"{str(found.folder)!r} were damaged (files missing or changed): they are computed "
            "again"
        )
