"""Eigenvalues and eigenvectors of covariances and of data; warnings about unsuitable data."""

import numpy as np

from odeae.base.checks import array, finite, flag, grain_of, warn, whole
from odeae.base.precision import ArrayLike, is_traced
from odeae.base.rows import Data, Rows, pieces
from odeae.model.binning import eigenvalues_of

# Inputs with tr Ω/D above this part of D leave the theory's regime at rate 1 (theory/regime.py).
LARGE = 0.4


def eigensystem_of_covariance(omega: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the falling eigenvalues (D,) and eigenvectors (D, D), in columns, of a covariance.

    Raises `ValueError` for a matrix that is no covariance beyond the rounding of its dtype.
    """
    grain = grain_of(omega)
    matrix = array("omega", omega, (None, None))
    if is_traced(matrix):
        raise ValueError("`omega` must be concrete: its basis can't be found under jit or vmap")
    if matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        hint = "; if these are data (rows, dim), use from_data" if matrix.size else ""
        raise ValueError(f"`omega` must be square and not empty, got shape {matrix.shape}{hint}")
    gap = np.abs(matrix - matrix.T)
    if gap.max() > max(1e-8, 10.0 * grain) * np.abs(matrix).max():
        i, j = (int(n) for n in np.unravel_index(np.argmax(gap), gap.shape))
        raise ValueError(
            f"`omega` must be symmetric, got {matrix[i, j]:g} at ({i}, {j}) and "
            f"{matrix[j, i]:g} at ({j}, {i})"
        )
    rho, basis = np.linalg.eigh(0.5 * matrix + 0.5 * matrix.T)
    rho = eigenvalues_of("eigenvalues of omega", rho[::-1], grain=grain)
    return rho, basis[:, ::-1].copy()


def eigensystem_of_data(
    x: Data, batch: int, flatten: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the falling eigenvalues (D,) and eigenvectors (D, D) of data, and their mean (D,).

    Arguments, errors and warnings are described in `Spectrum.from_data`.
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
            f"the mean variance of the inputs, tr Ω/D = {variance:.4g}, is large compared with "
            f"D={len(rho)}: at rate 1 theory and SGD differ (docs/theory.md 1). Divide the data "
            f"by {np.sqrt(variance):.3g}, which makes it 1, or give rates below "
            f"{LARGE * len(rho) / variance:.1g}"
        )
    return rho[::-1], basis[:, ::-1].copy(), mean


class SampleMoments:
    """Mean and covariance of rows that come in pieces, about a shift so that nothing cancels."""

    rows: int
    shift: np.ndarray
    first: np.ndarray
    second: np.ndarray

    def __init__(self) -> None:
        self.rows = 0

    def add(self, piece: np.ndarray) -> None:
        """Add rows (n, D)."""
        if self.rows == 0:
            self.shift = piece.mean(0) if len(piece) else np.zeros(piece.shape[1])
            self.first = np.zeros(piece.shape[1])
            self.second = np.zeros((piece.shape[1],) * 2)
        bad = ~np.isfinite(piece).all(1)
        if bad.any():
            row = int(np.argmax(bad))
            column = int(np.argmax(~np.isfinite(piece[row])))
            raise ValueError(
                f"`x` must be finite, got {piece[row, column]} in row {self.rows + row}, column "
                f"{column} ({int(bad.sum())} bad rows in this piece)"
            )
        moved = piece - self.shift
        self.rows += len(piece)
        self.first += moved.sum(0)
        self.second += moved.T @ moved

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean (D,) and covariance (D, D) of all rows; raise `ValueError` for one row."""
        if self.rows < 2:
            raise ValueError(f"`x` must have at least two rows, got {self.rows}")
        if len(self.first) == 0:
            raise ValueError("`x` must have at least one column, got none")
        mean = self.first / self.rows
        return self.shift + mean, self.second / self.rows - np.outer(mean, mean)


def doubts_of(x: object, rows: int, dim: int) -> None:
    """Warn if there are few rows, or if the data look transposed or like a covariance."""
    if rows >= 5 * dim:
        return
    gamma = dim / rows
    low, high = (1.0 - np.sqrt(gamma)) ** 2, (1.0 + np.sqrt(gamma)) ** 2
    text = (
        f"`x` has {rows} rows for {dim} columns (n/D = {rows / dim:.3g}): sample eigenvalues of "
        f"equal true ones spread from {low:.2g} to {high:.2g} of them (Marchenko–Pastur)"
    )
    if rows <= dim:
        text += f" and at least {dim - rows + 1} are 0"
    if rows < dim:
        text += "; is it transposed? Rows are samples"
    elif rows == dim > 1 and hasattr(x, "shape") and not hasattr(x, "tocsr"):
        matrix = Rows("x", x, flatten=True)[:]
        if np.allclose(matrix, matrix.T, rtol=1e-5, atol=0.0):
            text = f"`x` is symmetric, and so looks like a covariance: use from_covariance; {text}"
    warn(text)
