"""Time of predictions on whatever device JAX runs on, as JSON: one curve, many lanes, large K.

    python benchmarks/accelerator.py                     # benchmarks/results/accelerator-….json
    python benchmarks/accelerator.py --lanes 64 256 --output here.json

Medians of warm calls, results brought back to the host; `first` is the first call, which compiles.
On a CPU the default is two small batches and nothing large; `--only large` measures that too.
"""

import argparse
import datetime
import importlib.metadata
import json
import platform
import re
import time
from pathlib import Path

import jax
import numpy as np

import odeae

RESULTS = Path(__file__).with_name("results")


def timed(function, repeats):
    """Seconds of the first call, and median, least and largest of the `repeats` after it."""
    seconds = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begin)
    first, *warm = seconds
    return {"first": first, "median": float(np.median(warm)), "least": min(warm), "most": max(warm)}


def small_problem(lr_encoder=1.0):
    spectrum = odeae.Spectrum.spiked([1.0, 0.6, 0.3], 1000)
    return odeae.Problem(spectrum, odeae.Autoencoder(3), odeae.SGD(lr_encoder=lr_encoder))


def single(options):
    """One warm `predict`: K = M = 3, t = 200, 200 times."""
    problem, times = small_problem(), np.geomspace(1e-2, 200.0, 200)
    state = odeae.random_state(problem)
    return timed(lambda: odeae.predict(problem, state, times), options.repeats)


def lanes(options):
    """The same under `jit` and `vmap`, over rates of the encoder and starts, for n lanes.

    `deviation`: the largest of the error curve from that of a lone `predict`, over four lanes.
    """
    times = np.geomspace(1e-2, 200.0, 200)

    def curve(rate, seed):
        problem = small_problem(rate)
        result = odeae.predict(problem, odeae.random_state(problem, seed=seed), times, throw=False)
        return result.error, result.status

    batched = jax.jit(jax.vmap(curve))
    found = {}
    for n in options.lanes:
        rates, seeds = np.geomspace(0.3, 3.0, n), np.arange(n)

        def solve(rates=rates, seeds=seeds):
            return jax.tree.map(np.asarray, batched(rates, seeds))

        found[n] = timed(solve, max(2, options.repeats // 3))
        error, status = solve()
        picked = np.linspace(0, n - 1, 4).astype(int)
        alone = [curve(float(rates[i]), int(seeds[i]))[0] for i in picked]
        found[n] |= {
            "per_curve": found[n]["median"] / n,
            "failed": int(np.sum(status != odeae.Status.OK)),
            "deviation": float(np.abs(error[picked] - np.array(alone)).max()),
        }
        print(f"  {n} lanes: {1e3 * found[n]['per_curve']:.3g} ms a curve", flush=True)
    return found


def sweep(options):
    """The same curves as `lanes` through `odeae.sweep`, in one chunk.

    `per_curve` against that of `lanes` is what lanes gain over `vmap`.
    """
    times, found = np.geomspace(1e-2, 200.0, 200), {}

    def build(rate, seed):
        problem = small_problem(rate)
        return problem, odeae.random_state(problem, seed=seed)

    for n in options.lanes:
        grid = {"rate": np.geomspace(0.3, 3.0, n), "seed": np.arange(n)}

        def solve(grid=grid, n=n):
            return odeae.sweep(build, grid, times, zip=True, chunk=n)

        found[n] = timed(solve, max(2, options.repeats // 3))
        found[n] |= {
            "per_curve": found[n]["median"] / n,
            "failed": int(np.sum(solve().status != odeae.Status.OK)),
        }
        print(f"  {n} curves: {1e3 * found[n]['per_curve']:.3g} ms a curve", flush=True)
    return found


def large(options):
    """D = 1024, K = 64, erf, every mode its own, ρ ∝ 1/τ with mean 1, t = 10, 20 times."""
    rho = 1.0 / np.arange(1.0, 1025.0)
    spectrum = odeae.Spectrum.from_eigenvalues(rho / rho.mean(), spikes=1024)
    problem = odeae.Problem(spectrum, odeae.Autoencoder(64), odeae.SGD())
    state, times = odeae.random_state(problem), np.linspace(0.5, 10.0, 20)
    found = timed(lambda: odeae.predict(problem, state, times), max(2, options.repeats // 5))
    return found | {"final_error": float(odeae.predict(problem, state, times).error[-1])}


# One function from the options to a JSON value for each part; a new part is one function here.
SECTIONS = {"single": single, "lanes": lanes, "sweep": sweep, "large": large}


def header():
    """Date, hardware, versions."""
    device = jax.devices()[0]
    names = ("jax", "jaxlib", "diffrax", "equinox", "numpy")
    return {
        "date": str(datetime.date.today()),
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
    }


def default_output(head):
    slug = re.sub(r"[^a-z0-9]+", "-", head["device"].lower()).strip("-")
    return RESULTS / f"accelerator-{head['date']}-{slug}.json"


def arguments():
    is_cpu = jax.default_backend() == "cpu"
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lanes", type=int, nargs="+", help="sizes of the batches")
    parser.add_argument("--repeats", type=int, default=15, help="warm calls of the quickest part")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="the parts to measure")
    parser.add_argument("--output", type=Path, help="the JSON file to write")
    options = parser.parse_args()
    if options.lanes is None:
        options.lanes = [16, 64] if is_cpu else [64, 256, 1024, 4096]
    if options.only is None:
        options.only = ["single", "lanes", "sweep"] if is_cpu else list(SECTIONS)
    return options


def main():
    jax.config.update("jax_enable_x64", True)
    options = arguments()
    found = header()
    print(", ".join(f"{name} {value}" for name, value in found.items()), flush=True)
    for name in options.only:
        found[name] = SECTIONS[name](options)
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    output = default_output(found) if options.output is None else options.output
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=2) + "\n")
    print(f"written to {output}")


if __name__ == "__main__":
    main()
