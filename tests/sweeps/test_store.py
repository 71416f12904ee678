"""The store of a sweep: no kill or full disk may spoil it, and nobody else's data."""

import contextlib
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import warnings
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
        for i in np.flatnonzero(~open_.done).tolist():
            open_.write(i, values(layout, i))


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
        assert layout.size(i) == count[block].shape
    assert np.all(count == 1)
    with pytest.raises(ValueError, match="out of bounds"):
        layout.block(layout.n_chunks)


def test_a_half_filled_store_is_the_dataset_of_the_whole_sweep(tmp_path):
    path, now = tmp_path / "sweep", layout()
    done = np.zeros(now.n_chunks, dtype=bool)
    with open_store(path, now) as open_:
        check(path, now, done)
        for i in (4, 2):
            open_.write(i, values(now, i))
            done[i] = True
            np.testing.assert_array_equal(open_.done, done)
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
        (("lr",), [0.0, 0.0]),  # what Zarr by itself leaves out
        (("other",), np.arange(3, dtype="f4")),
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
        assert not open_.done.any()
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


@pytest.mark.parametrize(("dtype", "fill"), [("float32", np.nan), ("int64", -1)])
def test_a_block_of_what_stands_for_nothing_is_still_a_block(tmp_path, dtype, fill):
    """Zarr by itself leaves out chunks that hold only the fill value: they'd never be done."""
    variables = {"x": Variable((), (), dtype, {}), "status": Variable((), (), "int8", {})}
    now = Layout({"lane": 3}, (2,), variables, {}, {})
    for i in range(2):
        with open_store(tmp_path / "sweep", now) as open_:
            shape = now.size(i)
            nothing = {"x": np.full(shape, fill, dtype), "status": np.full(shape, -1, "int8")}
            open_.write(i, nothing)
            assert open_.done.tolist() == [True, i == 1]
    assert (tmp_path / "sweep" / "x" / "c.1").exists()
    with xarray.open_zarr(tmp_path / "sweep", chunks=None) as data:
        assert data.x.dtype == dtype
        np.testing.assert_array_equal(data.x, np.full(3, fill, dtype))


STATUS = {"status": Variable((), (), "int8", {})}


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
        (_garbled, "is damaged ("),
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


@pytest.mark.parametrize("package", ["zarr", "filelock"])
def test_without_a_package_the_error_names_the_extra(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package}: pip install 'odeae\[sweep\]'"):
        open_store(tmp_path / "sweep", layout()).__enter__()


def test_importing_the_room_loads_neither_jax_nor_zarr():
    plain.run(
        "import sys, odeae.sweeps.store\n"
        "assert not {'jax', 'zarr', 'xarray', 'scipy'} & set(sys.modules)"
    )


# --- kills, full disks and disks that can only be read, at every step ---

SMALL = layout(lanes=(2, 2), chunk=(1, 2))


def start(call, *args):
    """Start a function of this file in a process of its own."""
    command = [sys.executable, "-c", f"import sys, test_store; test_store.{call}(*sys.argv[1:])"]
    here = os.path.dirname(__file__)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([plain.PATHS, here])}
    pipes = {"stdout": subprocess.PIPE, "stdin": subprocess.PIPE}
    return subprocess.Popen([*command, *map(str, args)], env=env, text=True, **pipes)


def said_by(call, *args):
    process = start(call, *args)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return out.splitlines()


def forked(job):
    """Run a job in a child of this process; return how it ended."""
    warnings.simplefilter("ignore", DeprecationWarning)  # NumPy's threads are idle across the fork
    pid = os.fork()
    if not pid:
        os._exit(job() or 0)
    return os.waitpid(pid, 0)[1]


def fill_small(path):
    with open_store(path, SMALL) as open_:
        for i in np.flatnonzero(~open_.done).tolist():
            open_.write(i, values(SMALL, i))
            print(path.parent.name, i, flush=True)


def check_small(path):
    """Which blocks any reader sees, a status without its digest too; all of them must be right."""
    with xarray.open_zarr(path, chunks=None) as data:
        there = data.status.values[:, 0] != -1
    check(path, SMALL, there)
    return there


def kill_at_each_step(root, job, every, first=None):
    """Run a job again and again, killed before its every-th step, twice that, and so on.

    A step is a file that is written, moved or removed. `first`: a job that isn't killed.
    """

    def die(n, _):
        if n == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def killed():
        path.parent.mkdir()
        if first:
            globals()[first](path)
        plain.before_each_write(path.parent, die)
        globals()[job](path)

    at, how = 1, signal.SIGKILL
    while how == signal.SIGKILL:
        path = Path(root, str(at), "sweep")
        how = forked(killed)
        at += int(every)
    assert how == 0
    print("ended", at)


STEP = [pytest.param(1, marks=pytest.mark.slow), 3]


