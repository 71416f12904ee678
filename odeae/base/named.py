"""Pickles and copies of what holds a function: jitted ones keep their name, not their insides."""

import functools
import pkgutil
import types
from typing import Any


class _ByName:
    """Stands for a function in a pickle, and comes out of it as the function itself."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self):
        """Nobody calls it; `functools.partial` takes only what can be called."""
        raise NotImplementedError

    def __reduce__(self):
        return pkgutil.resolve_name, (self.name,)


def _portable(value: Any) -> Any:
    """Return `value`, or what pickle can take where it can't take an importable function.

    Pickle looks for `jax.numpy.tanh` where it was defined, and finds what was jitted there; a copy
    of its insides would be another function, which compiles anew and equals nothing.
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
    """The fields of a module for pickle: a __getstate__."""
    return {name: _portable(value) for name, value in self.__dict__.items()}


def itself(self: Any, memo: Any = None) -> Any:
    """Copy of what can't change: a __copy__ and __deepcopy__."""
    return self
