"""Other processes that compute: cores and accelerators of this machine, Dask workers, SLURM jobs.

Each pool opens and closes what `futures.completed` needs. Nothing here knows what is computed.
"""

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from odeae.base import checks
from odeae.base.messages import first_line, shortened
from odeae.base.optional import needed_package

# One core each. NPROC sizes XLA's thread pool, and unlike a flag in XLA_FLAGS it isn't part of the
# key of a compiled program, so that workers find in the cache what the parent has compiled.
_ONE_CORE = {
    "NPROC": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}

# loky takes a worker that has grown by 300 MB for a leak and restarts it: JAX's programs do that.
_KEEP_WORKERS = {"LOKY_MAX_MEMORY_LEAK_SIZE": "1e15"}


@contextlib.contextmanager
def process_pool(workers: int) -> Iterator[Any]:
    """Open `workers` fresh processes on this machine, each using about one core.

    They compute on the CPU unless JAX_PLATFORMS says otherwise. Nothing is forked and the script
    that runs is not imported again, so it needs no `if __name__ == "__main__"`. The processes are
    killed when the pool is left. Raises `ValueError` for a bad number and `ImportError` without
    loky.
    """
    workers = checks.whole("workers", workers)
    env = {**_ONE_CORE, "JAX_PLATFORMS": "cpu"}
    # What the user has set in the environment is meant.
    with _loky(workers, {k: v for k, v in env.items() if k not in os.environ}) as pool:
        yield pool


@contextlib.contextmanager
def device_pool() -> Iterator[Any]:
    """Open one process for each accelerator that JAX sees on this machine.

    None of them takes memory in advance, because this process may hold some of the same devices.
    Raises `ValueError` if there is no accelerator and `ImportError` without loky.
    """
    visible = _visible(_accelerators())
    with _loky(len(visible), {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}, visible) as pool:
        yield pool


@contextlib.contextmanager
def dask_pool(address: str, timeout: float = 10.0) -> Iterator[Any]:
    """Connect to the Dask scheduler at `address`, such as "tcp://127.0.0.1:8786".

    Dask gives the tasks of a killed worker to others, and waits for workers while there are none.
    Start the workers with one thread each (`dask worker ADDRESS --nthreads 1 --nworkers N`).
    Raises `ValueError` for a malformed address, `RuntimeError` if nobody answers within `timeout`
    seconds and `ImportError` without Dask.
    """
    if not isinstance(address, str):
        raise ValueError(
            f"`address` must be text like 'tcp://127.0.0.1:8786', got {shortened(address)}"
        )
    distributed = needed_package("distributed", "sweep")
    try:
        # A malformed address would leave half a Client, and where Python collects it while another
        # one starts, both wait for one lock for ever.
        distributed.comm.get_address_host(address)
        client = distributed.Client(address, timeout=timeout, set_as_default=False)
    except OSError as error:
        raise RuntimeError(
            f"no Dask scheduler answered at {shortened(address)} within {timeout:g} s; start one "
            "with `dask scheduler`, which prints its address"
        ) from error
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`address` must be like 'tcp://127.0.0.1:8786', got {shortened(address)} "
            f"({first_line(error)})"
        ) from error
    with client:
        yield client


@contextlib.contextmanager
def slurm_pool(folder: str | os.PathLike[str], **parameters: Any) -> Iterator[Any]:
    """Submit to SLURM from this machine; `folder`, for jobs and logs, must be seen by all nodes.

    `parameters` are submitit's: `timeout_min` (submitit's default is 5 minutes), `cpus_per_task`,
    `mem_gb`, `slurm_partition`, `slurm_array_parallelism`, `slurm_setup`, ... With
    `cluster="local"` the jobs are processes of this machine, to try things out. Raises
    `ValueError` for parameters that submitit refuses, `RuntimeError` without `sbatch` and
    `ImportError` without submitit.
    """
    submitit = needed_package("submitit", "slurm")
    cluster = parameters.pop("cluster", "slurm")
    if not (isinstance(cluster, str) and cluster in ("slurm", "local")):
        raise ValueError(f"`cluster` must be 'slurm' or 'local', got {shortened(cluster)}")
    if cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise RuntimeError(
            "SLURM's `sbatch` was not found: run this where jobs are submitted, or use workers=N"
        )
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster)
        executor.update_parameters(**parameters)
    # submitit uses all of these for a parameter that it doesn't know or whose type is wrong.
    except (NameError, ValueError, TypeError, AssertionError) as error:
        raise ValueError(f"submitit refused its parameters: {first_line(error)}") from error
    yield executor


@contextlib.contextmanager
def _loky(workers: int, env: dict[str, str], devices: Sequence[str] = ()) -> Iterator[Any]:
    """Open a pool of processes; each takes one of the `devices`, if there are any."""
    loky = needed_package("loky", "sweep")
    env = {**_KEEP_WORKERS, **env}  # set before anything is imported there
    free: Any = loky.backend.get_context().SimpleQueue() if devices else None
    for device in devices:
        free.put(device)
    pool = loky.ProcessPoolExecutor(
        workers, env=env, initializer=_begin, initargs=(os.getpid(), free)
    )
    try:
        yield pool
    finally:  # at once: nobody waits for what a running one still computes
        pool.shutdown(wait=True, kill_workers=True)


def _begin(parent: int, free: Any) -> None:
    """Leave Ctrl-C to the parent, never outlive it, and take a device before JAX looks for one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if free is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = free.get()

    def watch():
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _accelerators() -> list[Any]:
    """The local devices of JAX that are no CPU, without taking their memory if JAX starts here."""
    before = os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        devices = [device for device in jax.local_devices() if device.platform != "cpu"]
    finally:
        if before is None:
            del os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"]
    if not devices:
        raise ValueError(
            "JAX sees no accelerator on this machine, only its CPU; use workers=N for N processes"
        )
    return devices


def _visible(devices: list[Any]) -> list[str]:
    """The CUDA_VISIBLE_DEVICES of each device: its entry in the parent's list, if there is one."""
    own = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    ids = [device.local_hardware_id for device in devices]
    return [own[i] if own != [""] else str(i) for i in ids]
