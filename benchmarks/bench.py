"""Speed, as ratios: both sides of a row are measured in this run, in turns; medians are reported.

Prints one Markdown table; with --write it also replaces the one in benchmarks/README.md, where
each row is explained.
"""

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import baselines
import jax
import numpy as np
import readme

import odeae

ROOT = Path(__file__).parent.parent
ODEAE = [sys.executable, "-m", "odeae"]
COLD = [*ODEAE, "predict", "--spikes", "1,0.6,0.3", "--dim", "1000", "--hidden", "3", "--end", "20"]


def laps(*functions, repeats):
    """Seconds (repeats, functions), measured in turns after one call of each to warm up."""
    for function in functions:
        function()
    seconds = np.empty((repeats, len(functions)))
    for row in seconds:
        for i, function in enumerate(functions):
            begin = time.perf_counter()
            function()
            row[i] = time.perf_counter() - begin
    return seconds


def row(name, ours, theirs, seconds, note=""):
    """One line of the table: medians, and the median of the ratios of a turn."""
    a, b = (_duration(x) for x in np.median(seconds, axis=0))
    ratio = np.median(seconds[:, 0] / seconds[:, 1])
    return f"| {name} | {ours}: {a} | {theirs}: {b} | {ratio:.2f} | {note} |"


def _duration(seconds):
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def bench_predict(seeds=5):
    """One warm prediction against `odeint`, at the tolerance that gives it the same error."""
    times, hidden = np.geomspace(1e-2, 200.0, 200), 3
    problem = odeae.Problem(
        odeae.Spectrum.spiked(baselines.SPIKES, 1000), odeae.Autoencoder(hidden)
    )
    starts, states, exact = [], [], []
    for seed in range(seeds):
        rho, w, u, trace = baselines.random_start(baselines.SPIKES, 1.0, 1000, hidden, 0.1, seed)
        m = len(baselines.SPIKES)
        modes = odeae.Modes(w[:m], u[:m]), odeae.Modes(w[m:], u[m:])
        states.append(odeae.State(*modes, np.zeros(hidden)))
        starts.append((rho, w, u, times, trace))
        tight = dict(trace=trace, rtol=1e-12, atol=1e-15, method="DOP853")
        exact.append(baselines.solve_ivp_numpy(rho, w, u, times, **tight))

    def odeint(tolerance, seed):
        *start, trace = starts[seed]
        options = dict(trace=trace, rtol=tolerance, atol=tolerance * 1e-2)
        return baselines.odeint_numba(*start, **options)

    def median_error(solve):
        return np.median([np.abs(solve(seed) - exact[seed]).max() for seed in range(seeds)])

    ours = median_error(lambda seed: odeae.predict(problem, states[seed], times).error)
    tolerances = 10.0 ** -np.arange(4.0, 10.1, 0.25)
    errors = [median_error(lambda seed, rtol=rtol: odeint(rtol, seed)) for rtol in tolerances]
    nearest = int(np.argmin(np.abs(np.log(np.array(errors) / ours))))
    tolerance, theirs = tolerances[nearest], errors[nearest]
    seconds = laps(
        lambda: [odeae.predict(problem, state, times) for state in states],
        lambda: [odeint(tolerance, seed) for seed in range(seeds)],
        repeats=41,
    )
    note = (
        f"error {ours:.0e} (rtol 1e-06) and {theirs:.0e} (rtol {tolerance:.0e}), "
        f"median of {seeds} starts"
    )
    yield row("K=M=3 to t=200, 200 times", "predict", "odeint + Numba", seconds / seeds, note)


def bench_dimension():
    def solve(dim):
        problem = odeae.Problem(odeae.Spectrum.spiked(baselines.SPIKES, dim), odeae.Autoencoder(3))
        state = odeae.random_state(problem)
        times = np.geomspace(1e-2, 200.0, 200)
        return lambda: odeae.predict(problem, state, times)

    seconds = laps(solve(10**9), solve(10**3), repeats=41)
    yield row("the same, dimension", "D = 10^9", "D = 10^3", seconds)


def bench_sgd(dim=1000, short=1000, long=6000):
    """Time of `simulate` per run and step: the difference of a long and a short simulation."""
    problem = odeae.Problem(odeae.Spectrum.spiked(baselines.SPIKES, dim), odeae.Autoencoder(3))
    state = odeae.random_state(problem)

    def simulate(runs, steps):
        odeae.simulate(problem, state, [steps / dim], runs=runs, test_samples=1)

    for runs in (1, 8):
        seconds = laps(
            lambda runs=runs: simulate(runs, short),
            lambda runs=runs: simulate(runs, long),
            lambda: baselines.numpy_normals(dim, long - short, 0),
            lambda: baselines.numpy_sgd_steps(dim, 3, long - short, 0),
            repeats=7,
        ) / (long - short)
        ours = (seconds[:, 1] - seconds[:, 0]) / runs
        name, note = (
            f"one SGD step, D={dim}, K=3",
            "one run" if runs == 1 else f"{runs} runs at once, per run",
        )
        for yardstick, theirs in (("NumPy normals", seconds[:, 2]), ("NumPy SGD", seconds[:, 3])):
            yield row(name, "simulate", yardstick, np.stack([ours, theirs], axis=1), note)


def bench_cold(repeats=3):
    """From the shell, in fresh processes: compilation cache empty and warm, import, help."""
    seconds = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            environment = {"JAX_COMPILATION_CACHE_DIR": cache}
            seconds.append([_process(COLD, **environment), _process(COLD, **environment)])
    yield row("`odeae predict`, start to curve", "empty cache", "second run", np.array(seconds))

    libraries = [sys.executable, "-c", "import jax, diffrax"]
    everything = [sys.executable, "-c", "import odeae; odeae.predict, odeae.simulate"]
    seconds = laps(
        lambda: _process(everything),
        lambda: _process([*ODEAE, "--help"]),
        lambda: _process(libraries),
        repeats=5,
    )
    name = "start-up"
    yield row(name, "import all of odeae", "import jax, diffrax", seconds[:, [0, 2]])
    yield row(name, "`odeae --help`", "import jax, diffrax", seconds[:, [1, 2]])


def _process(command, **environment):
    """Seconds that a fresh process takes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    begin = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def hardware():
    """One line: processor, cores, versions, date."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = models[0].split(":")[1].strip() if models else processor
    names = ("jax", "diffrax", "numpy", "scipy", "numba")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return (
        f"{processor}, {os.cpu_count()} cores, JAX on {jax.default_backend()}, "
        f"Python {platform.python_version()}, {versions}, {datetime.date.today()}"
    )


def lines():
    yield hardware()
    yield "\n| | one | other | one / other | |\n|---|---|---|---|---|"
    for bench in (bench_predict, bench_dimension, bench_sgd, bench_cold):
        yield from bench()


if __name__ == "__main__":
    readme.show("bench", lines())
