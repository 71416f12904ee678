"""Fingerprints of a user's function: its code and all that it uses, the same in every process."""

import contextlib
import dataclasses
import dis
import functools
import hashlib
import inspect
import platform
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from odeae.base.precision import is_traced
from odeae.sweeps.layout import IN_PYTHON

_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))
_PYTHON = IN_PYTHON + ".".join(platform.python_version_tuple()[:2])


def fingerprints(function: Callable, name: str) -> dict[str, str]:
    """Return a hash for a function and for everything of the user's own that it uses, by name.

    Functions are told by their code (not by comments, docstrings or line numbers); numbers, texts,
    arrays and collections by value. What is installed counts by its name alone. What has nothing
    that another process could find again (an open file, an object of a library) isn't among them.

    Args:
        function: A function, partial, method, class or object with `__call__`.
        name: What to call it.

    Returns:
        Hashes by name: "build in Python 3.12", "build.table in Python 3.12" for a variable that it
        reads, "build.helper.table in Python 3.12" and so on.
    """
    found, seen = {}, {}
    waiting = [(name, function)]
    while waiting:
        name, value = waiting.pop(0)
        if not isinstance(value, _PLAIN):
            if id(value) in seen:
                continue
            seen[id(value)] = value  # kept, or another could get its id
        text, parts = _taken_apart(value)
        if text is not None:
            found[name + _PYTHON] = hashlib.sha256(text.encode()).hexdigest()[:16]
        waiting += [(f"{name}.{inner}", part) for inner, part in parts]
    return found


def _taken_apart(value: Any) -> tuple[str | None, list[tuple[str, Any]]]:
    """A text that stands for a value, None if there is none, and what the value uses, by name."""
    if isinstance(value, types.ModuleType) or is_traced(value):
        return None, []
    if isinstance(value, functools.partial):
        return "partial", [("func", value.func), ("args", value.args), *value.keywords.items()]
    if isinstance(value, types.MethodType):
        return None, [("func", value.__func__), ("self", value.__self__)]
    if callable(value) and hasattr(value, "__wrapped__"):  # made by jax.jit, functools.wraps, …
        return None, [("wrapped", getattr(value, "__wrapped__")), *_used(value)]  # noqa: B009
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType | np.ufunc):
        if not _is_own(value):
            return f"{getattr(value, '__module__', '')}.{value.__name__}", []
        if isinstance(value, types.FunctionType):
            return "\n".join(_code(value.__code__)), list(_used(value))
        members = {n: getattr(x, "__func__", x) for n, x in vars(value).items()}
        return value.__name__, [
            (n, x) for n, x in members.items() if isinstance(x, types.FunctionType)
        ]
    try:
        return "\n".join(_value(value)), []
    except (TypeError, ValueError, RecursionError):
        pass  # there is more in it than values
    if isinstance(value, dict):
        return None, [(str(key), x) for key, x in value.items()]
    if isinstance(value, list | tuple):
        return None, [(str(i), x) for i, x in enumerate(value)]
    if hasattr(value, "__dict__") and (dataclasses.is_dataclass(value) or _is_own(type(value))):
        return None, [("class", type(value)), *vars(value).items()]
    return None, []


def _value(value: Any) -> Iterator[str]:
    """Lines that stand for a value; raises `TypeError` for what isn't made of plain values."""
    yield type(value).__name__
    if isinstance(value, _PLAIN):
        yield repr(value)
    elif isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        yield f"{array.dtype} {array.shape}"
        yield from (
            _value(array.tolist())
            if array.dtype.hasobject
            else [hashlib.sha256(array.tobytes()).hexdigest()]
        )
    elif isinstance(value, range):
        yield repr(value)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _value(part)
        yield "end"
    elif isinstance(value, dict):
        for pair in value.items():
            yield from _value(pair)
        yield "end"
    elif isinstance(value, set | frozenset):  # their order differs from process to process
        yield from sorted(" ".join(_value(part)) for part in value)
        yield "end"
    else:
        raise TypeError


def _code(code: types.CodeType) -> Iterator[str]:
    """Lines that stand for code: its instructions, with the constants and names that they take."""
    arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    yield f"{arguments} {code.co_posonlyargcount} {code.co_flags & 0x0C}"
    for step in dis.get_instructions(code):
        if isinstance(step.argval, types.CodeType):
            yield step.opname
            yield from _code(step.argval)
        elif step.opcode in dis.hasconst:
            yield step.opname
            yield from _value(code.co_consts[step.arg or 0])
        else:
            yield f"{step.opname} {step.argval if step.opcode in dis.hasname else step.arg}"


def _used(function: Any) -> Iterator[tuple[str, Any]]:
    """What a function takes from outside: defaults, variables around it, globals."""
    if not isinstance(function, types.FunctionType):
        return
    for parameter in inspect.signature(function, follow_wrapped=False).parameters.values():
        if parameter.default is not parameter.empty:
            yield parameter.name, parameter.default
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    for name, cell in cells:
        with contextlib.suppress(ValueError):  # it has no value yet
            yield name, cell.cell_contents
    codes, around = [function.__code__], function.__globals__
    while codes:
        steps = list(dis.get_instructions(code := codes.pop()))
        codes += [x for x in code.co_consts if isinstance(x, types.CodeType)]
        for name in {step.argval: None for step in steps if step.opname == "LOAD_GLOBAL"}:
            value = around.get(name)
            if isinstance(value, types.ModuleType) and _is_own(value):
                reads = (n for n in code.co_names if hasattr(value, n))
                yield from ((f"{name}.{n}", getattr(value, n)) for n in reads)
            elif name in around and not name.startswith("__"):
                yield name, value


def _is_own(value: Any) -> bool:
    """Whether a function, class or module was written by the user and not installed."""
    module = value.__name__ if isinstance(value, types.ModuleType) else value.__module__ or ""
    if module.partition(".")[0] == "odeae" or module in sys.builtin_module_names:
        return False
    code = getattr(value, "__code__", None)
    home = value if isinstance(value, types.ModuleType) else sys.modules.get(module)
    file = code.co_filename if code else getattr(home, "__file__", None) or ""
    return not file.startswith((*_INSTALLED, "<frozen"))
