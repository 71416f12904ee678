"""`sweep` against `predict`, lane by lane; and no kill, worker or neighbour may change a bit."""

import contextlib
import functools
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import diffrax
import jax
import numpy as np
import plain
import pytest
import xarray
from jax.experimental.compilation_cache import compilation_cache
from numpy.testing import assert_allclose, assert_array_equal

import odeae
import odeae.sweeps.sweep as sweeps
import odeae.theory.queue
import odeae.theory.strategy
from odeae.sweeps.fingerprints import fingerprints
from odeae.sweeps.grid import columns_of, labels_of, plain_value
from odeae.sweeps.plan import Plan

pytest.importorskip("zarr")
pytest.importorskip("cloudpickle")

# One shape of problem for nearly all tests, also for those in other processes: compiling is dear.
MAKE = """
import numpy as np
import odeae

TIMES = np.array([0.0, 1.0, 5.0, 20.0])
SAVE = ["Q1", "R1", "T1", "T0", "Q0", "bias", "error_clean"]

def build(lr=1.0, decay=0.0, std=0.3, seed=0, kind="wide"):
    spectrum = odeae.Spectrum.spiked([1.0, 0.5], 1000)
    hidden, activation, bias = {"narrow": (1, "erf", 0.0)}.get(kind, (2, "linear", 0.2))
    network = odeae.Autoencoder(hidden, activation, bias=bias > 0)
    problem = odeae.Problem(spectrum, network, odeae.SGD(lr, weight_decay=decay), noise=0.2)
    return problem, odeae.random_state(problem, 0.5 * std, std, bias=bias, seed=seed)
"""
SCRIPT: dict = {"__name__": "__main__"}  # functions of a script travel by value
exec(MAKE, SCRIPT)
build, TIMES, SAVE = SCRIPT["build"], SCRIPT["TIMES"], SCRIPT["SAVE"]
LR = np.geomspace(0.5, 4.0, 8)
ROOT = str(Path(__file__).parents[2])

