"""What a terminal shows while one waits, and that nothing else ever sees it."""

import io
import multiprocessing
import threading
import time
from types import SimpleNamespace

import jax
import pytest

from odeae.base import progress as waiting
from odeae.base.precision import in_float64


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def shows(self, text):
        """Wait until the text has been written."""
        until = time.monotonic() + 30.0
        while text not in self.getvalue():
            assert time.monotonic() < until, f"{text!r} never came"
            time.sleep(0.001)

    def is_clean(self):
        """Whether the line where the cursor stands is empty."""
        return self.getvalue().endswith("\r") and self.getvalue().split("\r")[-2].strip() == ""


@pytest.fixture
def terminal(monkeypatch):
    screen = Terminal()
    # Of that module alone: pytest puts its own stderr back before the test begins.
    monkeypatch.setattr(waiting, "sys", SimpleNamespace(stderr=screen))
    monkeypatch.setattr(waiting._compilation, "patience", lambda event: 0.0)
    return screen


def _compile(meanwhile=lambda: None):
    """A program that is new to JAX; `meanwhile` runs while it is traced."""

    def function(x):
        meanwhile()
        return x + 1.0

    return jax.jit(function)(1.0)


def test_a_terminal_sees_that_odeae_compiles_until_it_is_done(terminal):
    in_float64(_compile)(lambda: terminal.shows(waiting.COMPILING))
    assert terminal.is_clean()


def test_an_error_while_compiling_leaves_a_clean_line(terminal):
    def fail():
        terminal.shows(waiting.COMPILING)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_float64(_compile)(fail)
    assert terminal.is_clean()


def test_threads_share_one_line(terminal):
    """It stays until the last of them is done."""
    first, second = threading.Event(), threading.Event()

    def meanwhile(own, other):
        own.set()
        assert other.wait(30.0)
        terminal.shows(waiting.COMPILING)

    threads = [
        threading.Thread(target=in_float64(_compile), args=(lambda a=a, b=b: meanwhile(a, b),))
        for a, b in ((first, second), (second, first))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert terminal.is_clean()
    assert waiting._compilation.phases == 0


@pytest.mark.parametrize("reader", ["own program", "pipe", "worker", "none"])
def test_nobody_else_is_told(terminal, monkeypatch, reader):
    """Not of a program of the user's own, nor where stderr is a file, or that of a worker."""
    function = _compile if reader == "own program" else in_float64(_compile)
    if reader == "pipe":
        monkeypatch.setattr(terminal, "isatty", lambda: False)
    if reader == "worker":
        monkeypatch.setattr(multiprocessing, "parent_process", multiprocessing.current_process)
    if reader == "none":
        monkeypatch.setattr(waiting.sys, "stderr", None)
    in_float64(_compile)()  # JAX reports its phases from here on
    before = terminal.getvalue()
    seen = []
    function(lambda: seen.append(waiting._compilation.phases))
    assert seen == [0]
    assert terminal.getvalue() == before


@pytest.mark.parametrize(("folder", "wait"), [(None, 0.5), ("cache", 2.0)])
def test_what_is_traced_is_said_late_where_the_program_may_be_on_disk(folder, wait):
    compilation, name = waiting._Compilation(), "jax_compilation_cache_dir"
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update(name, folder)
        assert compilation.patience("/jax/core/compile/jaxpr_trace_duration") == wait
        assert compilation.patience("/jax/core/compile/backend_compile_duration") == 0.3
    finally:
        jax.config.update(name, before)


def test_a_long_solve_shows_how_long_it_lasts(terminal):
    with waiting.saying_how_long("predicting", after=0.5):
        terminal.shows("predicting, 1 s")
    assert terminal.is_clean()
