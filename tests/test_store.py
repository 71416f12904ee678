"""The store of a sweep: no kill, power cut or full disk may spoil it, and nobody else's data."""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import plain
import pytest
import xarray
import zarr

from odeae.sweeps import store
from odeae.sweeps.store import Layout, Variable, open_store

# The layout and values of every test, also in the processes that are killed.
MAKE = '''
import numpy as np
from odeae.sweeps.store import Layout, Variable, open_store

def layout(lanes=(2, 5), chunk=(1, 2), rates=(0.1, 0.2), **configuration):
    return Layout(
        lanes={"lr": lanes[0], "seed": lanes[1]},
        chunk=chunk,
        variables={
            "error": Variable(("time",), (3,), "float64", {"units": "1"}),
            "status": Variable((), (), "int8", {}),
        },
        coords={"lr": (("lr",), np.array(rates), {"units": "1"})},
        configuration={"rtol": 1e-6, **configuration},
    )

def values(layout, i):
    """What lane (j, k) holds: a number that no other lane and no other time has."""
    lane = np.indices(tuple(layout.lanes.values()))[:, *layout.block(i)]
    error = (lane[0] + 1e-3 * lane[1])[..., None] + 1e-7 * np.arange(3.0)
    return {"error": error, "status": (lane.sum(axis=0) % 3).astype("int8")}

def fill(path, layout):
    with open_store(path, layout) as open_:
        for i in np.flatnonzero(~open_.done()):
            open_.write(i, values(layout, i))
'''
exec(MAKE)


def whole(layout):
    """The variables of the whole sweep, from the same formula, without a store."""
    lanes = tuple(layout.lanes.values())
    every = Layout(layout.lanes, lanes, layout.variables, layout.coords, {})
    return values(every, 0)


def check(path, layout, done):
    """Plain xarray sees the right values in each block that is done, and nothing strange else."""
    with xarray.open_zarr(path, chunks=None) as data:
        data.load()
    want = whole(layout)
    for i in range(layout.n_chunks):
        lanes = layout.block(i)
        block = {name: data[name].values[lanes] for name in want}
        if done[i]:
            for name in want:
                np.testing.assert_array_equal(block[name], want[name][lanes])
        else:
            assert np.all(block["status"] == -1)
            # Values may have arrived before their status, but then they're the right ones.
            assert np.all(np.isnan(block["error"]) | (block["error"] == want["error"][lanes]))
    return data


def files(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in Path(path).rglob("*") if p.is_file()}


def one_line(error, *words):
    text = str(getattr(error, "value", error))
    assert "\n" not in text
    for word in words:
        assert word in text, text


# --- what is stored, and how it reads ---


