"""Speed, as ratios: both sides of a row are measured in this run, in turns; medians are reported.

Prints one Markdown table; with --write it also replaces the one in benchmarks/README.md, where
each row is explained.
"""

import datetime
import functools
import importlib.metadata
import importlib.util
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import baselines
import jax
import jax.numpy as jnp
import many
import numpy as np
import readme

import odeae
from odeae.sweeps.workers import process_pool

ROOT = Path(__file__).parent.parent
ODEAE = [sys.executable, "-m", "odeae"]
HAS_TORCH = importlib.util.find_spec("torch") is not None
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
    ratio = f"{ratio:.2f}" if ratio > 0.1 else f"{ratio:.1g}"
    return f"| {name} | {ours}: {a} | {theirs}: {b} | {ratio} | {note} |"


def _duration(seconds):
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def state_of(w, u):
    """The package's state from rows (N, K) of a baseline."""
    spikes = len(baselines.SPIKES)
    modes = odeae.Modes(w[:spikes], u[:spikes]), odeae.Modes(w[spikes:], u[spikes:])
    return odeae.State(*modes, np.zeros(w.shape[1]))


def problem_of(**rates):
    """The package's problem for the baselines' starts."""
    spectrum = odeae.Spectrum.spiked(baselines.SPIKES, many.DIM)
    return odeae.Problem(spectrum, odeae.Autoencoder(3), odeae.SGD(**rates))


class Starts:
    """One problem from several starts: what is exact, and the error of a solver."""

    def __init__(self, times, seeds=5):
        self.times, self.problem = times, problem_of()
        self.curves = [baselines.Curve(*many.start(seed)) for seed in range(seeds)]
        self.states = [state_of(curve.w0, curve.u0) for curve in self.curves]
        self.exact = self.solve(baselines.solve_ivp_numpy, 1e-12, atol=1e-15, method="DOP853")

    def predict(self):
        return [odeae.predict(self.problem, state, self.times).error for state in self.states]

    def solve(self, solver, rtol, **options):
        """Errors of all starts by a baseline, with an absolute tolerance of rtol / 100."""
        options = {"rtol": rtol, "atol": 1e-2 * rtol, **options}
        return [
            solver(*curve[:3], self.times, trace=curve.trace, **options) for curve in self.curves
        ]

    def gap(self, errors):
        """Largest deviation from exact over the times, median over the starts."""
        return np.median(np.abs(np.array(errors) - self.exact).max(axis=1))


def bench_predict():
    """One warm prediction against SciPy, at the tolerance that gives it the same error."""
    starts = Starts(np.geomspace(1e-2, 200.0, 200))
    ours = starts.gap(starts.predict())
    yardsticks = (
        ("odeint + Numba", baselines.odeint_numba, many.TOLERANCES, 41),
        ("solve_ivp + NumPy", baselines.solve_ivp_numpy, many.TOLERANCES[4:18], 7),
    )
    for name, solver, tolerances, repeats in yardsticks:
        solve = functools.partial(starts.solve, solver)
        errors = [starts.gap(solve(rtol)) for rtol in tolerances]
        rtol, theirs = many.nearest(tolerances, errors, ours)
        seconds = laps(starts.predict, functools.partial(solve, rtol), repeats=repeats)
        note = (
            f"error {ours:.1e} (rtol 1e-06) and {theirs:.1e} (rtol {rtol:.1e}), "
            f"median of {len(starts.states)} starts"
        )
        per_curve = seconds / len(starts.states)
        yield row("K=M=3 to t=200, 200 times", "predict", name, per_curve, note)


