"""Plots of sweeps show what the numbers are: lines, cells, scales, and what failed."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray
from matplotlib.colors import LogNorm

import odeae
from odeae.results.variables import attributes

TIMES = np.concatenate([[0.0], np.geomspace(0.01, 100.0, 12)])
FLOOR = 0.05


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def made(zipped=False, **grid):
    """A sweep whose curve at (i, j, …) decays at a rate 1 + i + 10 j + … to a PCA error."""
    sizes = (len(next(iter(grid.values()))),) if zipped else tuple(map(len, grid.values()))
    dims = ("lane",) if zipped else tuple(grid)
    rate = 1.0 + sum(10.0**n * index for n, index in enumerate(np.indices(sizes)))
    error = FLOOR + np.exp(-0.03 * rate[..., None] * TIMES) + 1e-3 * rate[..., None]
    variables = {
        "error": ((*dims, "time"), error),
        "final_excess": (dims, error[..., -1] - FLOOR),
        "status": (dims, np.zeros(sizes, "int8"), attributes("status", not_computed=True)),
        "stop_time": (dims, np.full(sizes, TIMES[-1])),
    }
    coords = {name: (dims if zipped else name, np.asarray(x)) for name, x in grid.items()}
    return xarray.Dataset(variables, {**coords, "time": TIMES})


def fail(data, code=1, at=6, **where):
    """Let the curves at these indices stop before time `at`."""
    data["status"][where] = code
    data["final_excess"][where] = np.nan
    data["error"][{**where, "time": slice(at, None)}] = np.nan


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()] if ax.get_legend() else []


def cells(ax):
    """The mesh of a heat map as (rows of y, columns of x)."""
    mesh = ax.collections[0]
    return mesh.get_array(), mesh.get_coordinates()


def test_a_heat_map_shows_every_cell_where_it_belongs():
    data = made(lr=[1.0, 10.0, 0.1], weight_decay=[0.0, 1.0])  # not in order
    ax = odeae.plot_sweep(data)
    shown, corners = cells(ax)
    want = data["final_excess"].sortby("lr").values.T
    np.testing.assert_array_equal(shown, want)
    np.testing.assert_allclose(corners[0, :, 0], np.array([0.1, 1, 10, 100]) / 10**0.5)
    np.testing.assert_allclose(corners[:, 0, 1], [-0.5, 0.5, 1.5])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("lr", "weight_decay")
    assert ax.figure.axes[1].get_ylabel() == "error above the PCA error, at t = 100"
    assert texts(ax) == []
    turned = odeae.plot_sweep(data, x="weight_decay", y="lr")
    np.testing.assert_array_equal(cells(turned)[0], want.T)


def test_colours_are_logarithmic_over_decades_only():
    data = made(lr=[1.0, 2.0], seed=[0, 1])
    assert not isinstance(odeae.plot_sweep(data, time=0.0).collections[0].norm, LogNorm)
    data["final_excess"][0, 0] = 1e-6
    assert isinstance(odeae.plot_sweep(data).collections[0].norm, LogNorm)


def test_failed_and_missing_cells_are_hatched_and_named():
    data = made(lr=[0.1, 1.0, 10.0], seed=[0, 1, 2])
    fail(data, lr=2, seed=0)
    fail(data, code=2, lr=2, seed=1)
    fail(data, code=-1, at=0, lr=0, seed=0)
    ax = odeae.plot_sweep(data)
    mask = np.zeros((3, 3), bool)
    mask[[0, 1, 0], [2, 2, 0]] = True
    np.testing.assert_array_equal(cells(ax)[0].mask, mask)
    assert texts(ax) == ["1 diverged, 1 budget", "not computed"]
    hatched, waiting = ax.collections[1:]
    assert (len(hatched.get_paths()), len(waiting.get_paths())) == (2, 1)
    assert hatched.get_hatch()
    early = odeae.plot_sweep(data, time=TIMES[2])  # before they failed
    np.testing.assert_array_equal(np.argwhere(cells(early)[0].mask), [[0, 0]])


def test_a_mean_is_over_those_that_finished_and_says_so():
    data = made(lr=[0.1, 1.0], weight_decay=[1.0, 2.0], seed=[0, 1])
    fail(data, lr=0, weight_decay=0, seed=1)
    ax = odeae.plot_sweep(data, mean="seed")
    excess = data["final_excess"]
    np.testing.assert_allclose(cells(ax)[0], excess.mean("seed").values.T)
    assert cells(ax)[0][0, 0] == excess[0, 0, 0]
    assert texts(ax) == ["mean without those that failed"]
    assert ax.get_title("left") == "mean over seed (2)"
    lines = odeae.plot_sweep(data, "lr", select={"weight_decay": 1}, mean=["seed"])
    np.testing.assert_array_equal(lines.lines[0].get_ydata(), data["error"][0, 0, 0])
    assert lines.lines[0].get_linestyle() == "--"
    np.testing.assert_allclose(lines.lines[1].get_ydata(), data["error"][1, 0].mean("seed"))
    assert lines.get_title("left") == "weight_decay = 1, mean over seed (2)"


def test_a_family_of_few_curves_has_a_legend_and_the_pca_error():
    data = made(hidden=[3, 1, 2])
    ax = odeae.plot_sweep(data)
    for line, place in zip(ax.lines, (1, 2, 0), strict=False):
        np.testing.assert_array_equal(line.get_ydata(), data["error"][place])
        np.testing.assert_array_equal(line.get_xdata(), TIMES)
    assert texts(ax) == ["hidden = 1", "hidden = 2", "hidden = 3", "PCA error"]
    np.testing.assert_allclose(ax.lines[3].get_ydata(), FLOOR)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_ylim()[0] < FLOOR
    data["final_excess"] += [0.0, 0.01, 0.02]
    ax = odeae.plot_sweep(data)
    assert len(ax.lines) == 6
    assert texts(ax)[-1] == "PCA error at each hidden"
    assert len(odeae.plot_sweep(data, levels=False).lines) == 3


def test_a_family_of_many_curves_has_a_colour_bar_and_crosses():
    data = made(lr=np.geomspace(0.1, 10, 9))
    fail(data, lr=8, at=6)
    data["error"][8, 5] = 1e6  # it blows up, and must not squeeze the others
    own = plt.subplots()[1]
    ax = odeae.plot_sweep(data, ax=own)
    assert ax is own
    assert len(ax.lines) == 9 + 2
    assert ax.figure.axes[1].get_ylabel() == "lr"
    assert texts(ax) == ["PCA error", "stopped: 1 diverged"]
    assert ax.lines[-1].get_xdata() == TIMES[5]
    assert ax.get_ylim()[1] < 3.0
    assert ax.lines[-1].get_ydata() == ax.get_ylim()[1]


def test_one_number_per_curve_against_one_parameter():
    data = made(lr=[0.1, 1.0, 10.0])
    fail(data, lr=2)
    ax = odeae.plot_sweep(data, value="final_excess")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), data["final_excess"])
    assert texts(ax) == ["1 diverged"]
    assert ax.get_xscale() == "log"
    ax = odeae.plot_sweep(data, time=1.0)
    at = np.argmin(abs(TIMES - 1.0))
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), data["error"][:, at])
    assert ax.get_ylabel() == f"generalisation error at t = {TIMES[at]:.4g}"


def test_zipped_sweeps_are_curves_or_points():
    data = made(zipped=True, lr=[0.1, 1.0, 10.0], weight_decay=[0.3, 0.2, 0.1])
    fail(data, lane=0)
    ax = odeae.plot_sweep(data)
    shown, failed = ax.collections
    np.testing.assert_array_equal(shown.get_offsets(), [[1.0, 0.2], [10.0, 0.1]])
    np.testing.assert_array_equal(shown.get_array(), data["final_excess"][1:])
    np.testing.assert_array_equal(failed.get_offsets(), [[0.1, 0.3]])
    assert texts(ax) == ["1 diverged"]
    ax = odeae.plot_sweep(data, "weight_decay")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), data["error"][2])
    assert len(odeae.plot_sweep(data, "lr", select={"weight_decay": 0.2}).lines) == 2


def test_names_and_uneven_numbers_are_labelled_one_by_one():
    data = made(weight_decay=[0.0, 1e-4, 1e-2], activation=["relu", "erf"])
    ax = odeae.plot_sweep(data)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "0.0001", "0.01"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["erf", "relu"]
    np.testing.assert_array_equal(cells(ax)[0], data["final_excess"].values.T[::-1])
    lines = odeae.plot_sweep(data, "activation", select={"weight_decay": 0})
    assert texts(lines)[:2] == ["activation = erf", "activation = relu"]


def shown(axis):
    """The numbers that label an axis, within its view."""
    axis.figure.canvas.draw()
    low, high = sorted(axis.get_view_interval())
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    return {t.label1.get_text() or t.label2.get_text() for t in ticks if low <= t.get_loc() <= high}


def test_short_numbers_label_logarithmic_axes_plainly():
    data = made(lr=np.geomspace(0.3, 2.0, 5), weight_decay=np.geomspace(1e-4, 1e-1, 6))
    data["final_excess"][:] = np.geomspace(0.02, 0.9, 30).reshape(5, 6)
    ax = odeae.plot_sweep(data)
    assert {"0.3", "0.6", "1", "2"} < shown(ax.xaxis) | {""}
    assert {"0.02", "0.1", "0.6"} < shown(ax.figure.axes[1].yaxis)
    powers = shown(ax.yaxis) - {""}
    assert len(powers) >= 3
    assert all(text.startswith("$") for text in powers)  # 10⁻⁴ and no 0.1 beside it
    lines = odeae.plot_sweep(made(lr=np.geomspace(0.6, 4.0, 8)))
    assert shown(lines.xaxis) - {""} == {"0.01", "0.1", "1", "10", "100"}
    assert {"0.6", "1", "2"} < shown(lines.figure.axes[1].yaxis) | {""}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"parameters lr, hidden, seed: name one or two .* select=\{"),
        ({"x": "lr"}, "hidden, seed must be chosen as well"),
        ({"x": "lr", "y": "hidden"}, "seed must be chosen as well"),
        ({"x": "l"}, "unknown `parameter` 'l'"),
        ({"y": "lr"}, "`x` and `y` must be two parameters in this order, got None and 'lr'"),
        ({"select": {"seed": 7}}, r"`select\['seed'\]` must be one of 0, 1, got 7"),
        ({"select": {"sed": 7}}, "did you mean 'seed'"),
        ({"select": {"seed": 0}, "mean": "seed"}, "both in `select` and in `mean`"),
        ({"x": "lr", "y": "seed", "mean": ["hidden", "seed"]}, "other parameters than the axes"),
        ({"mean": "seed", "value": "Q1"}, "unknown `value` 'Q1'"),
        ({"mean": "seed", "time": 200.0}, "`time` must be from 0 to 100, got 200"),
        ({"mean": "seed", "time": 2.0, "value": "stop_time"}, "`time` is for error"),
    ],
)
def test_a_choice_that_is_not_clear_is_refused(arguments, message):
    data = made(lr=[0.1, 1.0], hidden=[1, 2], seed=[0, 1])
    with pytest.raises(ValueError, match=message):
        odeae.plot_sweep(data, **arguments)


def test_what_is_no_sweep_is_refused():
    with pytest.raises(ValueError, match=r"takes the dataset of odeae\.sweep"):
        odeae.plot_sweep(xarray.Dataset())
    with pytest.raises(ValueError, match="`mean` is for crossed parameters"):
        odeae.plot_sweep(made(zipped=True, lr=[1.0, 2.0]), mean="lr")
