"""Learning-rate schedules: factors of all rates of a rule, as functions of t = steps/D."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.base.checks import array, raised, scalar
from odeae.base.messages import explains_arguments, shortened
from odeae.base.named import itself, portable_state
from odeae.base.precision import Real, in_float64, is_traced


class AbstractSchedule(eqx.Module):
    """A factor of all rates as a function of t = steps/D, called with one number.

    One of your own is a subclass in a file of your own; its numbers may be traced and swept.

    Attributes:
        smooth: Whether it is known to be positive and finite, and to do nothing within less than a
            thousandth of the last time but at its `jumps`. Others are checked on a fine grid and
            solved in at least a thousand steps.
    """

    smooth: ClassVar[bool] = False

    @property
    def jumps(self) -> Real | None:
        """Times at which the factor jumps, None for none: a solver starts anew there."""
        return None

    @abc.abstractmethod
    def __call__(self, t: Float[Real, ""]) -> Any:
        """Return the factor at time t."""


@explains_arguments
class StepSchedule(AbstractSchedule):
    """1 before the first of `times`, then `factors[i]` from `times[i]` on (steps/D, increasing).

    The solver restarts at the jumps instead of searching for them.
    """

    smooth = True
    times: Float[Real, "*batch jumps"]
    factors: Float[Real, "*batch jumps"]

    def __init__(self, times: Any, factors: Any):
        self.times = array("times", times, (None,))
        self.factors = array("factors", factors, (self.times.shape[0],))
        if self.times.shape[0] == 0:
            raise ValueError("`times` must hold at least one time (steps/D), got an empty list")
        if not is_traced(self.times) and (self.times[0] <= 0 or np.any(np.diff(self.times) <= 0)):
            raise ValueError(f"`times` must be positive and increase, got {shortened(self.times)}")
        _not_negative("factors", self.factors)

    @property
    def jumps(self) -> Float[Real, "jumps *lanes"]:
        """Times at which the factor jumps."""
        return self.times

    @in_float64
    def __call__(self, t):
        """Return the factor at time t."""
        factors = jnp.concatenate([jnp.ones(1), jnp.asarray(self.factors)])
        return factors[jnp.sum(t >= jnp.asarray(self.times))]


@explains_arguments
class CosineSchedule(AbstractSchedule):
    """From 1 at t = 0 along half a cosine to `final` at t = `end` (steps/D), and `final` after."""

    smooth = True
    end: Float[Real, "*batch"]
    final: Float[Real, "*batch"]

    def __init__(self, end: Any, final: Any = 0.0):
        self.end = scalar("end", end, above=0.0)
        self.final = scalar("final", final, at_least=0.0)

    @property
    def jumps(self) -> Float[Real, "jumps *lanes"]:
        """The end, where its curvature jumps: the solver's step is to end there as well."""
        return self.end[None]

    @in_float64
    def __call__(self, t):
        """Return the factor at time t."""
        half = 0.5 * (1.0 + jnp.cos(np.pi * jnp.minimum(t / _normal(self.end), 1.0)))
        return self.final + (1.0 - self.final) * half


@explains_arguments
class PowerLawSchedule(AbstractSchedule):
    """(1 + t/start)^(−exponent): 1 at t = 0, a power law for t ≫ `start` (steps/D)."""

    smooth = True
    exponent: Float[Real, "*batch"]
    start: Float[Real, "*batch"]

    def __init__(self, exponent: Any, start: Any = 1.0):
        self.exponent = scalar("exponent", exponent, at_least=0.0)
        self.start = scalar("start", start, above=0.0)

    @in_float64
    def __call__(self, t):
        """Return the factor at time t."""
        return (1.0 + t / _normal(self.start)) ** -self.exponent


class FunctionSchedule(AbstractSchedule):
    """A schedule given as a JAX function t → factor; a new function compiles anew.

    What it does within less than a thousandth of the last time may be passed over, unless it says
    when, in an attribute `jumps`.
    """

    fn: Callable = eqx.field(static=True)

    __getstate__ = portable_state
    __copy__ = __deepcopy__ = itself

    @property
    def jumps(self):
        """Times at which the function says (in an attribute) that it jumps."""
        return getattr(self.fn, "jumps", None)

    @in_float64
    def __call__(self, t):
        """Return the factor at time t."""
        return jnp.asarray(self.fn(t), float)


SCHEDULES = {kind.__name__: kind for kind in (StepSchedule, CosineSchedule, PowerLawSchedule)}


def as_schedule(value: Any) -> Any:
    """Return a schedule (or None, a constant rate) of what a user gave.

    Raises `ValueError` for what can't be called.
    """
    if value is None or (isinstance(value, eqx.Module) and callable(value)):
        return value
    if not callable(value) or isinstance(value, type):
        raise ValueError(
            "`schedule` must be None or a function of t = steps/D that returns the factor of all "
            f"rates, such as odeae.CosineSchedule(end=200), got {shortened(value)}"
        )
    return FunctionSchedule(value)


def jump_times(schedule: Any) -> Real | None:
    """Times at which a schedule jumps, or None."""
    times = getattr(schedule, "jumps", None)
    if times is None:
        return None
    times = array("jumps", times, (None,))
    if times.shape[0] == 0:
        return None
    return times if is_traced(times) else np.unique(times)


def jumps_before(schedule: Any, end: Any) -> Real | None:
    """The times at which a solver starts anew: jumps before `end`, later ones moved beyond it.

    A solver steps over a jump, from the number before it to the one after. Where it ended there,
    its last time would be left out.
    """
    jumps = jump_times(schedule)
    if jumps is None:
        return None
    return jnp.where(jnp.nextafter(jumps, jnp.inf) < end, jumps, 2.0 * end)


def longest_step(schedule: Any, end: Any) -> Any:
    """Longest step for the solver, None for any: it must not pass over what a function does.

    Where the rates vanish nothing but the schedule changes, and no error estimate sees it coming.
    """
    return None if schedule is None or getattr(schedule, "smooth", False) else end / 1000.0


def check_schedule(schedule: Any, end: Any) -> None:
    """Raise `ValueError` for a function that is negative, not finite or no number in 0 … `end`."""
    if schedule is not None and not getattr(schedule, "smooth", False):
        largest_factor(schedule, end)


@in_float64
def largest_factor(schedule: Any, end: Any) -> float:
    """Largest factor over 0 ≤ t ≤ `end`, on a fine grid; 1 for what is traced.

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
        with jax.ensure_compile_time_eval():  # concrete also where something else is traced
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
    """A positive time as one to divide by: compiled code takes subnormal numbers for 0."""
    return jnp.maximum(time, np.finfo(float).tiny)


def _not_negative(name: str, values: Real) -> None:
    if not is_traced(values) and np.any(values < 0):
        i = int(np.argmin(values))
        raise ValueError(f"`{name}` must be zero or positive, got {values[i]:g} at index {i}")