def bench_euler(end=10.0):
    """One warm prediction against Euler steps of the densities, each at the error that it has."""
    starts = Starts(np.linspace(0.5, end, 20))
    modes = [baselines.all_modes(*curve[:3], many.DIM) for curve in starts.curves]

    def euler(i):
        return baselines.euler_densities(*modes[i], starts.times, trace=starts.curves[i].trace)

    ours = starts.gap(starts.predict())
    theirs = starts.gap([euler(i) for i in range(len(modes))])
    seconds = laps(
        lambda: odeae.predict(starts.problem, starts.states[0], starts.times),
        lambda: euler(0),
        repeats=3,
    )
    per_unit = _duration(np.median(seconds[:, 1]) / end)
    note = (
        f"error {ours:.1e} and {theirs:.1e}, median of {len(modes)} starts; "
        f"Euler at D = {many.DIM}, dt = 1/D: {per_unit} per unit of t"
    )
    yield row(f"K=M=3 to t={end:.0f}, 20 times", "predict", "Euler on densities", seconds, note)


def bench_many(processes=2):
    """Many curves at once, per curve, against `odeint` on all processes at the same median error.

    `sides`: functions without arguments that give the errors (n, T) of the whole grid.
    """
    with baselines.odeint_pool(processes) as pool:
        grid = many.grid(pool)
        sides = {
            "vmap of predict": vmap_predict(grid),
            "plain vmap of diffrax": baselines.vmap_diffrax(grid.curves, grid.times, rtol=1e-6),
        }
        for name, solve in sides.items():
            yield many_row(name, solve, grid, pool, processes)


def bench_sweep(processes=2, seeds=100):
    """10,000 curves through `sweep` on warm processes, against the same through `odeint`."""
    with baselines.odeint_pool(processes) as pool, process_pool(processes) as workers:
        part = many.grid(pool)  # the first starts of the sweep, the exact curves of which are known
        grid = {
            "lr_encoder": np.unique(part.lr_encoder),
            "weight_decay": np.unique(part.weight_decay),
            "seed": np.arange(seeds),
        }
        build, last = builder(part, seeds), int(part.seed.max())

        def solve():
            return odeae.sweep(build, grid, part.times, executor=workers).error

        ours = part.gap(solve().isel(seed=slice(last + 1)).values.reshape(part.exact.shape))
        odeint, rtol, theirs = many.odeint_at(pool, part, ours)
        vmap, vmap_rtol, vmap_error = vmap_at(part, ours)
        counts = np.array([math.prod(map(len, grid.values())), len(part.curves), len(part.curves)])
        seconds = laps(solve, odeint, vmap, repeats=5) / counts
    name, left = f"{counts[0]} curves, per curve", f"sweep, {processes} processes"
    note = "error {:.1e} (rtol 1e-06) and {:.1e} (rtol {:.1e}), median of the curves"
    right = f"odeint + Numba, {processes} processes"
    yield row(name, left, right, seconds[:, :2], note.format(ours, theirs, rtol))
    note = note.format(ours, vmap_error, vmap_rtol)
    yield row(name, left, "plain vmap of diffrax", seconds[:, [0, 2]], note)


def vmap_at(part, target):
    """The plain `vmap` of diffrax at the tolerance whose error is nearest to `target`."""
    tolerances = 10.0 ** -np.arange(7.0, 8.1, 0.25)
    solvers = {
        rtol: baselines.vmap_diffrax(part.curves, part.times, rtol, rtol * 1e-2)
        for rtol in tolerances
    }
    errors = [part.gap(solvers[rtol]()) for rtol in tolerances]
    rtol, error = many.nearest(tolerances, errors, target)
    return solvers[rtol], rtol, error


