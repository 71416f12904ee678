"""The validation matrix at its quick size, and its statistics."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import odeae
from odeae.analysis import validation
from odeae.plotting.validation import figure

# Some of the mechanisms; other tests hold the drift of every rule against independent routes.
ROWS = [
    "truncated, ReLU",
    "tied, full gradient",
    "biases, output bias, ReLU",
    "denoising, s² = D, erf",
]


@pytest.fixture(scope="module")
def results():
    return validation.validate(quick=True, rows=ROWS)


@pytest.mark.slow
def test_every_row_agrees_with_sgd():
    results = validation.validate(quick=True)
    assert len(results) == len(validation.MATRIX) >= 19
    _agree(results)


def test_rows_of_several_mechanisms_agree_with_sgd(results):
    assert [r.row.name for r in results] == ROWS
    _agree(results)


def _agree(results):
    deviating = {r.row.name: (r.limit, r.limit_error) for r in results if not r.agrees}
    assert deviating == {}


def test_the_common_start_does_not_depend_on_the_dimension():
    for row in validation.MATRIX:
        small, large = (
            row.problem(dim).order_parameters(row.state(dim)).total() for dim in (250, 10**6)
        )
        assert_allclose(small.T0, large.T0, rtol=1e-12)
        assert_allclose(small.Q1, large.Q1, atol=0.01)
        assert np.linalg.eigvalsh(large.T0).min() > 0.01


def test_a_wrong_theory_deviates(monkeypatch):
    """A reconstruction that is seen one neuron late: what a row is there to find."""
    row = next(row for row in validation.MATRIX if row.name == "truncated, erf")
    real = validation.predict

    def wrong(problem, *args, **options):
        plain = odeae.Problem(problem.spectrum, problem.autoencoder, odeae.SGD())
        return real(plain, *args, **options)

    monkeypatch.setattr(validation, "predict", wrong)
    (result,) = validation.validate(quick=True, rows=[row.name])
    assert result.verdict == "deviates"


@pytest.mark.parametrize("activation", ["relu", pytest.param("tanh", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_diffusion_of_units_that_need_quadrature(activation):
    """One neuron at s² = D: SGD follows the theory with diffusion, and not that without."""
    dim, runs = 500, 40
    spectrum = odeae.Spectrum.spiked([1.0], dim)
    p = odeae.Problem(spectrum, odeae.Autoencoder(1, activation), noise=float(dim))
    spikes, none = odeae.Modes(*np.full((2, 1, 1), 0.8)), np.zeros((2, 1))
    state = odeae.State(spikes, odeae.Modes(none, none), np.zeros(1))
    times = np.linspace(1.0, 5.0, 5)
    got = odeae.simulate(p, state, times, runs=runs, test_samples=1).error.mean(axis=1)
    mean, error = got.mean(), got.std(ddof=1) / np.sqrt(runs)
    off, on = (odeae.predict(p, state, times, diffusion=d).error.mean() for d in (False, True))
    assert abs(mean - on) < 3.0 * error + 2.0 / dim
    assert abs(mean - off) > 5.0 * error + 2.0 / dim


def test_extrapolation_is_a_weighted_line():
    dims = [250, 500, 1000]
    value, error = validation.extrapolate(
        dims, 0.3 + 7.0 / np.array(dims), np.array([0.1, 0.2, 0.3])
    )
    assert_allclose(value, 0.3, rtol=1e-12)
    x, weight = 1.0 / np.array(dims), np.array([0.1, 0.2, 0.3]) ** -2.0
    centre = np.sum(weight * x) / np.sum(weight)
    spread = np.sum(weight * (x - centre) ** 2)
    assert_allclose(error**2, 1.0 / np.sum(weight) + centre**2 / spread, rtol=1e-10)


def test_table_and_dataset(results):
    table = validation.markdown(results)
    assert table.count("| agrees |") == len(results)
    data = validation.to_xarray(results)
    assert dict(data.sizes)["row"] == len(results)
    assert_allclose(data.limit, [r.limit for r in results])
    assert list(data.row) == ROWS
    assert len(figure(results).axes) == len(ROWS)


def test_an_unknown_row_is_named():
    with pytest.raises(ValueError, match=r"unknown `row` 'Oia': .* did you mean 'Oja'"):
        validation.validate(rows=["Oia"])
