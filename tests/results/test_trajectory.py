"""Printing, xarray, files and plots of trajectories."""

import copy
import csv
import dataclasses
import functools
import json
import operator
import os
import pickle
import sys
from typing import Any

import cloudpickle
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import odeae
from odeae.averages.activation import AbstractActivation
from odeae.base import files
from odeae.model.rule import AbstractRule
from odeae.model.state import OutputOverlaps
from odeae.results import restoring, saving
from odeae.results.variables import ARGUMENTS, PARTS, STORED

pytestmark = pytest.mark.sampled

DIM = 100


@pytest.fixture(scope="module")
def problem():
    spectrum = odeae.Spectrum.spiked([1.0, 0.6], dim=DIM, bulk=1.0)
    return odeae.Problem(spectrum, odeae.Autoencoder(2, bias=True), odeae.SGD(weight_decay=0.01))


@pytest.fixture(scope="module")
def curves(problem):
    state = odeae.random_state(problem, 0.3, 0.3, seed=1)
    runs = odeae.simulate(problem, state, odeae.log_times(5.0, 12, dim=DIM), runs=3)
    return {"theory": odeae.predict(problem, state, runs.times, densities=True), "runs": runs}


@pytest.fixture(scope="module")
def lanes(problem):
    def curve(lr):
        rule = odeae.SGD(lr)
        moved = odeae.Problem(problem.spectrum, problem.autoencoder, rule)
        return odeae.predict(moved, odeae.random_state(moved), jnp.array([0.0, 1.0, 5.0]))

    return jax.vmap(curve)(jnp.array([0.5, 1.0]))


@pytest.mark.parametrize("name", ["theory", "runs"])
def test_a_saved_trajectory_comes_back_equal(curves, name, tmp_path):
    curves[name].save(tmp_path / "x.nc")
    assert eqx.tree_equal(odeae.load(tmp_path / "x.nc"), curves[name]) is True


def test_a_file_of_another_layout_is_refused_by_its_version(curves, tmp_path):
    """It was a KeyError, or what the other layout lacks came back as None."""
    data = curves["theory"].to_xarray()
    del data.attrs["format"]
    data.drop_vars("spectrum_multiplicity").to_netcdf(tmp_path / "old.nc", engine="h5netcdf")
    want = (
        rf"^'.*old.nc' has another layout, 'version 1' of odeae {odeae.__version__}, than this "
        rf"odeae {odeae.__version__} reads, '{saving.FORMAT}': read it with odeae .* or compute it"
    )
    with pytest.raises(ValueError, match=want):
        odeae.load(tmp_path / "old.nc")
    data.attrs |= {"format": "odeae trajectory, version 3", "odeae_version": "7.0"}
    data.to_netcdf(tmp_path / "new.nc", engine="h5netcdf")
    files.seal(tmp_path / "new.nc")
    with pytest.raises(ValueError, match=r"'odeae trajectory, version 3' of odeae 7\.0"):
        odeae.load(tmp_path / "new.nc")


def test_what_a_file_lacks_or_has_besides_is_named(curves, tmp_path):
    data = curves["theory"].to_xarray()
    for name, changed, message in (
        ("less.nc", data.drop_vars("Q1_bulk"), "it lacks order_parameters.bulk.Q1"),
        ("more.nc", data.assign(extra=data["error"]), "knows no variables extra"),
    ):
        changed.to_netcdf(tmp_path / name, engine="h5netcdf")
        with pytest.raises(ValueError, match="was changed or cut off after odeae wrote it"):
            odeae.load(tmp_path / name)
        files.seal(tmp_path / name)
        with pytest.raises(ValueError, match=message):
            odeae.load(tmp_path / name)


def test_every_flipped_bit_is_noticed(curves, tmp_path):
    """Of 300 once 220 were raw errors, 10 other numbers without a word, and one hung in HDF5."""
    path = tmp_path / "x.nc"
    curves["theory"].save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    at = rng.choice(8 * len(whole), 200, replace=False)
    last = 8 * len(whole) - 1 - np.arange(0, 8 * 90, 31)  # the checksum itself
    for bit in np.concatenate([at, last]):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^[^\n]*(damaged|changed or cut off)[^\n]*$"):
            odeae.load(path)
    for size in (0, 5, 60, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"^[^\n]*(can't read|changed or cut off)[^\n]*$"):
            odeae.load(path)
    path.write_bytes(whole)
    assert eqx.tree_equal(odeae.load(path), curves["theory"]) is True


def test_a_file_holds_all_that_a_trajectory_can_have(curves, tmp_path):
    """Every optional part filled: what the table of variables lacks would be missing here."""
    curve, rng = curves["theory"], np.random.default_rng(0)
    bins = np.shape(curve.initial.bulk.encoder)[0]
    shapes = {
        "test_error": (9,),
        "problem.spectrum.order": (DIM,),
        "problem.spectrum.given": (DIM,),
        "problem.spectrum.mean": (DIM,),
        "problem.spectrum.basis": (DIM, DIM),
    }
    shapes |= {f"{when}.rows.output": (2 + bins,) for when in ("initial", "final")}
    shapes |= {f"{when}.diffusion": (2, 2) for when in ("initial", "final")}
    for path, shape in shapes.items():
        where = operator.attrgetter(path)
        assert where(curve) is None
        curve = eqx.tree_at(where, curve, rng.standard_normal(shape), is_leaf=_is_none)
    for part in ("spikes", "bulk"):
        shared = [rng.standard_normal((9, n)) for n in (2, 3, 3)]
        output = OutputOverlaps(*shared)
        where = operator.attrgetter(f"order_parameters.{part}.output")
        curve = eqx.tree_at(where, curve, output, is_leaf=_is_none)
    one = jax.tree.map(lambda x: x[0], curves["runs"].weights)
    curve = eqx.tree_at(lambda c: c.weights, curve, one, is_leaf=_is_none)
    curve.save(tmp_path / "x.nc", basis=True)
    assert eqx.tree_equal(odeae.load(tmp_path / "x.nc"), curve) is True


