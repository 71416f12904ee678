"""Spectra against brute force on small ones: what is lumped, what is ordered, what is left."""

import itertools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pandas
import plain
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from odeae import Spectrum

few = settings(max_examples=25, deadline=None, derandomize=True)

# Many ties, many zeros, and single values of any size.
eigenvalues = arrays(
    float,
    st.integers(1, 40),
    elements=st.one_of(st.integers(0, 3).map(lambda n: 0.1 * n), st.floats(1e-3, 50.0)),
).filter(lambda rho: rho.max() > 0)


def unlumped(spectrum):
    """The D eigenvalues in the spectrum's own order: spikes, then bin by bin."""
    bulk = np.repeat(spectrum.bulk, spectrum.multiplicity)
    return np.concatenate([spectrum.spikes * spectrum.dim, bulk])


def order_of(spectrum):
    return np.arange(spectrum.dim) if spectrum.order is None else spectrum.order


# Binning and order


@few
@given(eigenvalues, st.integers(0, 40), st.integers(1, 12))
def test_every_eigenvalue_is_in_one_bin_of_its_likes(rho, spikes, bins):
    spikes = min(spikes, len(rho))
    spectrum = Spectrum.from_eigenvalues(rho, spikes=spikes, bins=bins)
    order, lumped = order_of(spectrum), unlumped(spectrum)
    assert spectrum.dim == len(rho)
    assert len(spectrum.bulk) <= bins
    np.testing.assert_array_equal(np.sort(order), np.arange(len(rho)))
    sorted_rho = rho[order]
    assert np.all(np.diff(sorted_rho) <= 0)  # the largest are the spikes
    np.testing.assert_allclose(lumped[:spikes], sorted_rho[:spikes], rtol=1e-15)
    start = spikes
    for value, count in zip(spectrum.bulk, spectrum.multiplicity, strict=True):
        members = sorted_rho[start : start + count]
        np.testing.assert_allclose(value, members.mean(), rtol=1e-14)
        if members[0] == members[-1]:
            assert value == members[0]  # equal eigenvalues are lumped exactly
        start += count
        assert start == len(rho) or sorted_rho[start] < members[-1]  # and never torn apart
    np.testing.assert_allclose(spectrum.trace, rho.sum() / len(rho), rtol=1e-14)


@few
@given(eigenvalues, st.integers(0, 40))
def test_eigenvalues_come_back_in_the_order_as_given(rho, spikes):
    spectrum = Spectrum.from_eigenvalues(rho, spikes=min(spikes, len(rho)), bins=len(rho))
    np.testing.assert_array_equal(spectrum.eigenvalues(), rho)
    # also where they have to be put back from spikes and bins through `order`
    again = Spectrum(spectrum.spikes, spectrum.bulk, spectrum.multiplicity, spectrum.order)
    np.testing.assert_allclose(again.eigenvalues(), rho, rtol=1e-15)


def densities_of_bulks():
    p = (np.arange(4000) + 0.5) / 4000
    return {
        "uniform": (0.2 + 1.8 * p, lambda x: np.full_like(x, 1 / 1.8), (0.2, 2.0)),
        "exponential": (-np.log1p(-p), lambda x: np.exp(-x), (0.0, 9.0)),
        "in steps": (np.round(-np.log1p(-p), 2), lambda x: np.exp(-x), (0.0, 9.0)),
        "dense at 0": (3 * p**3, lambda x: (x / 3) ** (-2 / 3) / 9, (1e-12, 3.0)),
    }


@pytest.mark.parametrize("name", ["uniform", "exponential", "in steps", "dense at 0"])
def test_variance_within_bins_is_the_least_possible(name):
    # Panter and Dite (1951): for B bins of a density p it is (∫p^{1/3})³/(12 B²) at best.
    rho, density, (low, high) = densities_of_bulks()[name]
    x = low + (high - low) * np.linspace(0, 1, 200_001) ** 3
    middle = 0.5 * (x[1:] + x[:-1])
    bound = np.sum(np.cbrt(density(middle)) * np.diff(x)) ** 3 / 12
    for bins in (32, 64):
        spectrum = Spectrum.from_eigenvalues(rho, spikes=0, bins=bins)
        within = np.mean((unlumped(spectrum) - np.sort(rho)[::-1]) ** 2)
        assert 0.9 * bound / bins**2 < within < 1.15 * bound / bins**2


