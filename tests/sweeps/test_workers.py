"""Workers of every kind, for real: processes, Dask over loopback, submitit here and by SLURM."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from pathlib import Path

import jax
import plain
import pytest

import odeae.sweeps.workers as workers
from odeae.sweeps.futures import completed
from odeae.sweeps.workers import dask_pool, device_pool, process_pool, slurm_pool

pytest.importorskip("loky")
pytest.importorskip("distributed")
pytest.importorskip("submitit")
psutil = pytest.importorskip("psutil")

ROOT = str(Path(__file__).parents[2])
ENV = {**os.environ, "PYTHONPATH": ROOT, "JAX_PLATFORMS": "cpu"}
ENV.pop("EQX_ON_ERROR", None)
ENV["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] = "1"  # deaths for one task, by default 3

# Functions for other processes are defined inside of the tests: by value, as those of a script.


def _children():
    """The processes below this one, but for the trackers that live until Python ends."""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if child.is_running() and not any("resource_tracker" in part for part in _command(child))
    ]


def _command(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.fixture(autouse=True)
def _nothing_left():
    yield
    left = _children()
    for child in left:
        child.kill()
    assert not left


def _wait_for(condition, seconds=20.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def _one_line(error, *patterns):
    message = str(error.value)
    assert "\n" not in message
    for pattern in patterns:
        assert re.search(pattern, message), message


# --- the loop, on threads ------------------------------------------------------------------------


def test_without_an_executor_tasks_run_here_in_order():
    ran = []
    results = completed(lambda n: ran.append(n) or n * n, iter(range(3)))
    assert next(results) == (0, 0)
    assert ran == [0]  # nothing ahead of its time
    assert list(results) == [(1, 1), (2, 4)]


def test_results_come_in_the_order_of_completion():
    first = threading.Event()

    def function(n):
        if n == 0:
            assert first.wait(10.0)
        return n

    with ThreadPoolExecutor(2) as pool:
        results = completed(function, range(3), pool)
        assert sorted(next(results)[0] for _ in range(2)) == [1, 2]
        first.set()
        assert list(results) == [(0, 0)]


class Counting(ThreadPoolExecutor):
    """A pool that knows how many tasks were handed to it."""

    submitted = 0

    def submit(self, *args, **kwargs):
        self.submitted += 1
        return super().submit(*args, **kwargs)


@pytest.mark.parametrize(("in_flight", "bound"), [(None, 4), (1, 1), (3, 3)])
def test_no_more_than_in_flight_tasks_are_out(in_flight, bound):
    taken = 0

    def tasks():
        nonlocal taken
        while taken < 30:
            taken += 1
            yield taken

    with Counting(2) as pool:
        most = 0
        for done, _ in enumerate(completed(lambda n: n, tasks(), pool, in_flight)):
            time.sleep(0.002)  # a slow reader: what is done and not yet read counts too
            most = max(most, pool.submitted - (done + 1))
            assert taken == pool.submitted  # a generator of a million tasks isn't read ahead
    assert pool.submitted == 30
    assert most == bound


def test_the_first_error_is_the_functions_own_and_cancels_the_rest():
    ran, error = [], KeyError("this one")

    def function(n):
        ran.append(n)
        if n == 1:
            raise error
        time.sleep(0.1 if n > 1 else 0.0)
        return n

    seen = []
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(KeyError) as raised:
            seen.extend(task for task, _ in completed(function, range(20), pool, in_flight=10))
        assert raised.value is error
    assert seen == [0]
    assert len(ran) <= 4  # one thread: it may have begun another one or two by then


def test_results_done_by_the_time_of_an_error_are_not_lost():
    def function(n):
        if n == 0:
            raise ValueError("no")
        return n

    seen = []
    with Slow(4) as pool:
        results = completed(function, range(100), pool, in_flight=4)
        with pytest.raises(ValueError, match="no"):
            seen.extend(task for task, _ in results)
    assert seen == [1, 2, 3]


class Slow(ThreadPoolExecutor):
    """Submits, and waits: all of one wave is done when the loop first looks."""

    def submit(self, *args, **kwargs):
        future = super().submit(*args, **kwargs)
        future.exception()
        return future


class Idle:
    """An executor that never begins; `look(futures)` is called when the loop looks for results."""

    def __init__(self, look=lambda futures: None):
        self.futures, self.look = [], look

    def submit(self, function, *args):
        self.futures.append(Looked())
        self.futures[-1].look = lambda: self.look(self.futures)
        return self.futures[-1]


class Looked(Future):
    def done(self):
        self.look()
        return super().done()


def _first_is_done(futures):
    if futures[0]._state != "FINISHED":
        futures[0].set_result(("first", None))


def test_closing_the_iterator_cancels_what_has_not_begun():
    pool = Idle(_first_is_done)
    results = completed(lambda n: n, range(20), pool, in_flight=5)
    assert next(results) == (0, "first")
    results.close()
    assert [future.cancelled() for future in pool.futures] == [False] + 5 * [True]


@pytest.fixture
def interruptible():
    """Python's own handler: what starts in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_cancels_and_comes_through(interruptible):
    pool = Idle(lambda futures: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        next(completed(lambda n: n, range(20), pool, in_flight=5))
    assert all(future.cancelled() for future in pool.futures)


ENDLESS = """
import os, signal, sys, threading
import jax
from odeae.sweeps.futures import completed
signal.signal(signal.SIGINT, signal.default_int_handler)

def compute(n):
    if n == 1:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        return jax.block_until_ready(jax.jit(lambda: jax.lax.while_loop(
            lambda x: x >= 0.0, lambda x: x + 1.0, 0.0))())
    return n

for task, _ in completed(compute, range(3)):
    print("done", task)
"""


def test_ctrl_c_needs_no_end_of_compiled_code():
    """A compiled solve once held the prompt until its block was done; here it never is."""
    ended = subprocess.run(
        [sys.executable, "-c", ENDLESS], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.stdout == "done 0\n"
    assert ended.stderr.rstrip().endswith("KeyboardInterrupt")
    assert ended.returncode == 130


def test_errors_and_settings_of_a_task_run_here_are_its_own():
    def device(task):
        if task == 1:
            raise KeyError("mine")
        return jax.config.jax_default_device

    with jax.default_device(jax.devices()[-1]):
        results = completed(device, range(2))
        assert next(results) == (0, jax.devices()[-1])
        with pytest.raises(KeyError, match="mine"):
            next(results)


def test_an_executor_that_cancels_tasks_itself_is_told_apart_from_an_error():
    pool = Idle(lambda futures: futures[0].cancel())
    results = completed(lambda n: n, range(2), pool)
    with pytest.raises(RuntimeError) as error:
        next(results)
    _one_line(error, "cancelled", "run again")


# What executors raise when they have lost a worker; real deaths are below.
LOST = {
    "KilledWorker": "^Dask workers died",
    "UncompletedJobError": "^a submitit job ended without",
    "BrokenProcessPool": "^a worker process died",
    "CommClosedError": "^the connection to the Dask scheduler was lost",
}


@pytest.mark.parametrize(("name", "pattern"), LOST.items())
def test_a_lost_worker_is_a_readable_error(name, pattern):
    kind = BrokenExecutor if name == "BrokenProcessPool" else Exception
    error = type(name, (kind,), {})("two\nlines")

    def lost(futures):
        if futures[0]._state != "FINISHED":
            futures[0].set_exception(error)

    with pytest.raises(RuntimeError) as raised:
        list(completed(lambda n: n, [1], Idle(lost)))
    _one_line(raised, pattern, "kept, so run again to go on")
    assert raised.value.__cause__ is error


# In an interpreter without the type checker, as users have it.
SETUP = """
from concurrent.futures import ThreadPoolExecutor
from odeae.sweeps.workers import dask_pool, process_pool, slurm_pool
from odeae.sweeps.futures import completed
pool = ThreadPoolExecutor(1)
"""
BAD = {
    "completed(len, [1], 3)": r"`executor` must have a method submit.* got 3",
    "completed(len, [1], 'dask')": r"`executor` must have a method submit.* got 'dask'",
    "completed(len, [1], pool, in_flight=0)": "`in_flight` must be at least 1, got 0",
    "completed(len, [1], pool, in_flight=1.5)": "`in_flight` must be a whole number, got 1.5",
    "process_pool(0).__enter__()": "`workers` must be at least 1, got 0",
    "process_pool(True).__enter__()": "`workers` must be a whole number, got True",
    "dask_pool(8786).__enter__()": "`address` must be text like .* got 8786",
    "dask_pool('nonsense').__enter__()": "`address` must be .* got 'nonsense'",
    "dask_pool('gopher://here:1').__enter__()": "`address` must be .* got 'gopher://here:1'",
    "slurm_pool('.', cluster='moon').__enter__()": "'slurm' or 'local', got 'moon'",
    "slurm_pool('.', cluster='local', colour=1).__enter__()": "submitit refused .*colour",
    "slurm_pool('.', cluster='local', slurm_colour=1).__enter__()": "submitit refused .*colour",
    "slurm_pool('.', cluster='local', timeout_min='1').__enter__()": "refused .*timeout_min",
}


@pytest.mark.parametrize(("line", "pattern"), BAD.items())
def test_bad_arguments_are_refused_at_once_in_one_line(said, line, pattern):
    plain.named_in_one_line(said[line], pattern)


def test_a_function_that_cannot_travel_is_refused_at_once():
    lock = threading.Lock()
    with pytest.raises(ValueError, match="can't be sent to another process") as error:
        completed(lambda n: lock, [1], Idle())
    _one_line(error, "lock")


# --- processes -----------------------------------------------------------------------------------

SCRIPT = """
import os, signal, sys
import jax, jax.numpy as jnp
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
from odeae.sweeps.workers import process_pool
from odeae.sweeps.futures import completed

jax.traces = 0  # a name that every copy of the functions below sees

@jax.jit
def double(x):
    jax.traces = getattr(jax, "traces", 0) + 1
    return 2 * x

def job(n):
    import equinox
    return {"y": float(double(n)), "traces": jax.traces, "pid": os.getpid(),
            "cache": jax.config.jax_compilation_cache_dir, "nproc": os.environ["NPROC"],
            "equinox": os.environ["EQX_ON_ERROR"],
            "deaf": signal.getsignal(signal.SIGINT) == signal.SIG_IGN}

jax.block_until_ready(double(1))  # JAX has its threads: a fork would warn
before = sorted(os.listdir(sys.argv[1]))
with process_pool(2) as pool:
    results = dict(completed(job, range(6), pool))
print([results[n]["y"] for n in range(6)])
print({r["traces"] for r in results.values()}, os.getpid() in {r["pid"] for r in results.values()})
print({(r["cache"] == sys.argv[1], r["nproc"], r["equinox"], r["deaf"]) for r in results.values()})
programs = lambda names: [n for n in names if "double" in n and n.endswith("-cache")]
print(len(programs(before)), len(programs(os.listdir(sys.argv[1]))))
"""


def test_a_plain_script_needs_no_guard_and_its_jitted_function_is_compiled_once(tmp_path):
    # Each copy of a function that comes by value has its own jit: without keeping the first one,
    # every task was traced and compiled again. And NPROC, unlike XLA_FLAGS, leaves the keys of
    # the cache as they are: the workers find there what the script has compiled.
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-W", "error", "script.py", str(tmp_path / "cache")]
    env = {k: v for k, v in ENV.items() if k != "NPROC"}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "[0.0, 2.0, 4.0, 6.0, 8.0, 10.0]",
        "{1} False",
        "{(True, '1', 'nan', True)}",
        "1 1",
    ]


def test_errors_cross_processes_and_say_where_they_were_raised():
    class Odd(Exception):
        def __init__(self, a, b):
            super().__init__(f"{a} and {b}")  # pickles, but doesn't come back

    def function(n):
        if n == 1:
            raise Odd(1, 2)
        raise ZeroDivisionError("at n=0")

    with process_pool(1) as pool:
        with pytest.raises(ZeroDivisionError) as error:
            list(completed(function, [0], pool))
        assert str(error.value) == "at n=0"
        # Since cloudpickle 3.1.3 functions that travel by value come without their file's name.
        assert re.search(r"line \d+, in function", error.value.__notes__[0])
        with pytest.raises(RuntimeError) as error:
            list(completed(function, [1], pool))
        assert str(error.value) == "Odd: 1 and 2"
        # the pool survives both
        assert list(completed(lambda n: n + 1, [1], pool)) == [(1, 2)]


def test_a_killed_worker_is_a_readable_error_and_no_hang():
    def function(n):
        if n == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    seen = []
    with pytest.raises(RuntimeError) as error, process_pool(2) as pool:
        seen.extend(task for task, _ in completed(function, range(50), pool, in_flight=2))
    _one_line(error, "^a worker process died", "out of memory", "kept, so run again")
    assert seen
    assert 2 not in seen


def test_leaving_the_pool_does_not_wait_for_what_still_runs():
    def function(n):
        time.sleep(0.0 if n == 0 else 60.0)
        return n

    start = time.monotonic()
    with process_pool(1) as pool:
        for task, _ in completed(function, range(5), pool):
            assert task == 0
            break
    assert time.monotonic() - start < 30.0


ORPHANS = """
import os, signal
from odeae.sweeps.workers import process_pool
from odeae.sweeps.futures import completed
signal.signal(signal.SIGINT, signal.default_int_handler)

def job(n):
    import time
    if n:
        time.sleep(60)
    return os.getpid()

with process_pool(2) as pool:
    for _, pid in completed(job, range(5), pool):
        print(pid, flush=True)
        (os.killpg if '{signal}' == 'SIGINT' else os.kill)(os.getpid(), signal.{signal})
        import time; time.sleep(60)
"""


@pytest.mark.parametrize("name", ["SIGKILL", pytest.param("SIGINT", marks=pytest.mark.slow)])
def test_workers_never_outlive_the_script(name, tmp_path):
    # A worker of loky waits for tasks for ever when the process that started it is killed.
    (tmp_path / "script.py").write_text(ORPHANS.format(signal=name))
    with subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C reaches every process of a terminal's group
    ) as script:
        pid = int(script.stdout.readline())
        assert script.wait(20.0) != 0
    _wait_for(lambda: not psutil.pid_exists(pid))


