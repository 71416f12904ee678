"""The shell: `odeae predict | simulate | compare | sweep | plot | spectrum | validate | …`."""

import importlib
import signal
import sys
import warnings
from typing import Any

import typer

from odeae.shell.app import UsageError, app

# Each registers its commands, in the order in which --help lists them.
for _module in ("curves", "sweeping", "drawing", "examples"):
    importlib.import_module(f"odeae.shell.{_module}")


def _terminated(*_: Any) -> None:
    raise SystemExit(143)  # unwinds, so that no half-written file stays


def main() -> None:
    """Run the shell; every failure that has a message is one line on stderr and exit code 1."""
    before = signal.signal(signal.SIGTERM, _terminated), warnings.showwarning
    warnings.showwarning = lambda message, *args, **kwargs: print(
        f"odeae: warning: {' '.join(str(message).split())}", file=sys.stderr
    )
    try:
        _run()
    finally:  # for those who call this from a process of their own
        signal.signal(signal.SIGTERM, before[0])
        warnings.showwarning = before[1]


def _run() -> None:
    code = 130
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        if not error.format_message():  # no command: the help was shown
            sys.exit(1)
        path = error.ctx.command_path if error.ctx else "odeae"
        _fail(f"{error.format_message()} (see {path} --help)")
    except (KeyboardInterrupt, typer.Abort):
        pass
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        _fail(str(error))
    except MemoryError as error:
        _fail(f"this needs more memory than there is: {error}")
    if code == 130:
        print("odeae: interrupted, nothing half-written", file=sys.stderr)
    sys.exit(code or 0)


def _fail(message: str) -> None:
    print(f"odeae: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(1)