@pytest.mark.parametrize("every", STEP)
def test_kill_9_at_any_step_costs_at_most_the_block_in_work(tmp_path, every):
    *written, (_, last) = map(
        str.split, said_by("kill_at_each_step", tmp_path, "fill_small", every)
    )
    assert int(last) > 30  # the steps were really counted
    calm = tmp_path / "calm" / "sweep"
    calm.parent.mkdir()
    fill(calm, SMALL)
    seen = set()
    for folder in set(tmp_path.iterdir()) - {calm.parent}:
        path, returned = folder / "sweep", [int(i) for name, i in written if name == folder.name]
        if path.exists():  # any reader finds it right as it is
            there = check_small(path)
            assert there[returned].all()
            seen.add((len(returned), there.sum()))
            assert store.open_sweep(path).sizes["seed"] == 2
        with open_store(path, SMALL) as open_:  # no warning of damage: warnings are errors here
            assert open_.done[returned].all()
        fill(path, SMALL)
        assert files(path) == files(calm)  # to the byte
        assert {entry.name for entry in folder.iterdir()} <= {"sweep", ".sweep.lock"}
    assert {(0, 0), (1, 1), (2, 2)} <= seen


def fail_at_each_step(root, every):
    """Fill stores on a disk that is full at one step; print what was said."""

    def full(n, event):
        if n == at and event != "os.remove":
            raise OSError(errno.ENOSPC, "No space left on device")

    def failing():
        if at % 2:
            with open_store(path, SMALL) as open_:
                open_.write(0, values(SMALL, 0))
        plain.before_each_write(path.parent, full)
        try:
            with open_store(path, SMALL) as open_:
                for i in np.flatnonzero(~open_.done).tolist():
                    open_.write(i, values(SMALL, i))
        except OSError as error:
            print(path.parent.name, error, flush=True)

    for at in range(1, 50, int(every)):
        path = Path(root, str(at), "sweep")
        path.parent.mkdir()
        assert forked(failing) == 0


@pytest.mark.parametrize("every", STEP)
def test_a_full_disk_at_any_step_is_one_clear_error_and_leaves_no_litter(tmp_path, every):
    said = dict(line.split(" ", 1) for line in said_by("fail_at_each_step", tmp_path, every))
    assert len(said) > 5
    for folder in tmp_path.iterdir():
        path, half = folder / "sweep", int(folder.name) % 2
        assert [entry.name for entry in folder.iterdir()] == ["sweep"] * path.exists()
        if folder.name in said:
            one_line(said[folder.name], "can't write", str(path), "No space left", "running again")
        assert not [name for name in files(folder) if "partial" in name]
        if path.exists():
            assert check_small(path)[0] or not half
        fill(path, SMALL)
        check(path, SMALL, [True, True])


def fill_within_limits(path):
    """Meet the kernel's limit for the size of a file; print what was said, and which blocks are."""
    n = 20000
    x = {"x": Variable(("t",), (n,), "float64", {})}
    big = Layout({"lane": 4}, (2,), x | layout().variables, {}, {})
    block = {"error": np.zeros((2, 3)), "status": np.zeros(2, "int8")}
    noise = np.random.default_rng(0).normal(size=(2, n))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50000, resource.RLIM_INFINITY))
    with open_store(path, big) as open_:
        open_.write(0, block | {"x": np.zeros((2, n))})
        try:
            open_.write(1, block | {"x": noise})
        except OSError as error:
            print(error)
        print(open_.done.tolist())
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        open_.write(1, block | {"x": noise})
        print(open_.done.tolist())


def test_a_real_limit_of_file_size(tmp_path):
    """The kernel takes a part of the block, then refuses; the same store goes on with room."""
    error, before, after = said_by("fill_within_limits", tmp_path / "sweep")
    assert "can't write the store" in error
    assert "File too large; what is complete is kept" in error
    assert (before, after) == ("[True, False]", "[True, True]")
    with xarray.open_zarr(tmp_path / "sweep", chunks=None) as data:
        assert data.status.values.tolist() == [0, 0, 0, 0]
        want = np.random.default_rng(0).normal(size=(2, 20000))
        np.testing.assert_array_equal(data.x[2:], want)
    assert not [name for name in files(tmp_path) if "partial" in name]


def read_only(root):
    """Open stores on a disk that can only be read; print what was said."""

    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    plain.before_each_write(root, refuse)
    for name in ("whole", "half", "new", "damaged"):
        try:
            with open_store(Path(root, name), SMALL) as open_, open_store(Path(root, name), SMALL):
                assert open_.done.all()  # and two may read
        except OSError as error:
            print(name, error)


def test_a_complete_store_needs_no_permission_but_to_read(tmp_path):
    for name in ("whole", "half", "damaged"):
        fill(tmp_path / name, SMALL)
    for name, file in (("half", "status/.c.0.0.digest"), ("damaged", "error/c.0.0.0")):
        (tmp_path / name / file).unlink()
    before = files(tmp_path)
    said = said_by("read_only", tmp_path)
    assert [line.split()[0] for line in said] == ["half", "new", "damaged"]
    for line in said:
        one_line(line, str(tmp_path), "can't write", "Read-only", "what is complete is kept")
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
            assert open_.done.all()
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