# --- accelerators --------------------------------------------------------------------------------


@pytest.mark.parametrize(("own", "seen"), [(None, ["0", "1"]), ("4,7", ["4", "7"])])
def test_one_process_for_each_device(monkeypatch, tmp_path, own, seen):
    devices = [types.SimpleNamespace(local_hardware_id=i) for i in range(2)]
    monkeypatch.setattr(workers, "_accelerators", lambda: devices)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if own is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", own)

    def function(n):
        (tmp_path / str(os.getpid())).touch()
        while len(list(tmp_path.iterdir())) < 2:  # each of them gets a task
            time.sleep(0.01)
        from jax._src.xla_bridge import backends_are_initialized

        assert not backends_are_initialized()  # JAX hasn't looked for devices before
        names = ("CUDA_VISIBLE_DEVICES", "XLA_PYTHON_CLIENT_PREALLOCATE")
        return os.getpid(), *(os.environ[name] for name in names)

    with device_pool() as pool:
        results = list(completed(function, range(12), pool))
    assert sorted(task for task, _ in results) == list(range(12))
    where = {value for _, value in results}
    assert len({pid for pid, _, _ in where}) == 2
    assert sorted(rest for _, *rest in where) == [[name, "false"] for name in seen]


def test_a_machine_with_only_a_cpu_is_told_what_to_do(monkeypatch):
    cpu = types.SimpleNamespace(platform="cpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [cpu])
    before = dict(os.environ)
    with pytest.raises(ValueError, match="only its CPU") as error, device_pool():
        pass
    _one_line(error, "workers=N")
    assert dict(os.environ) == before


# --- Dask ----------------------------------------------------------------------------------------


class Cluster:
    """A scheduler and its workers, processes of their own that talk over loopback."""

    def __init__(self, folder):
        self.folder, self.processes = folder, []
        self.scheduler = self._start("scheduler", "--port", "0")
        file = folder / "scheduler.json"
        _wait_for(file.exists)
        _wait_for(lambda: file.read_text().strip().endswith("}"))
        self.address = json.loads(file.read_text())["address"]

    def _start(self, what, *options):
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--no-dashboard"]
        command += ["--host", "127.0.0.1", "--scheduler-file", "scheduler.json", *options]
        with open(self.folder / "log.txt", "a") as log:
            process = subprocess.Popen(command, cwd=self.folder, env=ENV, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def worker(self):
        return self._start(
            "worker", "--no-nanny", "--nthreads", "1", "--local-directory", str(self.folder)
        )

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path):
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.stop()


@pytest.mark.slow
def test_dask_gives_the_tasks_of_a_killed_worker_to_others(cluster):
    killable, other = cluster.worker(), cluster.worker()

    def function(n):
        time.sleep(0.05)
        return os.getpid()

    with dask_pool(cluster.address) as pool:
        pool.wait_for_workers(2, timeout=30)
        pids = {}
        for task, pid in completed(function, range(60), pool, in_flight=8):
            pids[task] = pid
            if len(pids) == 20:
                killable.kill()
    assert sorted(pids) == list(range(60))
    assert set(pids.values()) == {killable.pid, other.pid}
    assert sum(pid == other.pid for pid in pids.values()) >= 30


def test_dask_computes_equal_tasks_anew_and_raises_what_the_function_raised(cluster):
    cluster.worker()

    def function(n):
        if n == 2:
            raise ZeroDivisionError("at n=2")
        return time.monotonic_ns(), os.environ["EQX_ON_ERROR"]

    with dask_pool(cluster.address) as pool:
        results = list(completed(function, [1, 1, 1], pool))
        assert len({value for _, value in results}) == 3
        assert {quiet for _, (_, quiet) in results} == {"nan"}  # set before Equinox is imported
        with pytest.raises(ZeroDivisionError) as error:
            list(completed(function, [2], pool))
        assert str(error.value) == "at n=2"
        # an error of the function costs one try and no worker
        assert len(list(completed(lambda n: n, range(3), pool.get_executor(), in_flight=2))) == 3


@pytest.mark.slow
def test_a_task_that_kills_every_dask_worker_is_a_readable_error(cluster):
    for _ in range(2):
        cluster.worker()
    with dask_pool(cluster.address) as pool:
        pool.wait_for_workers(2, timeout=30)
        with pytest.raises(RuntimeError) as error:
            list(completed(lambda n: os.kill(os.getpid(), signal.SIGKILL), [1], pool))
    _one_line(error, "^Dask workers died", "kept, so run again")


@pytest.mark.slow
def test_a_lost_scheduler_is_a_readable_error(cluster):
    cluster.worker()
    with dask_pool(cluster.address) as pool:
        results = completed(lambda n: time.sleep(0.1), range(100), pool, in_flight=4)
        assert next(results)[1] is None
        cluster.scheduler.kill()
        with pytest.raises(RuntimeError) as error:
            list(results)
    _one_line(error, "scheduler was lost", "kept, so run again")


def test_an_address_where_nobody_answers():
    with pytest.raises(RuntimeError, match="no Dask scheduler answered") as error:
        dask_pool("tcp://127.0.0.1:9", timeout=0.5).__enter__()
    _one_line(error, "127.0.0.1:9", "dask scheduler")


# --- submitit ------------------------------------------------------------------------------------


@pytest.fixture
def importable(monkeypatch):
    """Jobs of submitit are started with this environment; they find odeae by it."""
    monkeypatch.setenv("PYTHONPATH", ROOT)


def test_submitit_runs_a_batch_here(tmp_path, importable):
    def function(n):
        if n == 3:
            raise ZeroDivisionError("at n=3")
        return n * n, os.getpid()

    with slurm_pool(tmp_path, cluster="local", timeout_min=1) as pool:
        results = dict(completed(function, range(2), pool, in_flight=2))
        assert {n: value for n, (value, _) in results.items()} == {0: 0, 1: 1}
        assert len({pid for _, pid in results.values()} - {os.getpid()}) == 2
        with pytest.raises(ZeroDivisionError) as error:
            list(completed(function, [3], pool))
        assert str(error.value) == "at n=3"


# submitit waits so long for the file of a job that ended without one
@pytest.fixture
def impatient(monkeypatch):
    import submitit

    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 0.5)


