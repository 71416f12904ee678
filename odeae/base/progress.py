"""What people at a terminal read while they wait: that something compiles, how long a solve lasts.

Nothing is said where stderr is no terminal (pipes, notebooks, logs), nor in worker processes.
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
    "/jax/core/compile/"  # JAX names tracing, lowering and compiling so when each begins, ends
)
_COMPILES = "backend_compile_duration"


def at_terminal() -> bool:
    """Whether there is somebody who reads stderr while this process works."""
    read = sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()
    return read and multiprocessing.parent_process() is None


def _line(text: str) -> Any:
    """A line that stands below other bars until it is closed; safe beside them and in threads."""
    from tqdm import tqdm

    return tqdm(total=0, bar_format="{desc}", desc=text, leave=False, file=sys.stderr)


class _Compilation:
    """The line that is there while odeae compiles: JAX reports the phases, a timer shows it."""

    def __init__(self):
        self.lock = threading.RLock()
        self.ours = threading.local()  # whether this thread is inside a function of odeae
        self.listens = False
        self.phases = 0  # begun and not ended, of all threads
        self.timer: Any = None
        self.line: Any = None
        self.hidden = -float("inf")  # when

    def listen(self) -> None:
        """Have JAX report its phases, from the first call at a terminal on."""
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
        """Seconds until a phase is worth a line."""
        import jax

        if time.monotonic() - self.hidden < 1.0:  # the next phase of what was shown
            return 0.1  # but not for each of a hundred tiny programs
        if event.endswith(_COMPILES):
            return 0.3
        # What is traced may be found in the cache on disk, and then nothing compiles.
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
    """Within, a terminal shows a line while JAX compiles for longer than about half a second."""
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
    """Within, a terminal shows `what` and the seconds that it has lasted, beside compilation.

    For compiled programs that can't be asked how far they are.
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
