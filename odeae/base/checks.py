"""Checks of arguments. Their messages say what was expected, what was given and what to do."""

import dataclasses
import operator
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from odeae.base.messages import shortened
from odeae.base.precision import ArrayLike, Real, as_float, is_traced


def scalar(
    name: str, value: object, *, above: float | None = None, at_least: float | None = None
) -> Real:
    """Return `value` as a finite float64 scalar within its bound; a tracer isn't checked."""
    number = array(name, value, ())
    if is_traced(number):
        return number
    if above is not None and not number > above:
        want = "positive" if above == 0 else f"above {above:g}"
        raise ValueError(f"`{name}` must be {want}, got {float(number):g}")
    if at_least is not None and not number >= at_least:
        want = "zero or positive" if at_least == 0 else f"at least {at_least:g}"
        raise ValueError(f"`{name}` must be {want}, got {float(number):g}")
    return number


def tolerance(rtol: ArrayLike) -> Real:
    """Return a relative tolerance, positive and at most 0.1; a tracer passes unchecked."""
    number = scalar("rtol", rtol, above=0.0)
    if not is_traced(number) and number > 0.1:
        raise ValueError(f"`rtol` must be at most 0.1, got {float(number):g}")
    return number


def array(name: str, value: object, shape: tuple[int | None, ...]) -> Real:
    """Return `value` as a finite float64 array of `shape` (None stands for any size)."""
    values = numbers(name, value)
    fits = len(values.shape) == len(shape) and all(
        want in (None, got) for want, got in zip(shape, values.shape, strict=True)
    )
    if not fits:
        words = {(): "a single number", (None,): "a list of numbers", (None, None): "a matrix"}
        want = f"be {words[shape]}" if shape in words else f"have shape {_shape(shape)}"
        got = "a single number" if values.shape == () else f"shape {_shape(values.shape)}"
        raise ValueError(f"`{name}` must {want}, got {got}")
    if not is_traced(values):
        finite(name, values)
    return values


def numbers(name: str, value: object) -> Real:
    """Return `value` as a float64 array of any shape; refuse text and complex numbers."""
    if is_traced(value):
        return as_float(value)
    if value is None:
        raise ValueError(f"`{name}` must be given, got None")
    if hasattr(value, "toarray"):
        raise ValueError(f"`{name}` must be dense, got a sparse matrix: pass its .toarray()")
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        hidden = np.argwhere(np.ma.getmaskarray(value))
        raise ValueError(
            f"`{name}` must have all its values, got a masked entry at "
            f"{_shape(tuple(int(i) for i in hidden[0]))} ({len(hidden)} in all): fill or drop them"
        )
    try:
        if np.asarray(value).dtype.kind in "cSUmM":
            raise TypeError
        return as_float(value)
    except OverflowError as error:
        raise ValueError(
            f"`{name}` must be within the numbers of double precision, up to 1.8e308, got "
            f"{shortened(value)}"
        ) from error
    except (TypeError, ValueError, RuntimeError) as error:
        path = isinstance(value, str) and value.rpartition(".")[2].isalpha() and "." in value
        hint = "; read the file first, for example with numpy.load" if path else ""
        hint = "; pass its .detach().cpu().numpy()" if hasattr(value, "detach") else hint
        raise ValueError(
            f"`{name}` must hold real numbers, got {shortened(value)}{hint}"
        ) from error


def broadcast(**values: Real) -> list[Real]:
    """Return the given arrays broadcast to their common shape; the keywords are their names."""
    try:
        shape = np.broadcast_shapes(*(value.shape for value in values.values()))
    except ValueError as error:
        shapes = ", ".join(f"`{name}` {value.shape}" for name, value in values.items())
        raise ValueError(f"shapes must broadcast to one, got {shapes}") from error
    return [jax.numpy.broadcast_to(value, shape) for value in values.values()]


def covariance(name: str, value: object) -> Real:
    """Return `value` as a square matrix that may be a covariance.

    Each pair of variables is checked, within rounding: symmetry and correlations in [−1, 1].
    """
    matrix = array(name, value, (None, None))
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"`{name}` must be square, got shape {_shape(matrix.shape)}")
    if is_traced(matrix):
        return matrix
    q = np.diagonal(matrix)
    if np.any(q < 0):
        k = int(np.argmin(q))
        raise ValueError(f"`{name}` must have variances ≥ 0, got {q[k]:g} at ({k}, {k})")
    size = np.outer(np.sqrt(q), np.sqrt(q))
    for what, bad in (
        ("be symmetric", np.abs(matrix - matrix.T) > 1e-10 * size),
        ("have correlations within [−1, 1]", np.abs(matrix) > (1.0 + 1e-10) * size),
    ):
        if np.any(bad):
            i, j = (int(n) for n in np.argwhere(bad)[0])
            raise ValueError(
                f"`{name}` must {what}, got {matrix[i, j]:g} at ({i}, {j}) and {matrix[j, i]:g} at "
                f"({j}, {i}) with variances {q[i]:g} and {q[j]:g}"
            )
    return matrix


