"""Data in the forms that people have, read as rows in double precision."""

from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol

import jax
import numpy as np

from odeae.base.checks import numbers
from odeae.base.messages import shortened
from odeae.base.precision import ArrayLike

if TYPE_CHECKING:

    class Indexed(Protocol):
        """An array on disk or a sparse matrix: a shape, and rows that can be indexed."""

        @property
        def shape(self) -> tuple[int, ...]:
            """Rows and columns."""
            ...

        def __getitem__(self, index: Any, /) -> Any: ...

    Data = ArrayLike | Indexed | Iterable[ArrayLike]
else:
    Data = Any  # the errors of this module, which are written for people, come first


class Rows:
    """Data as a matrix (n, D) in float64, whose rows are read by `rows[index]`.

    Data are arrays in memory or on disk (anything with a shape that can be indexed), lists, JAX
    arrays, torch tensors, tables of pandas or polars, or sparse matrices. With `flatten` they may
    also be image stacks (n, H, W, …). Only the rows that are asked for are read.

    Raises `ValueError` for text, missing values and other shapes, with the name of the argument.
    """

    name: str
    flatten: bool
    source: Any
    shape: tuple[int, int]

    def __init__(self, name: str, x: Any, flatten: bool = False) -> None:
        self.name, self.flatten = name, flatten
        if hasattr(x, "to_numpy") and hasattr(x, "columns"):
            x = _table(name, x)
        elif hasattr(x, "tocsr"):
            x = x.tocsr()
        elif isinstance(x, np.ma.MaskedArray) or not _on_demand(x):
            x = numbers(name, x)
        if getattr(getattr(x, "dtype", None), "kind", "f") in "cSUmM":
            raise ValueError(f"`{name}` must hold real numbers, got dtype {x.dtype}")
        self.source, shape = x, tuple(int(n) for n in x.shape)
        if len(shape) > 2 and not flatten:
            raise ValueError(
                f"`{name}` must have shape (rows, dim), got shape {shape}; if these are images, "
                "flatten=True makes each a row, as does x.reshape(len(x), -1)"
            )
        if len(shape) < 2:
            raise ValueError(f"`{name}` must have shape (rows, dim), got shape {shape}")
        self.shape = (shape[0], int(np.prod(shape[1:])))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = self.source[index]
        rows = numbers(self.name, rows.toarray() if hasattr(rows, "toarray") else rows)
        return rows.reshape(len(rows), -1) if rows.ndim > 2 else rows


def pieces(name: str, x: Any, batch: int = 4096, flatten: bool = False) -> Iterator[np.ndarray]:
    """Yield rows of `x`, `batch` at a time, or the pieces of `x` if it is an iterable of pieces.

    Raises `ValueError` as `Rows` does, and for pieces of different widths.
    """
    if isinstance(x, Sequence) and not (len(x) and len(getattr(x[0], "shape", ())) >= 2):
        x = numbers(name, x)  # rows, not pieces
    if hasattr(x, "shape"):
        rows = Rows(name, x, flatten)
        for start in range(0, max(len(rows), 1), batch):
            yield rows[start : start + batch]
        return
    if not isinstance(x, Iterable):
        raise ValueError(
            f"`{name}` must be an array (rows, dim) or an iterable of such arrays, got "
            f"{type(x).__name__}"
        )
    width = None
    for piece in x:
        image = flatten and len(getattr(piece, "shape", ())) == 2
        rows = Rows(name, piece[None] if image else piece, flatten)
        width = rows.shape[1] if width is None else width
        if rows.shape[1] != width:
            raise ValueError(
                f"`{name}` must keep its width: got a piece of {rows.shape[1]} columns after "
                f"pieces of {width}"
            )
        yield rows[:]


def as_rows(name: str, x: Any, flatten: bool = False) -> Rows:
    """Return `x` as rows in any order; an iterable of pieces is read into memory."""
    if not hasattr(x, "shape"):
        x = np.concatenate(list(pieces(name, x, flatten=flatten)) or [np.zeros((0, 0))])
    return Rows(name, x, flatten)


def _on_demand(x: Any) -> bool:
    """Return whether rows can be read from `x` directly: NumPy arrays, files such as HDF5."""
    if isinstance(x, jax.Array) or hasattr(x, "detach"):
        return False
    return hasattr(x, "shape") and hasattr(x, "__getitem__")


def _table(name: str, x: Any) -> np.ndarray:
    """Return the numbers of a table of pandas or polars; the error names other entries."""
    values = x.to_numpy()
    if values.dtype.kind in "biuf":
        return values
    for label, column in zip(x.columns, values.T, strict=True):
        for row, value in enumerate(column):
            if not isinstance(value, Real | np.bool_):
                raise ValueError(
                    f"`{name}` must hold real numbers, got {shortened(value)} in column "
                    f"{shortened(label)}, row {row}: drop such columns or rows, or turn them "
                    "into numbers"
                )
    return values.astype(float)
