"""Theory against the mean of simulated runs, with standard errors and a verdict."""

import dataclasses

import equinox as eqx
import jax
import numpy as np
from scipy.special import stdtrit

from odeae.precision import in_float64
from odeae.problem import Problem
from odeae.schedules import largest_factor
from odeae.state import State
from odeae.trajectory import ENSEMBLE, Status, Trajectory
from odeae.words import explains_arguments, one_of

# What SGD at finite D may differ by beyond noise is O(η/D) (docs/theory.md §4), and the noise of a
# step grows with the variance of an input. In units of η (tr Ω/D)/D e(0) the largest deviations
# were 0.12 (three spikes, benchmarks/finite_size.py) and 0.07 (a full spectrum, tr Ω/D = 90).
FINITE_SIZE = 0.5


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far the mean of the runs is from the theory; `print` it for the verdict.

    `times` (T,) in steps/D; `theory`, `mean` (T,): the two curves; `deviation` = mean − theory;
    `standard_error` (T,) of the mean over runs; `z` (T,): their ratio, 0 before the first step,
    where nothing is random. `average`: the deviation averaged over the saved times, one number
    that sees what all times share, and `average_error`, its standard error over runs. `on`: the
    quantity of the runs that was compared. `allowance`: what a finite D may add, taken as
    ½ η (tr Ω/D)/D of the theory's first error, η the largest rate.
    """

    times: np.ndarray
    theory: np.ndarray
    mean: np.ndarray
    standard_error: np.ndarray
    average: float
    average_error: float
    on: str
    source: str
    runs: int
    allowance: float
    dim: int

    @property
    def deviation(self) -> np.ndarray:
        """Mean of the runs − theory, (T,)."""
        return self.mean - self.theory

    @property
    def z(self) -> np.ndarray:
        """Deviation in standard errors, (T,)."""
        noisy = self.standard_error > 1e-12 * np.abs(self.mean)
        return np.where(noisy, self.deviation / np.where(noisy, self.standard_error, 1.0), 0.0)

    @property
    def largest(self) -> float:
        """Largest absolute deviation over the saved times."""
        return float(np.max(np.abs(self.deviation)))

    @property
    def relative(self) -> float:
        """Largest deviation in units of the theory's first error."""
        return self.largest / float(self.theory[0])

    @property
    def threshold(self) -> float:
        """|z| that the largest of T independent times exceeds in 1 % of cases (Student)."""
        return _student(self.runs, len(self.times))

    @property
    def verdict(self) -> str:
        """The least that explains all deviations and their average.

        "noise", "finite size" (noise and the allowance) or else "deviates"; "too few runs" where
        fewer than 4 leave the noise itself unknown.
        """
        if self.runs < 4:
            return "too few runs"
        deviation = np.append(np.abs(self.deviation), abs(self.average))
        noise = np.append(self._noise, _student(self.runs, 1) * self.average_error)
        if np.all(deviation <= noise + 1e-9 * self.theory[0]):
            return "noise"
        return "finite size" if np.all(deviation <= noise + self.allowance) else "deviates"

    @property
    def agrees(self) -> bool | None:
        """Whether noise and the finite-size allowance explain every deviation; None: can't tell."""
        return None if self.verdict == "too few runs" else self.verdict != "deviates"

    @property
    def _noise(self) -> np.ndarray:
        return self.threshold * self.standard_error

    def __str__(self):
        i, j = int(np.argmax(np.abs(self.deviation))), int(np.argmax(np.abs(self.z)))
        count = len(self.times)
        beyond = np.abs(self.deviation) > self._noise + 1e-9 * self.theory[0]
        most = np.max(np.abs(self.deviation[beyond]), initial=0.0)
        bound = f"noise meaning |z| < {self.threshold:.1f} for {self.runs} runs and {count} times"
        allowance = f"the finite-size allowance of {self.allowance:.2g}"
        out = np.sum(beyond)
        within = f"{count - out} of {count} times lie within sampling noise ({bound}); "
        within += f"the other {out} are up to {most:.2g} away" if out else "their average is not"
        meaning = {
            "noise": f"agrees: all {count} times lie within sampling noise ({bound}).",
            "finite size": f"agrees: {within}, which noise and {allowance} explain.",
            "deviates": f"deviates: {within}, which noise and {allowance} don't explain.",
            "too few runs": "can't tell: fewer than 4 runs leave the noise itself unknown.",
        }[self.verdict]
        return (
            f"theory against `{self.on}` of {self.runs} runs of {self.source}, D={self.dim}, "
            f"{count} times from t={self.times[0]:.4g} to {self.times[-1]:.4g}: {meaning}\n"
            f"Largest deviation {self.deviation[i]:+.3g} at t={self.times[i]:.4g} "
            f"({100 * self.relative:.2g} % of the first error, z {self.z[i]:+.2f}), largest z "
            f"{self.z[j]:+.2f} at t={self.times[j]:.4g}; average over times {self.average:+.2g} ± "
            f"{self.average_error:.2g}, standard error at one time up to "
            f"{np.max(self.standard_error):.2g}."
        )


