"""The validation matrix: every learning rule and network against SGD, extrapolated to D → ∞.

Declared beforehand: at every D all runs start from the same spike rows w, u of order one and the
same Gram matrix of the bulk, in the theory's units. The statistic of a run is its error minus the
theory's at that D, averaged over the saved times. Runs are independent, so the mean of the
statistic has a standard error; it must be below 1e-3 of e(0) at every D. A weighted straight line
in 1/D extrapolates it. A row agrees if it is zero there within 3 standard errors.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from odeae.base.checks import flag
from odeae.base.messages import one_of
from odeae.model.autoencoder import Autoencoder
from odeae.model.problem import Problem
from odeae.model.rule import AbstractRule
from odeae.model.rules import SGD, Hebb, Oja, Sanger
from odeae.model.schedules import CosineSchedule, StepSchedule
from odeae.model.spectrum import Spectrum
from odeae.model.state import Modes, State
from odeae.results.trajectory import Trajectory
from odeae.simulation.sgd import simulate
from odeae.theory.predict import predict

if TYPE_CHECKING:
    import xarray

SPIKES, HIDDEN, STD = (1.0, 0.6, 0.3), 3, 0.3
# Of e(0): the largest standard error of the statistic, and that of the quick matrix.
BOUND, QUICK_BOUND = 1e-3, 4e-3
# Independent runs at each D; their spread falls as 1/√D.
RUNS = {250: 96, 500: 48, 1000: 24, 2000: 12}
QUICK = {250: 16, 500: 8}


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the matrix: a rule on a network, and how long it is followed.

    `noise`: s², or s²/D if `noise_of_order_dim`; the encoder's bulk is then smaller by √D, so that
    its fields stay O(1), and the theory follows the noise of the steps.
    """

    name: str
    activation: str = "erf"
    rule: AbstractRule = dataclasses.field(default_factory=SGD)
    end: float = 20.0
    network: dict[str, Any] = dataclasses.field(default_factory=dict)
    biases: tuple[float, ...] = (0.0, 0.0, 0.0)
    noise: float = 0.0
    noise_of_order_dim: bool = False

    def problem(self, dim: int) -> Problem:
        """The problem at dimension `dim`."""
        network = Autoencoder(HIDDEN, self.activation, **self.network)
        noise = self.noise * dim if self.noise_of_order_dim else self.noise
        return Problem(Spectrum.spiked(SPIKES, dim), network, self.rule, noise=noise)

    def state(self, dim: int) -> State:
        """Common start: the order parameters of the bulk don't depend on D."""
        network = self.problem(dim).autoencoder
        w, u, u0 = np.split(
            STD * np.random.default_rng(0).standard_normal((len(SPIKES), 2 * HIDDEN + 1)),
            [HIDDEN, 2 * HIDDEN],
            axis=1,
        )
        eye, zero = STD * np.eye(HIDDEN), np.zeros((HIDDEN, HIDDEN))
        # Σ w wᵀ of the bulk is ∝ D, so that its share of Q1 = Σ ρ̃_in w wᵀ is the same at all D
        wide = 1.0 if self.noise_of_order_dim else np.sqrt(dim)
        encoder, decoder = np.vstack([wide * eye, zero]), np.vstack([zero, eye])
        if network.tied:
            w, encoder, decoder = network.gain * u, network.gain * eye, eye
        more = int(network.output_bias)  # a row, for one column more
        encoder, decoder = (np.pad(part, ((0, more), (0, 0))) for part in (encoder, decoder))
        spikes, bulk = Modes(w, u), Modes(encoder, decoder)
        if network.output_bias:
            spikes = Modes(w, u, u0[:, 0])
            bulk = Modes(encoder, decoder, np.zeros(network.width))
        return State(spikes, bulk, np.asarray(self.biases))

    @property
    def times(self) -> np.ndarray:
        """Saved times: multiples of 1/250, so that every D has them."""
        return np.round(np.linspace(self.end / 20.0, self.end, 20) * 250.0) / 250.0