@hypothesis.given(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 9)), min_size=1, max_size=3))
@hypothesis.settings(max_examples=60, deadline=None)
def test_every_lane_is_in_one_block_that_is_one_chunk_of_zarr(sizes):
    lanes = {f"dim{n}": size for n, (size, _) in enumerate(sizes)}
    chunk = tuple(c for _, c in sizes)
    layout = Layout(lanes, chunk, {"status": Variable((), (), "int8", {})}, {}, {})
    count = np.zeros(tuple(lanes.values()), dtype=int)
    for i in range(layout.n_chunks):
        block = layout.block(i)
        count[block] += 1
        starts = [s.start // c for s, c in zip(block, chunk, strict=True)]
        assert all(s.start % c == 0 for s, c in zip(block, chunk, strict=True))
        assert np.ravel_multi_index(starts, layout.grid) == i  # C order
        assert layout.shape(i, "status") == count[block].shape
    assert np.all(count == 1)
    for i in (-1, layout.n_chunks):
        with pytest.raises(ValueError, match=f"from 0 to {layout.n_chunks - 1}, got {i}"):
            layout.block(i)


def test_a_half_filled_store_is_the_dataset_of_the_whole_sweep(tmp_path):
    path, now = tmp_path / "sweep", layout()
    done = np.zeros(now.n_chunks, dtype=bool)
    with open_store(path, now) as open_:
        check(path, now, done)
        for i in (4, 2):
            open_.write(i, values(now, i))
            done[i] = True
            np.testing.assert_array_equal(open_.done(), done)
            check(path, now, done)
    data = check(path, now, done)
    assert data.sizes == {"lr": 2, "seed": 5, "time": 3}
    assert data.status.dtype == np.int8
    assert data.error.attrs == data.lr.attrs == {"units": "1"}
    assert json.loads(data.attrs["configuration"]) == {"rtol": 1e-6}
    assert sorted(zarr.open_group(path, mode="r", use_consolidated=False).array_keys()) == [
        "error",
        "lr",
        "status",
    ]  # without the summary Zarr looks at every file, and warns (an error here) of strange ones
    assert not [name for name in files(path) if "lock" in name or "partial" in name]


@pytest.mark.parametrize(
    ("dims", "values"),
    [
        (("lr",), ["sgd", ""]),
        (("lr", "seed"), [list("ab"), ["ü", "a longer word"]]),
        ((), "one"),
        (("lr",), [True, False]),
        (("lr",), [1, -(2**60)]),
        (("lr",), [np.nan, -0.0]),
        (("other",), np.arange(3, dtype=">f4")),
        ((), 2.5),
    ],
)
def test_coordinates_come_back_without_a_warning(tmp_path, dims, values):
    want = np.array(values)
    status = {"status": Variable((), (), "int8", {})}
    coords = {"label": (dims, want, {"long_name": "über"})}
    now = Layout({"lr": 2, "seed": 2}, (2, 2), status, coords, {})
    with open_store(tmp_path / "sweep", now):
        pass
    with open_store(tmp_path / "sweep", now) as open_:  # and are found unchanged
        assert not open_.done().any()
    with xarray.open_zarr(tmp_path / "sweep", chunks=None) as data:
        label = data.coords["label"].load()
    assert label.dims == dims
    assert label.attrs == {"long_name": "über"}
    assert label.values.tolist() == want.tolist() or np.isnan(want[0])
    if want.dtype.kind != "U":
        np.testing.assert_array_equal(label.values, want)


def test_a_coordinate_of_strings_selects(tmp_path):
    status = {"status": Variable((), (), "int8", {})}
    coords = {"rule": (("rule",), np.array(["sgd", "oja"]), {})}
    now = Layout({"rule": 2}, (1,), status, coords, {})
    with open_store(tmp_path / "sweep", now) as open_:
        open_.write(1, {"status": np.array([7], dtype="int8")})
    with xarray.open_zarr(tmp_path / "sweep", chunks=None) as data:
        assert data.status.sel(rule="oja").item() == 7
        assert data.status.sel(rule="sgd").item() == -1


@pytest.mark.parametrize(
    ("dtype", "fill"), [("float32", np.nan), ("int64", -1), ("uint8", 0), ("bool", False)]
)
def test_a_block_of_what_stands_for_nothing_is_still_a_block(tmp_path, dtype, fill):
    """Zarr by itself leaves out chunks that hold only the fill value: they'd never be done."""
    variables = {"x": Variable((), (), dtype, {}), "status": Variable((), (), "int8", {})}
    now = Layout({"lane": 3}, (2,), variables, {}, {})
    for i in range(2):
        with open_store(tmp_path / "sweep", now) as open_:
            shape = now.shape(i, "x")
            nothing = {"x": np.full(shape, fill, dtype), "status": np.full(shape, -1, "int8")}
            open_.write(i, nothing)
            assert open_.done().tolist() == [True, i == 1]
    assert (tmp_path / "sweep" / "x" / "c.1").exists()
    with xarray.open_zarr(tmp_path / "sweep", chunks=None) as data:
        assert data.x.dtype == dtype
        np.testing.assert_array_equal(data.x, np.full(3, fill, dtype))


def test_a_block_is_refused_unless_it_fits(tmp_path):
    now = layout()
    good = values(now, 0)
    with open_store(tmp_path / "sweep", now) as open_:
        for bad, said in (
            ({"error": good["error"]}, "must hold error, status, got error"),
            ({**good, "extra": 1}, "got error, status, extra"),
            ({**good, "error": good["error"][:, :1]}, r"`error` of block 0 .*\(1, 2, 3\), got"),
            ({**good, "error": good["error"].astype("f4")}, "must be float64 .* got float32"),
            ({**good, "status": good["status"].astype(int)}, "must be int8 .* got int64"),
        ):
            with pytest.raises(ValueError, match=said):
                open_.write(0, bad)
        with pytest.raises(ValueError, match="from 0 to 5, got 6"):
            open_.write(6, good)
        assert not open_.done().any()
        open_.write(0, good)
        before = files(tmp_path)
        with pytest.raises(RuntimeError, match=r"block 0 .* is complete already"):
            open_.write(0, {**good, "error": good["error"] + 1})
        before.pop(lock := "sweep/status/.odeae-lock")
        assert files(tmp_path) == {**before, lock: files(tmp_path)[lock]}
    with pytest.raises(RuntimeError, match="is closed"):
        open_.write(1, values(now, 1))


STATUS = {"status": Variable((), (), "int8", {})}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lanes": {}}, "`lanes` and `chunk`"),
        ({"chunk": (1, 1)}, r"got \{'lane': 4\} and \(1, 1\)"),
        ({"chunk": (0,)}, "at least 1"),
        ({"variables": {}}, "must hold `status`"),
        ({"variables": {"status": Variable((), (), "int64", {})}}, "must hold `status`"),
        ({"variables": STATUS | {"x": Variable(("t",), (), "int8", {})}}, "`x` must have one size"),
        ({"variables": STATUS | {"x": Variable((), (), "complex128", {})}}, "got 'complex128'"),
        ({"variables": STATUS | {"x": Variable((), (), "flaot64", {})}}, "got 'flaot64'"),
        ({"variables": STATUS | {"x": Variable(("lane",), (4,), "int8", {})}}, "each dim once"),
        ({"variables": STATUS | {"lane": Variable((), (), "int8", {})}}, "`lane` is a dim"),
        ({"variables": STATUS | {"a b": Variable((), (), "int8", {})}}, "'a b' can't name"),
        ({"variables": STATUS | {"../x": Variable((), (), "int8", {})}}, "can't name"),
        ({"coords": {"zarr.json": ((), np.array(1), {})}}, "can't name"),
        ({"coords": {"lane": (("lane",), np.arange(3), {})}}, "size 4 in lanes, 3 in `lane`"),
        ({"coords": {"x": ((), np.array(1j), {})}}, "`x` must hold real numbers"),
        ({"coords": {"x": (("lane",), np.array(1), {})}}, r"got shape \(\)"),
        ({"coords": {"status": ((), np.array(1), {})}}, "both a variable and a coordinate"),
        ({"coords": {"x": ((), np.array(1), {"of": np.arange(2)})}}, "`x.attrs` must hold what"),
        ({"configuration": {"solver": object()}}, "`configuration` must hold what JSON knows"),
    ],
)
def test_a_layout_that_cannot_be_stored_is_refused_where_it_is_born(changes, said):
    good = {"lanes": {"lane": 4}, "chunk": (2,), "variables": STATUS, "coords": {}}
    with pytest.raises(ValueError, match=said) as info:
        Layout(**{**good, "configuration": {}, **changes})
    one_line(info)


# --- what is already at the path ---