@pytest.mark.slow
def test_a_killed_job_is_a_readable_error_that_names_its_log(tmp_path, importable, impatient):
    def function(n):
        os.kill(os.getpid(), signal.SIGKILL)

    with slurm_pool(tmp_path, cluster="local") as pool, pytest.raises(RuntimeError) as error:
        list(completed(function, [1], pool))
    _one_line(error, "^a submitit job ended without", re.escape(str(tmp_path)), "run again")


@pytest.mark.slow
def test_a_job_whose_time_was_up_says_so(tmp_path, importable):
    def function(n):
        # what submitit raises out of its signal handler, at any line of the function
        from submitit.core.utils import UncompletedJobError

        raise UncompletedJobError("Job not requeued because: timed-out and not checkpointable.")

    with slurm_pool(tmp_path, cluster="local") as pool, pytest.raises(RuntimeError) as error:
        list(completed(function, [1], pool))
    _one_line(error, "^a submitit job ended without", "raise `timeout_min`", "run again")


def test_closing_ends_the_jobs(tmp_path, importable):
    def function(n):
        time.sleep(0.0 if n == 0 else 60.0)

    with slurm_pool(tmp_path, cluster="local") as pool:
        results = completed(function, range(3), pool, in_flight=2)
        assert next(results)[0] == 0
        results.close()
        _wait_for(lambda: not _children())  # far below the minute that the jobs would sleep


