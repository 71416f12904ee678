"""Where the theory holds: how much a step of SGD at finite D moves, and what there is to learn.

The theory is the limit D → ∞ at fixed rates, in which one step changes nothing. At finite D a step
moves the network by a share η (tr Ω/D + s²)/D, because |x|² = D (tr Ω/D + s²), and that times the
first error is the scale on which SGD differs from the theory. It is small in the regime of
docs/theory.md 1 and stays so for no D if the bulk, or the noise, has eigenvalues of order D. What
counts is the part of it in what can be learnt at all: the errors of a network without and with K
principal components may hardly differ.
"""

from typing import Any

import numpy as np

from odeae.base.checks import warn
from odeae.base.precision import is_traced
from odeae.model.gradient_noise import refusal
from odeae.model.problem import Problem
from odeae.model.schedules import largest_factor

# SGD's largest deviation, as a part of what can be learnt, was 0.2 to 1 of `finite_size`, 0.8 at
# escapes from plateaus, which every run takes at another time. So at this limit it may be 20 %.
LIMIT, BOUND = 0.4, 0.5


class RegimeWarning(UserWarning):
    """A problem lies outside the regime in which theory and SGD agree (docs/theory.md 1).

    Example:
        >>> warnings.filterwarnings("error", category=odeae.RegimeWarning)
    """


def learnable(problem: Problem) -> float:
    """What K neurons can learn at best: the error that K principal components explain, ½ Σ ρ̃.

    With noise, which linear maps of corrupted inputs keep out, ½ Σ ρ̃²/(ρ̃ + s²/D).
    """
    rank, spectrum = problem.autoencoder.hidden, problem.spectrum
    # NumPy's, as `Spectrum.pca_errors` would take longer than a whole solve.
    spikes, bulk = np.asarray(spectrum.spikes), np.asarray(spectrum.bulk) / spectrum.dim
    counts = np.minimum(spectrum.multiplicity, rank).astype(int)
    gains = -np.sort(-np.concatenate([spikes, np.repeat(bulk, counts)]))[:rank]
    whole = np.where(gains > 0.0, gains + float(problem.noise) / spectrum.dim, 1.0)
    return 0.5 * float(np.sum(gains * gains / whole))


def largest_rate(problem: Problem) -> float:
    """Largest rate of what is trained; the encoder path of tied weights moves by gain² as much."""
    network = problem.autoencoder
    encoder, decoder, bias, output = map(float, problem.rule.rates(network))
    parts = [encoder * float(network.gain) ** 2, decoder]
    parts += [bias] * network.bias + [output] * network.output_bias
    return max(parts)


def step_size(problem: Problem, end: float | None = None, noise: bool = True) -> float:
    """η (tr Ω/D + s²)/D, η the largest rate (until t = `end`, of a schedule): the share of a step.

    `noise`: whether to count s².
    """
    spectrum = problem.spectrum
    schedule = problem.rule.schedule
    factor = 1.0 if end is None or schedule is None else float(largest_factor(schedule, end))
    variance = float(spectrum.trace) + (float(problem.noise) if noise else 0.0)
    return largest_rate(problem) * factor * variance / spectrum.dim


def finite_size(problem: Problem, end: float | None = None, noise: bool = True) -> float:
    """Return the one number that says how far SGD at this D may be from the theory.

    It is the share of the network that a step moves, η (tr Ω/D + s²)/D, times ½ tr Ω/D, the error
    without anything learnt, relative to the part of the error that can be learnt. SGD deviates from
    the theory by about half of this number, as a part of what can be learnt. Up to 0.4 a problem
    lies within the theory's regime.

    Args:
        problem: The problem, with concrete values.
        end: Until when the largest rate of a schedule is looked for, in steps/D; None: the rate
            before the schedule's factor.
        noise: Whether to count the noise s² of corrupted inputs.

    Returns:
        The number.

    Source: docs/theory.md 1.

    Example:
        >>> odeae.finite_size(odeae.Problem(odeae.Spectrum.spiked([1.0, 0.5], dim=1000), network))
    """
    first = 0.5 * float(problem.spectrum.trace)
    return step_size(problem, end, noise) * first / learnable(problem)


def reason(problem: Problem, value: float) -> str:
    """Why a problem lies outside the regime, and what would be inside."""
    spectrum, noise, rate = problem.spectrum, float(problem.noise), largest_rate(problem)
    trace = float(spectrum.trace)
    share = f"{200.0 * learnable(problem) / trace:.3g} %"
    parts = [f"rate {rate:.3g}", f"tr Ω/D = {trace:.3g}"]
    parts += [f"noise {noise:.3g}"] if noise else []
    less = LIMIT / value
    return (
        f"at D={spectrum.dim} with {', '.join(parts)} a step of SGD is no longer small beside the "
        f"{share} of the error that can be learnt; rates below {less * rate:.2g}, or "
        f"inputs scaled by {np.sqrt(less):.2g}, would do"
    )


def warn_outside(problem: Problem, end: Any = None, diffusion: bool = False) -> None:
    """Warn of a concrete problem outside the regime.

    `diffusion`: whether the theory follows the steps' noise that corrupted inputs cause.
    """
    if is_traced((problem, end)) or np.ndim(problem.spectrum.spikes) != 1:
        return
    end = None if end is None else float(end)
    value = finite_size(problem, end, noise=not diffusion)
    if value <= LIMIT:
        return
    what = "is that of small steps"
    if finite_size(problem, end, noise=False) <= LIMIT:
        what = "is that of small rates, as the noise is of order D"
        what += "" if refusal(problem.autoencoder) else " (give diffusion=True)"
    off = min(BOUND * value, 1.0)
    warn(
        f"this curve {what}: {reason(problem, value)}. SGD may be off it by "
        f"{100 * off:.0f} % of what can be learnt, or more",
        RegimeWarning,
    )