def changed(**changes):
    base = {"solver": {"name": "Tsit5", "pid": [0.1, 0.3]}, "about": "x" * 80 + "old" + "y" * 80}
    base["problems"] = {"a": 1, "b": 1}
    return layout(**{**base, **changes})


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (changed(rtol=1e-5), "`rtol`: stored 1e-06, now 1e-05: give another path"),
        (changed(solver={"name": "Tsit5", "pid": [0.1, 0.4]}), "`solver.pid[1]`: stored 0.3, now"),
        (changed(solver={"name": "Tsit5"}), "`solver.pid`: stored [0.1, 0.3], now nothing"),
        (changed(new={"a": 1}), "`new`: stored nothing, now {'a': 1}"),
        (changed(about="x" * 80 + "new" + "y" * 80), "stored …xxxxxxxxxxxxxxxxxxxxoldyy"),
        (changed(lanes=(2, 6)), "`lanes`: stored 'lr 2, seed 5', now 'lr 2, seed 6'"),
        (changed(chunk=(1, 3)), "`chunk`: stored (1, 2), now (1, 3)"),
        (changed(rates=(0.1, 0.25)), "sweep: `lr[1]`: stored 0.2, now 0.25: give"),
        (changed(rates=(1, 2)), "sweep: `lr[0]`: stored 0.1, now 1, `coords.lr.dtype`: stored 'fl"),
        (changed(lanes=(1, 5), rates=(0.1,)), "sweep: `lr`: stored 2 values, now 1, `lanes`: sto"),
        (changed(lanes=(3, 5), rates=(0.1, 0.3, 0.4)), "sweep: `lr`: stored 2 values, now 3, `la"),
        (changed(lanes=(3, 5), rates=(0.1, 0.2, 0.3), rtol=1e-5), "`lr`: stored 2 values, now 3"),
        (changed(rates=(0.3, 0.2), rtol=1e-5, about=""), "sweep: `lr[0]`: stored 0.1, now 0.3, `"),
        (changed(problems={"a": 2, "b": 1}), "sweep: `a` now makes another problem or state: give"),
        (
            changed(problems={"a": 2, "b": 1}, rtol=1e-5),
            "sweep: `rtol`: stored 1e-06, now 1e-05: give",
        ),
        (changed(a=1, b=2, c=3, rtol=0), "and 1 more"),
    ],
)
def test_another_sweep_at_the_path_is_named_and_left_alone(tmp_path, now, said):
    path = tmp_path / "sweep"
    with open_store(path, changed()) as open_:
        open_.write(0, values(changed(), 0))
    before = files(tmp_path)
    with pytest.raises(ValueError, match="holds another sweep") as info, open_store(path, now):
        pass
    one_line(info, str(path), said, "delete it")
    assert files(tmp_path) == before


def test_a_variable_that_changed_is_named(tmp_path):
    for variable, said in (
        (Variable(("time",), (3,), "float32", {}), "`variables.x.dtype`: stored 'float32'"),
        (Variable(("k",), (3,), "float64", {}), "`variables.x.dims`: stored ('k',), now"),
        (Variable(("time",), (4,), "float64", {}), "`variables.x.shape`: stored (4,)"),
        (Variable(("time",), (3,), "float64", {"a": 1}), "`variables.x.attrs.a`: stored 1, now no"),
    ):
        path = tmp_path / said[-9:].replace("/", "")
        with open_store(path, Layout({"n": 1}, (1,), STATUS | {"x": variable}, {}, {})):
            pass
        plain_x = Variable(("time",), (3,), "float64", {})
        now = Layout({"n": 1}, (1,), STATUS | {"x": plain_x}, {}, {})
        with pytest.raises(ValueError, match="another sweep") as info, open_store(path, now):
            pass
        one_line(info, said)


def test_nan_in_a_configuration_is_no_change(tmp_path):
    for _ in range(2):
        with open_store(tmp_path / "sweep", layout(limit=float("nan"), rates=(0.1, np.nan))):
            pass


def _foreign_file(path):
    path.write_text("mine")


def _foreign_folder(path):
    path.mkdir()
    (path / "notes.txt").write_text("mine")


def _foreign_group(path):
    zarr.create_group(path, zarr_format=3).create_array("status", shape=(3,), dtype="i1")[:] = 1


def _foreign_group_without_its_metadata(path):
    _foreign_group(path)
    (path / "zarr.json").unlink()


def _foreign_array(path):
    zarr.create_array(path, shape=(3,), dtype="i1")[:] = 1


def _later_version(path):
    fill(path, layout())
    root = path / "zarr.json"
    root.write_text(root.read_text().replace("version 2", "version 3"))


def _without_metadata(path):
    fill(path, layout())
    (path / "zarr.json").unlink()


def _garbled(path):
    fill(path, layout())
    (path / "zarr.json").write_text('{"attributes": {"form')


def _without_metadata_of_an_array(path):
    fill(path, layout())
    (path / "error" / "zarr.json").unlink()


def _garbled_array(path):
    fill(path, layout())
    (path / "status" / "zarr.json").write_text("{}")


def _without_summary(path):
    fill(path, layout())
    root = json.loads((path / "zarr.json").read_text())
    del root["consolidated_metadata"]
    (path / "zarr.json").write_text(json.dumps(root))


def _garbled_coordinate(path):
    fill(path, layout())
    (path / "lr" / "c.0").write_bytes(b"not zstd")


@pytest.mark.parametrize(
    ("put", "said"),
    [
        (_foreign_file, "isn't a folder"),
        (_foreign_folder, "neither empty nor a store"),
        (_foreign_group, "holds Zarr data that no sweep wrote"),
        (_foreign_group_without_its_metadata, "neither empty nor a store"),
        (_foreign_array, "holds Zarr data that no sweep wrote"),
        (_later_version, "'odeae sweep, version 3', not 'odeae sweep, version 2'"),
        (_without_metadata, "no `zarr.json` in it"),
        (_garbled, "is damaged (its `zarr.json` can't be read)"),
        (_without_metadata_of_an_array, "is damaged ("),
        (_garbled_array, "is damaged ("),
        (_without_summary, "is damaged ("),
        (_garbled_coordinate, "is damaged ("),
    ],
)
def test_what_is_no_store_is_never_touched(tmp_path, put, said):
    path = tmp_path / "sweep"
    put(path)
    before = files(tmp_path)
    with pytest.raises(ValueError, match="give another path") as info, open_store(path, layout()):
        pass
    one_line(info, str(path), said)
    assert files(tmp_path) == before


def test_an_empty_folder_may_be_used(tmp_path):
    (tmp_path / "error").mkdir()  # named like a variable, too
    fill(tmp_path / "error", layout())
    check(tmp_path / "error", layout(), np.ones(6, dtype=bool))


