"""Words for people: suggestions for names nobody knows, plurals, tables. Needs no JAX."""

import difflib
import html
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


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 run", "2 runs"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def html_table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """A small HTML table of names and texts, for notebooks; all of them are escaped."""
    style = ' style="text-align: left"'
    lines = [
        f"<tr><th{style}>{html.escape(name)}</th><td{style}>{html.escape(text)}</td></tr>"
        for name, text in rows
    ]
    head = f'<caption style="text-align: left"><b>{html.escape(title)}</b></caption>'
    return f"<table>{head}{''.join(lines)}</table>"
