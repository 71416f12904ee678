"""Strict numerics: float64, no silent broadcasting of ranks, shapes checked while testing."""

import collections
import gc
import importlib.metadata
import os
import signal
import sys
import warnings
from pathlib import Path

import plain
import pytest

# A shell that starts the tests in the background lets them, and all processes of theirs, ignore
# Ctrl-C, which tests send and which is how submitit ends a job.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the same numbers wherever the tests run
# Most of the time goes into compiling, and these flags of XLA save half of it. The full size
# runs what users run, and so do checks in fresh interpreters. Later versions of JAX abort at them.
# (Workers, which don't see the arguments, have the environment of the process that starts them.)
if not (
    "PYTEST_XDIST_WORKER" in os.environ
    or "--slow" in (*sys.argv, *os.environ.get("PYTEST_ADDOPTS", "").split())
    or not importlib.metadata.version("jax").startswith("0.10.")
):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "")
        + " --xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
        + " --xla_cpu_parallel_codegen_split_count=1 --xla_disable_hlo_passes=algsimp"
    )

import equinox as eqx
import jax
import matplotlib as mpl
from jaxtyping import install_import_hook

# Tracing makes many objects that live on, among which Python looks for cycles again and again.
gc.set_threshold(50_000)

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
mpl.use("Agg")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    install_import_hook("odeae", "beartype.beartype")


# Files that take most of the time go first, so that no worker is left alone with one at the end.
LONG = {f"test_{name}" for name in ("cli", "predict", "rules", "simulate", "sweeps", "workers")}


@pytest.fixture(autouse=True, scope="session")
def _steps_at_speed():
    """Drawing inputs and the steps of SGD last longer than it takes to compile them well."""
    from odeae.simulation import sgd, sources

    if "optimization_level=0" in os.environ.get("XLA_FLAGS", ""):
        well = {"xla_backend_optimization_level": 2}
        for module, name in ((sources, "_draw"), (sgd, "_advance")):
            function = getattr(module, name).__wrapped__
            setattr(module, name, eqx.filter_jit(function, compiler_options=well))


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the full size of slow checks too")


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: item.path.stem not in LONG)
    if config.getoption("--slow"):
        return
    seen = collections.Counter()
    for item in items:
        full = "slow" in item.keywords
        # What a fresh interpreter says (`said`) is asked at once, and costs nothing a case.
        if "sampled" in item.keywords and hasattr(item, "callspec") and not full:
            case = item.path, item.originalname
            full = "said" not in item.fixturenames and seen[case] % 2 == 1
            seen[case] += 1
        if full:
            item.add_marker(pytest.mark.skip(reason="full size: make test-slow"))


@pytest.fixture(scope="module")
def said(request):
    """What each line of a module's BAD says after its SETUP, in a fresh interpreter."""
    return plain.errors(request.module.SETUP, request.module.BAD)


@pytest.fixture(autouse=True, scope="module")
def _room_for_programs():
    """Forget compiled programs between files before there are too many for one process.

    XLA maps memory for each of them, and where Linux allows no more maps (65,530) it crashes.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > 20_000:
        jax.clear_caches()
        gc.collect()