def test_outliers_are_chosen_as_spikes():
    bulk = np.linspace(0.5, 1.5, 1001)  # Tukey's outer fence at 1.25 + 3 × 0.5
    assert len(Spectrum.from_eigenvalues(np.r_[2.7, bulk, 90.0, 2.8]).spikes) == 2
    assert len(Spectrum.from_eigenvalues(bulk).spikes) == 0
    assert len(Spectrum.from_eigenvalues(np.r_[np.ones(50), 1.1]).spikes) == 1
    assert len(Spectrum.from_eigenvalues(np.r_[np.ones(50), 1 + 1e-14]).spikes) == 0


def test_eigenvalues_equal_to_rounding_share_a_bin():
    # eigh returns the eigenvalue 1 of an isotropic bulk as 60 values 1 ± 1e-13: taken as 60
    # different ones they cost 32 bins (a drift 32 times as dear), and some of them became spikes.
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((64, 64)))[0]
    rho = np.r_[64.0, 32.0, 20.0, 15.0, np.ones(60)]
    spectrum = Spectrum.from_covariance((rotation * rho) @ rotation.T)
    assert len(spectrum.spikes) == 4
    assert spectrum.multiplicity == (60,)
    np.testing.assert_allclose(spectrum.bulk, 1.0, rtol=1e-13)


# PCA errors


@few
@given(
    arrays(float, 3, elements=st.floats(0.0, 2.0)),
    arrays(float, 3, elements=st.floats(1e-3, 60.0)),
    st.tuples(*[st.integers(1, 6)] * 3),
)
def test_pca_errors_are_sums_of_the_smallest_eigenvalues(spikes, bulk, multiplicity):
    # spikes are neither sorted nor always above the bulk; ranks go on beyond D
    spectrum = Spectrum(spikes, bulk, multiplicity)
    rho = np.sort(spectrum.eigenvalues())[::-1]
    expected = [0.5 * rho[rank:].sum() / len(rho) for rank in range(25)]
    np.testing.assert_allclose(spectrum.pca_errors(24), expected, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(spectrum.pca_error(2), expected[2], rtol=1e-13, atol=1e-15)


def test_pca_errors_do_not_care_how_large_the_dimension_is():
    spectrum = Spectrum.spiked([1.0, 0.5], dim=10**12)
    np.testing.assert_allclose(spectrum.pca_errors(3), [1.25, 0.75, 0.5, 0.5], rtol=1e-11)
    assert 0 < spectrum.pca_error(10**12 - 1) < 1e-12  # no array of 10^12 ranks
    assert spectrum.pca_error(10**12) == 0


# Models


def test_spiked_keeps_the_order_of_its_spikes():
    spectrum = Spectrum.spiked([0.2, 0.9, 0.5], dim=10, bulk=3.0)
    np.testing.assert_array_equal(spectrum.spikes, [0.2, 0.9, 0.5])
    np.testing.assert_allclose(spectrum.eigenvalues(), [2, 9, 5] + [3.0] * 7)
    assert spectrum.dim == 10
    np.testing.assert_allclose(spectrum.trace, 1.6 + 2.1)
    assert Spectrum.spiked([1.0, 0.5], dim=2).bulk.size == 0
    assert Spectrum.spiked([], dim=4).multiplicity == (4,)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.7, 4.0])
@pytest.mark.parametrize(("spikes", "bins"), [(0, 1), (0, 12), (32, 8), (100, 8)])
def test_power_law_is_the_direct_sum_at_small_dimension(exponent, spikes, bins):
    spectrum = Spectrum.power_law(1000, exponent, variance=0.7, spikes=spikes, bins=bins)
    rho = np.arange(1, 1001.0) ** -exponent
    rho *= 0.7 * 1000 / rho.sum()
    np.testing.assert_allclose(spectrum.spikes, rho[:spikes] / 1000, rtol=1e-12)
    ends = spikes + np.cumsum(spectrum.multiplicity)
    means = [part.mean() for part in np.split(rho[spikes:], ends[:-1] - spikes)]
    assert ends[-1] == 1000
    np.testing.assert_allclose(spectrum.bulk, means, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(spectrum.trace, 0.7, rtol=1e-12)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.2])