sweep = functools.partial(odeae.sweep, build, times=TIMES, save=SAVE, chunk=8)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Programs that one process has compiled are loaded by all others."""
    folder = str(tmp_path_factory.mktemp("cache"))
    values = {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in values}
    for name, value in values.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield {
        **{k: v for k, v in os.environ.items() if k not in ("JAX_ENABLE_X64", "EQX_ON_ERROR")},
        **{name.upper(): str(value) for name, value in values.items()},
        "PYTHONPATH": ROOT,
        "JAX_PLATFORMS": "cpu",
    }
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@functools.cache
def predicted(made=build, solver=None, **values):
    return odeae.predict(*made(**values), TIMES, rtol=1e-9, solver=solver)


def check_lane(got, want, names=SAVE):
    """One lane of a dataset against a trajectory; NaN beyond its neurons."""
    K = want.Q1.shape[-1]
    for name in ["error", *names]:
        values, exact = got[name].values, getattr(want, name)
        own = (slice(None), *(slice(K),) * (values.ndim - 1))
        assert_allclose(values[own], exact, rtol=1e-7, atol=1e-7, err_msg=name)
        assert np.isnan(values).sum() == values.size - values[own].size, name
    assert got.status == odeae.Status.OK
    assert got.stop_time == TIMES[-1]
    assert_allclose(got.final_excess, want.excess[-1], rtol=1e-7, atol=1e-7)
    assert np.isfinite(got.final_excess)


def check_crossed(data, grid, names=SAVE, made=build, solver=None):
    assert list(data.error.dims) == [*grid, "time"]
    for at in itertools.product(*grid.values()):
        values = dict(zip(grid, at, strict=True))
        lane = data.sel(values)
        check_lane(lane, predicted(made, solver, **values), names)


def same(a, b):
    """Both datasets hold the same bits."""
    a, b = a.load(), b.load()
    xarray.testing.assert_identical(a, b)
    assert {name: a[name].dtype for name in a.variables} == {
        name: b[name].dtype for name in b.variables
    }


def one_line(error, *patterns):
    text = str(error.value)
    assert "\n" not in text
    for pattern in patterns:
        assert re.search(pattern, text), text


# ------------------------------------------------------------------------------ is it right?


def test_crossed_lanes_are_the_curves_of_predict(capfd):
    grid = {"seed": [4, 0, 7], "lr": np.geomspace(0.3, 5.0, 13)}  # 8 lanes a block, and 5
    data = sweep(grid=grid, rtol=1e-9, progress=True)
    check_crossed(data, grid)
    assert_array_equal(data.seed, grid["seed"])
    assert_array_equal(data.lr, grid["lr"])
    assert_array_equal(data.time, TIMES)
    assert data.Q1.dims == ("seed", "lr", "time", "k", "l")
    assert data.bias.dims == ("seed", "lr", "time", "k")
    meanings = "not_computed ok diverged budget unresolved regrown"
    assert data.status.attrs["flag_meanings"] == meanings
    assert "39/39" in capfd.readouterr().err


def test_a_grid_of_three_parameters_and_its_order():
    grid = {"std": [0.2, 0.4], "seed": [0, 1], "decay": [0.0, 0.05]}
    data = sweep(grid=grid, rtol=1e-9)
    check_crossed(data, grid)
    turned = sweep(grid=dict(reversed(grid.items())), rtol=1e-9)
    assert turned.error.dims == ("decay", "seed", "std", "time")
    # One block each: what moves is only where a lane lies.
    for name in ("error", "Q1", "final_excess"):
        assert_array_equal(turned[name].transpose(*data[name].dims), data[name])


def test_zipped_lanes_of_different_networks():
    """Lanes of one structure are solved together, wherever in a block they lie."""
    rng = np.random.default_rng(0)
    grid = {  # eight of each kind
        "lr": rng.uniform(0.5, 3.0, 16),
        "kind": [str(x) for x in rng.permutation(["wide", "narrow"] * 8)],
        "seed": rng.integers(0, 3, 16),
    }
    data = sweep(grid=grid, zip=True, rtol=1e-9, chunk=16)
    assert data.error.dims == ("lane", "time")
    for i in range(16):
        values = {name: np.asarray(grid[name])[i].item() for name in grid}
        assert {name: data[name].values[i] for name in grid} == values
        check_lane(data.isel(lane=i), predicted(**values))
    assert np.isnan(data.Q1.values[:, -1, 1, 0]).sum() == 8


def test_crossed_networks_are_grouped_and_padded():
    grid = {"kind": ["wide", "narrow"], "lr": LR}
    check_crossed(sweep(grid=grid, rtol=1e-9), grid)


# Each of them is solved one after another, or compiled for itself.
def steps(lr):
    spectrum = odeae.Spectrum.spiked([1.0, 0.5], 1000)
    rule = odeae.SGD(lr, schedule=odeae.StepSchedule([2.0, 8.0], [0.3, 0.0]))
    problem = odeae.Problem(spectrum, odeae.Autoencoder(2, "linear"), rule)
    return problem, odeae.random_state(problem, 0.2, 0.3)


def network(activation, hidden, **options):
    def build(lr, noise=0.1):
        spectrum = odeae.Spectrum.spiked([1.0, 0.5], 1000)
        net = odeae.Autoencoder(hidden, activation, **options)
        problem = odeae.Problem(spectrum, net, odeae.SGD(lr), noise=noise)
        encoder = None if net.tied else 0.2
        return problem, odeae.random_state(problem, encoder, 0.3, bias=0.1 if net.bias else 0.0)

    return build


def rule(name):
    def build(lr):
        spectrum = odeae.Spectrum.spiked([1.0, 0.5], 1000)
        net = odeae.Autoencoder(2, "linear", tied=True)
        problem = odeae.Problem(spectrum, net, getattr(odeae, name)(lr))
        return problem, odeae.random_state(problem, None, 0.3)

    return build


SMOOTH = {
    "cosine": odeae.CosineSchedule(end=10.0, final=0.1),
    "power": odeae.PowerLawSchedule(0.5, 2.0),
}


def schedule(name):
    def build(lr):
        spectrum = odeae.Spectrum.spiked([1.0, 0.5], 1000)
        rule = odeae.SGD(lr, schedule=SMOOTH[name])
        problem = odeae.Problem(spectrum, odeae.Autoencoder(2, "linear"), rule)
        return problem, odeae.random_state(problem, 0.2, 0.3)

    return build


OTHERS = {
    "steps": (steps, None, False),
    "tanh": (network("tanh", 2), None, True),
    "kvaerno": (network("linear", 2), diffrax.Kvaerno5(), True),
    "silu": (network(odeae.Quadrature(jax.nn.silu), 1, bias=True), None, True),
    "wide": (network("linear", 9), None, True),  # too many neurons for lanes
    "relu": (network("relu", 3), None, True),
    "erf-bias": (network("erf", 2, bias=True, output_bias=True), None, True),
    "tied": (network("erf", 2, tied=True), None, True),
    **{name: (rule(name), None, True) for name in ("Oja", "Sanger", "Hebb")},
    **{name: (schedule(name), None, True) for name in SMOOTH},
}


@pytest.mark.parametrize(
    ("made", "solver"),
    [
        pytest.param(made, solver, id=name, marks=[pytest.mark.slow] * slow)
        for name, (made, solver, slow) in OTHERS.items()
    ],
)
def test_other_problems_are_the_curves_of_predict(made, solver):
    grid = {"lr": [0.5, 1.3, 1.0]}
    data = odeae.sweep(made, grid, TIMES, save=["Q1", "bias"], rtol=1e-9, solver=solver)
    check_crossed(data, grid, ["Q1", "bias"], made, solver)
    assert np.ptp(data.error.values[:, -1]) > 1e-3


@pytest.mark.slow
def test_hidden_activation_and_rule_swept_together():
    def build(hidden, activation, truncated, lr):
        spectrum = odeae.Spectrum.spiked([1.0, 0.5], 1000)
        net = odeae.Autoencoder(hidden, activation)
        problem = odeae.Problem(spectrum, net, odeae.SGD(lr, truncated=truncated))
        return problem, odeae.random_state(problem)

    grid = {
        "hidden": [3, 1, 2],
        "lr": [0.5, 1.0, 2.0],
        "truncated": [False, True],
        "activation": ["erf", "linear"],
    }
    data = odeae.sweep(build, grid, TIMES, save="R1", rtol=1e-9)
    check_crossed(data, grid, ["R1"], build)


@pytest.mark.slow
def test_many_lanes_wait_for_their_turn():
    grid = {"seed": range(5), "lr": np.geomspace(0.1, 20.0, 60)}
    data = sweep(grid=grid, rtol=1e-9, chunk=None)  # 300 lanes, 64 at once
    for seed, lr in itertools.product([0, 2, 4], grid["lr"][::11]):
        check_lane(data.sel(seed=seed, lr=lr), predicted(lr=lr, seed=seed))
    alone = sweep(grid=grid, rtol=1e-9)
    for name in ("error", "Q1"):
        assert_allclose(data[name], alone[name], rtol=1e-11, atol=1e-13)


# ------------------------------------------------------------------------- what is called when


def test_build_is_traced_and_not_called_for_each_lane():
    calls = []

    def counted(lr, seed):
        calls.append(isinstance(lr, jax.core.Tracer))
        return build(lr=lr, seed=seed)

    data = odeae.sweep(counted, {"seed": range(8), "lr": LR}, TIMES, save=SAVE, chunk=8)
    assert np.all(data.status == 0)
    few = len(calls)
    assert few <= 12
    assert sum(calls) <= 3
    calls.clear()
    odeae.sweep(counted, {"seed": range(20), "lr": LR}, TIMES, save=SAVE, chunk=8)
    assert len(calls) == few


def test_other_numbers_need_no_other_program(caplog):
    """How many lanes a block has was once a part of its program: the last was compiled anew."""
    sweep(grid={"lr": LR})
    jax.config.update("jax_log_compiles", True)  # as a context, it would be of this thread alone
    try:
        sweep(grid={"lr": np.linspace(0.5, 2.0, 14)}, rtol=1e-5, max_steps=7777)
    finally:
        jax.config.update("jax_log_compiles", False)
    assert "Compiling jit(lane)" in caplog.text
    assert "Compiling jit(solve_lanes)" not in caplog.text


def test_values_that_cannot_be_traced_are_right_and_said_to_be_slow():
    def branching(lr):
        return build(lr=lr if lr > 1.0 else 2.0 * lr)

    grid = {"lr": np.linspace(0.5, 2.0, 13)}
    with pytest.warns(UserWarning, match="can't be traced over 'lr'") as warned:
        data = odeae.sweep(branching, grid, TIMES, zip=True, save=SAVE, chunk=8, rtol=1e-9)
    assert len(warned) == 1
    reason = re.search(r"\((.*?)\), so", str(warned[0].message))[1]
    with pytest.raises(jax.errors.TracerBoolConversionError) as error:
        jax.eval_shape(branching, 1.0)
    whole = f"TracerBoolConversionError: {' '.join(str(error.value).split())} "
    assert reason.endswith("…")
    assert 60 < len(reason) <= 100
    assert whole.startswith(reason[:-1] + " ")  # no word is cut
    for i, lr in enumerate(grid["lr"]):
        check_lane(data.isel(lane=i), predicted(lr=lr if lr > 1 else 2 * lr))


def test_a_value_that_cannot_be_traced_may_come_last():
    def branching(seed, std, lr):
        return build(lr=lr if lr > 1.0 else 2.0 * lr, seed=seed, std=std)

    grid = {"seed": range(4), "std": [0.2, 0.3], "lr": [0.7, 1.5]}
    data = odeae.sweep(branching, grid, TIMES, save=SAVE, chunk=8, rtol=1e-9)
    for seed, std, lr in itertools.product(range(4), (0.2, 0.3), (0.7, 1.5)):
        want = predicted(lr=lr if lr > 1 else 2 * lr, seed=seed, std=std)
        check_lane(data.sel(seed=seed, std=std, lr=lr), want)


PLAN = ((), 1e-6, None, None, None, 8)  # what `sweep` gives `_plan` by default


def test_numbers_that_a_trace_takes_for_others_are_taken_value_by_value():
    """Traced, 10**-n of a whole number n is int64 and was −9e18: 0.878 for 0.523, status ok."""

    def powers(lr, n):
        return build(lr=lr * 10**-n)

    grid = {"n": [0, 1, 2, 0, 1, 2, 0, 1], "lr": LR}
    with pytest.warns(UserWarning, match=r"something else when it's traced over 'n' ") as warned:
        data = odeae.sweep(powers, grid, TIMES, True, save=SAVE, chunk=8, rtol=1e-9)
    assert [warning.filename for warning in warned] == [__file__]
    for i, (n, lr) in enumerate(zip(*grid.values(), strict=True)):
        check_lane(data.isel(lane=i), predicted(lr=lr * 10.0**-n))

    def in_floats(lr, n):
        return build(lr=lr * 10.0**-n)

    assert sweeps._plan(in_floats, grid, TIMES, True, *PLAN).traced == ("n", "lr")


def test_what_another_value_makes_of_a_traced_number_is_seen():
    """`kind="odd"` can't be traced over the rate: once a JAX traceback from within the sweep."""

    def mixed(lr, kind):
        return build(lr=float(lr) if kind == "odd" else lr)

    grid = {"kind": ["even", "odd"] * 4, "lr": LR}
    with pytest.warns(UserWarning, match="traced over 'lr'"):
        data = odeae.sweep(mixed, grid, TIMES, True, save=SAVE, chunk=8, rtol=1e-9)
    for i, lr in enumerate(LR):
        check_lane(data.isel(lane=i), predicted(lr=lr))


