"""Theory against the mean of simulated runs, with standard errors and a verdict."""

import dataclasses
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import numpy as np
from scipy.special import stdtrit

from odeae.base.checks import close
from odeae.base.messages import explains_arguments, one_of
from odeae.base.precision import in_float64
from odeae.base.status import Status
from odeae.model.state import State
from odeae.results.several import ENSEMBLE
from odeae.results.trajectory import Trajectory
from odeae.theory.regime import BOUND, LIMIT, finite_size, learnable, reason, step_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# No agreement hides a deviation of more than this part of what can be learnt at all.
MOST = 0.05


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far the mean of the runs is from the theory; `print` it for the verdict.

    Attributes:
        times: (T,), in steps/D.
        theory: (T,), the curve of theory.
        mean: (T,), the mean over the runs.
        standard_error: (T,), of the mean over the runs.
        average: The deviation averaged over the saved times, one number that sees a deviation
            which all times share.
        average_error: The standard error of `average` over the runs.
        on: The quantity of the runs that was compared.
        source: The inputs of the runs.
        runs: How many runs were compared.
        allowance: The deviation that a finite D may add, ½ η (tr Ω/D + s²)/D of the theory's first
            error, η the largest rate, but at most 5 % of `learnable`.
        dim: D.
        learnable: The part of the error that K neurons can learn at best, ½ Σ ρ̃ of the K largest.
        finite_size: A number that is at most 0.4 for a problem within the theory's regime.
        outside: Why the problem lies outside of the regime; empty within.
        left_out: How many runs did not finish and were left out.

    Example:
        >>> comparison = odeae.compare(theory, runs)
        >>> comparison.verdict, comparison.visible / comparison.learnable
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
    learnable: float
    finite_size: float = 0.0
    outside: str = ""
    left_out: int = 0

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
    def visible(self) -> float:
        """Least deviation, shared by all times, that would not have been called agreement."""
        noise = min(np.min(self.noise[self.times > 0], initial=np.inf), self._average_noise)
        return float(noise) + self.allowance

    @property
    def verdict(self) -> str:
        """The least that explains all deviations and their average.

        "noise", or "finite size" (noise and the allowance), or else "deviates". Where nothing can
        be told: "outside" the theory's regime; "too few runs", where fewer than 4 leave the noise
        itself unknown; "too noisy", where a deviation of more than 5 % of what can be learnt may
        hide in the noise, or does.
        """
        if self.outside:
            return "outside"
        if self.runs < 4:
            return "too few runs"
        deviation = np.append(np.abs(self.deviation), abs(self.average))
        noise = np.append(self.noise, self._average_noise)
        if np.any(deviation > noise + self.allowance + 1e-9 * self.theory[0]):
            return "deviates"
        most = MOST * self.learnable
        if self.visible - self.allowance > most or np.any(deviation > most):
            return "too noisy"
        within = np.all(deviation <= noise + 1e-9 * self.theory[0])
        return "noise" if within else "finite size"

    @property
    def agrees(self) -> bool | None:
        """Whether noise and the finite-size allowance explain every deviation; None: can't tell."""
        return {"noise": True, "finite size": True, "deviates": False}.get(self.verdict)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the deviation with its standard errors, the noise and the finite-size allowance.

        Args:
            ax: Axes to draw on; None makes a figure.

        Returns:
            The Axes.
        """
        from odeae.plotting.comparison import plot_comparison

        return plot_comparison(self, ax)

    @property
    def noise(self) -> np.ndarray:
        """Deviation that sampling noise may have at a time, (T,): `threshold` standard errors."""
        return self.threshold * self.standard_error

    @property
    def _average_noise(self) -> float:
        return _student(self.runs, 1) * self.average_error

    def _share(self, value: float) -> str:
        return f"{100 * value / self.learnable:.2g} %"

    def __str__(self):
        i, j = int(np.argmax(np.abs(self.deviation))), int(np.argmax(np.abs(self.z)))
        count = len(self.times)
        beyond = np.abs(self.deviation) > self.noise + 1e-9 * self.theory[0]
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
            "outside": f"can't tell: {self.outside}.",
            "too few runs": "can't tell: fewer than 4 runs leave the noise itself unknown.",
            "too noisy": f"can't tell: in the noise ({bound}) a deviation of more than "
            f"{100 * MOST:g} % of what can be learnt may hide; give more runs.",
        }[self.verdict]
        finished = f" (of {self.runs + self.left_out}, the others diverged)" * bool(self.left_out)
        return (
            f"theory against `{self.on}` of {self.runs} runs{finished} of {self.source}, "
            f"D={self.dim}, {count} times from t={self.times[0]:.4g} to {self.times[-1]:.4g}: "
            f"{meaning}\n"
            f"Largest deviation {self.deviation[i]:+.3g} at t={self.times[i]:.4g} "
            f"({self._share(self.largest)} of what can be learnt, z {self.z[i]:+.2f}), largest z "
            f"{self.z[j]:+.2f} at t={self.times[j]:.4g}; average over times {self.average:+.2g} ± "
            f"{self.average_error:.2g}. A deviation of {self._share(self.visible)} of what can be "
            f"learnt, {self.learnable:.3g}, would have been seen if all times shared it, at one "
            f"time {self._share(np.max(self.noise) + self.allowance)}."
        )

    __repr__ = __str__


def _student(runs: int, times: int) -> float:
    return float(-stdtrit(runs - 1, 0.005 / times))


def _same_start(a: State | None, b: State | None, dim: int) -> bool:
    """False if two states are known to differ; they may have been cut into other spikes and bins.

    What no cut changes are the biases and the sums over all modes of w wᵀ, u uᵀ and u wᵀ.
    """

    def sums(state: State) -> list:
        rows = state.rows
        w, u = np.asarray(rows.encoder) / np.sqrt(dim), np.asarray(rows.decoder)
        return [w.T @ w, u.T @ u, u.T @ w, np.asarray(state.bias)]

    if a is None or b is None:
        return True
    spikes = [jax.tree.leaves(state.spikes) for state in (a, b)]
    pairs = list(zip(sums(a), sums(b), strict=True))
    if all(x.shape == y.shape for x, y in zip(*spikes, strict=True)):
        pairs += zip(*spikes, strict=True)
    return all(close(x, y) for x, y in pairs)


def _check_pair(theory: Trajectory, runs: Trajectory) -> None:
    """Raise `ValueError` unless these are a curve and runs of one problem from one state."""
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
    if not _same_start(theory.initial, runs.initial, ours.spectrum.dim):
        raise ValueError(
            "`theory` and `runs` must start from the same state, but their `initial` differ; pass "
            "one state to predict and simulate"
        )


def _finished(runs: Trajectory, on: str) -> tuple[np.ndarray, int]:
    """The errors of the runs that finished, (runs, T), and how many did not."""
    values, status = np.atleast_2d(getattr(runs, on)), np.atleast_1d(runs.status)
    finished = status == Status.OK
    left_out = int(np.sum(~finished))
    if np.sum(finished) < 2 and left_out:
        i = int(np.argmax(~finished))
        message = Status(int(status[i])).message(float(np.atleast_1d(runs.stop_time)[i]))
        raise ValueError(
            f"{left_out} of {len(status)} `runs` did not finish, the first {message}; a standard "
            "error needs at least two that did"
        )
    values = values[finished]
    if len(values) < 2:
        raise ValueError(f"a standard error needs at least two runs, got {len(values)}")
    return values, left_out


@explains_arguments
@in_float64
def compare(theory: Trajectory, runs: Trajectory, on: str | None = None) -> Comparison:
    """Compare the mean over `runs` with `theory`, time by time.

    The theory is read at the runs' times, linearly between its own times, which may differ by half
    a step. Runs that did not finish are left out.

    Args:
        theory: A single curve of `predict` or `predict_aligned`.
        runs: The runs of `simulate`, of the same problem from the same state.
        on: "error" (exact for the weights of each run, Gaussian inputs), "error_clean" (on inputs
            without the problem's noise) or "test_error" (held-out samples). By default `error` for
            Gaussian and `test_error` for real inputs.

    Returns:
        The comparison: `verdict`, `agrees` (True, False, or None where it can't tell), `plot()`.

    Raises:
        ValueError: For fewer than two runs that finished, a theory that did not finish, and curves
            of different problems, starts or times.

    Example:
        >>> odeae.compare(theory, odeae.simulate(problem, state, theory.times, runs=8)).agrees
        True
    """
    _check_pair(theory, runs)
    by_default = "test_error" if "real" in runs.source else "error"
    on = one_of("on", by_default if on is None else on, ["error", "error_clean", "test_error"])
    if (ended := Status(int(theory.status))) is not Status.OK:
        raise ValueError(f"`theory` did not finish: {ended.message(float(theory.stop_time))}")
    values, left_out = _finished(runs, on)
    count, dim = len(values), runs.problem.spectrum.dim
    times, own = np.asarray(runs.times), np.asarray(theory.times)
    gap = np.abs(times[:, None] - own).min(axis=1)
    if np.max(gap) > 0.5000001 / dim:
        i = int(np.argmax(gap))
        raise ValueError(
            f"`theory` must have all times of `runs`, to half a step (1/(2D) = {0.5 / dim:g}), but "
            f"has none at {times[i]:g}; predict at `runs.times`"
        )
    end = float(times[-1])
    share, number = step_size(runs.problem, end), finite_size(runs.problem, end)
    most = learnable(theory.problem)
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
        min(BOUND * share * float(expected[0]), MOST * most),
        dim,
        most,
        number,
        reason(runs.problem, number) if number > LIMIT else "",
        left_out,
    )