def test_power_law_of_a_billion_modes(exponent):
    dim = 10**9
    spectrum = Spectrum.power_law(dim, exponent, spikes=3, bins=6)
    ends = [3, *(3 + np.cumsum(spectrum.multiplicity)).tolist()]
    assert ends[-1] == dim
    with mp.workdps(40):

        def below(n):  # Σ τ^{-s} up to n, to a constant
            return mp.digamma(n + 1) if exponent == 1 else -mp.zeta(mp.mpf(exponent), n + 1)

        norm = dim / (below(dim) - below(0))
        means = [
            float(norm * (below(stop) - below(start)) / (stop - start))
            for start, stop in itertools.pairwise(ends)
        ]
    np.testing.assert_allclose(spectrum.bulk, means, rtol=1e-12)


def law(gamma, n):
    """Marchenko–Pastur at variance 1: n points x, its mass and its trace below each (no zeros)."""
    low, high = (1 - gamma**0.5) ** 2, (1 + gamma**0.5) ** 2
    s = np.linspace(0, 1, n)
    x = low + (high - low) * (3 * s**2 - 2 * s**3)  # closer where the density is a square root
    middle = 0.5 * (x[1:] + x[:-1])
    density = np.sqrt((high - middle) * (middle - low)) / (2 * np.pi * gamma * middle)
    mass = np.r_[0.0, np.cumsum(density * np.diff(x))]
    return x, mass, np.r_[0.0, np.cumsum(density * middle * np.diff(x))]