# A SLURM of one machine: `sbatch` writes down that it was called and starts the array here.
SBATCH = """#!{python}
import os, re, subprocess, sys
here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
text = open(sys.argv[1]).read()
if "partition=closed" in text:
    sys.exit("sbatch: error: invalid partition specified: closed")
with open(here + "/calls", "a") as calls:
    job = 100 + calls.tell()
    array = re.search(r"--array=0-(\\d+)%(\\d+)", text)
    calls.write(("array of %d" % (int(array[1]) + 1) if array else "single") + "\\n")
for i in range(int(array[1]) + 1) if array else [None]:
    env = dict(os.environ, SLURM_NTASKS="1", SLURM_JOB_NUM_NODES="1", SLURM_NODEID="0",
               SLURM_JOB_NODELIST="here", SLURM_PROCID="0", SLURM_LOCALID="0",
               SLURM_JOB_ID=str(job))
    if i is not None:
        env.update(SLURM_ARRAY_JOB_ID=str(job), SLURM_ARRAY_TASK_ID=str(i))
    subprocess.Popen(["bash", sys.argv[1]], env=env, stdout=subprocess.DEVNULL,
                     stderr=subprocess.DEVNULL, start_new_session=True)
print("Submitted batch job", job)
"""
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do [[ $1 == --unbuffered ]] && shift || shift 2; done
exec "$@"
"""
SACCT = "#!/bin/bash\necho 'JobID|State|NodeList'\n"
SCANCEL = "#!/bin/bash\necho cancelled $1 >> $(dirname $0)/../calls\n"


@pytest.fixture
def slurm(tmp_path, monkeypatch, importable):
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT, "scancel": SCANCEL}
    for name, text in scripts.items():
        (folder / name).write_text(text.replace("{python}", sys.executable))
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_slurm_gets_one_array_for_each_wave(slurm):
    with slurm_pool(slurm / "jobs", slurm_partition="open", timeout_min=1) as pool:
        results = dict(completed(lambda n: n * n, range(6), pool, in_flight=4))
    assert results == {n: n * n for n in range(6)}
    calls = (slurm / "calls").read_text().splitlines()
    # no wave smaller than half of what may be in flight, but the last
    assert calls == ["array of 4", "array of 2"]


@pytest.mark.slow
def test_slurm_says_what_it_refuses_and_cancels_what_waits(slurm):
    with slurm_pool(slurm / "jobs", slurm_partition="closed") as pool:
        with pytest.raises(RuntimeError, match="could not be submitted") as error:
            list(completed(len, [1, 2], pool))
        _one_line(error, "invalid partition")
    with slurm_pool(slurm / "jobs", slurm_partition="open") as pool:
        results = completed(lambda n: time.sleep(n), [0, 2, 2], pool)
        assert next(results) == (0, None)
        results.close()
    assert len(re.findall("cancelled", (slurm / "calls").read_text())) == 2


def test_a_machine_without_slurm_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="`sbatch` was not found") as error:
        slurm_pool(tmp_path).__enter__()
    _one_line(error, "workers=N")


@pytest.mark.parametrize(
    ("package", "extra", "pool"),
    [
        ("loky", "sweep", lambda folder: process_pool(1)),
        ("distributed", "sweep", lambda folder: dask_pool("tcp://127.0.0.1:9")),
        ("submitit", "slurm", lambda folder: slurm_pool(folder)),
    ],
)
def test_a_missing_package_names_its_extra(package, extra, pool, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"pip install 'odeae\[{extra}\]'"):
        pool(tmp_path).__enter__()
