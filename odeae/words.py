"""Words that were meant: suggestions for names nobody knows. Needs no JAX."""

import difflib
from collections.abc import Iterable


def nearest(word: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: what it could have been."""
    known = list(known)
    close = difflib.get_close_matches(str(word), known, n=1)
    hint = f", did you mean {close[0]!r}?" if close else ""
    return f": expected one of {', '.join(known)}{hint}"


def one_of(name: str, value: str, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`; else raise `ValueError`, suggesting the nearest."""
    choices = list(choices)
    if value in choices:
        return value
    raise ValueError(f"unknown `{name}` {value!r}{nearest(value, choices)}")
