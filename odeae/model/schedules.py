"""Learning-rate schedules: factors of all rates of a rule, as functions of t = steps/D."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.base.checks import array, raised, scalar
from odeae.base.messages import explains_arguments, shortened
from odeae.base.named import itself, portable_state
from odeae.base.precision import ArrayLike, Real, Scalar, in_float64, is_traced

# A factor of all rates as a function of t = steps/D; None for constant rates.
Schedule: TypeAlias = Callable[..., Any] | None


class AbstractSchedule(eqx.Module):
    """A schedule of the learning rates: a factor of all rates as a function of t = steps/D.

    To add a schedule, write a subclass in a file of your own with a method `__call__`; its numbers
    may be traced and swept (docs/extending.md).

    Source: docs/theory.md 5.

    Attributes:
        smooth: Whether the factor is known to be positive and finite, and to change within less
            than a thousandth of the last time only at its `jumps`. Other schedules are checked on a
            fine grid and solved in at least a thousand steps.
        jumps: Times at which the factor jumps, in steps/D; None for none.

    Example:
        >>> float(odeae.PowerLawSchedule(exponent=1.0)(1.0))
        0.5
    """

    smooth: ClassVar[bool] = False

    @property
    def jumps(self) -> Real | None:
        """The times at which the factor jumps, None for none. The solver starts anew there."""
        return None

    @abc.abstractmethod
    def __call__(self, t: Scalar) -> Real:
        """Return the factor at time t, in steps/D."""


@explains_arguments
class StepSchedule(AbstractSchedule):
    """A piecewise constant schedule: 1 at first, then `factors[i]` from `times[i]` on.

    The solver starts anew at each jump instead of searching for it.

    Args:
        times: Times of the jumps in steps/D, positive and increasing, (n,). May be traced.
        factors: Factor of all rates from each of these times on, zero or positive, (n,). May be
            traced.

    Raises:
        ValueError: If times are not positive and increasing, a factor is negative, or the two
            lists have different lengths or are empty.

    Source: docs/theory.md 5.

    Example:
        >>> schedule = odeae.StepSchedule([10.0, 20.0], [0.1, 0.01])
        >>> [float(schedule(t)) for t in (0.0, 10.0, 30.0)]
        [1.0, 0.1, 0.01]
    """

    smooth = True
    times: Float[Real, "*batch jumps"]
    factors: Float[Real, "*batch jumps"]

    def __init__(self, times: ArrayLike, factors: ArrayLike) -> None:
        self.times = array("times", times, (None,))
        self.factors = array("factors", factors, (self.times.shape[0],))
        if self.times.shape[0] == 0:
            raise ValueError("`times` must hold at least one time (steps/D), got an empty list")
        if not is_traced(self.times) and (self.times[0] <= 0 or np.any(np.diff(self.times) <= 0)):
            raise ValueError(f"`times` must be positive and increase, got {shortened(self.times)}")
        _not_negative("factors", self.factors)

    @property
    def jumps(self) -> Float[Real, "jumps *lanes"]:
        """The times at which the factor jumps."""
        return self.times

    @in_float64
    def __call__(self, t: Scalar) -> Real:
        """Return the factor at time t, in steps/D."""
        factors = jnp.concatenate([jnp.ones(1), jnp.asarray(self.factors)])
        return factors[jnp.sum(t >= jnp.asarray(self.times))]


@explains_arguments
class CosineSchedule(AbstractSchedule):
    """A schedule that falls along half a cosine from 1 to `final`, and then stays there.

    Args:
        end: The time in steps/D at which the factor reaches `final`, positive. May be traced.
        final: The factor from then on, zero or positive. May be traced.

    Raises:
        ValueError: If `end` is not positive or `final` is negative.

    Source: docs/theory.md 5.

    Example:
        >>> schedule = odeae.CosineSchedule(end=20.0)
        >>> [round(float(schedule(t)), 6) for t in (0.0, 10.0, 30.0)]
        [1.0, 0.5, 0.0]
    """

    smooth = True
    end: Float[Real, "*batch"]
    final: Float[Real, "*batch"]

    def __init__(self, end: ArrayLike, final: ArrayLike = 0.0) -> None:
        self.end = scalar("end", end, above=0.0)
        self.final = scalar("final", final, at_least=0.0)

    @property
    def jumps(self) -> Float[Real, "jumps *lanes"]:
        """The end, where the curvature jumps, so that a step of the solver ends there too."""
        return self.end[None]

    @in_float64
    def __call__(self, t: Scalar) -> Real:
        """Return the factor at time t, in steps/D."""
        half = 0.5 * (1.0 + jnp.cos(np.pi * jnp.minimum(t / _normal(self.end), 1.0)))
        return self.final + (1.0 - self.final) * half


@explains_arguments
class PowerLawSchedule(AbstractSchedule):
    """The schedule (1 + t/start)^(−exponent): 1 at t = 0, a power law for t ≫ `start`.

    Args:
        exponent: The exponent, zero or positive. May be traced.
        start: The time in steps/D at which the power law sets in, positive. May be traced.

    Raises:
        ValueError: If `exponent` is negative or `start` is not positive.

    Source: docs/theory.md 5.

    Example:
        >>> schedule = odeae.PowerLawSchedule(exponent=0.5, start=1.0)
        >>> float(schedule(3.0))
        0.5
    """

    smooth = True
    exponent: Float[Real, "*batch"]
    start: Float[Real, "*batch"]

    def __init__(self, exponent: ArrayLike, start: ArrayLike = 1.0) -> None:
        self.exponent = scalar("exponent", exponent, at_least=0.0)
        self.start = scalar("start", start, above=0.0)

    @in_float64
    def __call__(self, t: Scalar) -> Real:
        """Return the factor at time t, in steps/D."""
        return (1.0 + t / _normal(self.start)) ** -self.exponent


class FunctionSchedule(AbstractSchedule):
    """A schedule given as a JAX function t → factor; each new function compiles anew.

    Changes within less than a thousandth of the last time may be passed over, unless the function
    says when they happen, in an attribute `jumps`.
    """

    fn: Callable[..., Any] = eqx.field(static=True)

    __getstate__ = portable_state
    __copy__ = __deepcopy__ = itself

    @property
    def jumps(self) -> Any:
        """The times at which the function jumps, from its attribute `jumps`; None without it."""
        return getattr(self.fn, "jumps", None)

    @in_float64
    def __call__(self, t: Scalar) -> Real:
        """Return the factor at time t, in steps/D."""
        return jnp.asarray(self.fn(t), float)


SCHEDULES = {kind.__name__: kind for kind in (StepSchedule, CosineSchedule, PowerLawSchedule)}


def as_schedule(value: object) -> Schedule:
    """Return the schedule that a user gave: None, a schedule or a function.

    Raises `ValueError` for anything that can't be called.
    """
    if value is None or (isinstance(value, eqx.Module) and callable(value)):
        return value
    if not callable(value) or isinstance(value, type):
        raise ValueError(
            "`schedule` must be None or a function of t = steps/D that returns the factor of all "
            f"rates, such as odeae.CosineSchedule(end=200), got {shortened(value)}"
        )
    return FunctionSchedule(value)


def jump_times(schedule: Schedule) -> Real | None:
    """Return the times at which a schedule jumps, or None."""
    times = getattr(schedule, "jumps", None)
    if times is None:
        return None
    times = array("jumps", times, (None,))
    if times.shape[0] == 0:
        return None
    return times if is_traced(times) else np.unique(times)


def jumps_before(schedule: Schedule, end: Scalar) -> Real | None:
    """Return the times at which a solver starts anew: jumps before `end`, later ones beyond `end`.

    A solver steps over a jump, from the number before it to the number after it. If the solve ended
    at a jump, its last time would be left out.
    """
    jumps = jump_times(schedule)
    if jumps is None:
        return None
    return jnp.where(jnp.nextafter(jumps, jnp.inf) < end, jumps, 2.0 * end)


def longest_step(schedule: Schedule, end: Scalar) -> Any:
    """Return the solver's longest step, None for any, so that it sees all changes of a function.

    Where the rates vanish only the schedule changes, and no error estimate anticipates a change.
    """
    return None if schedule is None or getattr(schedule, "smooth", False) else end / 1000.0


def check_schedule(schedule: Schedule, end: Scalar) -> None:
    """Raise `ValueError` for a factor that is negative, not finite or no number in 0 … `end`."""
    if schedule is not None and not getattr(schedule, "smooth", False):
        largest_factor(schedule, end)


@in_float64
def largest_factor(schedule: Schedule, end: Scalar) -> float:
    """Return the largest factor over 0 ≤ t ≤ `end`, on a fine grid; 1 if anything is traced.

    Raises the errors of `check_schedule`.
    """
    if schedule is None or is_traced((schedule, end)):
        return 1.0
    end = float(end)
    t = np.concatenate([np.linspace(0.0, end, 1001), end * np.geomspace(1e-6, 1.0, 200)])
    jumps = jump_times(schedule)
    if jumps is not None and not is_traced(jumps):
        t = np.concatenate([t, jumps[jumps <= end]])
    t = np.sort(t)
    try:
        with jax.ensure_compile_time_eval():  # concrete even while something else is traced
            values = jax.vmap(schedule)(jnp.asarray(t))
    except Exception as error:
        raise ValueError(
            f"`schedule` must be a JAX function of one number t; {raised(error)}"
        ) from error
    if np.shape(values) != t.shape:
        raise ValueError(
            f"`schedule` must return a single number, got shape {np.shape(values)[1:]}"
        )
    if is_traced(values):  # a closure over traced values
        return 1.0
    values = np.asarray(values)
    bad = ~(np.isfinite(values) & (values >= 0.0))
    if np.any(bad):
        i = int(np.argmax(bad))
        raise ValueError(
            f"`schedule` must be zero or positive and finite, got {values[i]:g} at t={t[i]:.4g}"
        )
    return float(values.max())


def _normal(time: Real) -> Real:
    """Return a positive time as a divisor: compiled code treats subnormal numbers as 0."""
    return jnp.maximum(time, np.finfo(float).tiny)


def _not_negative(name: str, values: Real) -> None:
    if not is_traced(values) and np.any(values < 0):
        i = int(np.argmin(values))
        raise ValueError(f"`{name}` must be zero or positive, got {values[i]:g} at index {i}")
