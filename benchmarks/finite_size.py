"""SGD against the theory at several D: sampling noise, and a deviation that falls as 1/D.

K = M = 3, erf, the spectrum of the paper's Fig. 2. At every D all runs start from the same spike
rows w, u of order one, and from the same Gram of the bulk in the theory's units: Σ w wᵀ ∝ D, so
that its part of Q1 = Σ ρ̃ w wᵀ is the same, and Σ u uᵀ, its part of T0, as it is.

The statistic of one run is its error minus the theory's, averaged over a window of saved times.
Runs are independent, so its mean over runs has a standard error. Two windows: the whole curve,
which ends where all three spikes are learnt, and its last quarter, where runs hardly differ.
Takes minutes; with --write it also replaces the tables in benchmarks/README.md.
"""

import datetime
import time

import numpy as np
import readme

import odeae

SPIKES, HIDDEN, BULK_STD, ROW_STD = (1.0, 0.6, 0.3), 3, 0.1, 0.3
TIMES = np.arange(1.0, 41.0)
WINDOWS = {"whole curve, t = 1 … 40": TIMES >= 1.0, "learnt, t = 31 … 40": TIMES >= 31.0}
RUNS = {250: 200, 500: 100, 1000: 50, 2000: 25}
BATCH = 25  # runs at once, so that their inputs fit in memory


def start(dim, seed=0):
    """Problem and state at dimension `dim`: order parameters of the bulk don't depend on it."""
    problem = odeae.Problem(odeae.Spectrum.spiked(SPIKES, dim), odeae.Autoencoder(HIDDEN))
    w, u = ROW_STD * np.random.default_rng(seed).standard_normal((2, len(SPIKES), HIDDEN))
    root, zero = BULK_STD * np.eye(HIDDEN), np.zeros((HIDDEN, HIDDEN))
    bulk = odeae.Modes(np.sqrt(dim) * np.vstack([root, zero]), np.vstack([zero, root]))
    return problem, odeae.State(odeae.Modes(w, u), bulk, np.zeros(HIDDEN))


def deviations(dim, runs, times=TIMES):
    """Error of each run minus the theory's (runs, T)."""
    problem, state = start(dim)
    theory = odeae.predict(problem, state, times, rtol=1e-8)
    parts = []
    for seed, first in enumerate(range(0, runs, BATCH)):
        count = min(BATCH, runs - first)
        got = odeae.simulate(problem, state, times, runs=count, seed=seed, test_samples=1)
        assert np.array_equal(got.times, times)
        parts.append(got.error - theory.error)
    return np.concatenate(parts)


def fit(dims, means, errors, powers):
    """Weighted least squares means = Σ_p c_p D^(−p): c, its standard errors, and χ²."""
    design = np.asarray(dims, float)[:, None] ** -np.asarray(powers, float)
    weighted = design / errors[:, None]
    covariance = np.linalg.inv(weighted.T @ weighted)
    best = covariance @ weighted.T @ (means / errors)
    chi2 = np.sum(((means - design @ best) / errors) ** 2)
    return best, np.sqrt(np.diag(covariance)), chi2


def report(window, dims, statistics):
    """Markdown table and fit of one window; `statistics` holds one value per run and D."""
    means = np.array([values.mean() for values in statistics])
    errors = np.array([values.std(ddof=1) / np.sqrt(len(values)) for values in statistics])
    lines = [
        f"\nMean over {window}:\n",
        "| D | runs | mean deviation of e | deviation × D |",
        "|---|---|---|---|",
    ]
    for dim, values, mean, error in zip(dims, statistics, means, errors, strict=True):
        lines.append(
            f"| {dim} | {len(values)} | {mean:+.6f} ± {error:.6f} | "
            f"{dim * mean:+.3f} ± {dim * error:.3f} |"
        )
    (b, a), (b_error, a_error), chi2 = fit(dims, means, errors, [0, 1])
    lines.append(
        f"\nFit b + a/D: a = {a:+.3f} ± {a_error:.3f}; at 1/D → 0 there remains b = {b:+.1e} ± "
        f"{b_error:.1e} ({b / b_error:+.1f} standard errors); χ² = {chi2:.1f} for "
        f"{len(dims) - 2} degrees of freedom."
    )
    (a, c), (a_error, c_error), chi2 = fit(dims, means, errors, [1, 2])
    lines.append(
        f"Fit a/D + c/D²: a = {a:+.3f} ± {a_error:.3f}, c = {c:+.1f} ± {c_error:.1f}; "
        f"χ² = {chi2:.1f}."
    )
    return "\n".join(lines)


def lines():
    begin = time.perf_counter()
    found = [deviations(dim, count) for dim, count in RUNS.items()]
    for name, window in WINDOWS.items():
        yield report(name, list(RUNS), [d[:, window].mean(axis=1) for d in found])
    elapsed = time.perf_counter() - begin
    yield f"\n± one standard error; {elapsed:.0f} s, {datetime.date.today()}"


if __name__ == "__main__":
    readme.show("finite size", lines())