_BIASES = (0.4, -0.3, 0.2)
MATRIX = (
    Row("SGD, erf"),
    Row("SGD, ReLU", "relu"),
    Row("SGD, linear", "linear"),
    Row("SGD, tanh", "tanh"),
    Row("unequal rates", rule=SGD(lr_encoder=0.5, lr_decoder=1.5)),
    Row("weight decay", rule=SGD(weight_decay=0.1)),
    Row("truncated, erf", rule=SGD(truncated=True)),
    Row("truncated, ReLU", "relu", SGD(truncated=True)),
    Row("tied, full gradient", network={"tied": True, "gain": 1.2}),
    Row("tied, encoder only", rule=SGD(gradient="encoder"), network={"tied": True}),
    Row("tied, decoder only", rule=SGD(gradient="decoder"), network={"tied": True}),
    Row("biases, erf", network={"bias": True}, biases=_BIASES),
    Row("biases, ReLU", "relu", network={"bias": True}, biases=_BIASES),
    Row(
        "biases, output bias, ReLU",
        "relu",
        network={"bias": True, "output_bias": True},
        biases=_BIASES,
    ),
    Row("denoising, s² = 4", noise=4.0),
    Row("denoising, s² = D, linear", "linear", end=5.0, noise=1.0, noise_of_order_dim=True),
    Row("denoising, s² = D, erf", end=5.0, noise=1.0, noise_of_order_dim=True),
    Row("step schedule", rule=SGD(schedule=StepSchedule([4.0, 10.0], [0.5, 0.2]))),
    Row("cosine schedule", rule=SGD(schedule=CosineSchedule(end=20.0))),
    Row("Oja", "linear", Oja(), network={"tied": True}),
    Row("Sanger", "linear", Sanger(), network={"tied": True}),
    Row("Hebb", "linear", Hebb(weight_decay=0.5), 1.0, network={"tied": True}),
)


@dataclasses.dataclass(frozen=True)
class Result:
    """What one row gave.

    `deviation`, `standard_error` (dims,): of the statistic at each D, in units of e(0);
    `limit`, `limit_error`: extrapolated to 1/D → 0. `theory`, `runs`: at the largest D.
    """

    row: Row
    dims: tuple[int, ...]
    counts: tuple[int, ...]
    deviation: np.ndarray
    standard_error: np.ndarray
    limit: float
    limit_error: float
    bound: float
    theory: Trajectory
    runs: Trajectory

    @property
    def sharp(self) -> bool:
        """Whether the standard error is below the declared bound at every D."""
        return bool(np.all(self.standard_error < self.bound))

    @property
    def agrees(self) -> bool:
        """Whether the limit is 0 within 3 standard errors, and these are small enough."""
        return self.sharp and abs(self.limit) <= 3.0 * self.limit_error

    @property
    def verdict(self) -> str:
        """In a word: agrees, deviates, or too noisy."""
        return "agrees" if self.agrees else "deviates" if self.sharp else "too noisy"


def validate(
    quick: bool = False,
    rows: Iterable[str] | None = None,
    report: Callable[[str], None] | None = None,
) -> list[Result]:
    """Run the validation matrix; `quick`: two dimensions and few runs.

    `rows`: names of rows, all by default. `report` is called with the name of each row when it
    begins. Raises `ValueError` for an unknown row.
    """
    quick = flag("quick", quick)
    known = {row.name: row for row in MATRIX}
    chosen = MATRIX if rows is None else [known[one_of("row", name, known)] for name in rows]
    results = []
    for row in chosen:
        if report is not None:
            report(row.name)
        results.append(_validate(row, *((QUICK, QUICK_BOUND) if quick else (RUNS, BOUND))))
    return results