def test_paths_that_no_store_can_have(tmp_path):
    for url in ("s3://bucket/sweep", "file:///x", "simplecache::s3://b/x"):
        with pytest.raises(ValueError, match="local disk") as info, open_store(url, layout()):
            pass
        one_line(info, url)
    with (
        pytest.raises(FileNotFoundError, match="does not exist; create it first") as info,
        open_store(tmp_path / "no" / "sweep", layout()),
    ):
        pass
    one_line(info, str(tmp_path / "no"))
    assert not list(tmp_path.iterdir())


def test_without_zarr_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=r"pip install 'odeae\[sweep\]'"):
        open_store(tmp_path / "sweep", layout()).__enter__()


def test_importing_the_room_loads_neither_jax_nor_zarr():
    plain.run(
        "import sys, odeae.sweeps.store\n"
        "assert not {'jax', 'zarr', 'xarray', 'scipy'} & set(sys.modules)"
    )


# --- kills, power cuts and full disks, at every instant ---


class Dead(BaseException):
    """The process is gone: nothing it would do afterwards happens."""


class Disk:
    """`os` as the store sees it, which fails at one step and keeps book of what is flushed.

    `fail` is called with the number of each step that changes the disk, before that step; with
    `Dead`, all later calls fail, too, so that no tidying up takes place, as after `kill -9`.
    """

    STEPS = ("open", "write", "fsync", "replace", "mkdir", "unlink", "rmdir", "ftruncate")

    def __init__(self, fail):
        self.fail = fail
        self.steps = 0
        self.dead = False
        self.opened = {}  # descriptor: path
        self.unflushed = {}  # path: content is not on disk yet
        self.unnamed = []  # paths whose names are not on disk yet

    def __getattr__(self, name):
        if name not in (*self.STEPS, "close", "read"):
            return getattr(os, name)
        return lambda *args: self._call(name, *args)

    def _call(self, name, *args):
        if self.dead:
            raise Dead
        reads = name in ("close", "read") or (name == "open" and args[1] == os.O_RDONLY)
        if not reads:
            self.steps += 1
            try:
                self.fail(self.steps, name)
            except Dead:
                self.dead = True
                if name == "write":  # the kernel may have taken a part
                    os.write(args[0], args[1][: len(args[1]) // 2])
                raise
        result = getattr(os, name)(*args)
        self._book(name, args, result)
        return result

    def _book(self, name, args, result):
        if name == "open":
            self.opened[result] = Path(args[0])
        elif name == "close":
            self.opened.pop(args[0])
        elif name == "write":
            self.unflushed[self.opened[args[0]]] = True
        elif name == "fsync":
            path = self.opened[args[0]]
            self.unflushed.pop(path, None)
            self.unnamed = [p for p in self.unnamed if p.parent != path]
        elif name == "mkdir":
            self.unnamed.append(Path(args[0]))
        elif name == "replace":
            source, target = map(Path, args)
            if self.unflushed.pop(source, False):
                self.unflushed[target] = True
            self.unnamed.append(target)

    def end(self, power_cut):
        """End the process; a power cut takes what isn't flushed, all but the newest name."""
        for descriptor in self.opened:
            os.close(descriptor)
        if not power_cut:
            return
        for path in self.unflushed:
            if path.exists():
                path.write_bytes(b"")
        for path in self.unnamed[:-1]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def dying(at):
    def fail(step, _):
        if step == at:
            raise Dead

    return fail


SMALL = layout(lanes=(2, 2), chunk=(1, 2))


@pytest.mark.parametrize("power_cut", [False, True])
@pytest.mark.parametrize("start", ["nothing", "store"])
def test_death_at_any_step_costs_at_most_the_block_in_work(tmp_path, monkeypatch, start, power_cut):
    at, ended = 0, False
    while not ended:
        at += 1
        path = tmp_path / str(at)
        if start == "store":
            with open_store(path, SMALL):
                pass
        disk, returned = Disk(dying(at)), []
        monkeypatch.setattr(store, "os", disk)
        with contextlib.suppress(Dead):
            if start == "nothing":
                with open_store(path, SMALL):
                    ended = True
            else:
                with open_store(path, SMALL) as open_:
                    for i in range(2):
                        open_.write(i, values(SMALL, i))
                        returned.append(i)
                    ended = True
        disk.end(power_cut)
        monkeypatch.setattr(store, "os", os)
        with open_store(path, SMALL) as open_:
            done = open_.done()
            assert done[returned].all()
            check(path, SMALL, done)
            assert not [name for name in files(path) if "partial" in name]
        if at % 5 == 0 or ended:  # what was done is right, what wasn't can be
            fill(path, SMALL)
            check(path, SMALL, [True, True])
            assert "status/.odeae-lock" not in files(path)
    assert at > 25  # the steps were really counted


def test_a_creation_that_died_gives_way_to_another_layout(tmp_path, monkeypatch):
    other = layout(lanes=(3, 1), chunk=(2, 1), rates=(1.0, 2.0, 3.0), rtol=1.0)
    for at in range(5, 30, 4):
        path = tmp_path / str(at)
        disk = Disk(dying(at))
        monkeypatch.setattr(store, "os", disk)
        with contextlib.suppress(Dead), open_store(path, SMALL):
            pass
        disk.end(power_cut=False)
        monkeypatch.setattr(store, "os", os)
        assert not (path / "zarr.json").exists()
        fill(path, other)
        check(path, other, [True, True])


def test_leftovers_mixed_with_somebody_elses_file_are_left_alone(tmp_path, monkeypatch):
    path = tmp_path / "sweep"
    disk = Disk(dying(25))
    monkeypatch.setattr(store, "os", disk)
    with contextlib.suppress(Dead), open_store(path, SMALL):
        pass
    disk.end(power_cut=False)
    monkeypatch.setattr(store, "os", os)
    (path / "error" / "notes.txt").write_text("mine")
    before = files(path)
    with pytest.raises(ValueError, match="neither empty nor"), open_store(path, SMALL):
        pass
    assert files(path) == before


@pytest.mark.parametrize("start", ["nothing", "folder", "store"])
def test_a_full_disk_at_any_step_is_one_clear_error_and_leaves_no_litter(
    tmp_path, monkeypatch, start
):
    refused = 0
    for at in itertools.count(1):
        path = tmp_path / str(at)
        if start == "folder":
            path.mkdir()
        elif start == "store":
            with open_store(path, SMALL) as open_:
                open_.write(0, values(SMALL, 0))
        before = files(path)
        disk = Disk(full(at))
        monkeypatch.setattr(store, "os", disk)
        error = attempt(path, [1] if start == "store" else [])
        monkeypatch.setattr(store, "os", os)
        assert not disk.opened
        if disk.steps < at:
            break
        left = files(path) if path.exists() else {}
        assert not [name for name in left if "partial" in name]
        if start == "store":
            assert before.items() <= left.items()
            check(path, SMALL, [True, "status/c.1.0" in left])
        elif error:
            assert path.exists() == (start == "folder")
            assert left == {}
        if error:  # some steps aren't needed, and a failure there stops nothing
            assert error.errno == errno.ENOSPC
            one_line(error, "can't write", str(path), "No space left", "kept", "running again")
            refused += 1
        if at % 4 == 0:
            fill(path, SMALL)
            check(path, SMALL, [True, True])
    assert refused > 5


def full(at):
    def fail(step, name):
        if step == at and name in ("open", "write", "fsync", "mkdir", "replace"):
            raise OSError(errno.ENOSPC, "No space left on device")

    return fail


def attempt(path, blocks):
    """The error of opening a store and writing these blocks."""
    try:
        with open_store(path, SMALL) as open_:
            for i in blocks:
                open_.write(i, values(SMALL, i))
    except OSError as error:
        return error
    return None


def read_only(step, name):
    raise OSError(errno.EROFS, "Read-only file system")


def test_a_complete_store_needs_no_permission_but_to_read(tmp_path, monkeypatch):
    fill(tmp_path / "whole", SMALL)
    with open_store(tmp_path / "half", SMALL) as open_:
        open_.write(1, values(SMALL, 1))
    before = files(tmp_path)
    monkeypatch.setattr(store, "os", Disk(read_only))
    with open_store(tmp_path / "whole", SMALL) as open_, open_store(tmp_path / "whole", SMALL):
        assert open_.done().all()  # and two may read
    for name in ("half", "new"):
        with pytest.raises(OSError, match="Read-only") as info, open_store(tmp_path / name, SMALL):
            pass
        one_line(info, str(tmp_path / name), "can't write", "what is complete is kept")
    assert files(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_to_write(tmp_path):
    fill(tmp_path / "whole", SMALL)
    with open_store(tmp_path / "half", SMALL):
        pass
    folders = [tmp_path, *(p for p in tmp_path.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        with open_store(tmp_path / "whole", SMALL) as open_:
            assert open_.done().all()
        for name in ("half", "new"):
            with pytest.raises(PermissionError, match="can't write") as info:  # noqa: SIM117
                with open_store(tmp_path / name, SMALL):
                    pass
            one_line(info, str(tmp_path / name))
    finally:
        for folder in folders:
            folder.chmod(0o755)


# --- damage that comes later ---


def _gone(path):
    (path / "error" / "c.0.1.0").unlink()


def _swapped(path):
    files = [path / "error" / name for name in ("c.0.1.0", "c.1.0.0")]
    data = [file.read_bytes() for file in files]
    for file, other in zip(files, reversed(data), strict=True):
        file.write_bytes(other)


def _swapped_whole(path):
    """Both blocks move with their digests."""
    _swapped(path)
    for first in (path / "status" / "c.0.1", path / "status" / ".c.0.1.digest"):
        second = first.with_name(first.name.replace("0.1", "1.0"))
        data = first.read_bytes(), second.read_bytes()
        second.write_bytes(data[0])
        first.write_bytes(data[1])


def _flipped(path):
    file = path / "error" / "c.0.1.0"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _status_of_others(path):
    (path / "status" / "c.0.1").write_bytes((path / "status" / "c.1.1").read_bytes())


def _no_digest(path):
    (path / "status" / ".c.0.1.digest").unlink()


def _garbled_digest(path):
    (path / "status" / ".c.0.1.digest").write_text('{"sha256": 3')


def _of_another_store(path):
    """A block of a sweep that differs in nothing but its tolerance."""
    other = path.with_name("other")
    fill(other, layout(rtol=1e-3))
    for name in ("error/c.0.1.0", "status/c.0.1", "status/.c.0.1.digest"):
        (path / name).write_bytes((other / name).read_bytes())


DAMAGE = [
    (_gone, [1]),
    (_swapped, [1, 3]),
    (_swapped_whole, [1, 3]),
    (_flipped, [1]),
    (_status_of_others, [1]),
    (_no_digest, [1]),
    (_garbled_digest, [1]),
    (_of_another_store, [1]),
]


@pytest.mark.parametrize(("damage", "blocks"), DAMAGE)
def test_damaged_blocks_are_told_and_computed_again(tmp_path, damage, blocks):
    path, now = tmp_path / "sweep", layout()
    fill(path, now)
    before = files(path)
    damage(path)
    text = " and ".join(map(str, blocks))
    with pytest.raises(ValueError, match=f"{text} of 6 in .* damaged: run the same sweep") as info:
        store.open_sweep(path)
    one_line(info, str(path))
    with contextlib.ExitStack() as held:
        with pytest.warns(UserWarning, match=f"{len(blocks)} of 6 blocks .* computed again"):
            open_ = held.enter_context(open_store(path, now))
        assert np.flatnonzero(~open_.done()).tolist() == blocks
        check(path, now, open_.done())
    fill(path, now)
    assert files(path) == before  # to the byte
    check(path, now, [True] * 6)


def test_open_sweep_gives_what_is_there(tmp_path, monkeypatch):
    path, now = tmp_path / "sweep", layout()
    with pytest.raises(FileNotFoundError, match="there is no sweep at") as info:
        store.open_sweep(path)
    one_line(info, str(path))
    with open_store(path, now) as open_:
        open_.write(4, values(now, 4))
    data = store.open_sweep(str(path)).load()
    assert data.identical(
        check(path, now, np.arange(6) == 4)
        .drop_attrs(deep=False)
        .assign_attrs(configuration=json.dumps(now.configuration))
    )
    _foreign_group(tmp_path / "other")
    with pytest.raises(ValueError, match="holds Zarr data that no sweep wrote"):
        store.open_sweep(tmp_path / "other")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "zarr", None)
        with pytest.raises(ImportError, match=r"pip install 'odeae\[sweep\]'"):
            store.open_sweep(path)
    (path / "lr" / "c.0").unlink()  # Zarr would give NaN for the values
    with pytest.raises(ValueError, match="is damaged") as info:
        store.open_sweep(path)
    one_line(info, str(path))


def test_damage_on_a_disk_that_can_only_be_read_is_one_clear_error(tmp_path, monkeypatch):
    path = tmp_path / "sweep"
    fill(path, SMALL)
    (path / "error" / "c.0.0.0").unlink()
    before = files(path)
    monkeypatch.setattr(store, "os", Disk(read_only))
    with pytest.raises(OSError, match=r"can't write .* Read-only"), open_store(path, SMALL):
        pass
    assert files(path) == before


def test_many_damaged_blocks_are_one_line(tmp_path):
    path, now = tmp_path / "sweep", layout(lanes=(2, 5), chunk=(1, 1))
    fill(path, now)
    for file in (path / "error").glob("c.*"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="blocks 0, 1, 2, 3, 4 and 5 more of 10 in") as info:
        store.open_sweep(path)
    one_line(info)


# --- more values: stores that are extended ---


def wider(rates, seeds, chunk=(1, 2), size=3, **configuration):
    """A layout whose lanes all have values, of a variable that may get more rows."""
    return Layout(
        lanes={"lr": len(rates), "seed": len(seeds)},
        chunk=chunk,
        variables={
            "error": Variable(("k",), (size,), "float64", {}),
            "status": Variable((), (), "int8", {}),
        },
        coords={
            "lr": (("lr",), np.array(rates), {}),
            "seed": (("seed",), np.array(seeds), {}),
        },
        configuration={"rtol": 1e-6, **configuration},
    )


def of_values(layout, i):
    """What lanes hold follows from their values alone; narrow ones have NaN in further rows."""
    rates, seeds = (
        layout.coords[name][1][at] for name, at in zip(("lr", "seed"), layout.block(i), strict=True)
    )
    error = np.full((len(rates), len(seeds), layout.variables["error"].shape[0]), np.nan)
    error[..., :3] = (rates[:, None] + 1e-3 * seeds)[..., None] + 1e-7 * np.arange(3.0)
    status = (10 * rates[:, None] + seeds).astype("int8") % 3
    return {"error": error, "status": status}, (rates[:, None] * 100 + seeds).ravel()


def compute(path, layout, blocks=None, check=None):
    """Fill a store, and return which lanes were computed, as pairs of values."""
    computed = []
    with open_store(path, layout, check) as open_:
        for i in np.flatnonzero(~open_.done()) if blocks is None else blocks:
            values, made = of_values(layout, i)
            new = np.ones(values["status"].shape, bool)
            if open_.known is not None:
                new = ~open_.known[layout.block(i)]
                values = {"error": values["error"].copy(), "status": values["status"].copy()}
                values["error"][~new], values["status"][~new] = np.nan, -1
                made = np.where(new.ravel(), made, np.nan)
            open_.write(i, values, made)
            computed += np.round(of_values(layout, i)[1][new.ravel()]).astype(int).tolist()
    return computed


OLD = ([0.1, 0.2], [0, 1, 2, 3])
EXTENSIONS = [
    ([0.1, 0.2], range(8), {}),  # more seeds
    ([0.1, 0.15, 0.2], range(4), {}),  # a finer axis
    ([0.05, 0.1, 0.15, 0.2, 0.3], [7, 3, 0, 1, 2, 9, 8], {"chunk": (2, 3)}),  # anything
    ([0.2, 0.1], range(4), {}),  # another order
    ([0.1, 0.2, 0.3], range(4), {"size": 5}),  # wider networks among the new ones
]


@pytest.mark.parametrize(("rates", "seeds", "more"), EXTENSIONS)
@pytest.mark.parametrize("half", [False, True])
def test_an_extended_store_is_the_fresh_one(tmp_path, rates, seeds, more, half):
    path, now = tmp_path / "sweep", wider(rates, list(seeds), **more)
    old = compute(path, wider(*OLD), [0, 3] if half else None)
    assert len(old) == (4 if half else 8)
    new = compute(path, now)
    assert sorted(new + old) == sorted(compute(tmp_path / "fresh", now))  # no lane twice
    assert files(path) == files(tmp_path / "fresh")  # to the byte, digests included
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["fresh", "sweep"]
    assert compute(path, now) == []


def test_a_killed_extension_leaves_a_store_and_goes_on(tmp_path, monkeypatch):
    """Death at any step: old or new, the store at the path is whole, and the call goes on."""
    now = wider([0.1, 0.15, 0.2], [0, 1, 2], chunk=(1, 3))
    old = wider([0.1, 0.2], [0, 1], chunk=(1, 2))
    compute(tmp_path / "fresh", now)
    seen = set()

    def extend(at):
        """Die at this step; returns the store's path, and how many steps there were."""
        path = tmp_path / str(at) / "sweep"
        path.parent.mkdir()
        compute(path, old)
        disk = Disk(dying(at))
        monkeypatch.setattr(store, "os", disk)
        with contextlib.suppress(Dead):
            compute(path, now)
        disk.end(power_cut=False)
        monkeypatch.setattr(store, "os", os)
        return path, disk.steps

    _, total = extend(0)
    for at in [*range(3, total - 8, total // 5), *range(total - 8, total + 1)]:
        path, _ = extend(at)
        if not path.exists():  # between the two renames: the next call puts it in place
            seen.add("nothing")
        data = store.open_sweep(path).load()
        assert np.all(data.status >= 0)
        seen.add(data.sizes["lr"])
        compute(path, now)
        assert files(path) == files(tmp_path / "fresh")
        assert [entry.name for entry in path.parent.iterdir()] == ["sweep"]
    assert total > 40
    assert seen == {2, 3, "nothing"}


def test_an_extension_is_no_way_around_a_check(tmp_path):
    path, now = tmp_path / "sweep", wider([0.1, 0.2, 0.3], [0, 1, 2, 3, 4])
    compute(path, wider(*OLD, problems={"build(0.1)": "a", "build(0.2)": "b"}))
    before = files(tmp_path)
    other = wider([0.1, 0.2, 0.3], range(5), problems={"build(0.1)": "c", "build(0.3)": "d"})
    with pytest.raises(ValueError, match=r"`build\(0.1\)` now makes another problem") as info:
        compute(path, other)
    one_line(info)

    def check(blocks, made):
        assert blocks.tolist() == [0, 1, 3, 4]  # two seeds a block: the fifth seed isn't stored
        known = made[:2, :4]
        np.testing.assert_allclose(known, [[10, 11, 12, 13], [20, 21, 22, 23]])
        assert np.isfinite(made).sum() == 8
        raise ValueError("another")

    now = wider([0.1, 0.2, 0.3], range(5), problems={"build(0.1)": "a", "build(0.3)": "d"})
    with pytest.raises(ValueError, match=r"^another$"):
        compute(path, now, check=check)
    assert files(tmp_path) == before
    assert len(compute(path, now)) == 7


def test_damaged_blocks_are_not_taken_over(tmp_path):
    path, now = tmp_path / "sweep", wider([0.1, 0.2], range(6))
    compute(path, wider(*OLD))
    (path / "error" / "c.1.0.0").write_bytes(b"")
    with pytest.warns(UserWarning, match="1 of 4 blocks"):
        assert sorted(compute(path, now)) == [14, 15, 20, 21, 24, 25]
    compute(tmp_path / "fresh", now)
    assert files(path) == files(tmp_path / "fresh")


def test_two_extensions_of_one_store_are_told_apart(tmp_path):
    path = tmp_path / "sweep"
    compute(path, wider(*OLD))
    compute(path, wider([0.1, 0.2], range(8)), blocks=[2])  # and no more: it isn't complete
    assert dict(store.open_sweep(path).sizes) == {"lr": 2, "seed": 4, "k": 3}
    with pytest.raises(ValueError, match="is being extended to other values already") as info:
        compute(path, wider([0.1, 0.2, 0.3], range(4)))
    one_line(info, str(tmp_path / ".sweep.extended"), "or delete")
    assert sorted(compute(path, wider([0.1, 0.2], range(8)))) == [16, 17, 24, 25, 26, 27]
    with open_store(path, wider([0.1, 0.2], range(8))) as open_:
        assert open_.done().all()


def test_zipped_lanes_are_taken_over_with_all_their_values(tmp_path):
    def zipped(rates, kinds):
        coords = {
            "lr": (("lane",), np.array(rates), {}),
            "kind": (("lane",), np.array(kinds), {}),
        }
        return Layout({"lane": len(rates)}, (2,), STATUS, coords, {})

    path = tmp_path / "sweep"
    with open_store(path, zipped([0.1, 0.1, 0.2], ["a", "b", "a"])) as open_:
        open_.write(0, {"status": np.array([0, 1], "int8")})
        open_.write(1, {"status": np.array([2], "int8")})
    now = zipped([0.2, 0.1, 0.2, 0.1, 0.1], ["long", "a", "a", "b", "a"])
    with open_store(path, now) as open_:
        assert open_.known.tolist() == [False, True, True, True, False]  # each lane once
        for i, size in enumerate((2, 2, 1)):
            if not open_.done()[i]:
                open_.write(i, {"status": np.full(size, 9, "int8")})
    assert store.open_sweep(path).status.values.tolist() == [9, 0, 2, 1, 9]
    with pytest.raises(ValueError, match="another sweep"):
        open_store(path, zipped([0.1, 0.1, 0.2], ["b", "b", "a"])).__enter__()


def test_a_dataset_of_a_store_that_was_extended_says_so(tmp_path):
    """Its files have the names of others now: it would read other lanes without a word."""
    path = tmp_path / "sweep"
    compute(path, wider(*OLD))
    before = store.open_sweep(path)
    assert before.error.sel(lr=0.2, seed=0, k=0) == 0.2
    compute(path, wider([0.1, 0.15, 0.2], range(4)))
    with pytest.raises(RuntimeError, match="was extended, replaced or removed since") as info:
        before.error.sel(lr=0.2, seed=1).load()
    one_line(info, str(path), "odeae.open_sweep")
    assert store.open_sweep(path).error.sel(lr=0.2, seed=1, k=0) == 0.201


# --- moments at which two processes meet ---


def test_the_lock_of_a_file_that_is_gone_is_no_lock(tmp_path, monkeypatch):
    """The holder removes the file after we've opened it: others would lock a new one beside us."""
    path, waiting = tmp_path / "sweep", ["once"]
    flock = fcntl.flock

    def late(descriptor, how):
        while waiting:
            waiting.pop()
            (path / "status" / ".odeae-lock").unlink()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with open_store(path, SMALL):
        assert not waiting
        with pytest.raises(RuntimeError, match="another process"), open_store(path, SMALL):
            pass


def test_a_store_finished_while_it_is_looked_at_is_no_foreign_folder(tmp_path, monkeypatch):
    path = tmp_path / "sweep"
    path.mkdir()

    def late(folder):
        monkeypatch.undo()
        fill(folder, SMALL)
        return False  # what a list of files of half before, half after says

    monkeypatch.setattr(store, "_is_unfinished", late)
    with open_store(path, SMALL) as open_:
        assert open_.done().all()


def test_a_folder_removed_by_a_creation_that_failed_is_made_again(tmp_path, monkeypatch):
    path, waiting = tmp_path / "sweep", ["once"]

    def late(_, name):
        while name == "open" and waiting:
            waiting.pop()
            (path / "status").rmdir()
            path.rmdir()

    monkeypatch.setattr(store, "os", Disk(late))
    with open_store(path, SMALL) as open_:
        assert not waiting
        assert not open_.done().any()


# --- real processes ---


def start(script, *args):
    env = {**os.environ, "PYTHONPATH": str(Path(store.__file__).parent.parent)}
    command = [sys.executable, "-c", MAKE + script, *map(str, args)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stdin=subprocess.PIPE)


KILLED = """
import json, os, random, signal, sys, time, warnings
import zarr
warnings.simplefilter("ignore", DeprecationWarning)  # NumPy's threads are idle across the fork
path, chance = sys.argv[1], random.Random(int(sys.argv[2]))
now = layout(lanes=(2, 100), chunk=(1, 1))

def work(allowed, line):
    # Write blocks, one for each byte that comes, and print a byte for each.
    with open_store(path, now) as open_:
        for i in chance.sample(list(np.flatnonzero(~open_.done())), k=int(sum(~open_.done()))):
            os.read(allowed, 1)
            open_.write(i, values(now, i))
            os.write(line, b".")

def seen():
    folder = path + "/status"
    rows = {}
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if not name.startswith("c."):
            continue
        for file in (f"{path}/status/{name}", f"{path}/error/{name}.0"):
            about = os.stat(file)
            rows[file] = [about.st_ino, about.st_mtime_ns]
    return rows

rounds, kills = [], 0
while True:
    (allowed, allow), (lines, line) = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        chance.seed(len(rounds))
        work(allowed, line)
        os._exit(0)
    os.close(line)
    if kills < 15:
        first = chance.randint(0, 8)
        os.write(allow, first * b".")
        for _ in range(first):
            assert os.read(lines, 1) == b"."
        os.write(allow, b"..")  # it dies within these two, or after them: never at the end of all
        time.sleep(chance.uniform(0.0, 0.004 if first else 0.05))
        os.kill(pid, signal.SIGKILL)
    else:
        os.write(allow, now.n_chunks * b".")
    _, how = os.waitpid(pid, 0)
    for end in (allowed, allow, lines):
        os.close(end)
    rounds.append(seen())
    if how == 0:
        break
    assert os.WTERMSIG(how) == signal.SIGKILL, how
    kills += 1
print(json.dumps([kills, rounds]))
"""


def test_kill_9_at_random_moments(tmp_path):
    """15 kills; what was done stays untouched, and the end is as if none had happened."""
    now = layout(lanes=(2, 100), chunk=(1, 1))
    process = start(KILLED, tmp_path / "killed", seed := time.time_ns() % 10**6)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, f"seed {seed}"
    kills, rounds = json.loads(out)
    assert kills == 15
    for before, after in itertools.pairwise(rounds):
        assert before.items() <= after.items(), f"a complete block was rewritten, seed {seed}"
    assert 0 < len(rounds[-2]) < 2 * now.n_chunks  # the kills came neither too soon nor too late
    fill(tmp_path / "calm", now)
    assert files(tmp_path / "killed") == files(tmp_path / "calm")
    check(tmp_path / "killed", now, np.ones(now.n_chunks, dtype=bool))


HOLDER = """
import sys
with open_store(sys.argv[1], layout()) as open_:
    open_.write(0, values(layout(), 0))
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_learns_who_is_writing(tmp_path):
    path = tmp_path / "sweep"
    holder = start(HOLDER, path)
    try:
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(RuntimeError, match="another process") as info:  # noqa: SIM117
            with open_store(path, layout()):
                pass
        one_line(info, f"pid {holder.pid} on {os.uname().nodename}", str(path))
        check(path, layout(), [True] + 5 * [False])
        holder.kill()
        holder.wait()
        with open_store(path, layout()) as open_:  # the lock died with its holder
            assert open_.done().tolist() == [True] + 5 * [False]
    finally:
        holder.kill()
        holder.communicate()


RACE = """
import os, sys, time, warnings
import zarr
warnings.simplefilter("ignore", DeprecationWarning)
for n in range(8):
    begin = time.time() + 0.05
    children = []
    for _ in range(4):
        children.append(os.fork())
        if not children[-1]:
            time.sleep(max(0.0, begin - time.time()))
            for _ in range(2000):
                try:
                    fill(f"{sys.argv[1]}/{n}", layout())
                    os._exit(0)
                except RuntimeError as error:
                    assert "another process" in str(error), error
                    time.sleep(0.005)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
"""


def test_four_processes_at_once_from_nothing(tmp_path):
    """None but one gets the lock at a time, and nobody takes a store in the making for foreign."""
    process = start(RACE, tmp_path)
    process.communicate(timeout=60)
    assert process.returncode == 0
    for n in range(8):
        check(tmp_path / str(n), layout(), [True] * 6)
        assert not [name for name in files(tmp_path / str(n)) if "odeae-lock" in name]


LIMITED = """
import resource, signal, sys
n = 20000
x = {"x": Variable(("t",), (n,), "float64", {})}
big = Layout({"lane": 4}, (2,), x | layout().variables, {}, {})
block = {"error": np.zeros((2, 3)), "status": np.zeros(2, "int8")}
noise = np.random.default_rng(0).normal(size=(2, n))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50000, resource.RLIM_INFINITY))
with open_store(sys.argv[1], big) as open_:
    open_.write(0, block | {"x": np.zeros((2, n))})
    try:
        open_.write(1, block | {"x": noise})
    except OSError as error:
        print(error)
    print(open_.done().tolist())
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    open_.write(1, block | {"x": noise})
    print(open_.done().tolist())
"""


def test_a_real_limit_of_file_size(tmp_path):
    """The kernel takes a part of the block, then refuses; the same store goes on with room."""
    process = start(LIMITED, tmp_path / "sweep")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    error, before, after = out.decode().splitlines()
    assert "can't write the store" in error
    assert "File too large; what is complete is kept" in error
    assert (before, after) == ("[True, False]", "[True, True]")
    with xarray.open_zarr(tmp_path / "sweep", chunks=None) as data:
        assert data.status.values.tolist() == [0, 0, 0, 0]
        want = np.random.default_rng(0).normal(size=(2, 20000))
        np.testing.assert_array_equal(data.x[2:], want)
    assert not [name for name in files(tmp_path) if "partial" in name]
