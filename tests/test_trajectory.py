"""Printing, xarray, files and plots of trajectories."""

import json
import re
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

import odeae

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


def test_a_file_of_before_there_was_a_final_state_is_read(curves, tmp_path):
    data = curves["theory"].to_xarray()
    data = data.drop_vars([name for name in data if str(name).startswith("final_")])
    data.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    back = odeae.load(tmp_path / "x.nc")
    assert back.final is None
    assert eqx.tree_equal(back.initial, curves["theory"].initial) is True


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
    assert back.to_xarray()["Q1"].dims == ("lane", "time", "k", "l")
    np.testing.assert_array_equal(back.final.bulk.encoder, lanes.final.bulk.encoder)
    assert back.to_xarray()["final_spikes_decoder"].dims == ("lane", "spike", "k")


def test_quadrature_activations_survive_a_file_only_if_they_have_a_name(tmp_path, curves):
    def curve(activation):  # as if it had been computed with it
        return eqx.tree_at(lambda c: c.problem.autoencoder.activation, curves["theory"], activation)

    curve(odeae.Quadrature(jnp.tanh, q_max=10.0)).save(tmp_path / "tanh.nc")
    back = odeae.load(tmp_path / "tanh.nc").problem.autoencoder.activation
    assert back == odeae.Quadrature(jnp.tanh, q_max=10.0)
    own = odeae.Quadrature(jax.nn.softplus, q_max=10.0)
    curve(own).save(tmp_path / "own.nc")
    with pytest.raises(ValueError, match=r"activation=odeae\.Quadrature"):
        odeae.load(tmp_path / "own.nc")
    assert odeae.load(tmp_path / "own.nc", activation=own).problem.autoencoder.activation == own


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
    text = str(problem)
    assert "Problem(spectrum=Spectrum(dim=100, 2 spikes" in text
    assert "rule=SGD(lr=1, lr_encoder=None," in text
    assert text.endswith("noise=0)")
    assert "lr=array of shape (2,)" in str(lanes.problem.rule)
    texts = []
    jax.eval_shape(lambda lr: texts.append(str(odeae.SGD(lr))), 1.0)
    assert "lr=traced" in texts[0]
    assert "SGD(lr=array of shape ()" in str(jax.eval_shape(lambda: odeae.SGD(1.0)))


def test_lanes_are_counted_and_drawn_without_those_that_failed(problem):
    def curve(scale):
        state = odeae.random_state(problem, 0.3, scale)
        return odeae.predict(problem, state, jnp.array([0.0, 1.0, 5.0]), max_steps=25)

    three = jax.vmap(curve)(jnp.array([0.1, 0.3, 50.0]))
    assert list(three.status) == [0, 0, 2]
    assert "nan" not in str(three)
    assert "1 of 3 failed" in str(three)
    plt.close(three.plot().figure)


def test_lanes_with_times_of_their_own_are_not_mixed(problem):
    def curve(end):
        times = jnp.array([0.0, 0.5]) * end
        return odeae.predict(problem, odeae.random_state(problem), times)

    two = jax.vmap(curve)(jnp.array([1.0, 2.0]))
    for use in (str, lambda t: t.to_xarray(), odeae.plot):
        with pytest.raises(ValueError, match="different `times`"):
            use(two)


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
    assert set(odeae.__all__) == {*odeae._MODULE, *odeae._WHOLE}
    assert all(hasattr(odeae, name) for name in odeae.__all__)
    with pytest.raises(AttributeError, match="no attribute 'predikt'"):
        odeae.predikt


def test_names_of_the_readme_are_public():
    readme = Path(__file__).parent.parent / "README.md"
    used = set(re.findall(r"\bodeae\.([A-Za-z]\w+)", readme.read_text()))
    assert used <= {*odeae.__all__}


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
