"""Lines for people who wait at a terminal: that JAX compiles, how long a solve takes.

Nothing is printed where stderr is no terminal (pipes, notebooks, logs), nor in worker processes.
"""

import contextlib
import multiprocessing
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

COMPILING = "compiling (once per shape)…"
_PHASES = (
    "/jax/core/compile/"  # the names of JAX's events when tracing, lowering, compiling begin, end
)
_COMPILES = "backend_compile_duration"


def at_terminal() -> bool:
    """Return whether stderr is a terminal and this is the main process."""
    read = sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()
    return read and multiprocessing.parent_process() is None


def _line(text: str) -> Any:
    """Return a line below other progress bars, which stays until closed; safe in threads."""
    from tqdm import tqdm

    return tqdm(total=0, bar_format="{desc}", desc=text, leave=False, file=sys.stderr)


class _Compilation:
    """The line that is shown while odeae compiles: JAX reports phases, a timer shows the line."""

    def __init__(self):
        self.lock = threading.RLock()
        self.ours = threading.local()  # whether this thread is inside a function of odeae
        self.listens = False
        self.phases = 0  # phases of all threads that have begun and not ended
        self.timer: Any = None
        self.line: Any = None
        self.hidden = -float("inf")  # the time at which the line was last removed

    def listen(self) -> None:
        """Register for the phases of JAX, at the first call from a terminal."""
        import jax

        with self.lock:
            if not self.listens:
                self.listens = True
                jax.monitoring.register_scalar_listener(self.begins)
                jax.monitoring.register_event_duration_secs_listener(self.ends)

    def is_ours(self, event: str) -> bool:
        return event.startswith(_PHASES) and getattr(self.ours, "depth", 0) > 0

    def begins(self, event: str, *_: Any, **__: Any) -> None:
        if self.is_ours(event):
            with self.lock:
                self.phases += 1
                if self.phases == 1:
                    self.timer = threading.Timer(self.patience(event), self.show)
                    self.timer.daemon = True
                    self.timer.start()

    def patience(self, event: str) -> float:
        """Return the seconds that a phase must last before the line is shown."""
        import jax

        if time.monotonic() - self.hidden < 1.0:  # the next phase of a program that had a line
            return 0.1  # not 0, so that a hundred tiny programs don't flicker
        if event.endswith(_COMPILES):
            return 0.3
        # A traced program may be in the cache on disk, and then nothing compiles.
        cached = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
        return 2.0 if cached else 0.5

    def show(self) -> None:
        with self.lock:
            if self.timer is threading.current_thread() and self.line is None:
                self.line = _line(COMPILING)

    def ends(self, event: str, *_: Any, **__: Any) -> None:
        if self.is_ours(event):
            with self.lock:
                self.phases = max(0, self.phases - 1)
                if self.phases == 0 and self.timer is not None:
                    self.timer.cancel()
                    self.timer = None
                    if self.line is not None:
                        self.line.close()
                        self.line, self.hidden = None, time.monotonic()


_compilation = _Compilation()


@contextlib.contextmanager
def saying_what_compiles() -> Iterator[None]:
    """Show a line on a terminal while JAX compiles, inside the block, for over half a second."""
    if not at_terminal():
        yield
        return
    _compilation.listen()
    ours = _compilation.ours
    ours.depth = getattr(ours, "depth", 0) + 1
    try:
        yield
    finally:
        ours.depth -= 1


@contextlib.contextmanager
def saying_how_long(what: str, after: float = 2.0) -> Iterator[None]:
    """Show `what` and the seconds that it has lasted, without compilation, inside the block.

    This is for compiled programs, which can't be asked how far they are.
    """
    if not at_terminal():
        yield
        return
    done = threading.Event()

    def count() -> None:
        seconds, line = 0.0, None
        while not done.wait(0.5):
            seconds += 0.0 if _compilation.phases else 0.5
            if line is None and seconds >= after and not _compilation.phases:
                line = _line(what)
            if line is not None:
                line.set_description_str(f"{what}, {seconds:.0f} s")
        if line is not None:
            line.close()

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