def widths(i, j=0):
    return build(kind="wide" if int(i) == 1 else "narrow")


INNER = {"i": [0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 2, 3, 4, 2, 3, 4]}  # the 1 is no end and not halfway


def test_the_widest_network_may_lie_anywhere():
    """Where no probe had it, the sweep ended in NumPy's "could not broadcast input array"."""
    data = odeae.sweep(widths, INNER, TIMES, True, save=SAVE, chunk=16, rtol=1e-9)
    assert data.sizes["k"] == 2
    for lane, i in enumerate(INNER["i"]):
        check_lane(data.isel(lane=lane), predicted(kind="wide" if i == 1 else "narrow"))

    def together(i, j):
        return widths(int(i) + int(j))

    grid = {"i": [0, 2, 3], "j": [0, -1, 4]}  # 1 = 2 − 1 is in neither's row of probes
    assert sweeps._plan(together, grid, TIMES, False, *PLAN).hidden == 2


def test_a_network_wider_than_any_that_was_looked_at_is_named(monkeypatch):
    monkeypatch.setattr(sweeps, "MOST_BUILT", 2)
    with pytest.raises(ValueError, match="has 2 neurons") as error:
        odeae.sweep(widths, INNER, TIMES, True, save=SAVE, chunk=16, rtol=1e-9)
    one_line(error, r"^build\(i=1\) has 2 neurons, more than .* \(1 at most\): put the widest")


@pytest.mark.parametrize(
    ("given", "values"),
    [
        (np.array([1, 2], np.uint64), [1, 2]),
        (jax.numpy.arange(3), [0, 1, 2]),
        (list(jax.numpy.arange(2)), [0, 1]),
        (np.array([True, False]), [True, False]),
    ],
)
def test_values_of_arrays_are_python_s_own(given, values):
    column = columns_of({"seed": given}, False)["seed"]
    plain_values = plain_value({str(i): v for i, v in enumerate(column)}).values()
    assert [type(v) for v in plain_values] == [type(v) for v in values]
    assert labels_of("seed", column).dtype == np.asarray(values).dtype
    assert_array_equal(column, values)