def test_several_trajectories_share_a_file_and_order_and_eigenvalues_come_back(tmp_path):
    """A spectrum of data has what a spiked one lacks: order, eigenvalues, mean."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 12)) * np.repeat([2.0, 0.5], 6) + 1.0
    rho = np.linalg.eigvalsh(np.cov(x.T, bias=True))  # smallest first: an order to be kept
    for spectrum in (
        odeae.Spectrum.from_data(x, spikes=2, bins=3),
        odeae.Spectrum.from_eigenvalues(rho, spikes=2, bins=3),
    ):
        own = odeae.Problem(spectrum, odeae.Autoencoder(2, bias=True), odeae.SGD(lr_encoder=0.5))
        state = odeae.random_state(own)
        runs = odeae.simulate(own, state, [0.0, 1.0], runs=2)
        both = {"theory": odeae.predict(own, state, runs.times), "runs": runs}
        odeae.save_all(tmp_path / "both.nc", both, overwrite=True)
        for name, curve in both.items():
            back = odeae.load(tmp_path / "both.nc", group=name)
            bare = eqx.tree_at(lambda t: t.problem.spectrum.basis, curve, None, is_leaf=_is_none)
            assert eqx.tree_equal(back, bare) is True
        with xr.open_datatree(tmp_path / "both.nc", engine="h5netcdf") as tree:
            np.testing.assert_array_equal(tree["runs"].error, runs.error)
        again = odeae.predict(back.problem, back.initial, back.times)
        np.testing.assert_array_equal(again.error, both["theory"].error)


def _is_none(x):
    return x is None


def test_resuming_on_data_does_not_depend_on_the_signs_of_an_eigenbasis(tmp_path):
    """eigh fixes no signs: weights kept in the eigenbasis once went on with other ones."""
    x = np.random.default_rng(1).standard_normal((80, 6)) * np.arange(1, 7)
    spectrum = odeae.Spectrum.from_data(x)
    own = odeae.Problem(spectrum, odeae.Autoencoder(2))
    state, times = odeae.random_state(own), np.array([0.0, 3.0, 6.0])
    whole = odeae.simulate(own, state, times, runs=2, data=x)
    odeae.simulate(own, state, times[:2], runs=2, data=x).save(tmp_path / "half.nc")
    signs = np.where(np.arange(6) % 2, -1.0, 1.0)
    flipped = eqx.tree_at(lambda p: p.spectrum.basis, own, spectrum.basis * signs)
    weights = odeae.load(tmp_path / "half.nc").weights
    rest = odeae.simulate(flipped, None, times[2:], data=x, weights=weights)
    np.testing.assert_array_equal(rest.test_error[:, 0], whole.test_error[:, 2])
    with pytest.raises(ValueError, match="SGD on real inputs and can't go on with SGD on Gaussian"):
        odeae.simulate(own, None, times[2:], weights=weights)


def test_lanes_come_back_equal(lanes, tmp_path):
    lanes.save(tmp_path / "x.nc")
    back = odeae.load(tmp_path / "x.nc")
    np.testing.assert_array_equal(back.error, lanes.error)
    np.testing.assert_array_equal(back.problem.rule.lr, [0.5, 1.0])
    assert bool(eqx.tree_equal(back, lanes))
    assert np.shape(back.times) == (2, 3)
    assert back.to_xarray()["Q1"].dims == ("lane", "time", "k", "l")
    np.testing.assert_array_equal(back.final.bulk.encoder, lanes.final.bulk.encoder)
    assert back.to_xarray()["final_spikes_decoder"].dims == ("lane", "spike", "k")


def _with(curve, **parts):
    """The curve as if it had been computed with another activation or rule."""
    for name, part in parts.items():
        where = {"activation": "problem.autoencoder.activation", "rule": "problem.rule"}[name]
        curve = eqx.tree_at(operator.attrgetter(where), curve, part)
    return curve


def test_quadrature_activations_survive_a_file_only_if_they_have_a_name(tmp_path, curves):
    tanh = odeae.Quadrature(jnp.tanh, q_max=10.0)
    _with(curves["theory"], activation=tanh).save(tmp_path / "tanh.nc")
    assert odeae.load(tmp_path / "tanh.nc").problem.autoencoder.activation == tanh
    own = odeae.Quadrature(jax.nn.softplus, q_max=10.0)
    _with(curves["theory"], activation=own).save(tmp_path / "own.nc")
    want = r"function of your own, .*:softplus, which .* activation=odeae\.Quadrature"
    with pytest.raises(ValueError, match=want):
        odeae.load(tmp_path / "own.nc")
    assert odeae.load(tmp_path / "own.nc", activation=own).problem.autoencoder.activation == own


class OwnSchedule(eqx.Module):
    tau: Any
    order: int = eqx.field(static=True)

    def __call__(self, t):
        return (1.0 + t / self.tau) ** -self.order


class Sanger(AbstractRule):
    """A rule of one's own that happens to have the name of one of odeae."""

    lr: Any
    boosts: Any
    weight_decay: Any
    schedule: Any
    feedback = "all"

    def rates(self, network):
        return self.lr, self.lr, self.lr, self.lr

    def check(self, network):
        pass