def finite(name: str, values: Real) -> None:
    """Raise `ValueError` at the first entry of a concrete array that is NaN or infinite."""
    bad = ~np.isfinite(values)
    if not np.any(bad):
        return
    where = np.argwhere(bad)[0]
    index = int(where[0]) if len(where) == 1 else _shape(tuple(int(i) for i in where))
    place = f" at index {index}" if len(where) else ""
    raise ValueError(
        f"`{name}` must be finite, got {values[tuple(where)]}{place}"
        + (f" ({int(np.sum(bad))} such entries)" if np.sum(bad) > 1 else "")
    )


def whole(name: str, value: Any, *, at_least: int = 1, at_most: int = 2**63 - 1) -> int:
    """Return `value` as an int within its bounds (by default an int64); 1e9 counts as an int."""
    try:
        number = operator.index(value)
    except TypeError:
        number = int(value) if isinstance(value, float) and value.is_integer() else None
    if number is None or isinstance(value, bool):
        raise ValueError(f"`{name}` must be a whole number, got {shortened(value)}")
    if number < at_least:
        raise ValueError(f"`{name}` must be at least {at_least}, got {shortened(number)}")
    if number > at_most:
        raise ValueError(f"`{name}` must be at most {at_most}, got {shortened(number)}")
    return number


def wholes(name: str, value: Any, *, at_least: int = 1, at_most: int = 2**63 - 1) -> list[int]:
    """Return `value`, any iterable of numbers, as a list of ints within their bounds."""
    plain = isinstance(value, Iterable) and not isinstance(value, str | bytes)
    if not plain or getattr(value, "ndim", 1) == 0:
        raise ValueError(f"`{name}` must be a list of whole numbers, got {shortened(value)}")
    return [whole(name, one, at_least=at_least, at_most=at_most) for one in value]


def entries(name: str, value: Any, count: int | None = None) -> list[Any]:
    """Return `value`, any iterable, as a list of `count` entries (None: of any length)."""
    several = isinstance(value, Iterable) and not isinstance(value, str | bytes | dict)
    if not several or getattr(value, "ndim", 1) == 0:
        raise ValueError(f"`{name}` must be a list, got {shortened(value)}")
    found = list(value)
    if count is not None and len(found) != count:
        raise ValueError(f"`{name}` must have {count} entries, got {len(found)}")
    return found


def grain_of(*values: object) -> float:
    """Return the relative rounding of numbers as they were given: the coarsest of their dtypes.

    Integers, tracers and values that are no arrays of numbers count as float64.
    """
    coarsest = float(np.finfo(float).eps)
    for value in values:
        try:
            kind = np.dtype(float) if is_traced(value) else np.asarray(value).dtype
        except (TypeError, ValueError, RuntimeError):
            continue  # the checks that read these values raise the error
        if jax.numpy.issubdtype(kind, np.floating):  # NumPy doesn't know bfloat16
            coarsest = max(coarsest, float(jax.numpy.finfo(kind).eps))
    return coarsest


def close(a: Real, b: Real, grain: float = 0.0) -> bool:
    """Return whether two arrays agree to 1e-9 of the largest entry, the cost of turning a basis.

    `grain` is the `grain_of` the arrays as they were given. Ten times the grain is allowed where
    it is larger than 1e-9.
    """
    bound = max(1e-9, 10.0 * grain)
    return bool(np.all(np.abs(a - b) <= bound * np.max(np.abs(b), initial=0.0)))


def flag(name: str, value: object, hint: str | None = None) -> bool:
    """Return `value` if it is a bool; refuse others, because 0.5 or "no" would count as true."""
    if not isinstance(value, bool | np.bool_):
        hint = f"; {hint}" if hint else ""
        raise ValueError(f"`{name}` must be True or False, got {shortened(value)}{hint}")
    return bool(value)


def raised(error: Exception) -> str:
    """Return one line on the error of a user's function that JAX called, with the remedy."""
    name, line = type(error).__name__, (str(error).splitlines() or [""])[0]
    unknown = (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError)
    if isinstance(error, unknown):
        return f"calling it raised {name}: write it with jax.numpy, jnp.where instead of `if`"
    return f"calling it raised {name}{': ' if line else ''}{line}"


# Packages whose wrappers of classes and functions stand between a user's line and ours.
_NOT_THE_USER = {"odeae", "equinox", "jaxtyping", "beartype", "jax", "contextlib", "functools"}


def warn(message: str, kind: type[Warning] = UserWarning) -> None:
    """Give a warning that points at the line outside odeae that led to it."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _NOT_THE_USER:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, kind, stacklevel=level)


def described(self: Any) -> str:
    """Return Class(name=value, …) of a dataclass, with single numbers as numbers: a __repr__."""
    fields = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
    return f"{type(self).__name__}({', '.join(f'{n}={shown(x)}' for n, x in fields)})"


def shown(x: Any) -> str:
    """Return the value of a field for people: a number as it is, an array as its shape."""
    if is_traced(x):
        return "traced"
    if not hasattr(x, "shape"):
        return repr(x)
    return f"array of shape {_shape(x.shape)}" if x.shape or not hasattr(x, "item") else f"{x:g}"


def _shape(shape: Sequence[int | None]) -> str:
    sizes = ["any" if n is None else str(n) for n in shape]
    return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"