def test_whole_numbers_as_floats_are_seeds():
    data = sweep(grid={"seed": np.linspace(0, 3, 4).repeat(2), "lr": LR}, zip=True, rtol=1e-9)
    for i, lr in enumerate(LR):
        check_lane(data.isel(lane=i), predicted(seed=i // 2, lr=lr))


def test_a_transfer_guard_stops_no_trace():
    with jax.transfer_guard("disallow"):
        plan = sweeps._plan(build, {"lr": LR}, TIMES, False, *PLAN)
    assert plan.traced == ("lr",)


# ------------------------------------------------------------------------------ lanes that fail


def test_lanes_that_fail_are_marked_and_disturb_no_neighbour(monkeypatch):
    monkeypatch.setattr(odeae.theory.queue, "MOST_SLOTS", 4)  # the others wait in the queue
    lr, std = np.tile([0.5, 1.0, 1.5, 2.0], 4), np.full(16, 0.3)
    well = {"lr": lr, "std": std}
    lr, std = lr.copy(), std.copy()
    lr[[1, 6]], std[[2, 15]] = 1e6, 1e200
    run = functools.partial(sweep, zip=True, chunk=16, max_steps=300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", odeae.RegimeWarning)  # a rate of 1e6, on purpose
        bad, good = run(grid={"lr": lr, "std": std}), run(grid=well)
    assert np.all(good.status == odeae.Status.OK)
    fails = [1, 2, 6, 15]
    assert_array_equal(np.flatnonzero(bad.status), fails)
    assert_array_equal(bad.status[[1, 6]], odeae.Status.BUDGET)
    assert_array_equal(bad.status[[2, 15]], odeae.Status.DIVERGED)
    others = np.setdiff1d(np.arange(16), fails)
    for name in good.data_vars:
        assert_array_equal(bad[name][others], good[name][others], err_msg=name)
    assert np.all(bad.stop_time[fails] < TIMES[-1])
    assert np.all(np.isnan(bad.final_excess[fails]))
    for lane in fails:
        stop = float(bad.stop_time[lane])
        for name in ["error", *SAVE]:
            values = bad[name].values[lane]
            assert np.all(np.isnan(values[stop < TIMES])), name
    assert np.all(np.isfinite(bad.error[[1, 6], 0]))


def test_the_part_that_was_reached_is_kept_as_predict_keeps_it():
    """Lanes that stop at their budget half-way, among some that don't."""
    lr = np.linspace(0.5, 60.0, 8)
    few, all_ = (sweep(grid={"lr": lr}, max_steps=n) for n in (80, 10**5))
    status = few.status.values
    assert 0 < np.sum(status == odeae.Status.BUDGET) < 8
    assert set(status) == {odeae.Status.OK, odeae.Status.BUDGET}
    reached = few.stop_time.values[:, None] >= TIMES
    assert np.any(reached[:, 1] & ~reached[:, -1])
    for name in ["error", *SAVE]:
        assert_array_equal(
            np.isfinite(few[name].values).all(tuple(range(2, few[name].ndim))), reached
        )
        assert_array_equal(few[name].values[reached], all_[name].values[reached])
    assert np.all(few.stop_time.values[status == 0] == TIMES[-1])


# -------------------------------------------------------------------------------- stores, resumes


GRID = {"seed": range(6), "lr": LR}  # six blocks


@pytest.fixture(scope="module")
def uninterrupted(cache):
    return sweep(grid=GRID).load()


@contextlib.contextmanager
def computing(monkeypatch, before=lambda i: None):
    """The blocks that are computed."""
    compute, blocks = sweeps._compute, []

    def noted(plan, i):
        before(i)
        values = compute(plan, i)
        blocks.append(i)
        return values

    with monkeypatch.context() as patch:
        patch.setattr(sweeps, "_compute", noted)
        yield blocks


def test_a_resumed_sweep_is_the_uninterrupted_one(tmp_path, monkeypatch, uninterrupted):
    def interrupt(i):
        if i == 3:
            raise KeyboardInterrupt

    path = tmp_path / "sweep"
    with computing(monkeypatch, interrupt) as blocks, pytest.raises(KeyboardInterrupt):
        sweep(grid=GRID, store=path)
    assert blocks == [0, 1, 2]
    half = xarray.open_zarr(path, chunks=None).load()
    assert_array_equal(half.status[:3], 0)
    assert_array_equal(half.status[3:], -1)
    assert np.all(np.isnan(half.error[3:]))
    with computing(monkeypatch) as blocks:
        same(sweep(grid=GRID, store=path), uninterrupted)
    assert blocks == [3, 4, 5]
    with computing(monkeypatch) as blocks:
        same(sweep(grid=GRID, store=str(path)), uninterrupted)
    assert blocks == []


def test_threads_compute_the_same(tmp_path, uninterrupted):
    with ThreadPoolExecutor(2) as pool:
        same(sweep(grid=GRID, executor=pool, store=tmp_path / "sweep"), uninterrupted)


def test_of_two_sweeps_on_one_store_one_proceeds(tmp_path, monkeypatch, uninterrupted):
    said = []

    def second(i):
        if i == 2:
            with pytest.raises(RuntimeError) as error:
                sweep(grid=GRID, store=tmp_path / "sweep")
            said.append(error)

    with computing(monkeypatch, second):
        same(sweep(grid=GRID, store=tmp_path / "sweep"), uninterrupted)
    one_line(said[0], f"pid {os.getpid()}", "is writing to the store", "sweep")


def test_a_complete_store_is_only_read(tmp_path, monkeypatch, uninterrupted):
    path = tmp_path / "sweep"
    sweep(grid=GRID, store=path)
    files = sorted(path.rglob("*"))
    before = [(file, file.stat().st_mtime_ns) for file in files]

    def refuse(*args, **options):
        raise AssertionError("writes")

    for name in ("mkdir", "unlink", "replace", "rename"):
        monkeypatch.setattr(os, name, refuse)
    for file in files:
        file.chmod(0o555 if file.is_dir() else 0o444)
    try:
        same(sweep(grid=GRID, store=path, workers=2), uninterrupted)  # starts no process
        assert [(file, file.stat().st_mtime_ns) for file in sorted(path.rglob("*"))] == before
    finally:
        for file in files:
            file.chmod(0o755)


def other(lr, seed):
    problem, _ = build(lr=lr, seed=seed)
    return problem, odeae.random_state(problem, 0.15, 0.3 + 1e-7, bias=0.2, seed=seed)


def test_a_store_of_another_sweep_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "sweep"
    with computing(monkeypatch, lambda i: 1 / (1 - i)), pytest.raises(ZeroDivisionError):
        sweep(grid=GRID, store=path)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    base = {"grid": GRID, "store": path}
    changes = [
        ({"rtol": 1e-5}, "`rtol`: stored 1e-06, now 1e-05"),
        ({"atol": 1e-9}, "`atol`: stored None, now 1e-09"),
        ({"times": [0.0, 1.0, 5.0, 21.0]}, r"`time\[3\]`: stored 20.0, now 21.0:"),
        ({"times": [0.0, 1.0, 6.0, 20.0]}, r"`time\[2\]`: stored 5.0, now 6.0:"),
        ({"times": TIMES[:3]}, "`time`: stored 4 values, now 3, `variables"),
        ({"solver": diffrax.Dopri5()}, "`solver`: stored 'default', now 'Dopri5"),
        ({"max_steps": 10}, "`max_steps`: stored 100000, now 10"),
        ({"save": ["Q1"]}, r"`variables\.\w+`: stored .*, now nothing, `variables"),
        ({"chunk": 4}, r"`chunk`: stored \(1, 8\), now \(1, 4\):"),
        ({"grid": {**GRID, "lr": 1.1 * LR}}, r"`lr\[0\]`: stored 0.5, now 0.55\d*:"),
        ({"grid": {**GRID, "lr": [*LR[:7], 5.0]}}, r"`lr\[7\]`: stored 4.0, now 5.0:"),
        ({"grid": {**GRID, "seed": range(5)}}, "`seed`: stored 6 values, now 5, `lanes`"),
        ({"grid": {**GRID, "seed": range(7)}, "rtol": 1e-5}, "`seed`: stored 6 values, now 7"),
        (
            {"grid": {**GRID, "seed": range(7)}, "build": other},
            r"`build` was changed, `build\(seed=0, lr=0.5\)` now",
        ),
        ({"grid": {**GRID, "std": [0.3]}}, r"`std`: stored nothing, now \[0.3\], `lanes`"),
        ({"grid": dict(reversed(GRID.items()))}, "`lanes`: stored 'seed 6, lr 8', now 'lr 8, "),
        ({"grid": {**GRID, "lr": 1.1 * LR}, "rtol": 1e-5, "build": other}, r"`lr.*, `rtol`: .*05:"),
        (
            {"build": other},
            r"`build` was changed, `build\(seed=0, lr=0.5\)` now makes another prob",
        ),
    ]
    for change, said in changes:
        options = {"build": build, "times": TIMES, "save": SAVE, "chunk": 8, **base, **change}
        with pytest.raises(ValueError, match="holds another sweep") as error:
            odeae.sweep(**options)
        one_line(error, f"holds another sweep: {said}", "give another path")
    with monkeypatch.context() as patch:
        patch.setattr(sweeps, "__version__", "9.9")
        with pytest.raises(ValueError, match="holds another sweep") as error:
            sweep(**base)
        one_line(error, "`versions.odeae`: stored .*, now '9.9'")
    assert before == {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_sweep_is_extended_to_the_bits_of_a_fresh_one(tmp_path, monkeypatch, uninterrupted):
    """More seeds and a finer axis: stored curves are kept; interrupted, the same call goes on."""
    path, small = tmp_path / "sweep", {"seed": [0, 1, 3, 5], "lr": LR[[0, 1, 4, 7]]}
    before = sweep(grid=small, store=path).load()
    solved = []
    solve = Plan._solve

    def counted(plan, *args):
        solved.extend(next(x for x in args if isinstance(x, np.ndarray)))  # the lanes' numbers
        return solve(plan, *args)

    monkeypatch.setattr(Plan, "_solve", counted)
    with computing(monkeypatch, lambda i: 1 / (3 - i)), pytest.raises(ZeroDivisionError):
        sweep(grid=GRID, store=path)
    same(odeae.open_sweep(path), before)  # the old one stays until the new one is complete
    assert len(solved) == 4 + 4 + 8
    with computing(monkeypatch) as blocks:
        same(sweep(grid=GRID, store=path), uninterrupted)
    assert blocks == [3, 4, 5]
    assert len(solved) == 16 + 4 + 8 + 4
    same(odeae.open_sweep(path), uninterrupted)
    with computing(monkeypatch) as blocks:
        same(sweep(grid=GRID, store=path), uninterrupted)
    assert blocks == []


def test_a_build_that_changed_between_the_probes_is_refused(tmp_path, monkeypatch, uninterrupted):
    """Two stored curves of one seed are of another state now; the ends of the grid are the same."""
    path = tmp_path / "sweep"

    def other(seed, lr):
        problem, _ = build(lr=lr, seed=seed)
        std = jax.numpy.where((seed == 1) & (lr > 0.7) & (lr < 1.3), 0.3 + 1e-7, 0.3)
        return problem, odeae.random_state(problem, 0.15, std, bias=0.2, seed=seed)

    with computing(monkeypatch, lambda i: 1 / (2 - i)), pytest.raises(ZeroDivisionError):
        sweep(grid=GRID, store=path)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    monkeypatch.setattr(sweeps, "fingerprints", lambda *_: {})  # which tell it from the code
    with computing(monkeypatch) as blocks, pytest.raises(ValueError, match="another") as error:
        odeae.sweep(other, GRID, TIMES, save=SAVE, chunk=8, store=path)
    one_line(error, r"`build` makes .* at seed=1, lr=0.905724 and 1 more: give another path")
    assert blocks == []
    assert before == {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    same(sweep(grid=GRID, store=path), uninterrupted)
    with pytest.raises(ValueError, match="`build` makes another problem or state"):
        odeae.sweep(other, GRID, TIMES, save=SAVE, chunk=8, store=path)


EDITED = """
import sys
import numpy as np
{make}
import odeae
from odeae.sweeps.fingerprints import fingerprints

FACTORS = [1.0, {middle}, 1.0, 1.0, 1.0]
calls, cache = [], {{}}

def factor(i):  # {comment}
    return cache.setdefault(i, FACTORS[i])

def made(i, names=frozenset("abcdefg")):
    \"\"\"{comment}\"\"\"
    calls.append(i)
    return build(lr=factor(i) * len(names))

if __name__ == "__main__":
    print(fingerprints(made, "build"))
"""


def edited(middle=1.0, comment="first"):
    script: dict = {"__name__": "script"}
    text = EDITED.format(make=MAKE, middle=middle, comment=comment)
    exec(text, script)
    return script["made"], text


def test_an_edited_build_is_refused_where_no_probe_sees_it(tmp_path, monkeypatch):
    """The store knew probed points only: of two versions of `build`, it kept one curve of each."""
    run = functools.partial(
        odeae.sweep, grid={"i": [0, 1, 2, 3, 4, 0, 2, 4]}, times=TIMES, zip=True, save=SAVE, chunk=8
    )
    # the values at both ends and the middle are probes: 1 and 3 aren't
    monkeypatch.setattr(sweeps, "_compute", lambda plan, i: (plan.empty(), np.full(8, np.nan)))
    run(edited()[0], store=tmp_path / "sweep")
    run(edited(comment="second")[0], store=tmp_path / "sweep")
    first = edited()[0]
    for _ in range(2):  # its counter and its cache change with every call, also in one session
        run(first, store=tmp_path / "sweep")
    with pytest.raises(ValueError, match="holds another sweep") as error:
        run(edited(middle=2.0)[0], store=tmp_path / "sweep")
    one_line(error, r"sweep: `build\.factor\.FACTORS` was changed: give another path")

    def made(i, names=()):
        return build(lr=[7.0, 7.0, 7.0, 7.0, 7.0][i])

    with pytest.raises(ValueError, match="holds another sweep") as error:
        run(made, store=tmp_path / "sweep")
    one_line(error, r"sweep: `build` was changed, `build\.names` was changed")


def test_a_build_has_one_fingerprint_in_all_processes(cache):
    printed = {
        subprocess.run(
            [sys.executable, "-c", edited(comment=seed)[1]],
            env={**cache, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert printed == {f"{fingerprints(edited()[0], 'build')}\n"}


def test_fingerprints_tell_what_a_build_is_made_of():
    def of(build):
        return fingerprints(build, "b").items()

    def scaled(array, function=np.sin):
        return lambda lr: build(lr=function(lr * array[0]))

    class Own:
        def __init__(self, x):
            self.x, self.lock = x, threading.Lock()  # of which another process knows nothing

        def __call__(self, lr):
            return build(lr=lr * self.x)

    one, two = np.array([1.0]), np.array([2.0])
    spectrum = odeae.Spectrum.spiked([1.0], 10)
    wider = odeae.Spectrum.spiked([1.0], 20)
    for make, same_, others in [
        (scaled, (one,), [(two,), (one, np.cos), (jax.numpy.asarray(two),)]),
        (Own, (1.0,), [(2.0,)]),
        (lambda x: functools.partial(build, std=x), (0.1,), [(0.2,)]),
        (lambda x: Own(x).__call__, (1.0,), [(2.0,)]),
        (lambda x: jax.jit(scaled(x)), (one,), [(two,)]),
        (lambda x: lambda lr: (x, lr), (spectrum,), [(wider,)]),
    ]:
        assert of(make(*same_)) == of(make(*same_))
        for other in others:
            assert of(make(*same_)) != of(make(*other))


def test_a_zipped_sweep_is_stored_too(tmp_path):
    grid = {"lr": np.linspace(0.5, 2.0, 13), "kind": ["wide"] * 13}
    stored = sweep(grid=grid, zip=True, store=tmp_path / "sweep")
    assert stored.kind.dtype == "<U4"
    same(stored, sweep(grid=grid, zip=True))


def test_lanes_over_their_budget_are_resumed_to_the_same_bits(tmp_path, monkeypatch):
    """They are solved again, each alone, so that neither block nor neighbours matter."""
    monkeypatch.setattr(odeae.theory.strategy, "EXPLICIT_STEPS", 40)
    grid = {"kind": ["narrow"], "seed": range(3), "lr": [*np.linspace(0.2, 0.5, 6), 300.0, 600.0]}
    run = functools.partial(sweep, grid=grid)
    explicit, whole = run(max_steps=40), run()
    assert np.all(whole.status == odeae.Status.OK)
    over = (explicit.status == odeae.Status.BUDGET).squeeze("kind").values
    assert_array_equal(over, np.tile(6 * [False] + 2 * [True], (3, 1)))

    def interrupt(i):
        if i == 1:
            raise KeyboardInterrupt

    path = tmp_path / "sweep"
    with computing(monkeypatch, interrupt), pytest.raises(KeyboardInterrupt):
        run(store=path)
    with computing(monkeypatch) as blocks:
        same(run(store=path), whole)
    assert blocks == [1, 2]


# A sweep that prints a line for each block that it computes and for each file that it is about to
# write, move or remove, and is killed by the last line that it may print.
KILLED = """
import os, signal, sys, threading
left, one = int(sys.argv[2]), threading.Lock()  # Zarr has several threads

def line(text):
    global left
    with one:
        print(text, flush=True)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

line("begin")
{make}
import plain
from odeae.sweeps import sweep as sweeps
compute = sweeps._compute

def noted(plan, i):
    values = compute(plan, i)
    line(i)
    return values

sweeps._compute = noted
plain.before_each_write(os.path.dirname(sys.argv[1]), lambda n, event: line(event))
grid = dict(seed=range({blocks}), lr=np.geomspace(0.5, 4.0, 8))
odeae.sweep(build, grid, TIMES, store=sys.argv[1], save=SAVE, chunk=8)
"""


@pytest.mark.parametrize(
    ("blocks", "lines"),
    [
        pytest.param(6, [140], id="once"),
        # At the start, in each step of making the store, between any two files of a block.
        pytest.param(100, [1 + 23 * n % 140 for n in range(30)], marks=pytest.mark.slow, id="30"),
    ],
)
def test_no_kill_spoils_or_repeats_anything(blocks, lines, tmp_path, cache, monkeypatch):
    path, grid = tmp_path / "sweep", {"seed": range(blocks), "lr": LR}
    script = KILLED.format(make=MAKE, blocks=blocks)
    env = {**cache, "PYTHONPATH": plain.PATHS}
    whole = sweep(grid=grid).load()
    done: set[int] = set()
    for last in lines:
        command = [sys.executable, "-c", script, str(path), str(last)]
        killed = subprocess.run(command, env=env, capture_output=True, text=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        printed = killed.stdout.split()
        assert len(printed) == last
        computed = [int(text) for text in printed if text.isdigit()]
        assert len(set(computed)) == len(computed)
        assert not done & set(computed)
        if path.exists():
            now = odeae.open_sweep(path).load()
            status = now.status.values
            assert np.all((status == -1).all(1) | (status != -1).all(1))
            seen = np.flatnonzero((status != -1).all(1)).tolist()
            for name in whole.data_vars:
                assert_array_equal(now[name].values[seen], whole[name].values[seen])
            digests = path.glob("status/.c.*.digest")
            after = {int(file.name.split(".")[2]) for file in digests}
            assert done <= after <= set(seen) <= done | set(computed)
            assert len(set(computed) - after) <= 1  # the one in work
            done = after
    assert 0 < len(done) < blocks
    with computing(monkeypatch) as rest:
        same(sweep(grid=grid, store=path), whole)
    assert sorted(rest) == sorted(set(range(blocks)) - done)
    same(odeae.open_sweep(path), whole)


# ------------------------------------------------------------------------------------- workers


def mortal(folder, parent):
    """A `build` whose process dies where `folder` says so, but for `parent`."""

    def build_or_die(kind, lr):
        if kind.startswith("die") and os.getpid() != parent and (folder / "die").exists():
            (folder / "die").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return build(lr=lr, std=0.1 + 0.05 * len(kind))

    build_or_die.__module__ = "__main__"
    return build_or_die


def test_workers_compute_the_same_and_a_dead_one_costs_only_its_block(tmp_path):
    pytest.importorskip("loky")
    path = tmp_path / "sweep"
    (tmp_path / "die").touch()
    build, grid = mortal(tmp_path, os.getpid()), {"kind": ["a", "b", "cc", "die", "e"], "lr": LR}
    run = functools.partial(odeae.sweep, build, grid, TIMES, save=SAVE, chunk=8)
    with pytest.raises(RuntimeError) as error:
        run(store=path, workers=2)
    one_line(error, "^a worker process died", "completed results are kept, so run again")
    half = xarray.open_zarr(path, chunks=None).load()
    done = (half.status == 0).all("lr").values
    assert 0 < done.sum() < 5
    assert not done[3]
    whole = run()
    for name in whole.data_vars:
        assert_array_equal(half[name].values[done], whole[name].values[done])
    same(run(store=path), whole)


def test_an_error_of_build_in_a_worker_is_the_error(tmp_path):
    def fails(n):
        raise ZeroDivisionError("at n")

    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="ZeroDivisionError"):
        odeae.sweep(fails, {"n": [1.0, 2.0]}, TIMES, executor=pool)


def test_a_pool_is_open_only_while_something_is_computed(tmp_path, uninterrupted):
    told = []

    @contextlib.contextmanager
    def pool():
        told.append("open")
        with ThreadPoolExecutor(1) as threads:
            yield threads
        told.append("closed")

    path = tmp_path / "sweep"
    for grid, message in (({"lr": [1.0, -1.0]}, "lr=-1"), ({}, "`grid`")):
        with pytest.raises(ValueError, match=message):
            sweep(grid=grid, store=path, executor=pool())
    assert told == []
    for _ in range(2):  # the second finds all done
        same(sweep(grid=GRID, store=path, executor=pool()), uninterrupted)
        assert told == ["open", "closed"]
    with pytest.raises(ValueError, match="another sweep"):
        sweep(grid=GRID, store=path, executor=pool(), rtol=1e-5)
    assert told == ["open", "closed"]


@pytest.mark.slow
def test_dask_goes_on_when_a_worker_is_killed(tmp_path, uninterrupted, cache):
    pytest.importorskip("distributed")
    from test_workers import ENV, Cluster, _wait_for

    from odeae.sweeps.workers import dask_pool

    for name, value in cache.items():
        ENV.setdefault(name, value)
    cluster = Cluster(tmp_path)
    try:
        first, _ = cluster.worker(), cluster.worker()
        with dask_pool(cluster.address) as pool:
            pool.wait_for_workers(2, timeout=60)
            with ThreadPoolExecutor(1) as beside:
                path = tmp_path / "sweep"
                run = beside.submit(sweep, grid=GRID, store=path, executor=pool)
                _wait_for(lambda: run.done() or any(path.glob("status/c.*")), 120.0)
                first.kill()
                same(run.result(timeout=120.0), uninterrupted)
        assert not run.cancelled()
    finally:
        cluster.stop()


@pytest.mark.slow
def test_jobs_of_submitit_compute_the_same(tmp_path, uninterrupted, monkeypatch):
    pytest.importorskip("submitit")
    from odeae.sweeps.workers import slurm_pool

    monkeypatch.setenv("PYTHONPATH", ROOT)
    with slurm_pool(tmp_path / "jobs", cluster="local", timeout_min=5) as pool:
        same(sweep(grid=GRID, store=tmp_path / "sweep", executor=pool), uninterrupted)


# ------------------------------------------------------------------------------------ bad input

SETUP = (
    MAKE
    + """
import tempfile
folder = tempfile.mkdtemp()
file = folder + "/file"
open(file, "w").close()
sweep = odeae.sweep
problem, state = build()
three = odeae.random_state(odeae.Problem(problem.spectrum, odeae.Autoencoder(3), odeae.SGD()))
good = dict(build=build, grid=dict(lr=[1.0, 2.0]), times=TIMES)
def but(**options):
    return sweep(**{**good, **options})
def raising(lr):
    raise KeyError("first\\nsecond")
def rates(lr, kind=0, seed=0):
    return build(lr=lr)
"""
)
BAD = {
    "but(grid=3)": "`grid` must be a dict",
    "but(grid=[('lr', [1.0])])": "`grid` must be a dict",
    "but(grid={})": "`grid` must be a dict",
    "but(grid={'lr': []})": r"`grid\['lr'\]` must hold at least one value",
    "but(grid={'lr': 1.0})": r"`grid\['lr'\]` must be a list of values, got 1.0",
    "but(grid={'lr': 'ab'})": r"`grid\['lr'\]` must be a list of values, got 'ab'",
    "but(grid={'lr': [1.0, float('nan')]})": r"`grid\['lr'\]` must be finite, got nan at index 1",
    "but(grid={'lr': [float('inf'), 1]})": r"`grid\['lr'\]` must be finite, got inf at index 0",
    "but(grid={'lr': [1.0, 2.0, 1.0]})": r"`grid\['lr'\]` must hold each value once",
    "but(grid={'lr': [1, 1.0]})": r"`grid\['lr'\]` must hold each value once",
    "but(grid={'kind': ['wide', 'wide']})": r"`grid\['kind'\]` must hold each value once",
    "but(grid={'error': [1.0]})": "'error'",
    "but(grid={'time': [1.0]})": "'time'",
    "but(grid={'lane': [1.0]})": "'lane'",
    "but(grid={'status': [1.0]})": "'status'",
    "but(grid={'k': [1.0]})": "'k'",
    "but(grid={'Q1': [1.0]})": "'Q1'",
    "but(grid={3: [1.0]})": "name of an argument, got 3",
    "but(grid={'a b': [1.0]})": "name of an argument, got 'a b'",
    "but(grid={'speed': [1.0]})": "speed",
    "but(grid={'seed': [2**63, 1]})": r"`grid\['seed'\]` must hold numbers below 2\^63, got 922",
    "but(grid={'seed': [2**64]})": r"`grid\['seed'\]` must hold numbers below 2\^63, got 184",
    "but(grid={'seed': np.array([2**63], np.uint64)})": r"`grid\['seed'\]` must .* below 2\^63",
    "but(grid={'lr': [1.0, 1j]})": r"`grid\['lr'\]` must hold no complex numbers, got 0\+1j",
    "but(grid={'lr': np.array([1.0 + 0j])})": r"`grid\['lr'\]` must hold no complex numbers",
    "but(grid={'lr': [[1.0, 2.0], [3.0, 4.0]]})": "lr",
    "but(grid={'lr': [1.0, 2.0], 'seed': [1, 2, 3]}, zip=True)": "'lr': 2, 'seed': 3",
    "but(zip='yes')": "`zip`",
    "but(grid={'lr': [1.0, -0.5]})": r"build\(lr=-0.5\).*`lr` must .*-0.5",
    "but(grid={'seed': [0, 1], 'lr': [3.0, 1.0, -2.0, 2.0]})": r"lr=-2.*must",
    "but(grid={'seed': [0, -1]})": r"seed=-1.*at least 0",
    "but(grid={'lr': [1.0, 2.0, -1.0], 'seed': [1, 2, 3]}, zip=True)": r"lr=-1.*must",
    "but(build=3)": "`build` must be a function of the parameters, got 3",
    "but(build=None)": "`build` must be a function",
    "but(build=raising)": "raised KeyError: .*first.*second",
    "but(build=lambda: 0)": "raised TypeError",
    "but(build=lambda lr: 3)": "must return a problem and a state, got 3",
    "but(build=lambda lr: None)": "must return a problem and a state, got None",
    "but(build=lambda lr: problem)": "must return a problem and a state",
    "but(build=lambda lr: (state, problem))": "must return a problem and a state",
    "but(build=lambda lr: (problem, 3))": "state",
    "but(build=lambda lr: (problem, None))": "state",
    "but(build=lambda lr: (problem, three))": "state",
    "but(save='Q3')": "Q3",
    "but(save=['Q1', 'status'])": "status",
    "but(save=3)": "`save`",
    "but(save=[3])": "`save`",
    "but(rtol=0.0)": "`rtol` must",
    "but(rtol=0.5)": "`rtol` must be at most 0.1, got 0.5",
    "but(rtol='a')": "`rtol` must",
    "but(atol=-1.0)": "`atol` must",
    "but(times=[])": "`times` must hold",
    "but(times=[1.0, 0.5])": "`times` must increase",
    "but(times=[-1.0, 0.5])": "`times` must not be negative",
    "but(times=[0.0, float('nan')])": "`times`",
    "but(solver=3)": "solver",
    "but(max_steps=0)": "`max_steps` must",
    "but(chunk=0)": "`chunk` must",
    "but(chunk=2.5)": "`chunk` must",
    "but(workers=0)": "`workers` must",
    "but(workers='two')": "`workers` must",
    "but(workers=2, executor=2)": "`workers` or `executor`",
    "but(executor=2)": "`executor` must",
    "but(store=file)": "isn't a folder",
    "but(store='s3://bucket/sweep')": "path on a local disk",
    "but(store=3)": "store",
    "but(progress=3)": "`progress`",
}


@pytest.mark.parametrize(("line", "pattern"), BAD.items())
def test_bad_input_is_refused_in_one_line(said, line, pattern):
    plain.named_in_one_line(said[line], pattern)


def test_an_unknown_argument_is_told_from_the_one_that_was_meant():
    with pytest.raises(TypeError, match=r"sweep has no argument `tol` \(did you mean `rtol`\?\)"):
        odeae.sweep(build, {"lr": [1.0]}, TIMES, tol=1e-3)


def test_nothing_is_computed_or_made_before_all_is_checked(tmp_path, monkeypatch):
    with computing(monkeypatch) as blocks, pytest.raises(ValueError, match="lr=-1"):
        sweep(grid={"lr": [1.0, -1.0]}, store=tmp_path / "sweep")
    for options in ({"workers": 0}, {"executor": 3}):
        with computing(monkeypatch) as blocks, pytest.raises(ValueError, match=r"`\w+` must"):
            sweep(grid={"lr": [1.0, 2.0]}, store=tmp_path / "sweep", **options)
    assert blocks == []
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------- memory

MEMORY = """
import sys
{make}
from odeae.sweeps import sweep as sweeps
n, path = int(sys.argv[1]), sys.argv[2]
compute = sweeps._compute

def peak():  # getrusage would count what the parent had when it forked
    status = open("/proc/self/status").read()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024

def noted(plan, i):
    values = compute(plan, i)
    if i == 1:
        print(peak())
    return values

sweeps._compute = noted
times = odeae.log_times(20.0, 100, dim=1000)
grid = dict(seed=range(n // 1000), lr=np.geomspace(0.1, 2.0, 1000))
data = odeae.sweep(lambda seed, lr: build(lr=lr, seed=seed, kind="narrow"), grid, times, store=path)
assert data.error.size == n * len(times)
assert np.all(data.status.values == 0)
print(peak())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
@pytest.mark.parametrize("n", [4000, 100_000])
def test_memory_does_not_grow_with_the_sweep(n, tmp_path, cache):
    script = MEMORY.replace("{make}", MAKE)
    command = [sys.executable, "-c", script, str(n), str(tmp_path / "sweep")]
    done = subprocess.run(command, env=cache, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, last = map(float, done.stdout.split())
    print(f"peak {first:.0f} MiB after two blocks, {last:.0f} MiB at the end")
    assert last < 2048.0
    assert last - first < 200.0
