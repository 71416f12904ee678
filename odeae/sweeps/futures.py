"""Tasks on any executor: results as they come, errors and deaths in plain words."""

import asyncio
import atexit
import contextlib
import functools
import itertools
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from odeae.base import checks
from odeae.base.messages import first_line
from odeae.base.optional import needed_package

_CACHE = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


# What a pool raises when it lost a worker, by the name of the class, so that no optional package
# needs to be imported to recognise it. Errors of the function itself never look like this: they
# come back as values.
_DEATHS = {
    "KilledWorker": "Dask workers died, one after another, on the same task",
    "UncompletedJobError": "a submitit job ended without a result",
    "BrokenExecutor": "a worker process died",
    "CancelledError": "tasks were cancelled, or the scheduler was lost",
    "CommClosedError": "the connection to the Dask scheduler was lost",
}


def completed(
    function: Callable[[Any], Any],
    tasks: Iterable[Any],
    executor: Any = None,
    in_flight: int | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Yield (task, function(task)) for all `tasks`, in the order in which they are done.

    `executor` is None (run here, in order) or anything whose `.submit(f, *args)` returns an object
    with `.done()` and `.result()`: an executor of concurrent.futures, a Dask client, a submitit
    executor (which gets its tasks in waves, each one job array). No more than `in_flight` tasks
    are handed out and not yet yielded (default: twice the workers, where their number is known).
    Other processes get `function` by value and load it once, so that what it has jitted is
    compiled once per process; arrays that it closes over travel with every task.

    Raises the first error of `function` as it is, once the results that were done by then are out;
    `RuntimeError` if a worker died. Either way, and when the iterator is closed or interrupted,
    tasks that have not begun are cancelled. Raises `ValueError` at once if `executor` isn't one or
    if `function` can't be sent to another process.
    """
    if executor is None:
        return ((task, _interruptible(function, task)) for task in tasks)
    if not callable(getattr(executor, "submit", None)):
        raise ValueError(
            f"`executor` must have a method submit(function, *args), got {executor!r:.60}"
        )
    if in_flight is None:
        in_flight = _default_in_flight(executor)
    else:
        in_flight = checks.whole("in_flight", in_flight)
    if isinstance(executor, ThreadPoolExecutor):
        call = functools.partial(_outcome, function)
    else:
        call = functools.partial(_load_and_run, _pickled(function), _cache_settings())
    return _stream(executor, call, iter(tasks), in_flight)


def _interruptible(function: Callable[[Any], Any], task: Any) -> Any:
    """Return function(task) such that Ctrl-C needn't wait for its end.

    Python hears of a signal only between its own instructions, and a compiled solve is one of them,
    however long it lasts: so it runs in another thread, which an interrupt leaves to itself.
    """
    if threading.current_thread() is not threading.main_thread():
        return function(task)  # signals go to the main thread
    future, device = Future(), jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]

    def run():
        try:
            with jax.default_device(device):  # such settings of JAX belong to a thread
                future.set_result(function(task))
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        return future.result()
    finally:
        if not future.done():
            _left.append(thread)


_left: list[threading.Thread] = []  # by an interrupt, to themselves


@atexit.register
def _leave() -> None:
    """End a process in which compiled code still runs after Ctrl-C: on its own, Python aborts."""
    if any(thread.is_alive() for thread in _left):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)


def _stream(
    executor: Any, call: functools.partial[Any], tasks: Iterator[Any], in_flight: int
) -> Iterator[Any]:
    """Keep up to `in_flight` tasks running and yield what is done; cancel the rest on the way out.

    A task counts until its result is yielded, so that a slow reader stops the flow.
    """
    running: dict[Any, Any] = {}  # job: task
    batched = hasattr(executor, "batch")  # submitit, whose jobs are looked for on a shared disk
    wave = max(1, in_flight // 2) if batched else 1
    pause = 0.0

    def refill():
        if (free := in_flight - len(running)) >= wave:
            running.update(_submitted(executor, call, list(itertools.islice(tasks, free))))

    try:
        refill()
        while running:
            done = [job for job in running if job.done()]
            pause = 0.0 if done else min(1.5 * pause + 1e-3, 0.5 if batched else 0.05)
            time.sleep(pause)
            failure = None
            for job in done:
                task = running.pop(job)
                try:
                    value = _value(job)
                except Exception as error:
                    failure = failure or error
                    continue  # what else is done by now has cost its time too
                if failure is None:
                    refill()
                yield task, value
            if failure is not None:
                raise failure
    finally:
        _cancel(running, batched)


def _submitted(executor: Any, call: functools.partial[Any], tasks: list[Any]) -> dict[Any, Any]:
    """Hand tasks to an executor, {job: task}; raises `RuntimeError` if it takes no more."""
    batch = getattr(executor, "batch", None) if tasks else None  # one job array for all
    # Dask takes equal calls for the same unless told that the function may not be pure.
    options = {"pure": False} if hasattr(executor, "get_executor") else {}
    jobs = []
    try:
        with batch() if batch else contextlib.nullcontext():
            for task in tasks:
                jobs.append(executor.submit(call, task, **options))
    except BaseException as error:
        _cancel([] if batch else jobs, False)
        if batch and isinstance(error, RuntimeError | OSError):
            raise RuntimeError(
                f"the jobs could not be submitted: {first_line(error)}; completed results are "
                "kept, so run again to go on"
            ) from error
        _raise_if_death(error)
        raise
    return dict(zip(jobs, tasks, strict=True))


def _value(job: Any) -> Any:
    """The result of a job that is done; raises what the function raised."""
    try:
        value, error = job.result()
    except (Exception, asyncio.CancelledError) as lost:  # the latter is no `Exception`
        _raise_if_death(lost, job)
        raise
    if error is not None:
        raise error
    return value


def _raise_if_death(error: BaseException, job: Any = None) -> None:
    """Raise one readable `RuntimeError` if `error` means that a worker was lost."""
    names = {kind.__name__ for kind in type(error).__mro__}
    what = next((text for name, text in _DEATHS.items() if name in names), None)
    if what is None:
        return
    causes = "likely causes: killed, or out of memory"
    if "UncompletedJobError" in names:
        causes = "likely causes: out of memory, cancelled, or failed before it began"
        if "timed-out" in str(error):
            causes = "it ran out of its time: raise `timeout_min`"
        with contextlib.suppress(AttributeError):
            causes += f"; its log is {str(job.paths.stderr)!r}"
    raise RuntimeError(
        f"{what} ({causes}); completed results are kept, so run again to go on"
    ) from error


def _cancel(jobs: Iterable[Any], batched: bool) -> None:
    """Cancel what hasn't begun; jobs of submitit get a few seconds to end, or they'd be orphans."""
    jobs = [job for job in jobs if hasattr(job, "cancel")]
    for job in jobs:
        with contextlib.suppress(Exception):  # the reason for cancelling matters more
            job.cancel()
    until = time.monotonic() + 5.0
    while batched and time.monotonic() < until and not all(job.done() for job in jobs):
        time.sleep(0.05)


def _default_in_flight(executor: Any) -> int:
    """Enough tasks to keep all workers busy while a result is being read."""
    if hasattr(executor, "batch"):
        if getattr(executor, "cluster", "local") == "slurm":
            return 2 * int(executor.parameters.get("array_parallelism", 256))
        return os.cpu_count() or 1  # a local job starts as soon as it is submitted
    if hasattr(executor, "get_executor"):
        # Workers may join a Dask cluster at any time, and some clusters only grow under a load.
        return max(64, 2 * sum(executor.nthreads().values()))
    workers = getattr(executor, "_max_workers", None)
    return 64 if workers is None else 2 * workers


def _outcome(function: Callable[[Any], Any], task: Any) -> tuple[Any, Exception | None]:
    """Return (value, None) or (None, error), so that errors of the pool stay apart from these."""
    try:
        return function(task), None
    except Exception as error:
        # submitit raises this out of a signal handler, at any line, when the time is up
        if type(error).__name__ == "UncompletedJobError":
            raise
        return None, error


def _load_and_run(pickled: bytes, cache: dict[str, Any], task: Any) -> tuple[Any, Exception | None]:
    """Run a function that came by value, in another process."""
    _use_cache(cache)
    value, error = _outcome(lambda task: _load(pickled)(task), task)
    return value, None if error is None else _sendable(error)


@functools.lru_cache(maxsize=8)
def _load(pickled: bytes) -> Callable[[Any], Any]:
    """Load a function once: each copy would compile anew what it has jitted."""
    import cloudpickle

    # Programs with Equinox's run-time errors (host callbacks) stay out of JAX's persistent cache.
    # It reads this when it is imported, which nothing here does and loading the function may do.
    os.environ.setdefault("EQX_ON_ERROR", "nan")
    return cloudpickle.loads(pickled)


def _sendable(error: Exception) -> Exception:
    """`error` with its traceback as a note, or its text if it doesn't survive pickling."""
    import cloudpickle

    note = "in a worker process:\n" + "".join(traceback.format_exception(error))
    try:
        error = error.with_traceback(None)
        error.__cause__ = error.__context__ = None  # told by the note, and may not be picklable
        cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(note)
    return error


def _cache_settings() -> dict[str, Any]:
    """JAX's persistent cache of compiled programs as it is configured here, if it is."""
    settings = {name: getattr(jax.config, name) for name in _CACHE}
    folder = settings["jax_compilation_cache_dir"]
    if not folder:
        return {}
    with contextlib.suppress(OSError):  # JAX makes it with the first program, and says why not
        Path(folder).mkdir(parents=True, exist_ok=True)
    return settings


def _use_cache(settings: dict[str, Any]) -> None:
    """Share the parent's cache if this machine sees it and has none of its own."""
    if not settings or jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        return
    if os.access(settings["jax_compilation_cache_dir"], os.W_OK):
        for name, value in settings.items():
            jax.config.update(name, value)


def _pickled(function: Callable[[Any], Any]) -> bytes:
    cloudpickle = needed_package("cloudpickle", "sweep")
    try:
        return cloudpickle.dumps(function)
    except Exception as error:  # any object inside it may raise anything
        raise ValueError(
            f"the function can't be sent to another process: {first_line(error)}; make what it "
            "needs inside of it"
        ) from error
