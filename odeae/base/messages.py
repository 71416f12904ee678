"""Words for people: suggestions for unknown names, plurals, tables. This module needs no JAX."""

import difflib
import functools
import html
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

T = TypeVar("T", bound=Callable[..., Any])


def shortened(value: object) -> str:
    """Return the repr of any value in one line of at most 60 characters, for messages."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # some reprs raise, such as the repr of an int of 5000 digits
        text = f"{type(value).__name__} without a repr"
    return text if len(text) <= 60 else text[:57] + "..."


# Names of one quantity, here and in other tools.
_SYNONYMS = (
    {"hidden", "k", "neurons", "units", "width", "n_hidden", "hidden_size", "hidden_dim"},
    {"lr", "learning_rate", "rate", "eta", "step_size"},
    {"weight_decay", "decay", "kappa", "wd", "l2"},
    {"encoder_std", "decoder_std", "std", "sigma", "scale", "init_std"},
    {"encoder", "encoder_std", "alpha", "w", "w_std"},
    {"decoder", "decoder_std", "beta", "v", "v_std", "u"},
    {"dim", "d", "n", "dimension", "n_features", "input_dim"},
    {"activation", "g", "nonlinearity", "act", "phi"},
    {"noise", "s2", "noise_variance", "variance", "sigma2"},
    {"times", "end", "t", "time", "ts", "t_max", "t1", "steps"},
    {"rtol", "tol", "tolerance"},
    {"members", "runs", "seeds", "n", "samples", "n_runs"},
    {"seed", "key", "rng", "random_state", "seeds"},
    {"final", "end_value", "min_factor"},
)


def nearest(word: object, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown word: the known words and the nearest one."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1) if isinstance(word, str) else []
    hint = f", did you mean {close[0]!r}?" if close else ""
    return f": expected one of {', '.join(known)}{hint}"


def one_of(name: str, value: object, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`, else raise `ValueError` and suggest the nearest."""
    choices = list(choices)
    if isinstance(value, str) and value in choices:  # an array would be compared entry by entry
        return value
    raise ValueError(f"unknown `{name}` {shortened(value)}{nearest(value, choices)}")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 run", "2 runs"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def html_table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """Return a small HTML table of names and texts for notebooks; names and texts are escaped."""
    style = ' style="text-align: left"'
    lines = [
        f"<tr><th{style}>{html.escape(name)}</th><td{style}>{html.escape(text)}</td></tr>"
        for name, text in rows
    ]
    head = f'<caption style="text-align: left"><b>{html.escape(title)}</b></caption>'
    return f"<table>{head}{''.join(lines)}</table>"


def explains_arguments(target: T) -> T:
    """Decorate a function or a class so that the error of a wrong call says what to write.

    Python's own `TypeError` names the argument that is unknown or missing. The new error also names
    the argument that was probably meant and all known arguments. Successful calls cost nothing
    extra, and signatures stay the same.

    Args:
        target: A function, or a class. For a class, its constructor is wrapped.

    Returns:
        The wrapped function, or the same class.
    """
    function: Any = target.__init__ if isinstance(target, type) else target
    name = getattr(target, "__qualname__", "")

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TypeError:
            signature = inspect.signature(function)
            if _fits(signature, args, kwargs):
                raise  # a mistake inside, which Python describes best
            own = [word for word in signature.parameters if word not in ("self", "cls")]
            message = _mistake(name, own, signature, args, kwargs)
        raise TypeError(message)

    if not isinstance(target, type):
        return cast("T", wrapper)
    setattr(target, "__init__", wrapper)  # noqa: B010  # Pyright: no assignment to a method
    return cast("T", target)


def _fits(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _mistake(
    name: str,
    own: list[str],
    signature: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> str:
    """Return a message about a call that doesn't fit a signature."""
    takes = f"it takes {', '.join(own)}"
    unknown = [word for word in kwargs if word not in own]
    if unknown:
        others = " or ".join(f"`{word}`" for word in meant(unknown[0], own))
        hint = f" (did you mean {others}?)" if others else ""
        return f"{name} has no argument `{unknown[0]}`{hint}: {takes}"
    try:
        signature.bind_partial(*args, **kwargs)
    except TypeError as error:  # too many arguments, or one argument twice
        return f"{name}: {error}; {takes}"
    given = signature.bind_partial(*args, **kwargs).arguments
    required = [
        word
        for word, parameter in signature.parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    missing = ", ".join(f"`{word}`" for word in required if word not in given)
    return f"{name} lacks {missing}: write {name}({', '.join(own)})"


def meant(word: str, own: list[str]) -> list[str]:
    """Return the known arguments that an unknown word may stand for."""
    alike = set().union(*(group for group in _SYNONYMS if word.lower() in group))
    found = [known for known in own if known in alike]
    return found or difflib.get_close_matches(word, own, n=1)


def first_line(error: BaseException) -> str:
    """Return the first line of an error that has words in it."""
    lines = [line.strip(" .-") for line in str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__)