def many_row(name, solve, grid, pool, processes):
    """One side of `bench_many` against `odeint` on half as many of the curves."""
    ours, part = grid.gap(solve()), grid.sample(len(grid.curves) // 2)
    odeint, rtol, theirs = many.odeint_at(pool, part, ours)
    counts = np.array([len(grid.curves), len(part.curves)])
    seconds = laps(solve, odeint, repeats=5) / counts
    note = f"error {ours:.1e} (rtol 1e-06) and {theirs:.1e} (rtol {rtol:.1e}), median of the curves"
    what = f"{counts[0]} curves, per curve"
    return row(what, name, f"odeint + Numba, {processes} processes", seconds, note)


def builder(grid, seeds=None):
    """Function of one curve's values, traced or not, that returns its problem and its state."""
    starts = [many.start(seed) for seed in range(seeds or int(grid.seed.max()) + 1)]
    w, u = (np.stack([start[part] for start in starts]) for part in (1, 2))

    def build(lr_encoder, weight_decay, seed):
        problem = problem_of(lr_encoder=lr_encoder, weight_decay=weight_decay)
        return problem, state_of(jnp.asarray(w)[seed], jnp.asarray(u)[seed])

    return build


def vmap_predict(grid):
    """Errors (n, T) of a grid by `jax.vmap` of `predict`."""
    build = builder(grid)
    batched = jax.jit(jax.vmap(lambda *values: odeae.predict(*build(*values), grid.times).error))

    def solve():
        with jax.enable_x64(True):
            return np.asarray(batched(grid.lr_encoder, grid.weight_decay, grid.seed))

    return solve


def bench_dimension():
    def solve(dim):
        problem = odeae.Problem(odeae.Spectrum.spiked(baselines.SPIKES, dim), odeae.Autoencoder(3))
        state = odeae.random_state(problem)
        times = np.geomspace(1e-2, 200.0, 200)
        return lambda: odeae.predict(problem, state, times)

    seconds = laps(solve(10**9), solve(10**3), repeats=41)
    yield row("the same, dimension", "D = 10^9", "D = 10^3", seconds)


def long_row(what, problem, state, curve, repeats):
    """Ten decades of time, where an implicit method takes over, against LSODA's BDF."""
    times = np.geomspace(1e-2, 1e9, 200)

    def odeint(rtol):
        options = {"trace": curve.trace, "rtol": rtol, "atol": 1e-2 * rtol}
        return baselines.odeint_numba(*curve[:3], times, **options)

    exact = odeint(1e-11)
    gaps = {rtol: np.abs(odeint(rtol) - exact).max() for rtol in (1e-6, 1e-7, 1e-8, 1e-9)}
    got = odeae.predict(problem, state, times)
    ours = np.abs(got.error - exact).max()
    rtol, theirs = many.nearest(list(gaps), list(gaps.values()), ours)
    solve = functools.partial(odeae.predict, problem, state, times)
    seconds = laps(solve, functools.partial(odeint, rtol), repeats=repeats)
    above = np.abs(got.excess / (exact - problem.spectrum.pca_error(3)) - 1)[times > 1].max()
    note = (
        f"error {ours:.1e} (rtol 1e-06) and {theirs:.1e} (rtol {rtol:.0e}); excess within "
        f"{above:.0e} of itself"
    )
    return row(f"{what} to t=10^9, 200 times", "predict", "odeint + Numba", seconds, note)


def bench_long():
    curve = baselines.Curve(*many.start(0))
    yield long_row("K=M=3", problem_of(), state_of(curve.w0, curve.u0), curve, repeats=7)
    spectrum = odeae.Spectrum.power_law(100, 1.2, spikes=100)
    problem = odeae.Problem(spectrum, odeae.Autoencoder(3))
    state = odeae.random_state(problem)
    rows = state.spikes
    curve = baselines.Curve(spectrum.spikes, rows.encoder, rows.decoder, float(spectrum.trace))
    yield long_row("K=3, 100 modes of their own,", problem, state, curve, repeats=3)


def bench_stiff(lanes=1000):
    """A thousand curves, and the same with one among them that is 75 times as stiff."""
    spectrum = odeae.Spectrum.spiked([1.0, 0.6], many.DIM)

    def build(lr_encoder, seed):
        problem = odeae.Problem(spectrum, odeae.Autoencoder(2), odeae.SGD(lr_encoder=lr_encoder))
        return problem, odeae.random_state(problem, seed=seed)

    rates = np.exp(np.random.default_rng(0).uniform(-1.0, 1.0, lanes))
    stiff = rates.copy()
    stiff[lanes // 2] = 75.0 * np.max(rates)

    def solve(rates):
        grid = {"lr_encoder": rates, "seed": np.arange(lanes)}
        return odeae.sweep(build, grid, np.geomspace(0.1, 200.0, 100), zip=True).error.values

    others = np.arange(lanes) != lanes // 2
    same = np.array_equal(solve(stiff)[others], solve(rates)[others])
    seconds = laps(lambda: solve(stiff), lambda: solve(rates), repeats=11)
    note = "the others are the same to the last bit" if same else "the others DIFFER"
    yield row(f"{lanes} curves, one of them stiff", "with", "without", seconds, note)


def bench_large():
    """All modes of a spectrum that falls like a power law, and a wide layer."""

    def solve(dim, hidden, end):
        spectrum = odeae.Spectrum.power_law(dim, 1.2, spikes=dim)
        problem = odeae.Problem(spectrum, odeae.Autoencoder(hidden))
        state, times = odeae.random_state(problem), odeae.log_times(end, 50)
        return lambda: odeae.predict(problem, state, times)

    seconds = laps(solve(1024, 64, 100.0), solve(512, 64, 100.0), repeats=5)
    yield row("K=64, every mode its own, to t=100", "D = 1024", "D = 512", seconds)
    seconds = laps(solve(3072, 256, 10.0), solve(1536, 256, 10.0), repeats=1)
    yield row("K=256, every mode its own, to t=10", "D = 3072", "D = 1536", seconds)


def bench_sgd(dim=1000, short=1000, steps=5000):
    """Time of `simulate` per run and step: the difference of a long and a short simulation."""
    problem = odeae.Problem(odeae.Spectrum.spiked(baselines.SPIKES, dim), odeae.Autoencoder(3))
    state = odeae.random_state(problem)

    def simulate(runs, steps):
        odeae.simulate(problem, state, [steps / dim], runs=runs, test_samples=1)

    yardsticks = {
        "NumPy normals": lambda: baselines.numpy_normals(dim, steps, 0),
        "NumPy SGD": lambda: baselines.numpy_sgd_steps(dim, 3, steps, 0),
    }
    name = f"one SGD step, D={dim}, K=3"
    for runs in (1, 8):
        torch = _torch_steps(dim, steps) if runs == 1 and HAS_TORCH else {}
        theirs = yardsticks | torch
        seconds = laps(
            lambda runs=runs: simulate(runs, short),
            lambda runs=runs: simulate(runs, short + steps),
            *theirs.values(),
            repeats=7,
        )
        ours = (seconds[:, 1] - seconds[:, 0]) / runs
        columns = dict(zip(theirs, seconds[:, 2:].T, strict=True))
        slower = sorted(torch, key=lambda name: np.median(columns[name]))[1:]
        note = "one run" if runs == 1 else f"{runs} runs at once, per run"
        for yardstick, column in columns.items():
            if yardstick not in slower:
                pair = np.stack([ours, column], axis=1) / steps
                yield row(name, "simulate", yardstick, pair, note)
    if not HAS_TORCH:
        yield f"| {name} | simulate | PyTorch SGD | | skipped, as PyTorch is not installed |"


def _torch_steps(dim, steps):
    """PyTorch's loop on one thread and on as many as it takes; the faster one counts."""
    return {
        f"PyTorch SGD, {label}": functools.partial(
            baselines.torch_sgd_steps, dim, 3, steps, 0, threads
        )
        for label, threads in (("one thread", 1), ("default threads", None))
    }


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
    names = ["jax", "diffrax", "numpy", "scipy", "numba"] + ["torch"] * HAS_TORCH
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return (
        f"{processor}, {os.cpu_count()} cores, JAX on {jax.default_backend()}, "
        f"Python {platform.python_version()}, {versions}, {datetime.date.today()}"
    )


def lines():
    yield hardware()
    yield "\n| | one | other | one / other | |\n|---|---|---|---|---|"
    one = (bench_predict, bench_dimension, bench_long, bench_large, bench_euler)
    for bench in (*one, bench_many, bench_sweep, bench_stiff, bench_sgd, bench_cold):
        yield from bench()


if __name__ == "__main__":
    readme.show("bench", lines())
