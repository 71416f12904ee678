"""Double precision without side effects: `import odeae` changes no global setting of JAX."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from odeae.base.progress import saying_what_compiles

P = ParamSpec("P")
T = TypeVar("T")

# Concrete values live as NumPy float64 arrays: a float64 jax array turns into float32 as soon as
# it is used while x64 is off.
#
# `ArrayLike` is what a user may give for numbers: a number, a list of numbers, an array of NumPy or
# JAX, a tracer. At runtime it allows everything, so that the errors of `odeae.base.checks`, which
# are written for people, come before an error of beartype.
if TYPE_CHECKING:
    from numpy.typing import ArrayLike as ArrayLike

    Real = Any  # NumPy and JAX arrays share no static type; shapes are checked by the tests
else:
    ArrayLike = Any
    Real = jax.Array | np.ndarray | np.generic
Scalar: TypeAlias = Real | float | int  # one number, perhaps a tracer


def is_traced(tree: object) -> bool:
    """Return whether any leaf of `tree` is a JAX tracer (inside jit, vmap or grad)."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, Iterator))
    return any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)


def is_known(tree: object) -> bool:
    """Return whether all leaves of `tree` have values: no tracer, no shape of `jax.eval_shape`."""
    shapes = (jax.core.Tracer, jax.ShapeDtypeStruct)
    return not any(isinstance(leaf, shapes) for leaf in jax.tree.leaves(tree))


def refuse_float32() -> None:
    """Raise the one error that a tracer meets while x64 is off.

    A computation that went on would use inputs that JAX has already rounded to float32.
    """
    if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError(
            "odeae computes in float64, but jit, vmap or grad is tracing in float32 here. "
            'Call `jax.config.update("jax_enable_x64", True)` at the top of the script.'
        )


def as_float(value: object) -> Real:
    """Return `value` as float64: NumPy if concrete, a tracer of dtype float64 otherwise.

    Raises `ValueError` for a tracer while x64 is off.
    """
    if is_traced(value):
        refuse_float32()
        return jnp.asarray(value, jnp.float64)
    return np.asarray(value, np.float64)


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Compute in float64 and under JAX's default settings, whatever a user has chosen.

    A user's debugging settings concern the user's code. Here NaN is data (NaN follows the end of a
    solve that failed), dtypes are promoted on purpose, and NumPy arrays are the inputs of compiled
    functions.
    """
    with jax.enable_x64(True), _default_settings():
        yield


@contextlib.contextmanager
def _default_settings() -> Iterator[None]:
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.transfer_guard("allow"),
        jax.debug_nans(False),
        jax.debug_infs(False),
        jax.disable_jit(False),
    ):
        yield


def in_float64(function: Callable[P, T]) -> Callable[P, T]:
    """Run a public function in float64 and under JAX's defaults, whatever the global settings are.

    Concrete results come back as NumPy arrays, results under a transformation as tracers.
    Raises `ValueError` if a transformation is tracing while x64 is off.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        if is_traced((args, kwargs)):
            refuse_float32()
            with _default_settings():
                return function(*args, **kwargs)
        with float64(), saying_what_compiles():
            result = to_numpy(function(*args, **kwargs))
        if is_traced(result):  # all inputs concrete, but inside a user's jit
            refuse_float32()
        return result

    return wrapper


def to_numpy(tree: T) -> T:
    """Return `tree` with every concrete JAX array as a NumPy array; PRNG keys stay."""

    def convert(leaf):
        concrete = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
        if concrete and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return np.asarray(leaf)
        return leaf

    return jax.tree.map(convert, tree)
