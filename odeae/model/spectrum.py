"""Covariance spectra: single modes (spikes), bins of similar eigenvalues (bulk), PCA errors."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from odeae.base.checks import array, grain_of, scalar, whole, wholes
from odeae.base.messages import html_table
from odeae.base.precision import ArrayLike, Real, in_float64, is_traced
from odeae.base.rows import Data
from odeae.model import binning
from odeae.model.binning import dimension_of, eigenvalues_of
from odeae.model.samples import eigensystem_of_covariance, eigensystem_of_data

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes = Any  # matplotlib is imported late


class Spectrum(eqx.Module):
    """The eigenvalues of an input covariance Ω, as M single modes and bins of a bulk.

    Build one with `spiked`, `from_eigenvalues`, `from_covariance`, `from_data`, `power_law` or
    `marchenko_pastur`. Source: docs/theory.md 2 and 6.

    Attributes:
        spikes: Scaled eigenvalues ρ̃ = ρ/D of the modes that are followed one by one, (M,).
        bulk: Eigenvalue ρ of each bin (not scaled), (bins,).
        multiplicity: Number of modes in each bin.
        order: `order[i]` is the place, as given by the user, of mode i in the sequence spikes,
            bin 0, bin 1, …, (D,); None if eigenvalues were given in this sequence.
        given: Eigenvalues ρ before they were lumped into bins, in the order as given, (D,). Runs at
            finite D draw their inputs with them. None where not known.
        basis: Eigenvectors in columns, in the order as given, (D, D); None where not known.
        mean: Mean of the data, (D,); None where not known.

    Example:
        >>> odeae.Spectrum.spiked([1.0, 0.5], dim=1000)
        Spectrum(dim=1000, 2 spikes ρ/D = [1, 0.5], 998 bulk modes in 1 bin, ρ = 1, tr Ω/D = 2.498)
    """

    spikes: Float[Real, " spikes"]
    bulk: Float[Real, " bins"]
    multiplicity: tuple[int, ...] = eqx.field(static=True)
    order: Int[Real, " dim"] | None = None
    given: Float[Real, " dim"] | None = None
    basis: Float[Real, "dim dim"] | None = None
    mean: Float[Real, " dim"] | None = None

    def __init__(
        self,
        spikes: ArrayLike,
        bulk: ArrayLike = (),
        multiplicity: Iterable[int] = (),
        order: ArrayLike | None = None,
        given: ArrayLike | None = None,
        basis: ArrayLike | None = None,
        mean: ArrayLike | None = None,
    ) -> None:
        self.spikes = eigenvalues_of("spikes", spikes, may_be_empty=True)
        self.bulk = eigenvalues_of("bulk", bulk, may_be_empty=True)
        self.multiplicity = tuple(wholes("multiplicity", multiplicity))
        if len(self.multiplicity) != self.bulk.shape[0]:
            raise ValueError(
                f"`multiplicity` must have one entry per bin of `bulk` ({self.bulk.shape[0]}), "
                f"got {len(self.multiplicity)}"
            )
        if self.dim == 0:
            raise ValueError("a spectrum needs at least one eigenvalue, got none")
        dim = self.dim
        self.order = None if order is None else binning.order_of(order, dim)
        self.given = None if given is None else array("given", given, (dim,))
        self.basis = None if basis is None else array("basis", basis, (dim, dim))
        self.mean = None if mean is None else array("mean", mean, (dim,))
        if not is_traced((self.spikes, self.bulk)) and self.trace <= 0:
            raise ValueError("a spectrum needs at least one positive eigenvalue, all are 0")

    @property
    def dim(self) -> int:
        """Input dimension D: the number of modes."""
        return self.spikes.shape[-1] + sum(self.multiplicity)

    @property
    def trace(self) -> Real:
        """tr Ω/D, the sum of all scaled eigenvalues: twice the error if the output is 0."""
        modes = np.asarray(self.multiplicity, float)
        return self.spikes.sum(-1) + (self.bulk * modes).sum(-1) / self.dim

    def pca_errors(self, max_rank: int) -> Float[Real, "*batch ranks"]:
        """Return the PCA errors ½ Σ_{τ>k} ρ_τ/D of rank k = 0 … `max_rank`, (max_rank + 1,).

        Rank K bounds the error of K neurons from below; lower ranks are the heights of plateaus.
        """
        ranks = np.arange(whole("max_rank", max_rank, at_least=0) + 1.0)
        return binning.pca_errors(self.spikes, self.bulk, self.multiplicity, ranks)

    def pca_error(self, rank: int) -> Real:
        """Return the PCA error ½ Σ_{τ>k} ρ_τ/D of rank k = `rank`."""
        ranks = np.asarray([float(whole("rank", rank, at_least=0))])
        return binning.pca_errors(self.spikes, self.bulk, self.multiplicity, ranks)[..., 0]

    def eigenvalues(self) -> Float[Real, " dim"]:
        """Return all D eigenvalues ρ in the order as given: `given`, or the value of each bin."""
        if np.ndim(self.spikes) != 1:
            raise ValueError("these are lanes of several spectra; take one of them")
        if self.given is not None:
            return self.given
        spikes, bulk = np.asarray(self.spikes), np.asarray(self.bulk)
        values = np.concatenate([spikes * self.dim, np.repeat(bulk, self.multiplicity)])
        if self.order is None:
            return values
        result = np.empty(self.dim)
        result[self.order] = values
        return result

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw eigenvalues ρ against rank and return the Axes. See `odeae.plot_spectrum`."""
        from odeae.plotting.spectra import plot_spectrum

        return plot_spectrum(self, ax=ax)

    def __repr__(self) -> str:
        rows = [f"dim={self.dim}", *(" ".join(row) for row in self._described())]
        return f"Spectrum({', '.join(rows)})"

    def _repr_html_(self) -> str:
        return html_table(f"Spectrum, D = {self.dim}", self._described())

    def _described(self) -> list[tuple[str, str]]:
        return binning.modes_in_words(self.spikes, self.bulk, self.multiplicity)

    @classmethod
    def spiked(cls, spikes: ArrayLike, dim: int, bulk: ArrayLike = 1.0) -> "Spectrum":
        """Return M spikes over an isotropic bulk, the paper's spiked covariance (arXiv:2201.02115).

        Args:
            spikes: Eigenvalue/D of each spike, (M,); their order is kept. May be traced.
            dim: The input dimension D, as large as you like.
            bulk: The eigenvalue (not divided by D) of the other D − M modes. May be traced.

        Returns:
            The spectrum, with one bin.

        Raises:
            ValueError: If an eigenvalue is negative or not finite, all are 0, or D < M.

        Example:
            >>> odeae.Spectrum.spiked([1.0, 0.6], dim=1000, bulk=0.5).dim
            1000
        """
        single = eigenvalues_of("spikes", spikes, may_be_empty=True)
        rest = dimension_of(dim, at_least=single.shape[0]) - single.shape[0]
        common = scalar("bulk", bulk, at_least=0.0)
        return cls(single, common[None] if rest else (), (rest,) if rest else ())

    @classmethod
    def from_eigenvalues(
        cls,
        rho: ArrayLike,
        spikes: int | None = None,
        bins: int = 32,
        *,
        basis: ArrayLike | None = None,
        mean: ArrayLike | None = None,
    ) -> "Spectrum":
        """Return the spectrum of given eigenvalues: spikes, and bins of the others.

        Bins are narrow where eigenvalues are dense. Equal eigenvalues (to 1e-13 of the largest) are
        lumped exactly.

        Args:
            rho: All D eigenvalues ρ of a covariance (not divided by D), (D,), in any order.
            spikes: How many of the largest eigenvalues are single modes. D makes every mode a
                single one. None takes the outliers above Tukey's outer fence, 3 interquartile
                ranges above the upper quartile.
            bins: The largest number of bins for the other eigenvalues.
            basis: Eigenvectors in columns, (D, D), in the order of `rho`; kept for later use.
            mean: Mean of the inputs, (D,); kept for later use.

        Returns:
            The spectrum.

        Raises:
            ValueError: If eigenvalues are NaN, infinite or negative beyond rounding, and, under
                jit, vmap or grad, unless `spikes` = D (sizes can't depend on traced values).

        Example:
            >>> odeae.Spectrum.from_eigenvalues([500.0, 1.0, 1.0, 2.0], spikes=1, bins=2).dim
            4
        """
        values = eigenvalues_of("rho", rho, grain=grain_of(rho))
        single, bulk, multiplicity, order = binning.spikes_and_bins(values, spikes, bins)
        return cls(single, bulk, multiplicity, order, values, basis, mean)

    @classmethod
    def from_covariance(
        cls,
        omega: ArrayLike,
        spikes: int | None = None,
        bins: int = 32,
        *,
        mean: ArrayLike | None = None,
    ) -> "Spectrum":
        """Return the spectrum and the basis of a covariance matrix.

        The allowed rounding depends on the dtype: a float32 Ω may be asymmetric by 1e-6 of its
        largest entry, and have eigenvalues down to −1e-7 D times the largest, which are set to 0
        with a warning.

        Args:
            omega: The covariance Ω, (D, D).
            spikes: As in `from_eigenvalues`.
            bins: As in `from_eigenvalues`.
            mean: Mean of the inputs, (D,); kept for later use.

        Returns:
            The spectrum, with its basis; modes are given from the largest eigenvalue down.

        Raises:
            ValueError: If Ω is not square, not symmetric (beyond 1e-8 of its largest entry), not
                finite or traced, or has eigenvalues that are negative beyond rounding.

        Example:
            >>> odeae.Spectrum.from_covariance(np.diag([3.0, 2.0, 1.0]), spikes=1).basis.shape
            (3, 3)
        """
        rho, columns = eigensystem_of_covariance(omega)
        return cls.from_eigenvalues(rho, spikes, bins, basis=columns, mean=mean)

    @classmethod
    def from_data(
        cls,
        x: Data,
        spikes: int | None = None,
        bins: int = 32,
        batch: int = 4096,
        *,
        flatten: bool = False,
    ) -> "Spectrum":
        """Return the spectrum, the basis and the mean of data.

        The eigenvalues belong to the covariance of `x`, after the mean is removed. Modes without
        variance, which eigh returns at ±rounding, get eigenvalue 0. With fewer than 5 D rows a
        warning says how far sample eigenvalues are off. If tr Ω/D is large compared with D, another
        warning gives a better scale.

        Args:
            x: An array (n, D), in memory or on disk, a table of pandas or polars, a torch tensor or
                a sparse matrix, which is read once in pieces of `batch` rows; or an iterable of
                such pieces. Memory holds one piece and a few (D, D) matrices.
            spikes: As in `from_eigenvalues`.
            bins: As in `from_eigenvalues`.
            batch: Number of rows that are read at once.
            flatten: Whether to treat images (n, H, W) or (n, H, W, channels), or an iterable of
                images (H, W), as rows of H·W(·channels) columns.

        Returns:
            The spectrum, in units of the data's variance; its `trace` is the mean variance of a
            column.

        Raises:
            ValueError: For NaN, infinite or missing entries (with the row), text, fewer than two
                rows, a wrong number of axes, or pieces of different widths.

        Example:
            >>> spectrum = odeae.Spectrum.from_data(x)  # x (samples, D)
        """
        rho, columns, mean = eigensystem_of_data(x, batch, flatten)
        return cls.from_eigenvalues(rho, spikes, bins, basis=columns, mean=mean)

    @classmethod
    @in_float64
    def power_law(
        cls,
        dim: int,
        exponent: ArrayLike,
        variance: ArrayLike = 1.0,
        spikes: int | None = None,
        bins: int = 32,
    ) -> "Spectrum":
        """Return the spectrum of a power law, ρ_τ ∝ τ^(−exponent) for τ = 1 … D.

        Args:
            dim: The input dimension D; it may be huge.
            exponent: The exponent, zero or positive. May be traced.
            variance: The mean eigenvalue (not divided by D). May be traced.
            spikes: How many of the largest eigenvalues are single modes; min(32, D) by default.
            bins: The largest number of bins, geometric in τ, which hold their exact means.

        Returns:
            The spectrum.

        Raises:
            ValueError: For a negative exponent, a variance that is not positive, or spikes > D.

        Example:
            >>> float(odeae.Spectrum.power_law(10**9, exponent=1.2).trace.round(6))
            1.0
        """
        dim, bins = dimension_of(dim), whole("bins", bins)
        spikes = min(32, dim) if spikes is None else whole("spikes", spikes, at_least=0)
        if spikes > dim:
            raise ValueError(f"`spikes` must be at most `dim`, {dim}, got {spikes}")
        slope = scalar("exponent", exponent, at_least=0.0)
        mean = scalar("variance", variance, above=0.0)
        return cls(*binning.power_law_bins(dim, slope, mean, spikes, bins))

    @classmethod
    def marchenko_pastur(
        cls,
        dim: int,
        samples: int,
        variance: ArrayLike = 1.0,
        spikes: ArrayLike = (),
        bins: int = 32,
    ) -> "Spectrum":
        """Return the bulk that a sample covariance of isotropic inputs has, with spikes on top.

        The bulk is the Marchenko–Pastur law of aspect ratio γ = D/samples, cut into bins that hold
        its exact means. It has zero modes if samples < D.

        Args:
            dim: The input dimension D.
            samples: The number of samples.
            variance: The variance of the inputs (not divided by D). May be traced.
            spikes: Eigenvalue/D of each spike, as it comes out of the sample, (M,). May be traced.
            bins: The largest number of bins of positive eigenvalues.

        Returns:
            The spectrum.

        Raises:
            ValueError: If an eigenvalue is negative, the variance is not positive, or D < M.

        Example:
            >>> float(odeae.Spectrum.marchenko_pastur(1000, samples=4000).trace.round(3))
            1.0
        """
        single = eigenvalues_of("spikes", spikes, may_be_empty=True)
        dim = dimension_of(dim, at_least=single.shape[0])
        gamma, bins = dim / whole("samples", samples), whole("bins", bins)
        scale = scalar("variance", variance, above=0.0)
        if dim == single.shape[0]:
            return cls(single)
        bulk, multiplicity = binning.marchenko_pastur_bins(dim - single.shape[0], gamma, bins)
        return cls(single, scale * bulk, multiplicity)