def _validate(row: Row, runs: dict[int, int], bound: float) -> Result:
    means, errors, last = [], [], None
    for dim, count in runs.items():
        problem, state = row.problem(dim), row.state(dim)
        knots = np.concatenate([[0.0], row.times])
        between = knots[:-1, None] + np.diff(knots)[:, None] * np.arange(5) / 5.0
        dense = np.append(between.ravel(), knots[-1])  # a smooth line through the saved times
        options = {"rtol": 1e-8, "diffusion": row.noise_of_order_dim}
        theory = predict(problem, state, dense, **options)
        seed = zlib.crc32(row.name.encode())  # every row draws its own inputs
        found = simulate(problem, state, row.times, runs=count, seed=seed, test_samples=1)
        gap = (found.error - theory.error[5::5]).mean(axis=1) / theory.error[0]
        means.append(gap.mean())
        errors.append(gap.std(ddof=1) / np.sqrt(count))
        last = theory, found
    assert last is not None
    mean, error = np.array(means), np.array(errors)
    limit, limit_error = extrapolate(list(runs), mean, error)
    counts = tuple(runs.values())
    return Result(row, tuple(runs), counts, mean, error, limit, limit_error, bound, *last)


def extrapolate(dims: list[int], mean: np.ndarray, error: np.ndarray) -> tuple[float, float]:
    """Value at 1/D → 0, and its standard error, of the weighted straight line in 1/D."""
    design = np.stack([np.ones(len(dims)), 1.0 / np.asarray(dims, float)], axis=1) / error[:, None]
    covariance = np.linalg.inv(design.T @ design)
    return float((covariance @ design.T @ (mean / error))[0]), float(math.sqrt(covariance[0, 0]))


def markdown(results: list[Result]) -> str:
    """The matrix as a markdown table, in units of 10⁻³ e(0)."""
    dims = results[0].dims
    runs = ", ".join(f"{n} at D = {dim}" for dim, n in zip(dims, results[0].counts, strict=True))
    head = ["rule, network", "t", *(f"D = {dim}" for dim in dims), "1/D → 0", "in s.e.", "verdict"]
    lines = [
        "Mean deviation of SGD's error from the theory over the saved times, in 10⁻³ e(0), ± one",
        f"standard error. Runs: {runs}; K = M = 3, spikes 1, 0.6, 0.3, bulk 1.",
        "",
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
    ]
    for r in results:
        cells = [r.row.name, f"≤ {r.row.end:g}"]
        cells += [
            f"{1e3 * m:+.2f} ± {1e3 * s:.2f}"
            for m, s in zip(r.deviation, r.standard_error, strict=True)
        ]
        cells += [
            f"{1e3 * r.limit:+.2f} ± {1e3 * r.limit_error:.2f}",
            f"{r.limit / r.limit_error:+.1f}",
            r.verdict,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def to_xarray(results: list[Result]) -> "xarray.Dataset":
    """The matrix as a Dataset: statistics per row and D, curves at the largest D per row."""
    import xarray as xr

    def over_rows(values: Iterable[Any]) -> np.ndarray:
        return np.stack([np.asarray(value) for value in values])

    unit, time = {"units": "e(0)"}, {"units": "steps/D"}
    theory, points = ("row", "theory_index"), ("row", "time_index")
    return xr.Dataset(
        {
            "deviation": (("row", "D"), over_rows(r.deviation for r in results), unit),
            "standard_error": (("row", "D"), over_rows(r.standard_error for r in results), unit),
            "limit": ("row", over_rows(r.limit for r in results), unit),
            "limit_error": ("row", over_rows(r.limit_error for r in results), unit),
            "agrees": ("row", over_rows(r.agrees for r in results)),
            "runs": ("D", np.asarray(results[0].counts)),
            "theory_time": (theory, over_rows(r.theory.times for r in results), time),
            "theory": (theory, over_rows(r.theory.error for r in results)),
            "time": (points, over_rows(r.runs.times for r in results), time),
            "mean_error": (points, over_rows(r.runs.error.mean(axis=0) for r in results)),
        },
        coords={"row": [r.row.name for r in results], "D": list(results[0].dims)},
        attrs={
            "statistic": "error of a run minus the theory's at that D, averaged over saved times",
            "reference": "Refinetti & Goldt, ICML 2022, arXiv:2201.02115",
        },
    )