@pytest.mark.parametrize("gamma", [0.04, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("dim", [90, 10**9])
def test_marchenko_pastur_bins_hold_the_means_of_the_law(gamma, dim):
    spectrum = Spectrum.marchenko_pastur(dim, round(dim / gamma), variance=2.0)
    bulk, count = spectrum.bulk / 2.0, np.array(spectrum.multiplicity)
    if gamma > 1:
        assert bulk[-1] == 0
        assert count[-1] == dim - round(dim / gamma)
        bulk, count = bulk[:-1], count[:-1]
    _, mass, trace = law(gamma, 400_001)
    np.testing.assert_allclose(mass[-1], min(1, 1 / gamma), rtol=1e-4)  # the law itself is right
    ends = np.r_[0, np.cumsum(count)] / np.sum(count)
    expected = -np.diff(np.interp(1 - ends, mass / mass[-1], trace)) * dim / count
    np.testing.assert_allclose(bulk, expected, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(spectrum.trace, 2.0, rtol=1e-13)
    second = np.sum(count * bulk**2) / dim  # E ρ² = 1 + γ, less the variance within bins
    assert 0.99 < second / (1 + gamma) < 1


def test_marchenko_pastur_converges_to_its_moments():
    def missing(bins):
        spectrum = Spectrum.marchenko_pastur(10**9, 2 * 10**9, bins=bins)
        return 1.5 - np.sum(np.array(spectrum.multiplicity) * spectrum.bulk**2) / 10**9

    assert 3.5 < missing(16) / missing(32) < 4.5  # O(1/bins²)
    assert missing(32) < 3e-3


def test_marchenko_pastur_is_the_spectrum_of_a_sample_covariance():
    rng = np.random.default_rng(0)
    for samples in (600, 150):
        x = 1.5**0.5 * rng.standard_normal((samples, 300))
        sampled = np.linalg.eigvalsh(x.T @ x / samples)[::-1]
        model = Spectrum.marchenko_pastur(300, samples, variance=1.5)
        parts = np.split(sampled, np.cumsum(model.multiplicity)[:-1])
        means = np.array([part.mean() for part in parts])
        np.testing.assert_allclose(model.bulk, means, rtol=0.1, atol=1e-12)
        assert np.mean(np.abs(model.bulk - means)) < 0.05


def test_marchenko_pastur_of_many_samples_is_isotropic():
    # Bins used to round their number of modes but not their eigenvalue: 0.38 … 1.17 here.
    spectrum = Spectrum.marchenko_pastur(100, 10**9)
    np.testing.assert_allclose(spectrum.bulk, 1.0, atol=1e-3)


def test_marchenko_pastur_takes_spikes():
    spectrum = Spectrum.marchenko_pastur(50, 100, spikes=[1.0, 0.6])
    np.testing.assert_array_equal(spectrum.spikes, [1.0, 0.6])
    np.testing.assert_allclose(spectrum.trace, 1.6 + 48 / 50)
    assert Spectrum.marchenko_pastur(2, 100, spikes=[1.0, 0.6]).bulk.size == 0  # no 0/0


# Covariances and data


def sample(rows=240, dim=12, mean=0.0):
    rng = np.random.default_rng(1)
    scale = np.linspace(3.0, 0.2, dim)
    return rng.standard_normal((rows, dim)) * scale @ rng.standard_normal((dim, dim)) + mean


def test_a_covariance_is_basis_times_eigenvalues():
    omega = np.cov(sample().T)
    spectrum = Spectrum.from_covariance(omega, spikes=3, bins=4)
    basis = spectrum.basis
    np.testing.assert_allclose(basis.T @ basis, np.eye(12), atol=1e-13)
    np.testing.assert_allclose((basis * spectrum.eigenvalues()) @ basis.T, omega, atol=1e-11)
    np.testing.assert_allclose(spectrum.trace, np.trace(omega) / 12)
    nearly = omega * (1 + 1e-12 * np.triu(np.ones((12, 12))))  # asymmetric by rounding
    np.testing.assert_allclose(Spectrum.from_covariance(nearly).eigenvalues(), spectrum.given)


class Counted:
    """An array on disk: counts how often each row is read, and the most rows at once."""

    def __init__(self, x):
        self.x, self.shape, self.reads, self.most = x, x.shape, np.zeros(len(x), int), 0

    def __getitem__(self, rows):
        self.reads[rows] += 1
        self.most = max(self.most, len(self.x[rows]))
        return self.x[rows]


def memmap(x, folder):
    x.tofile(folder / "x.bin")
    return np.memmap(folder / "x.bin", x.dtype, "r", shape=x.shape)


@pytest.mark.parametrize("mean", [0.0, 5.0, 1e7])
def test_data_in_any_form_gives_the_covariance_in_one_pass(tmp_path, mean):
    # 1e7: E[x²] − E[x]² as written would leave no digit of the smallest eigenvalues.
    x = sample(mean=mean)
    counted = Counted(x)
    forms = {
        "array": x,
        "lists": x.tolist(),
        "jax": jnp.asarray(x),
        "pandas": pandas.DataFrame(x, columns=list("abcdefghijkl")),
        "polars": plain.Table(x, list("abcdefghijkl")),
        "torch": plain.Tensor(x),
        "csr": scipy.sparse.csr_array(x),
        "coo": scipy.sparse.coo_matrix(x),
        "masked": np.ma.masked_array(x),
        "memmap": memmap(x, tmp_path),
        "counted": counted,
        "generator": (x[i : i + 50] for i in range(0, 240, 50)),
        "list of pieces": [x[:100], x[100:101], x[101:101], x[101:]],
        "sparse pieces": (scipy.sparse.csr_array(x[i : i + 50]) for i in range(0, 240, 50)),
    }
    omega = np.cov(x.T, bias=True)
    exact = np.linalg.eigvalsh(omega)[::-1]
    for form in forms.values():
        spectrum = Spectrum.from_data(form, spikes=2, batch=37)
        np.testing.assert_allclose(spectrum.eigenvalues(), exact, rtol=1e-9, atol=1e-12)
        basis = spectrum.basis
        np.testing.assert_allclose((basis * spectrum.eigenvalues()) @ basis.T, omega, rtol=1e-9)
        np.testing.assert_allclose(spectrum.mean, x.mean(0), rtol=1e-14, atol=1e-14)
    assert np.all(counted.reads == 1)
    assert counted.most == 37


def test_images_are_rows_on_request():
    x = sample(dim=12).reshape(240, 3, 4)
    forms = {"stack": x, "colours": x.reshape(240, 3, 2, 2), "pieces": [x[:100], x[100:]]}
    forms |= {"list of images": list(x), "generator of images": iter(x)}
    want = Spectrum.from_data(x.reshape(240, 12)).eigenvalues()
    for form in forms.values():
        got = Spectrum.from_data(form, flatten=True)
        np.testing.assert_allclose(got.eigenvalues(), want, rtol=1e-9, atol=1e-12)


def test_few_rows_are_said_with_what_they_do():
    """60 isotropic columns: the bulk looks like anything but isotropic unless rows are many."""
    rng = np.random.default_rng(0)
    for rows, low, high in ((90, 0.034, 3.3), (240, 0.25, 2.2)):
        words = rf"`x` has {rows} rows for 60 columns \(n/D = .* from {low} to {high} of"
        with pytest.warns(UserWarning, match=words):
            spectrum = Spectrum.from_data(rng.standard_normal((rows, 60)))
        rho = spectrum.eigenvalues()  # what the warning says is what is there
        np.testing.assert_allclose([rho.min(), rho.max()], [low, high], rtol=0.25)
    Spectrum.from_data(rng.standard_normal((300, 60)))  # n = 5 D: not a word
    with pytest.warns(UserWarning, match=r"at least 41 are 0; is it transposed\?"):
        spectrum = Spectrum.from_data(rng.standard_normal((20, 60)))
    assert np.sum(spectrum.eigenvalues() == 0) == 41
    with pytest.warns(UserWarning, match="is symmetric, and so looks like a covariance: use from_"):
        Spectrum.from_data(np.cov(sample().T))


@pytest.mark.filterwarnings("ignore:`x` has")
def test_modes_without_variance_are_exactly_zero():
    x = sample(rows=8)  # rank 7 of 12
    spectrum = Spectrum.from_data(x, spikes=2)
    assert np.sum(spectrum.eigenvalues() == 0) == 5
    assert spectrum.multiplicity[-1] == 5
    assert spectrum.bulk[-1] == 0
    single = Spectrum.from_data(x.astype(np.float32))
    np.testing.assert_allclose(single.eigenvalues()[:7], spectrum.eigenvalues()[:7], rtol=1e-5)
    assert single.spikes.dtype == float


def test_integers_and_float32_are_taken_as_float64():
    for rho in ([3, 2, 1], np.float32([3, 2, 1]), np.array([3, 2, 1], np.uint8)):
        spectrum = Spectrum.from_eigenvalues(rho, spikes=1)
        assert spectrum.spikes.dtype == spectrum.bulk.dtype == float
        assert spectrum.trace == 2.0


# Transformations


def test_values_may_be_traced_where_sizes_are_not():
    def level(rho):
        spectrum = Spectrum.from_eigenvalues(rho, spikes=4)
        np.testing.assert_array_equal(spectrum.bulk.shape, (0,))
        return spectrum.pca_error(2), spectrum

    rho = np.array([2.0, 5.0, 1.0, 3.0])
    batch = np.stack([rho, rho[::-1], 2 * rho])
    levels, spectra = jax.jit(jax.vmap(level))(batch)
    np.testing.assert_allclose(levels, [3 / 8, 3 / 8, 6 / 8])
    np.testing.assert_array_equal(spectra.order, [[1, 3, 0, 2], [2, 0, 3, 1], [1, 3, 0, 2]])
    assert "Spectrum(" in repr(spectra)
    gradient = jax.grad(lambda rho: level(rho)[0])(rho)
    np.testing.assert_allclose(gradient, [1 / 8, 0, 1 / 8, 0])  # of the two smallest


def test_gradients_reach_the_parameters_of_models():
    def spiked(a):
        return Spectrum.spiked([a, 0.5], dim=10, bulk=2 * a).pca_error(1)

    np.testing.assert_allclose(jax.grad(spiked)(0.8), 0.5 * 2 * 8 / 10)

    def marchenko_pastur(v):
        return Spectrum.marchenko_pastur(50, 100, variance=v).trace

    np.testing.assert_allclose(jax.grad(marchenko_pastur)(1.3), 1.0)


@pytest.mark.parametrize("exponent", [0.3, 1.0, 1.0 + 1e-7, 1.5])
def test_gradient_of_a_power_law(exponent):
    # at exponent 1 the integral ∫ τ^{-s} is 0/0, and so is its derivative
    def level(s):
        return Spectrum.power_law(2000, s, spikes=2, bins=3).pca_error(2)

    tau = np.arange(1, 2001.0)
    rho = tau**-exponent
    share = np.sum(rho[2:]) / np.sum(rho)
    slope = -np.sum((rho * np.log(tau))[2:]) / np.sum(rho)
    slope += share * np.sum(rho * np.log(tau)) / np.sum(rho)
    np.testing.assert_allclose(jax.grad(level)(exponent), 0.5 * slope, rtol=1e-11)


# Messages

SETUP = """
import jax, numpy as np, pandas as pd, plain, scipy.sparse
from odeae import Spectrum
jax.config.update("jax_enable_x64", True)
nan, inf, eye = np.nan, np.inf, np.eye(3)
x = np.random.default_rng(0).standard_normal((20, 3))
"""
BAD = {
    "Spectrum.from_eigenvalues([])": "`rho` .*at least one .*got an empty list",
    "Spectrum.from_eigenvalues(None)": "`rho` must be given, got None",
    "Spectrum.from_eigenvalues([1, nan])": "`rho` must be finite, got nan at index 1",
    "Spectrum.from_eigenvalues([inf, 1])": "`rho` must be finite, got inf at index 0",
    "Spectrum.from_eigenvalues([1, 2, -1])": "`rho` must not be negative, got -1 at index 2",
    "Spectrum.from_eigenvalues([-1e-20])": "`rho` must not be negative, got -1e-20 at index 0",
    "Spectrum.from_eigenvalues([1, -1e-18])": "1 values of `rho` are negative by rounding",
    "Spectrum.from_eigenvalues([0, 0])": "at least one positive eigenvalue, all are 0",
    "Spectrum.from_eigenvalues('ab')": "`rho` must hold real numbers, got 'ab'",
    "Spectrum.from_eigenvalues(['1'])": "`rho` must hold real numbers, got .*1",
    "Spectrum.from_eigenvalues([1j])": "`rho` must hold real numbers, got",
    "Spectrum.from_eigenvalues([[1], [1, 2]])": "`rho` must hold real numbers, got",
    "Spectrum.from_eigenvalues({'a': 1})": "`rho` must hold real numbers, got",
    "Spectrum.from_eigenvalues(eye)": r"`rho` must be a list of numbers, got shape \(3, 3\)",
    "Spectrum.from_eigenvalues(1.0)": r"`rho` must be a list of numbers, got a single number",
    "Spectrum.from_eigenvalues([1], spikes=2)": "`spikes` must be at most .*1, got 2",
    "Spectrum.from_eigenvalues([1], spikes=-1)": "`spikes` must be at least 0, got -1",
    "Spectrum.from_eigenvalues([1], spikes=1.5)": "`spikes` must be a whole number, got 1.5",
    "Spectrum.from_eigenvalues([1], spikes=True)": "`spikes` must be a whole number, got True",
    "Spectrum.from_eigenvalues([1], bins=0)": "`bins` must be at least 1, got 0",
    "Spectrum.from_eigenvalues([1], basis=eye)": r"`basis` must have shape \(1, 1\), got",
    "Spectrum.from_eigenvalues([1], mean=[nan])": "`mean` must be finite, got nan at index 0",
    "jax.jit(Spectrum.from_eigenvalues)([1.0, 2.0])": "`spikes` must be 2, .*got None",
    "jax.jit(lambda d: Spectrum.spiked([1.0], d))(3)": "`dim` must be a whole number, got .*Trac",
    "Spectrum([1], [1], (1, 2))": r"`multiplicity` .*one entry per bin .*\(1\), got 2",
    "Spectrum([1], [1], (0,))": "`multiplicity` must be at least 1, got 0",
    "Spectrum([])": "at least one eigenvalue, got none",
    "Spectrum.spiked(1.0, 5)": r"`spikes` must be a list of numbers, got a single number",
    "Spectrum.spiked([1, -1], 5)": "`spikes` must not be negative, got -1 at index 1",
    "Spectrum.spiked([1, 1], 1)": "`dim` must be at least the number of spikes, 2, got 1",
    "Spectrum.spiked([1], 0)": "`dim` must be at least 1, got 0",
    "Spectrum.spiked([1], 2.5)": "`dim` must be a whole number, got 2.5",
    "Spectrum.spiked([1], '5')": "`dim` must be a whole number, got '5'",
    "Spectrum.spiked([1], 10**400)": r"`dim` must be at most \d+, got 1000",
    "Spectrum.spiked([1], 5, bulk=-1)": "`bulk` must be zero or positive, got -1",
    "Spectrum.spiked([1], 5, bulk=nan)": "`bulk` must be finite, got nan",
    "Spectrum.spiked([1], 5, bulk=[1, 2])": r"`bulk` must be a single number, got shape \(2,\)",
    "Spectrum.power_law(0, 1.0)": "`dim` must be at least 1, got 0",
    "Spectrum.power_law(5, 1.0, spikes=9)": "`spikes` must be at most `dim`, 5, got 9",
    "Spectrum([1.0, 0.5], order=[0, 0])": "`order` must be a permutation of 0 … 1",
    "Spectrum.power_law(10**19, 1.0)": "`dim` must be at most",
    "Spectrum.power_law(9, -1.0)": "`exponent` must be zero or positive, got -1",
    "Spectrum.power_law(9, 1.0, variance=0)": "`variance` must be positive, got 0",
    "Spectrum.power_law(9, 1.0, spikes=-1)": "`spikes` must be at least 0, got -1",
    "Spectrum.power_law(9, 1.0, bins=0)": "`bins` must be at least 1, got 0",
    "Spectrum.marchenko_pastur(9, 0)": "`samples` must be at least 1, got 0",
    "Spectrum.marchenko_pastur(9, 9, variance=nan)": "`variance` must be finite, got nan",
    "Spectrum.marchenko_pastur(1, 9, spikes=[1, 1])": "`dim` .*number of spikes, 2, got 1",
    "Spectrum.from_covariance(x)": r"`omega` must be square .*shape \(20, 3\); .* use from_data",
    "Spectrum.from_covariance(eye[:0, :0])": r"`omega` .*not empty, got shape \(0, 0\)",
    "Spectrum.from_covariance([1, 2])": r"`omega` must be a matrix, got shape \(2,\)",
    "Spectrum.from_covariance([[1, 2], [3, 4]])": r"symmetric, got 2 at \(0, 1\) and 3 at \(1, 0\)",
    "Spectrum.from_covariance(nan * eye)": r"`omega` must be finite, got nan at index \(0, 0\)",
    "Spectrum.from_covariance(-eye)": "eigenvalues of omega` must not be negative, got -1",
    "Spectrum.from_covariance(None)": "`omega` must be given, got None",
    "jax.jit(Spectrum.from_covariance)(eye)": "`omega` must be concrete",
    "Spectrum.from_data(x[0])": r"`x` must have shape \(rows, dim\), got shape \(3,\)",
    "Spectrum.from_data(x[None])": r"`x` must .* got shape \(1, 20, 3\); .* flatten=True",
    "Spectrum.from_data(x[:1])": "`x` must have at least two rows, got 1",
    "Spectrum.from_data(x[:0])": "`x` must have at least two rows, got 0",
    "Spectrum.from_data(iter([]))": "`x` must have at least two rows, got 0",
    "Spectrum.from_data(x[:, :0])": "`x` must have at least one column",
    "Spectrum.from_data(np.where(x > 1.3, nan, x))": r"`x` must be finite, got nan in row \d+, col",
    "Spectrum.from_data([x, inf * x])": "`x` must be finite, got -?inf in row 20, column 0",
    "Spectrum.from_data(iter([x, x[:, :2]]))": "`x` must keep its width: .*2 columns .*of 3",
    "Spectrum.from_data(iter(x))": r"`x` must have shape \(rows, dim\), got shape \(3,\)",
    "Spectrum.from_data(iter([x + 1j]))": "`x` must hold real numbers, got",
    "Spectrum.from_data([[1, 2], [3]])": "`x` must hold real numbers, got",
    "Spectrum.from_data('patches.npy')": "`x` must hold real numbers, got 'patches.npy'",
    "Spectrum.from_data(None)": "`x` must be an array .*got NoneType",
    "Spectrum.from_data(5)": "`x` must be an array .*got int",
    "Spectrum.from_data(np.ones((15, 3)))": "at least one positive eigenvalue, all are 0",
    "Spectrum.from_data(np.ma.masked_equal(x, x[7, 1]))": r"`x` must have .* masked .* \(7, 1\)",
    "Spectrum.from_data(pd.DataFrame({'a': [1, 2], 'b': [3, 'red']}))": (
        r"`x` must hold real numbers, got 'red' in column 'b', row 1"
    ),
    "Spectrum.from_data(pd.DataFrame({'a': pd.to_datetime(['2020'])}))": "`x` .* column 'a', row",
    "Spectrum.from_data(pd.DataFrame({'a': [1, None]}, dtype='Int64'))": "`x` .* row 1",
    "Spectrum.from_data(plain.Tensor(x, True))": r"`x` must hold real numbers.*\.detach\(\)",
    "Spectrum.from_data(x.astype('M8[s]'))": "`x` must hold real numbers, got dtype datetime64",
    "Spectrum.from_data(x.astype(str))": "`x` must hold real numbers, got dtype <U",
    "Spectrum.from_data(x, flatten='no')": "`flatten` must be True or False, got 'no'",
    "Spectrum.from_covariance(scipy.sparse.eye_array(3))": r"`omega` .* dense.*\.toarray\(\)",
    "Spectrum.from_eigenvalues(np.ma.masked_equal([1, 2, 3], 2))": r"`rho` .* masked .* \(1,\)",
    "Spectrum.from_data(x, batch=0)": "`batch` must be at least 1, got 0",
    "Spectrum.from_data(x, spikes=4)": "`spikes` must be at most .*3, got 4",
    "jax.jit(Spectrum.from_data)(x)": "`x` must be concrete",
    "Spectrum.spiked([1], 5).pca_errors(-1)": "`max_rank` must be at least 0, got -1",
    "Spectrum.spiked([1], 5).pca_error(1.5)": "`rank` must be a whole number, got 1.5",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_named_in_one_line(said, line):
    kind = "UserWarning" if "rounding" in BAD[line] else "ValueError"
    plain.named_in_one_line(said[line], BAD[line], kind)


def test_negative_rounding_is_set_to_zero_and_said_so():
    with pytest.warns(UserWarning, match="2 values of `rho` are negative by rounding"):
        spectrum = Spectrum.from_eigenvalues([1.0, -1e-18, 2.0, -1e-17], spikes=1)
    np.testing.assert_array_equal(spectrum.eigenvalues(), [1, 0, 2, 0])


@pytest.mark.parametrize(
    "call",
    [
        "from_eigenvalues([1, -1e-18])",
        "from_covariance([[1, 0], [0, -1e-18]])",
        "spiked([1, -1e-18], 5)",
        "from_data([[1, 2], [3, 5], [7, 1]])",
    ],
)
def test_the_warning_points_at_the_line_of_the_user(call):
    script = f"""
import warnings, odeae
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    odeae.Spectrum.{call}
print(caught[0].filename, caught[0].lineno)
"""
    assert plain.run(script).split() == ["<string>", "5"]


def test_rounding_is_that_of_the_dtype_given():
    """A covariance of rank 8 in float32 has eigenvalues of −1e-7 of the largest: once refused."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1000, 8)) @ rng.standard_normal((8, 60)) + 1.0
    exact = np.cov(x.T)
    omega = exact.astype(np.float32)
    wanted = (
        r"values of `eigenvalues of omega` are negative by rounding \(down to -\S+, \S+e-0[789] of"
    )
    for form in (omega, jnp.asarray(omega), pandas.DataFrame(omega)):
        with pytest.warns(UserWarning, match=wanted):
            spectrum = Spectrum.from_covariance(form, spikes=8)
        rho = np.linalg.eigvalsh(exact)[::-1][:8]
        np.testing.assert_allclose(spectrum.eigenvalues()[:8], rho, rtol=1e-5)
        assert spectrum.eigenvalues().min() == 0.0
    with pytest.raises(ValueError, match=r"must not be negative, .*; if it is float32's rounding"):
        Spectrum.from_covariance(omega.astype(float))
    asymmetric = omega * (1 + np.float32(3e-7) * np.triu(np.ones((60, 60), np.float32)))
    assert np.any(asymmetric != asymmetric.T)
    np.testing.assert_allclose(
        Spectrum.from_covariance(asymmetric, spikes=8).eigenvalues()[:8], rho, rtol=1e-5
    )
    with pytest.warns(UserWarning, match="2 values of `rho` are negative by rounding"):
        Spectrum.from_eigenvalues(np.float32([1.0, -1e-8, -2e-7, 0.5]))
    with pytest.raises(ValueError, match=r"`rho` must not be negative, got -0\.1 at index 1"):
        Spectrum.from_eigenvalues(np.float32([1.0, -0.1]))


def test_printing_answers_the_first_questions():
    text = repr(Spectrum.spiked([1.0, 0.5], dim=100))
    for part in ("dim=100", "2 spikes", "[1, 0.5]", "98 bulk modes", "tr Ω/D = 2.48"):
        assert part in text
    text = repr(Spectrum.from_eigenvalues(np.linspace(1, 2, 20), spikes=6))
    assert "…" in text
    assert "ρ from 1 to 1.68" in text
