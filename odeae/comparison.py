"""Theory against the mean of simulated runs, with standard errors and a verdict."""

import dataclasses

import numpy as np
from scipy.special import stdtrit

from odeae.checks import one_of
from odeae.trajectory import Status, Trajectory

# What SGD at finite D may differ by beyond noise: a few η/D of the initial error (theory §4).
FINITE_SIZE = 5.0


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far the mean of the runs is from the theory; `print` it for the verdict.

    `times` (T,) in steps/D; `theory`, `mean` (T,): the two curves; `deviation` = mean − theory;
    `standard_error` (T,) of the mean over runs; `z` (T,): their ratio, 0 before the first step,
    where nothing is random. `on`: the quantity of the runs that was compared.
    """

    times: np.ndarray
    theory: np.ndarray
    mean: np.ndarray
    standard_error: np.ndarray
    on: str
    source: str
    runs: int
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
        return float(-stdtrit(self.runs - 1, 0.005 / len(self.times)))

    @property
    def allowance(self) -> float:
        """Finite-size allowance: 5/D of the theory's first error."""
        return FINITE_SIZE / self.dim * float(self.theory[0])

    @property
    def verdict(self) -> str:
        """The least that explains every deviation: "noise", "finite size" or else "deviates"."""
        noise = self.threshold * self.standard_error
        if np.all(np.abs(self.deviation) <= noise + 1e-9 * self.theory):
            return "noise"
        if np.all(np.abs(self.deviation) <= noise + self.allowance):
            return "finite size"
        return "deviates"

    @property
    def agrees(self) -> bool:
        """Whether noise and the finite-size allowance explain every deviation."""
        return self.verdict != "deviates"

    def __str__(self):
        i, j = int(np.argmax(np.abs(self.deviation))), int(np.argmax(np.abs(self.z)))
        bound = f"|z| ≤ {self.threshold:.1f} at all times"
        meaning = {
            "noise": f"agrees within sampling noise ({bound})",
            "finite size": f"agrees within sampling noise ({bound}) and a finite-size allowance "
            f"of {FINITE_SIZE:g}/D of the first error ({self.allowance:.2g})",
            "deviates": f"deviates by more than sampling noise ({bound}) and a finite-size "
            f"allowance of {FINITE_SIZE:g}/D of the first error ({self.allowance:.2g})",
        }[self.verdict]
        return (
            f"theory against `{self.on}` of {self.runs} runs of {self.source}, D={self.dim}, "
            f"{len(self.times)} times from t={self.times[0]:.4g} to {self.times[-1]:.4g}: "
            f"{meaning}.\nLargest deviation {self.deviation[i]:+.3g} at t={self.times[i]:.4g} "
            f"({100 * self.relative:.2g} % of the first error), largest z {self.z[j]:+.2f} at "
            f"t={self.times[j]:.4g}, mean deviation {np.mean(self.deviation):+.2g}, standard "
            f"error up to {np.max(self.standard_error):.2g}."
        )


def compare(theory: Trajectory, runs: Trajectory, on: str | None = None) -> Comparison:
    """Compare the mean over `runs` with `theory`, time by time.

    `on`: `error` (exact for the weights of each run, Gaussian inputs) or `test_error` (held-out
    samples); the default is `error` for Gaussian and `test_error` for real inputs. The theory is
    read at the runs' times, linearly between its own, which may differ by half a step.

    Raises `ValueError` for fewer than two runs, curves that did not finish, times that don't match.
    """
    for name, value in (("theory", theory), ("runs", runs)):
        if not isinstance(value, Trajectory):
            raise ValueError(f"`{name}` must be an odeae Trajectory, got {type(value).__name__}")
    if runs.source == "theory" or theory.source != "theory":
        raise ValueError(
            f"compare(theory, runs) takes a theory and a simulation, got {theory.source!r} and "
            f"{runs.source!r}"
        )
    if np.ndim(theory.error) != 1:
        raise ValueError(f"`theory` must be a single curve, got shape {np.shape(theory.error)}")
    hidden = [trajectory.problem.autoencoder.hidden for trajectory in (theory, runs)]
    if hidden[0] != hidden[1]:
        raise ValueError(
            f"`theory` and `runs` must have the same number of neurons, got {hidden[0]} and "
            f"{hidden[1]}"
        )
    on = one_of("quantity", on or ("test_error" if "real" in runs.source else "error"),
                ["error", "test_error"])  # fmt: skip
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
    return Comparison(
        times,
        np.interp(times, own, np.asarray(theory.error)),
        values.mean(axis=0),
        values.std(axis=0, ddof=1) / np.sqrt(count),
        on,
        runs.source.removeprefix("SGD on "),
        count,
        dim,
    )