def _largest_rate(problem: Problem) -> float:
    """Largest rate of what is trained; the encoder path of tied weights moves by gain² as much."""
    network = problem.autoencoder
    encoder, decoder, bias, output = map(float, problem.rule.rates(network))
    parts = [encoder * float(network.gain) ** 2, decoder]
    parts += [bias] * network.bias + [output] * network.output_bias
    return max(parts)


def _student(runs: int, times: int) -> float:
    return float(-stdtrit(runs - 1, 0.005 / times))


def _same_start(a: State | None, b: State | None) -> bool:
    """False if spikes or biases are known to differ; bulks may have been cut into other bins."""
    if a is None or b is None:
        return True
    known = (jax.tree.leaves((state.spikes, state.bias)) for state in (a, b))
    return all(
        np.shape(x) != np.shape(y) or np.allclose(x, y, rtol=1e-9)
        for x, y in zip(*known, strict=True)
    )


@explains_arguments
@in_float64
def compare(theory: Trajectory, runs: Trajectory, on: str | None = None) -> Comparison:
    """Compare the mean over `runs` with `theory`, time by time.

    `on`: `error` (exact for the weights of each run, Gaussian inputs), `error_clean` (the same on
    inputs without the problem's noise) or `test_error` (held-out samples); the default is `error`
    for Gaussian and `test_error` for real inputs. The theory is read at the runs' times, linearly
    between its own, which may differ by half a step.

    Raises `ValueError` for fewer than two runs, curves that did not finish, times that don't match.
    """
    for name, value in (("theory", theory), ("runs", runs)):
        if not isinstance(value, Trajectory):
            raise ValueError(f"`{name}` must be an odeae Trajectory, got {type(value).__name__}")
    if theory.source == ENSEMBLE:
        raise ValueError(
            "compare takes a single curve and runs from the same state, but an ensemble's members "
            "start from states of their own: predict from runs.initial"
        )
    if runs.source == "theory" or theory.source != "theory":
        raise ValueError(
            f"compare(theory, runs) takes a theory and a simulation, got {theory.source!r} and "
            f"{runs.source!r}"
        )
    if np.ndim(theory.error) != 1:
        raise ValueError(f"`theory` must be a single curve, got shape {np.shape(theory.error)}")
    ours, theirs = theory.problem, runs.problem
    for part in ("autoencoder", "rule", "noise"):
        two = getattr(ours, part), getattr(theirs, part)
        if eqx.tree_equal(*two) is not True:
            a, b = (eqx.tree_pformat(x, width=10**6, short_arrays=False) for x in two)
            raise ValueError(
                f"`theory` and `runs` must be of the same problem, but have another {part}: {a} "
                f"and {b}"
            )
    traces = [float(problem.spectrum.trace) for problem in (ours, theirs)]
    if ours.spectrum.dim != theirs.spectrum.dim or not np.isclose(*traces, rtol=1e-6):
        raise ValueError(
            f"`theory` and `runs` must be of the same spectrum, got {ours.spectrum} and "
            f"{theirs.spectrum}"
        )
    if not _same_start(theory.initial, runs.initial):
        raise ValueError(
            "`theory` and `runs` must start from the same state, but their `initial` differ; pass "
            "one state to predict and simulate"
        )
    by_default = "test_error" if "real" in runs.source else "error"
    on = one_of("on", by_default if on is None else on, ["error", "error_clean", "test_error"])
    values = np.asarray(getattr(runs, on))
    count, dim = values.shape[0], runs.problem.spectrum.dim
    if count < 2:
        raise ValueError(f"a standard error needs at least two runs, got {count}")
    for name, trajectory in (("theory", theory), ("runs", runs)):
        status = np.atleast_1d(trajectory.status)
        if np.any(status != Status.OK):
            i = int(np.argmax(status != Status.OK))
            stop = float(np.atleast_1d(trajectory.stop_time)[i])
            raise ValueError(f"`{name}` did not finish: {Status(int(status[i])).message(stop)}")
    times, own = np.asarray(runs.times), np.asarray(theory.times)
    gap = np.abs(times[:, None] - own).min(axis=1)
    if np.max(gap) > 0.5000001 / dim:
        i = int(np.argmax(gap))
        raise ValueError(
            f"`theory` must have all times of `runs`, to half a step (1/(2D) = {0.5 / dim:g}), but "
            f"has none at {times[i]:g}; predict at `runs.times`"
        )
    rate = _largest_rate(ours) * largest_factor(ours.rule.schedule, times[-1])
    curve = theory.error_clean if on == "error_clean" else theory.error
    expected = np.interp(times, own, np.asarray(curve))
    average = (values - expected).mean(axis=1)
    return Comparison(
        times,
        expected,
        values.mean(axis=0),
        values.std(axis=0, ddof=1) / np.sqrt(count),
        float(average.mean()),
        float(average.std(ddof=1) / np.sqrt(count)),
        on,
        runs.source.removeprefix("SGD on "),
        count,
        FINITE_SIZE * rate * float(runs.problem.spectrum.trace) / dim * float(expected[0]),
        dim,
    )
