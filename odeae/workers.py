"""Pools for `sweep(executor=…)` under their public name, `odeae.workers`."""

from odeae.sweeps.futures import completed as completed
from odeae.sweeps.workers import dask_pool as dask_pool
from odeae.sweeps.workers import device_pool as device_pool
from odeae.sweeps.workers import process_pool as process_pool
from odeae.sweeps.workers import slurm_pool as slurm_pool
