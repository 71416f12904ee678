"""Pickles and copies of objects that hold functions: jitted functions are pickled by name."""

import functools
import pkgutil
import types
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class _ByName:
    """A stand-in for a function in a pickle, which is the function itself after loading."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self) -> None:
        """Raise an error: the stand-in is callable only because `functools.partial` needs that."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return pkgutil.resolve_name, (self.name,)


def _portable(value: Any) -> Any:
    """Return `value`, or a stand-in where pickle can't pickle an importable function.

    Pickle looks up `jax.numpy.tanh` in the module that defined it and finds another object there,
    the function before `jit`. A copy of the function's contents would be a new function, which
    compiles anew and compares as different.
    """
    if isinstance(value, functools.partial):
        return functools.partial(_portable(value.func), *value.args, **value.keywords)
    plain = types.FunctionType | types.BuiltinFunctionType | type
    module = getattr(value, "__module__", None)
    if not callable(value) or isinstance(value, plain) or module in (None, "__main__"):
        return value
    name = f"{module}:{getattr(value, '__qualname__', '')}"
    try:
        return _ByName(name) if pkgutil.resolve_name(name) is value else value
    except (ImportError, AttributeError, ValueError):
        return value


def portable_state(self: Any) -> dict[str, Any]:
    """Return the fields of a module for pickle: a __getstate__."""
    return {name: _portable(value) for name, value in self.__dict__.items()}


def itself(self: T, memo: object = None) -> T:
    """Return the object itself as its copy, because it can't change: a __copy__, __deepcopy__."""
    return self
