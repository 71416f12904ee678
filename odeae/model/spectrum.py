"""Covariance spectra: single modes (spikes), bins of like eigenvalues (bulk), PCA errors."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from odeae.base.checks import array, finite, flag, grain_of, scalar, warn, whole, wholes
from odeae.base.messages import counted, html_table, shortened
from odeae.base.precision import Real, in_float64, is_known, is_traced
from odeae.base.rows import pieces
from odeae.model.binning import dimension_of, eigenvalues_of, lump, power_sums
from odeae.model.samples import LARGE, SampleMoments, doubts_of

# Eigenvalues that differ by less, relative to the largest, are equal: eigh returns them so.
_ROUNDING = 1e-13


class Spectrum(eqx.Module):
    """The eigenvalues of an input covariance Ω, as `M` single modes and bins of a bulk.

    `spikes` (M,): scaled eigenvalues ρ̃ = ρ/D of the modes that are followed one by one.
    `bulk` (bins,): eigenvalue ρ of each bin (not scaled); `multiplicity`: modes in each bin.
    `order` (D,): which eigenvalue, as given by the user, is each mode of (spikes, bin 0, bin 1, …);
    None if they were given in this order.
    `given` (D,): the eigenvalues ρ before they were lumped into bins, which is what finite-D runs
    draw their inputs with. `basis` (D, D): eigenvectors in columns; both in the order as given.
    `mean` (D,) of the data. None where not known or not needed.

    Build one with `spiked`, `from_eigenvalues`, `from_covariance`, `from_data`, `power_law` or
    `marchenko_pastur`. Source: docs/theory.md 2 and 6.
    """

    spikes: Float[Real, " spikes"]
    bulk: Float[Real, " bins"]
    multiplicity: tuple[int, ...] = eqx.field(static=True)
    order: Int[Real, " dim"] | None = None
    given: Float[Real, " dim"] | None = None
    basis: Float[Real, "dim dim"] | None = None
    mean: Float[Real, " dim"] | None = None

    def __init__(
        self, spikes, bulk=(), multiplicity=(), order=None, given=None, basis=None, mean=None
    ):
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
        if not (order is None or is_traced(order)):
            given_order, order = order, array("order", order, (dim,))
            if not np.array_equal(np.sort(order), np.arange(dim)):
                raise ValueError(
                    f"`order` must be a permutation of 0 … {dim - 1}, got {shortened(given_order)}"
                )
            order = order.astype(int)
        self.order = order
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
        """tr Ω/D, the sum of all scaled eigenvalues: twice the error of an untrained network."""
        modes = np.asarray(self.multiplicity, float)
        return self.spikes.sum(-1) + (self.bulk * modes).sum(-1) / self.dim

    def pca_errors(self, max_rank: int) -> Float[Real, "*batch ranks"]:
        """PCA errors ½ Σ_{τ>k} ρ_τ/D of rank k = 0 … max_rank, shape (max_rank + 1,).

        Rank K bounds the error of K neurons from below; lower ranks are the heights of plateaus.
        """
        return self._pca_errors(np.arange(whole("max_rank", max_rank, at_least=0) + 1.0))

    def pca_error(self, rank: int) -> Real:
        """PCA error ½ Σ_{τ>k} ρ_τ/D of rank k = `rank`."""
        return self._pca_errors(np.asarray([float(whole("rank", rank, at_least=0))]))[..., 0]

    @in_float64
    def _pca_errors(self, ranks):
        def one(spikes, bulk):
            values = jnp.concatenate([spikes, bulk / self.dim])
            counts = jnp.asarray([1] * spikes.shape[0] + list(self.multiplicity), float)
            largest_first = jnp.argsort(-values)
            values, counts = values[largest_first], counts[largest_first]
            before = jnp.cumsum(counts) - counts
            left = jnp.clip((before + counts)[None] - ranks[:, None], 0.0, counts[None])
            return 0.5 * left @ values

        for _ in range(np.ndim(self.spikes) - 1):  # lanes that came out of vmap
            one = jax.vmap(one)
        return one(self.spikes, self.bulk)

    def eigenvalues(self) -> Float[Real, " dim"]:
        """All D eigenvalues ρ in the order as given: `given`, or each bin at its common value."""
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

    def plot(self, ax: Any = None) -> Any:
        """Draw eigenvalues ρ against rank; returns the Axes. See `odeae.plot_spectrum`."""
        from odeae.plotting.spectra import plot_spectrum

        return plot_spectrum(self, ax=ax)

    def __repr__(self):
        rows = [f"dim={self.dim}", *(" ".join(row) for row in self._described())]
        return f"Spectrum({', '.join(rows)})"

    def _repr_html_(self):
        return html_table(f"Spectrum, D = {self.dim}", self._described())

    def _described(self) -> list[tuple[str, str]]:
        """Rows of how many modes there are of a kind, and their eigenvalues."""
        spikes, bulk = self.spikes, self.bulk
        known = is_known((spikes, bulk))
        single, many = spikes.shape[-1], sum(self.multiplicity)
        lanes = spikes.shape[:-1] or bulk.shape[:-1]
        if not known or lanes:
            what = f"of {' × '.join(map(str, lanes))} lanes" if known else "not known yet"
            kinds = [(single, "spike"), (many, "bulk mode")]
            return [(counted(number, kind), what) for number, kind in kinds if number]
        rows = []
        if single:
            head = ", ".join(f"{value:.3g}" for value in spikes[:4])
            more = ", …" if single > 4 else ""
            rows.append((counted(single, "spike"), f"ρ/D = [{head}{more}]"))
        if many:
            low, high = float(np.min(bulk)), float(np.max(bulk))
            span = f"ρ = {low:.3g}" if low == high else f"ρ from {low:.3g} to {high:.3g}"
            rows.append((counted(many, "bulk mode"), f"in {counted(len(bulk), 'bin')}, {span}"))
        return [*rows, ("tr Ω/D", f"= {float(self.trace):.4g}")]

    @classmethod
    def spiked(cls, spikes: Any, dim: int, bulk: Any = 1.0) -> "Spectrum":
        """M spikes over an isotropic bulk: the spiked covariance model of the paper.

        `spikes`: eigenvalue / D of each spike, order kept. `bulk`: the eigenvalue (not scaled) of
        the other `dim` − M modes. Values may be traced; `dim` may be as large as you like.
        """
        spikes = eigenvalues_of("spikes", spikes, may_be_empty=True)
        rest = dimension_of(dim, at_least=spikes.shape[0]) - spikes.shape[0]
        bulk = scalar("bulk", bulk, at_least=0.0)
        return cls(spikes, bulk[None] if rest else (), (rest,) if rest else ())

    @classmethod
    def from_eigenvalues(
        cls,
        rho: Any,
        spikes: int | None = None,
        bins: int = 32,
        *,
        basis: Any = None,
        mean: Any = None,
    ) -> "Spectrum":
        """Spectrum from the D eigenvalues ρ (D,) of a covariance, in any order.

        `spikes`: how many of the largest are single modes; D makes every mode its own; None takes
        the outliers above Tukey's outer fence (3 interquartile ranges above the upper quartile).
        The others are cut into at most `bins` bins, narrow where eigenvalues are dense; equal
        eigenvalues (to 1e-13 of the largest) are lumped exactly. `basis` (D, D): eigenvectors in
        columns, `mean` (D,): of the inputs, both only kept for those who need them.

        Raises `ValueError` for values that are NaN, infinite or negative beyond rounding, and,
        under jit, vmap or grad, unless `spikes` = D (sizes can't depend on traced values).
        """
        rho = eigenvalues_of("rho", rho, grain=grain_of(rho))
        dim, bins = rho.shape[0], whole("bins", bins)
        if is_traced(rho):
            if spikes != dim:
                raise ValueError(
                    f"under jit, vmap or grad `spikes` must be {dim}, the number of eigenvalues "
                    f"(bins depend on the values), got {spikes}"
                )
            order = jnp.argsort(-rho)
            return cls(rho[order] / dim, (), (), order, rho, basis, mean)
        rounding = _ROUNDING * rho.max()
        if spikes is None:
            lower, upper = np.quantile(rho, [0.25, 0.75])
            spikes = int(np.sum(rho > upper + 3.0 * (upper - lower) + rounding))
        spikes = whole("spikes", spikes, at_least=0)
        if spikes > dim:
            raise ValueError(
                f"`spikes` must be at most the number of eigenvalues, {dim}, got {spikes}"
            )
        order = np.argsort(-rho, kind="stable")
        values = rho[order]
        bulk, multiplicity = lump(values[spikes:], bins, rounding)
        if np.array_equal(order, np.arange(dim)):
            order = None
        return cls(values[:spikes] / dim, bulk, multiplicity, order, rho, basis, mean)

    @classmethod
    def from_covariance(
        cls, omega: Any, spikes: int | None = None, bins: int = 32, *, mean: Any = None
    ) -> "Spectrum":
        """Spectrum and basis of a covariance matrix Ω (D, D); `spikes`, `bins` as above.

        Rounding is that of the dtype given: a float32 Ω may be asymmetric by 1e-6 of its largest
        entry, and have eigenvalues down to −1e-7 D times the largest, which are set to 0 with a
        warning.

        Raises `ValueError` if Ω is not square, not symmetric (beyond 1e-8 of its largest entry),
        not finite, traced, or has negative eigenvalues beyond rounding.
        """
        grain = grain_of(omega)
        omega = array("omega", omega, (None, None))
        if is_traced(omega):
            raise ValueError("`omega` must be concrete: its basis can't be found under jit or vmap")
        if omega.shape[0] != omega.shape[1] or omega.size == 0:
            hint = "; if these are data (rows, dim), use from_data" if omega.size else ""
            raise ValueError(f"`omega` must be square and not empty, got shape {omega.shape}{hint}")
        gap = np.abs(omega - omega.T)
        if gap.max() > max(1e-8, 10.0 * grain) * np.abs(omega).max():
            i, j = (int(n) for n in np.unravel_index(np.argmax(gap), gap.shape))
            raise ValueError(
                f"`omega` must be symmetric, got {omega[i, j]:g} at ({i}, {j}) and "
                f"{omega[j, i]:g} at ({j}, {i})"
            )
        rho, basis = np.linalg.eigh(0.5 * omega + 0.5 * omega.T)
        rho = eigenvalues_of("eigenvalues of omega", rho[::-1], grain=grain)
        return cls.from_eigenvalues(rho, spikes, bins, basis=basis[:, ::-1].copy(), mean=mean)

    @classmethod
    def from_data(
        cls,
        x: Any,
        spikes: int | None = None,
        bins: int = 32,
        batch: int = 4096,
        *,
        flatten: bool = False,
    ) -> "Spectrum":
        """Spectrum, basis and mean of data: eigenvalues of the covariance of `x`, mean removed.

        Modes without variance, which eigh returns at ±rounding, get eigenvalue 0. With fewer than
        5 D rows a warning says by how much sample eigenvalues are off; where tr Ω/D is large beside
        D, another says which scale would do.

        Args:
            x: an array (n, D), in memory or on disk, a table of pandas or polars, a torch tensor or
                a sparse matrix, read once in pieces of `batch` rows; or an iterable of such pieces.
                Memory: one piece and a few (D, D) matrices.
            spikes: as in `from_eigenvalues`.
            bins: as in `from_eigenvalues`.
            batch: rows that are read at once.
            flatten: take images (n, H, W) or (n, H, W, channels), or an iterable of images (H, W),
                as rows of H·W(·channels) columns.

        Returns:
            The spectrum, in units of the data's variance; its `trace` is the mean variance of a
            column.

        Raises:
            ValueError: NaN, infinite or missing entries (naming the row), text, fewer than two
                rows, a wrong number of axes, or pieces of different widths.

        Example:
            `Spectrum.from_data(np.load("patches.npy", mmap_mode="r"))`
        """
        if is_traced(x if hasattr(x, "shape") else None):
            raise ValueError("`x` must be concrete: a spectrum can't be found under jit or vmap")
        moments = SampleMoments()
        for piece in pieces("x", x, whole("batch", batch), flag("flatten", flatten)):
            moments.add(piece)
        mean, omega = moments.result()
        finite("covariance of x", omega)
        doubts_of(x, moments.rows, len(mean))
        rho, basis = np.linalg.eigh(omega)
        rounding = 10.0 * len(rho) * np.finfo(float).eps * rho[-1]
        rho = np.where(np.abs(rho) <= rounding, 0.0, rho)
        if (variance := rho.mean()) > LARGE * len(rho):
            warn(
                f"the mean variance of the inputs, tr Ω/D = {variance:.4g}, is large beside D="
                f"{len(rho)}: at rate 1 theory and SGD part (docs/theory.md 1). Divide the data "
                f"by {np.sqrt(variance):.3g}, which makes it 1, or give rates below "
                f"{LARGE * len(rho) / variance:.1g}"
            )
        return cls.from_eigenvalues(rho[::-1], spikes, bins, basis=basis[:, ::-1].copy(), mean=mean)

    @classmethod
    @in_float64
    def power_law(
        cls,
        dim: int,
        exponent: Any,
        variance: Any = 1.0,
        spikes: int | None = None,
        bins: int = 32,
    ) -> "Spectrum":
        """ρ_τ ∝ τ^(−exponent), τ = 1 … D, with mean eigenvalue `variance`.

        The first `spikes` modes are single; the others fall into `bins` bins, geometric in τ, with
        their exact mean. `exponent` and `variance` may be traced, `dim` may be huge.
        """
        dim, bins = dimension_of(dim), whole("bins", bins)
        spikes = min(32, dim) if spikes is None else whole("spikes", spikes, at_least=0)
        if spikes > dim:
            raise ValueError(f"`spikes` must be at most `dim`, {dim}, got {spikes}")
        exponent = scalar("exponent", exponent, at_least=0.0)
        variance = scalar("variance", variance, above=0.0)
        edges = np.unique(np.geomspace(spikes + 1, dim + 1, bins + 1).round().astype(np.int64))
        first, count = edges[:-1], np.diff(edges)
        single = jnp.arange(1.0, spikes + 1.0) ** -exponent
        total = power_sums(first, count, exponent)
        norm = variance * dim / (single.sum() + total.sum())
        return cls(norm * single / dim, norm * total / count, tuple(int(n) for n in count))

    @classmethod
    def marchenko_pastur(
        cls, dim: int, samples: int, variance: Any = 1.0, spikes: Any = (), bins: int = 32
    ) -> "Spectrum":
        """The bulk of a sample covariance of `samples` isotropic inputs of variance `variance`.

        The Marchenko–Pastur law of aspect ratio γ = D/samples, cut into bins that hold its exact
        means, with its zero modes if samples < D; `spikes` (eigenvalue/D, as they come out of the
        sample) on top. `spikes` and `variance` may be traced.
        """
        spikes = eigenvalues_of("spikes", spikes, may_be_empty=True)
        dim = dimension_of(dim, at_least=spikes.shape[0])
        gamma, bins = dim / whole("samples", samples), whole("bins", bins)
        variance = scalar("variance", variance, above=0.0)
        rest = dim - spikes.shape[0]
        if rest == 0:
            return cls(spikes)
        # ρ = 1 + γ + 2√γ cos φ turns the law into 2 sin²φ/(πρ) dφ on [0, π]; the trace up to φ is
        # then (φ − sin φ cos φ)/π and the number of modes a sum over 64 points per bin
        phi = np.linspace(0.0, np.pi, 64 * bins + 1)
        middle = 0.5 * (phi[1:] + phi[:-1])
        density = np.sin(middle) ** 2 / (1.0 + gamma + 2.0 * np.sqrt(gamma) * np.cos(middle))
        modes = np.concatenate([[0.0], np.cumsum(density)]) / np.sum(density)
        trace = (phi - np.sin(phi) * np.cos(phi)) / np.pi
        positive = max(1, round(rest * min(1.0, 1.0 / gamma)))
        cut = np.unique(np.round(positive * modes[::64]).astype(np.int64))
        bulk = rest * np.diff(np.interp(cut / positive, modes, trace)) / np.diff(cut)
        multiplicity = [int(n) for n in np.diff(cut)]
        if positive < rest:
            bulk, multiplicity = np.append(bulk, 0.0), [*multiplicity, rest - positive]
        return cls(spikes, variance * bulk, tuple(multiplicity))
