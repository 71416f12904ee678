"""Covariances of samples, and what too few samples do to a spectrum."""

from typing import Any

import numpy as np

from odeae.base.checks import warn
from odeae.base.rows import Rows

# Inputs of tr Ω/D above this part of D leave the theory's regime at rate 1 (regime.py).
LARGE = 0.4


class SampleMoments:
    """Mean and covariance of rows that come in pieces, about a shift so that nothing cancels."""

    def __init__(self):
        self.rows = 0

    def add(self, piece: np.ndarray) -> None:
        """Take in rows (n, D)."""
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
        """Return mean (D,) and covariance (D, D) of all rows; `ValueError` for fewer than two."""
        if self.rows < 2:
            raise ValueError(f"`x` must have at least two rows, got {self.rows}")
        if len(self.first) == 0:
            raise ValueError("`x` must have at least one column, got none")
        mean = self.first / self.rows
        return self.shift + mean, self.second / self.rows - np.outer(mean, mean)


def doubts_of(x: Any, rows: int, dim: int) -> None:
    """Warn of data that may not be what they are taken for, and of too few of them."""
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