def _no_digests(path):
    """A copy without hidden files."""
    for file in (path / "status").glob(".c.*"):
        file.unlink()


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
    (_no_digests, [0, 1, 2, 3, 4, 5]),
    (_garbled_digest, [1]),
    (_of_another_store, [1]),
]


@pytest.mark.parametrize(("damage", "blocks"), DAMAGE)
def test_damaged_blocks_are_told_and_computed_again(tmp_path, damage, blocks):
    path, now = tmp_path / "sweep", layout()
    fill(path, now)
    before = files(path)
    damage(path)
    text = ", ".join(map(str, blocks[:5]))
    with pytest.raises(ValueError, match=f"{text}.* of 6 in .* damaged: run the same") as info:
        store.open_sweep(path)
    one_line(info, str(path))
    with contextlib.ExitStack() as held:
        with pytest.warns(UserWarning, match=f"{len(blocks)} of 6 blocks .* computed again"):
            open_ = held.enter_context(open_store(path, now))
        assert np.flatnonzero(~open_.done).tolist() == blocks
        check(path, now, open_.done)
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


def test_many_damaged_blocks_are_one_line(tmp_path):
    path, now = tmp_path / "sweep", layout(lanes=(2, 5), chunk=(1, 1))
    fill(path, now)
    for file in (path / "error").glob("c.*"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="blocks 0, 1, 2, 3, 4, … of 10 in") as info:
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
        for i in np.flatnonzero(~open_.done).tolist() if blocks is None else blocks:
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


WIDER = ([0.1, 0.15, 0.2], [0, 1, 2])


def start_small(path):
    compute(path, wider([0.1, 0.2], [0, 1], chunk=(1, 2)))


def extend_small(path):
    compute(path, wider(*WIDER, chunk=(1, 3)))


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


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 7])
def test_a_killed_extension_leaves_a_store_and_goes_on(tmp_path, every):
    """Death at any step: old or new, the store at the path is whole, and the call goes on."""
    compute(tmp_path / "fresh", wider(*WIDER, chunk=(1, 3)))
    root = tmp_path / "killed"
    root.mkdir()
    *_, last = said_by("kill_at_each_step", root, "extend_small", every, "start_small")
    assert int(last.split()[1]) > 40
    seen = set()
    for folder in root.iterdir():
        path = folder / "sweep"
        if not path.exists():  # between the two renames: the next call puts it in place
            seen.add("nothing")
        data = store.open_sweep(path).load()
        assert np.all(data.status >= 0)
        seen.add(data.sizes["lr"])
        extend_small(path)
        assert files(path) == files(tmp_path / "fresh")
        assert {entry.name for entry in folder.iterdir()} <= {"sweep", ".sweep.lock"}
    assert {2, 3} <= seen
    assert "nothing" in seen or every > 1


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
        assert open_.done.all()


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
            if not open_.done[i]:
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


# --- several processes ---


def hold(path):
    with open_store(path, layout()) as open_:
        open_.write(0, values(layout(), 0))
        print("open", flush=True)
        sys.stdin.read()


def test_a_second_process_learns_who_is_writing(tmp_path):
    path = tmp_path / "sweep"
    holder = start("hold", path)
    try:
        assert holder.stdout.readline() == "open\n"
        for _ in range(2):
            with pytest.raises(RuntimeError, match="another process") as info:  # noqa: SIM117
                with open_store(path, layout()):
                    pass
            one_line(info, f"pid {holder.pid} on {os.uname().nodename}", str(path))
        check(path, layout(), [True] + 5 * [False])
        assert store.open_sweep(path).status.values[0, 0] == 0  # reading needs no lock
        holder.kill()
        holder.wait()
        with open_store(path, layout()) as open_:  # the lock died with its holder
            assert open_.done.tolist() == [True] + 5 * [False]
        assert [entry.name for entry in tmp_path.iterdir()] == ["sweep"]
    finally:
        holder.kill()
        holder.communicate()


def race(root, rounds):
    """Four processes fill the same new store, all of them released at once."""

    def fill_in_turn(path):
        os.close(begin)
        os.read(wait, 1)
        while True:
            try:
                return fill(path, layout())
            except RuntimeError as error:
                if "another process" not in str(error):
                    raise

    warnings.simplefilter("ignore", DeprecationWarning)
    for i in range(int(rounds)):
        wait, begin = os.pipe()
        children = []
        for _ in range(4):
            children.append(os.fork())
            if not children[-1]:
                os._exit(fill_in_turn(Path(root, str(i))) or 0)
        os.close(begin)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4


@pytest.mark.parametrize("rounds", [pytest.param(20, marks=pytest.mark.slow), 2])
def test_four_processes_at_once_from_nothing(tmp_path, rounds):
    """None but one gets the lock at a time, and nobody takes a store in the making for foreign."""
    said_by("race", tmp_path, rounds)
    for n in range(rounds):
        check(tmp_path / str(n), layout(), [True] * 6)
    assert sorted(os.listdir(tmp_path)) == sorted(map(str, range(rounds)))