class Erf(AbstractActivation):
    """The same of an activation: files once came back with odeae's own."""

    width: float
    depth: Any

    def __call__(self, x):
        return x

    slope = slopes = mean = pairs = __call__


@pytest.fixture
def own(curves):
    rule = Sanger(
        np.float64(0.25),
        (np.arange(3, dtype=np.int32), 2.0, "x", None, np.zeros((0, 2))),
        np.asarray(0.0),
        OwnSchedule(np.asarray(3.0), 2),
    )
    return _with(curves["theory"], rule=rule, activation=Erf(1.5, [np.float32(0.1), True, 7]))


def test_rules_and_activations_of_ones_own_come_back(own, tmp_path):
    path = tmp_path / "own.nc"
    own.save(path)
    back = odeae.load(path)
    assert eqx.tree_equal(back, own, typematch=False) is True
    assert jax.tree.structure(back) == jax.tree.structure(own)
    rule = back.problem.rule
    assert type(rule) is Sanger
    assert type(back.problem.autoencoder.activation) is Erf
    assert [np.asarray(x).dtype for x in rule.boosts[::4]] == [np.int32, np.float64]
    assert rule.boosts[4].shape == (0, 2)
    assert type(rule.boosts[1]) is float
    given = odeae.load(path, rule=own.problem.rule, schedule=own.problem.rule.schedule)
    assert given.problem.rule is own.problem.rule


def test_a_file_runs_no_code_and_says_what_it_needs(own, tmp_path, monkeypatch):
    path = tmp_path / "own.nc"
    own = _with(own, activation=odeae.Erf())
    (tmp_path / "harmful.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, message in (
        ("harmful:Sanger", "own, harmful:Sanger: import harmful first, or pass it, as load"),
        (
            "odeae.model.rules:Sanger",
            "had other fields, lr, boosts, weight_decay, schedule: pass it",
        ),
        ("json:Sanger", "json:Sanger, which isn't there"),
        (f"{__name__}:Erf", f"{__name__}:Erf, which isn't there"),  # there, but no rule
    ):
        with monkeypatch.context() as patch:
            patch.setattr(restoring, "_name", lambda thing, name=name: name)
            bare = eqx.tree_at(lambda c: c.problem.rule.schedule, own, None)
            bare.save(path, overwrite=True)
        with pytest.raises(ValueError, match=message):
            odeae.load(path)
        assert "harmful" not in sys.modules


def test_what_load_is_given_must_be_what_the_file_was_computed_with(own, curves, tmp_path):
    """A given activation once replaced that of the file, whatever it was."""
    curves["theory"].save(tmp_path / "x.nc")
    for given, message in (
        ({"activation": "relu"}, "the activation of this trajectory is .*erf.* was given .*relu"),
        ({"schedule": odeae.CosineSchedule(2.0)}, "schedule of this trajectory is null, but"),
        ({"rule": odeae.SGD(weight_decay=0.02)}, "0.01.* but load was given .*0.02.*: leave it"),
        ({"rule": "SGD"}, "`rule` must be as in load"),
    ):
        with pytest.raises(ValueError, match=message):
            odeae.load(tmp_path / "x.nc", **given)
    assert odeae.load(tmp_path / "x.nc", activation="erf", rule=curves["theory"].problem.rule)


def own_function(x):
    return jnp.tanh(x)


HOW = {
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "cloudpickle": lambda x: cloudpickle.loads(cloudpickle.dumps(x)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("how", HOW)
def test_pickles_and_copies_are_equal(curves, own, how):
    """Jitted functions, such as jnp.tanh, could not be pickled, and their copies were others."""
    tanh = odeae.Quadrature(jnp.tanh, q_max=4.0)
    for name, whole in (
        ("theory", curves["theory"]),
        ("runs", curves["runs"]),
        ("own", own),
        ("tanh", _with(curves["theory"], activation=tanh)),
        ("function", _with(curves["theory"], activation=odeae.Quadrature(own_function, q_max=4.0))),
        ("schedule", _with(curves["theory"], rule=odeae.SGD(schedule=own_function))),
        ("jitted", _with(curves["theory"], rule=odeae.SGD(schedule=jnp.cos))),
    ):
        for x in (whole, whole.problem, whole.initial, whole.weights):
            back = HOW[how](x)
            assert eqx.tree_equal(back, x) is True, name
            assert jax.tree.structure(back) == jax.tree.structure(x), name
    partial = odeae.Quadrature(functools.partial(jax.nn.gelu, approximate=False), q_max=4.0)
    again = HOW[how](partial).fn
    assert (again.func, again.keywords) == (jax.nn.gelu, {"approximate": False})


def test_a_comparison_can_be_pickled(curves):
    compared = odeae.compare(curves["theory"], curves["runs"])
    for how in HOW.values():
        assert str(how(compared)) == str(compared)


def test_a_basis_is_kept_on_request(tmp_path):
    x = np.random.default_rng(1).standard_normal((80, 6)) * np.arange(1, 7)
    own = odeae.Problem(odeae.Spectrum.from_data(x), odeae.Autoencoder(2))
    runs = odeae.simulate(own, odeae.random_state(own), [0.0, 3.0, 6.0], runs=2, data=x)
    runs.save(tmp_path / "x.nc")
    assert odeae.load(tmp_path / "x.nc").problem.spectrum.basis is None
    runs.save(tmp_path / "x.nc", overwrite=True, basis=True)
    assert eqx.tree_equal(odeae.load(tmp_path / "x.nc"), runs) is True


def test_a_csv_holds_the_curves_to_the_last_digit(curves, tmp_path):
    """`-o out.csv` once wrote netCDF under that name."""
    theory, runs = curves["theory"], curves["runs"]
    theory.save(tmp_path / "x.csv")
    with open(tmp_path / "x.csv", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["time", "error", "excess"]
    table = np.array(rows, float).T
    np.testing.assert_array_equal(table, [theory.times, theory.error, theory.excess])
    part = jax.tree.map(lambda x: x, theory)
    part = eqx.tree_at(lambda t: (t.times, t.error), part, (theory.times[::2], theory.error[::2]))
    part = eqx.tree_at(lambda t: t.above_pca, part, theory.above_pca[::2])
    odeae.save_all(tmp_path / "both.CSV", {"theory": part, "runs": runs})
    with open(tmp_path / "both.CSV", newline="") as file:
        head, *rows = csv.reader(file)
    assert head[:4] == ["time", "theory_error", "theory_excess", "runs_error_0"]
    assert head[-1] == "runs_test_error_2"
    assert [row[1] for row in rows][1::2] == [""] * 4  # no such times
    np.testing.assert_array_equal([float(row[3]) for row in rows], runs.error[0])
    with pytest.raises(ValueError, match=r"x.csv' is a table for other programs"):
        odeae.load(tmp_path / "x.csv")
    with pytest.raises(ValueError, match="can't hold a `basis`"):
        theory.save(tmp_path / "y.csv", basis=True)


def test_save_refuses_what_it_can_not_write(curves, tmp_path):
    theory = curves["theory"]
    with pytest.raises(ValueError, match=r"^output '.*x\.txt' must end in \.nc or \.csv$"):
        theory.save(tmp_path / "x.txt")
    for given, message in (
        ({}, "a dict of trajectories, such as .*, got none"),
        ({"a/b": theory}, "a word without '/', got 'a/b'"),
        ({"": theory}, "a word without '/', got ''"),
    ):
        with pytest.raises(ValueError, match=message):
            odeae.save_all(tmp_path / "x.nc", given)
    assert list(tmp_path.iterdir()) == []


def test_files_have_the_permissions_that_the_umask_leaves(tmp_path, monkeypatch):
    """Without setting the umask, which all threads of a process share."""
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", None)
            with files.writing(tmp_path / "x.txt") as temporary:
                temporary.write_text("x")
    finally:
        os.umask(before)
    assert (tmp_path / "x.txt").stat().st_mode & 0o777 == 0o640


def test_groups_are_named(curves, tmp_path):
    odeae.save_all(tmp_path / "both.nc", curves)
    assert saving.groups(tmp_path / "both.nc") == ["theory", "runs"]
    with pytest.raises(ValueError, match="holds theory, runs: pass one of them as group="):
        odeae.load(tmp_path / "both.nc")
    curves["theory"].save(tmp_path / "one.nc")
    assert saving.groups(tmp_path / "one.nc") == []


def test_resuming_from_a_file_equals_going_on(curves, problem, tmp_path):
    curves["runs"].save(tmp_path / "runs.nc")
    saved = odeae.load(tmp_path / "runs.nc")
    times = [5.5, 6.0]
    from_file = odeae.simulate(saved.problem, None, times, weights=saved.weights)
    direct = odeae.simulate(problem, None, times, weights=curves["runs"].weights)
    np.testing.assert_array_equal(from_file.error, direct.error)


def test_the_dataset_has_the_contract_names_dims_and_configuration(curves):
    data = curves["runs"].to_xarray()
    assert data["error"].dims == ("run", "time")
    for name in ("Q1", "R1", "T1", "T0"):
        assert data[name].dims == ("run", "time", "k", "l")
        parts = data[f"{name}_spikes"] + data[f"{name}_bulk"]
        np.testing.assert_array_equal(data[name], parts)
    assert data["time"].attrs["units"] == "steps/D"
    config = json.loads(data.attrs["problem"])
    assert config["rule"]["weight_decay"] == 0.01
    assert config["rule"]["lr_encoder"] is None
    assert json.loads(data.attrs["settings"])["seed"] == 0
    assert all("units" in data[name].attrs for name in data.variables)
    assert config["hidden"] == 2
    assert curves["theory"].to_xarray()["q_bulk"].dims == ("time", "bin", "k", "l")


def test_order_parameters_follow_their_definition(curves, problem):
    """R1[k, l] = v_k Ω w_l/D^{3/2}: not its transpose."""
    runs = curves["runs"]
    W, V, *_ = runs.weights.weights
    omega = problem.spectrum.eigenvalues()
    expected = np.einsum("rkd,d,rld->rkl", V, omega, W) / DIM**1.5
    np.testing.assert_allclose(runs.R1[:, -1], expected, rtol=1e-12, atol=1e-14)
    expected = np.einsum("rkd,rld->rkl", V, V) / DIM
    np.testing.assert_allclose(runs.T0[:, -1], expected, rtol=1e-12, atol=1e-14)


def test_print_answers_the_first_questions(curves, lanes, problem):
    text = str(curves["theory"])
    assert f"{curves['theory'].error[-1]:.6g}" in text
    assert f"{problem.spectrum.pca_error(2):.6g} at rank 2" in text
    assert "status   ok" in text
    assert "3 runs" in str(curves["runs"])
    assert "2 lanes" in str(lanes)
    assert str(problem).splitlines() == [
        "Problem",
        "  spectrum dim=100, 2 spikes ρ/D = [1, 0.6], 98 bulk modes in 1 bin, ρ = 1, tr Ω/D = 2.58",
        "  network  erf, K=2, biases",
        "  rule     SGD, lr 1, weight_decay 0.01",
        "  noise    0",
    ]
    assert "\n" not in repr(problem)
    assert "network: erf, K=2, biases; rule: SGD, lr 1, weight_decay 0.01;" in repr(problem)
    assert "rule: SGD, lr of each lane;" in repr(lanes.problem)
    texts = []
    jax.eval_shape(lambda lr: texts.append(repr(_lr(problem, lr))), 1.0)
    assert "rule: SGD, lr traced;" in texts[0]
    state = repr(curves["theory"].initial)
    assert state.startswith("State(spikes=Modes(encoder=array of shape (2, 2), decoder=array of")
    want = "Checkpoint(3 runs of SGD on Gaussian inputs, K=2, D=100, after 500 steps, seed 0)"
    assert repr(curves["runs"].weights) == want
    assert "lr=array of shape (2,)" in str(lanes.problem.rule)
    texts = []
    jax.eval_shape(lambda lr: texts.append(str(odeae.SGD(lr))), 1.0)
    assert "lr=traced" in texts[0]
    assert "SGD(lr=array of shape ()" in str(jax.eval_shape(lambda: odeae.SGD(1.0)))


def _lr(problem, lr):
    return odeae.Problem(problem.spectrum, problem.autoencoder, odeae.SGD(lr))


def test_one_of_a_kind_is_no_plural(curves):
    one = jax.tree.map(lambda x: x[:1] if np.shape(x)[:1] == (3,) else x, curves["runs"])
    assert ", 1 run, 9 times, t = 0 … 5" in str(one)
    assert "1 run of SGD" in repr(one.weights)
    spectrum = odeae.Spectrum.spiked([1.0], dim=2)
    assert "1 spike ρ/D = [1], 1 bulk mode in 1 bin" in repr(spectrum)


def test_notebooks_show_tables_without_live_markup(curves, lanes, problem):
    shown = (*curves.values(), lanes, problem, problem.spectrum)
    for thing in shown:
        assert thing._repr_html_().startswith("<table><caption")
        assert thing._repr_html_().count("<tr>") >= 3
    assert "<th" in problem.spectrum._repr_html_()
    assert "2 spikes</th>" in problem.spectrum._repr_html_()
    marked = eqx.tree_at(lambda t: t.problem, curves["theory"], problem)
    object.__setattr__(marked, "source", "<script>x</script>")
    assert "<script>" not in marked._repr_html_()
    assert "&lt;script&gt;" in marked._repr_html_()


def test_lanes_are_counted_and_drawn_without_those_that_failed(problem):
    def curve(scale):
        state = odeae.random_state(problem, 0.3, scale)
        return odeae.predict(problem, state, jnp.array([0.0, 1.0, 5.0]), max_steps=40)

    three = jax.vmap(curve)(jnp.array([0.1, 0.3, 50.0]))
    assert list(three.status) == [0, 0, 2]
    assert "nan" not in str(three)
    assert "1 of 3 failed" in str(three)
    plt.close(three.plot().figure)


@pytest.mark.slow
def test_lanes_with_times_of_their_own_are_not_mixed(problem):
    def curve(end):
        times = jnp.array([0.0, 0.5]) * end
        return odeae.predict(problem, odeae.random_state(problem), times)

    two = jax.vmap(curve)(jnp.array([1.0, 2.0]))
    assert "2 lanes, 2 times, each lane has its own" in str(two)
    for use in (lambda t: t.to_xarray(), odeae.plot):
        with pytest.raises(ValueError, match="different `times`"):
            use(two)


def test_ok_is_whether_every_curve_came_to_its_end(curves, lanes):
    assert curves["theory"].ok is True
    failed = eqx.tree_at(
        lambda t: t.status, lanes, np.where(np.arange(lanes.status.size) == 1, 1, 0)
    )
    assert failed.ok is False
    assert jax.jit(lambda status: eqx.tree_at(lambda t: t.status, lanes, status).ok)(lanes.status)


def test_print_says_why_a_solve_stopped(problem):
    state = odeae.random_state(problem)
    part = odeae.predict(problem, state, [0.0, 0.1, 1000.0], max_steps=20, throw=False)
    assert "max_steps" in str(part)
    assert np.isnan(part.error[-1])
    assert np.isfinite(part.error[:2]).all()


def test_files_are_whole_or_not_there(curves, tmp_path, monkeypatch):
    import xarray

    path = tmp_path / "x.nc"
    curves["theory"].save(path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        curves["theory"].save(path)

    def interrupted(self, target, **kwargs):
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(xarray.Dataset, "to_netcdf", interrupted)
    with pytest.raises(KeyboardInterrupt):
        curves["theory"].save(path, overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError, match="does not exist"):
        curves["theory"].save(tmp_path / "missing" / "x.nc")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        curves["theory"].save(tmp_path)


def test_load_says_what_is_wrong_with_a_file(tmp_path, curves):
    with pytest.raises(FileNotFoundError, match="no file"):
        odeae.load(tmp_path / "none.nc")
    (tmp_path / "text.nc").write_text("not netCDF")
    with pytest.raises(ValueError, match="can't read"):
        odeae.load(tmp_path / "text.nc")
    curves["theory"].to_xarray()[["error"]].drop_attrs().to_netcdf(
        tmp_path / "other.nc", engine="h5netcdf"
    )
    with pytest.raises(ValueError, match="no odeae trajectory"):
        odeae.load(tmp_path / "other.nc")
    curves["theory"].save(tmp_path / "one.nc")
    with pytest.raises(ValueError, match="no groups, such as 'runs': leave out `group`"):
        odeae.load(tmp_path / "one.nc", group="runs")


def test_log_times_are_increasing_whole_steps():
    times = odeae.log_times(10.0, 50, dim=30)
    assert times[0] == 0.0
    assert times[-1] == 10.0
    assert np.all(np.diff(times) > 0)
    np.testing.assert_allclose(times * 30, np.round(times * 30), atol=1e-12)
    assert odeae.log_times(100.0, 5)[1] == pytest.approx(0.01)
    assert odeae.log_times(1e9, 5)[1] == pytest.approx(0.1)  # not after all has been learnt
    assert odeae.log_times(1e9, 5, 7.0)[1] == pytest.approx(7.0)
    with pytest.raises(ValueError, match="`end` must be positive, got -1"):
        odeae.log_times(-1.0)
    with pytest.raises(ValueError, match="`start` must be below `end`"):
        odeae.log_times(1.0, start=2.0)


def test_every_public_name_can_be_imported():
    assert len(set(odeae.__all__)) == len(odeae.__all__) > 70
    assert all(hasattr(odeae, name) for name in odeae.__all__)
    with pytest.raises(AttributeError, match="attribute predikt"):
        odeae.predikt


def test_plots_show_what_they_claim(curves, lanes):
    ax = odeae.plot(curves["theory"], curves["runs"])
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), curves["theory"].error)
    points = ax.containers[0].lines[0]
    np.testing.assert_allclose(points.get_ydata(), curves["runs"].error.mean(axis=0))
    levels = [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(sorted(levels), np.sort(curves["theory"].pca_levels()), rtol=1e-12)
    assert ax.get_xscale() == "log"
    own = plt.subplots()[1]
    assert curves["runs"].plot(ax=own) is own
    assert lanes.plot(ax=own) is own
    axes = curves["theory"].plot_order_parameters()
    assert axes.shape == (2, 2)
    np.testing.assert_array_equal(axes[0, 1].lines[1].get_ydata(), curves["theory"].R1[:, 0, 1])
    named = [text.get_text() for text in axes[0, 0].get_legend().get_texts()]
    assert named == ["neuron 1", "neuron 2", "two neurons"]
    with pytest.raises(ValueError, match="`labels` must have 1 entries"):
        odeae.plot(curves["theory"], labels=[])
    with pytest.raises(ValueError, match="unknown `quantity` 'eror'"):
        odeae.plot(curves["runs"], quantity="eror")
    with pytest.raises(ValueError, match="unknown `quantity` 'Q1'"):
        odeae.plot(curves["theory"], quantity="Q1")
    ax = odeae.plot(curves["theory"], quantity="excess")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), curves["theory"].excess)
    assert "above the PCA error" in ax.get_ylabel()
    levels = [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "--"]
    pca = curves["theory"].pca_levels()
    np.testing.assert_allclose(sorted(levels), np.sort(pca[:-1] - pca[-1]), rtol=1e-12)
    plt.close("all")


def test_excess_is_above_each_lanes_own_pca_error():
    def curve(spike):
        spectrum = odeae.Spectrum.spiked(jnp.stack([spike, 0.6 * spike]), dim=DIM)
        own = odeae.Problem(spectrum, odeae.Autoencoder(1), odeae.SGD())
        return odeae.predict(own, odeae.random_state(own), jnp.array([0.0, 5.0]))

    both = jax.vmap(curve)(jnp.array([0.5, 1.0]))
    assert both.pca_levels() is None
    alone = [curve(jnp.asarray(spike)) for spike in (0.5, 1.0)]
    np.testing.assert_allclose(both.excess, [a.excess for a in alone], rtol=1e-7)
    levels = 0.5 * (0.6 * np.array([0.5, 1.0]) + (DIM - 2) / DIM)
    np.testing.assert_allclose(both.excess, both.error - levels[:, None], rtol=1e-12)


def test_every_field_of_a_trajectory_has_its_variable():
    """A field that results/variables.py doesn't know would be left out of files without a word."""
    paths = {variable.path for variable in STORED.values()}
    besides = {"times", "problem", "source", "settings"}  # a coordinate and attributes
    numbers = [f.name for f in dataclasses.fields(odeae.Checkpoint) if f.metadata.get("static")]
    besides |= {f"weights.{name}" for name in numbers}  # JSON, all of them

    def check(kind, where):
        fields = [f.name for f in dataclasses.fields(kind)] if kind not in ARGUMENTS else []
        names = fields or [name for names in ARGUMENTS[kind] for name in names]
        for name in names:
            part = PARTS.get(kind, {}).get(name)
            if part is None:
                assert {where + name} & (paths | besides), where + name
            else:
                check(part, f"{where}{name}.")

    check(odeae.AlignedTrajectory, "")


# ---------------------------------------------------------------------------- one of several


def test_runs_are_taken_out_one_by_one(curves, tmp_path):
    runs = curves["runs"]
    assert len(runs) == np.shape(runs.error)[0]
    for i, run in enumerate(runs):
        for name in ("error", "test_error", "Q1", "bias", "excess"):
            np.testing.assert_array_equal(getattr(run, name), getattr(runs, name)[i])
        assert run.status == runs.status[i]
        assert run.source == runs.source
        assert run.times is runs.times
        decoder = runs.weights.weights.decoder[i : i + 1]
        np.testing.assert_array_equal(run.weights.weights.decoder, decoder)
    assert eqx.tree_equal(runs[-1], runs[len(runs) - 1]) is True
    few = runs[1:]
    np.testing.assert_array_equal(few.error, runs.error[1:])
    assert len(few.weights.weights.decoder) == len(runs) - 1
    assert f"{runs[0].error[-1]:.6g}" in repr(runs[0])
    runs[0].save(tmp_path / "one.nc")
    assert eqx.tree_equal(odeae.load(tmp_path / "one.nc"), runs[0]) is True
    odeae.save_all(tmp_path / "two.csv", {"a": runs[0], "b": runs[1]})
    assert runs[:].weights is runs.weights
    problem = runs.problem
    with pytest.raises(ValueError, match=r"`weights` are of a part of the runs, \[0\],"):
        odeae.simulate(problem, None, runs.times + 1.0, weights=runs[0].weights)


def test_a_member_is_the_curve_of_its_own_state():
    problem = odeae.Problem(odeae.Spectrum.spiked([1.0, 0.5], dim=20), odeae.Autoencoder(2))
    members = odeae.ensemble(problem, [0.0, 1.0, 5.0], members=3, seed=4)
    alone = odeae.predict(problem, odeae.random_state(problem, seed=5), [0.0, 1.0, 5.0])
    assert eqx.tree_equal(members[1].error, alone.error) is True
    assert members[1].source == "theory"
    assert members[1].stats == alone.stats
    state = members[1].initial
    np.testing.assert_array_equal(state.rows.encoder, alone.initial.rows.encoder)
    on = odeae.predict(problem, members[1].final, [6.0])
    whole = odeae.predict(problem, alone.initial, [0.0, 1.0, 5.0, 6.0])
    np.testing.assert_allclose(on.error, whole.error[-1:], rtol=1e-6)


def test_members_that_were_solved_differently_say_so_each():
    """Of two members one needs Rodas4; each says its own solver, also in a slice."""
    spectrum = odeae.Spectrum.spiked([1.0, 0.1], dim=1000, bulk=0.0)
    problem, times = odeae.Problem(spectrum, odeae.Autoencoder(1)), np.array([0.0, 1e6])
    members = odeae.ensemble(problem, times, 3, encoder_std=0.3, decoder_std=0.3)
    alone = [
        odeae.predict(problem, odeae.random_state(problem, 0.3, 0.3, seed=i), times)
        for i in range(3)
    ]
    assert [one.stats["solver"] for one in members] == [one.stats["solver"] for one in alone]
    assert len({one.stats["solver"] for one in alone}) > 1  # they end explicit steps elsewhere
    assert members[1:].stats["solver"] == [one.stats["solver"] for one in alone[1:]]


def test_a_single_curve_is_none_of_several(curves):
    theory = curves["theory"]
    assert theory  # as anything that is there
    for wrong in (lambda: theory[0], lambda: len(theory), lambda: list(theory)):
        with pytest.raises(TypeError, match="a single Trajectory"):
            wrong()
    runs = curves["runs"]
    with pytest.raises(IndexError, match=rf"there are {len(runs)} curves, got index {len(runs)}"):
        runs[len(runs)]
    with pytest.raises(ValueError, match="a standard error needs at least two"):
        odeae.compare(curves["theory"], runs[0])
    with pytest.raises(TypeError, match="by a whole number, got 'a'"):
        runs["a"]


def test_stats_say_how_a_curve_was_computed(curves):
    theory, runs = curves["theory"], curves["runs"]
    assert theory.stats["solver"] == "Tsit5"
    assert theory.stats["status"] == "OK"
    again = odeae.predict(theory.problem, theory.initial, theory.times, rtol=1e-9)
    assert 0 < theory.stats["steps"] < again.stats["steps"]
    assert runs.stats["solver"] == "online SGD"
    taken = np.round(runs.times[-1] * runs.problem.spectrum.dim)
    np.testing.assert_array_equal(runs.stats["steps"], np.full(len(runs), taken))
    assert runs.stats["status"] == ["OK"] * len(runs)


def test_lanes_are_taken_out_with_all_that_vmap_gave_them(tmp_path):
    problem = odeae.Problem(odeae.Spectrum.spiked([1.0, 0.5], dim=20), odeae.Autoencoder(2))
    state = odeae.random_state(problem)
    starts = jnp.asarray([0.5, 1.0])

    def curve(size):
        rows = jax.tree.map(lambda x: size * x, state.rows)
        start = odeae.State(rows=rows, n_spikes=2, bias=state.bias)
        return odeae.predict(problem, start, [0.0, 1.0, 5.0])

    lanes = jax.vmap(curve)(starts)
    assert lanes.stats["status"] == ["OK", "OK"]
    alone = odeae.predict(problem, state, [0.0, 1.0, 5.0])
    np.testing.assert_allclose(lanes[1].error, alone.error, rtol=1e-6)
    lanes[1].save(tmp_path / "lane.nc")
    np.testing.assert_array_equal(odeae.load(tmp_path / "lane.nc").error, lanes[1].error)
    with pytest.raises(ValueError, match="`stats` are those of concrete curves"):
        jax.jit(lambda size: curve(size).stats["steps"])(1.0)


def test_a_state_of_shapes_or_filters_prints():
    state = odeae.random_state(odeae.Problem(odeae.Spectrum.spiked([1.0], 9), odeae.Autoencoder(1)))
    assert repr(state).startswith("State(spikes=Modes(encoder=array of shape (1, 1)")
    for other in (
        jax.tree.map(np.shape, state),
        jax.tree.map(lambda x: True, state),
        eqx.filter(state, False),
        jax.eval_shape(lambda: state),
    ):
        assert repr(other).startswith("State(rows=Modes(")


def test_a_part_of_a_state_is_replaced_in_double_precision():
    state = odeae.random_state(odeae.Problem(odeae.Spectrum.spiked([1.0], 9), odeae.Autoencoder(1)))
    with jax.enable_x64(False):
        part = odeae.Modes(jnp.ones((1, 1)), jnp.ones((1, 1)))
        other = dataclasses.replace(state, spikes=part)
    np.testing.assert_array_equal(other.bulk.encoder, state.bulk.encoder)


def test_an_aligned_curve_is_a_trajectory_in_full(tmp_path):
    spectrum = odeae.Spectrum.spiked([0.6, 1.0, 0.3], dim=40)  # not the largest first
    problem = odeae.Problem(spectrum, odeae.Autoencoder(2), noise=3.0)
    times = np.array([0.0, 1.0, 10.0, 60.0])
    start = {"encoder": [0.4, -0.7], "decoder": [0.3, -0.2]}
    aligned = odeae.predict_aligned(problem, times, **start)
    full = odeae.predict(problem, odeae.aligned_state(problem, **start), times, rtol=1e-10)
    for name in ("error", "excess", "error_clean", "Q1", "R1", "T1", "T0", "Q0"):
        np.testing.assert_allclose(getattr(aligned, name), getattr(full, name), atol=1e-7)
    for part in ("encoder", "decoder", "subspace_encoder"):
        got, want = (getattr(curve.overlaps, part) for curve in (aligned, full))
        np.testing.assert_allclose(got, want, atol=1e-7)
    for part in ("initial", "final"):
        got, want = (getattr(curve, part) for curve in (aligned, full))
        np.testing.assert_allclose(got.rows.encoder, want.rows.encoder, atol=1e-7)
    assert aligned.final.time == full.final.time == 60.0
    assert [p.rank for p in odeae.plateaus(aligned)] == [p.rank for p in odeae.plateaus(full)]
    odeae.plot(aligned, full)
    aligned.save(tmp_path / "aligned.nc")
    back = odeae.load(tmp_path / "aligned.nc")
    assert isinstance(back, odeae.AlignedTrajectory)
    assert eqx.tree_equal(back, aligned) is True


def test_the_closed_form_is_a_trajectory_too():
    problem = odeae.Problem(odeae.Spectrum.spiked([1.0, 0.5], 30), odeae.Autoencoder(2, "linear"))
    times = np.array([0.0, 2.0, 15.0])
    exact = odeae.linear.aligned_curve(problem, times, 0.2, 0.1)
    reduced = odeae.predict_aligned(problem, times, 0.2, 0.1, rtol=1e-10)
    for name in ("error", "encoder", "product", "R1", "error_clean"):
        np.testing.assert_allclose(getattr(exact, name), getattr(reduced, name), rtol=1e-8)
    # relative to the weights, not to their distance from the end
    np.testing.assert_allclose(exact.excess, reduced.excess, rtol=2e-6)
    assert exact.stats == {"solver": "closed form", "steps": None, "status": "OK"}
    assert exact.ok
