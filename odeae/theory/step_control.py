"""Step control: how large the error of a step may be, in every entry of the rows."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp

# What counts as nothing: a product of two such numbers is no normal number of double precision.
SMALLEST = 1e-150
# Rounding of a rate of change, relative to the terms that it is a sum of, and of the solution of an
# implicit step's linear system.
ROUNDING, ROUNDING_IMPLICIT = 16.0 * 2.0**-52, 1024.0 * 2.0**-52


def max_norm(y):
    """Return the largest entry, infinite if there is a NaN."""
    # An RMS norm would be diluted by the passive rows of the bulk. NaN must count as infinite:
    # the next step would be NaN too, and no step after it would ever be accepted.
    return jnp.max(jnp.where(jnp.isnan(y), jnp.inf, jnp.abs(y)))


def tolerance(size, around, rtol, atol, rounding=ROUNDING):
    """Error that a step may make in entries of absolute value `size`.

    Relative to the entry itself: a mode that has decayed grows again from what is left of it, so an
    absolute tolerance, however small, ends some plateau too early. Besides `atol` only what
    rounding adds anyway is allowed, of which `around` is the scale (`Equations.surroundings`).
    """
    return atol + rtol * size + rounding * around


def pid(rtol, atol, end, longest) -> diffrax.PIDController:
    """Return diffrax's step control up to time `end`, with no step above `longest`."""
    # The smallest step is only there to end a solve whose every step is NaN. Coefficients: at
    # equal error 15 % faster than diffrax's default, as hardly a step is rejected.
    return diffrax.PIDController(
        rtol=rtol, atol=atol, norm=max_norm, pcoeff=0.4, icoeff=0.3,
        dtmin=1e-100 * end, force_dtmin=False, dtmax=longest,
    )  # fmt: skip


class StepControl(diffrax.AbstractAdaptiveStepSizeController):
    """diffrax's step control with the tolerance of `tolerance`.

    `around`: a function of args and absolute values of the unknowns, their scale for rounding.
    """

    rtol: Any
    atol: Any
    end: Any
    longest: Any
    around: Callable = eqx.field(static=True)
    rounding: float = eqx.field(static=True, default=ROUNDING)
    norm: Callable = eqx.field(static=True, default=max_norm)
    error_order: Any = eqx.field(static=True, default=None)

    def wrap(self, direction):
        """Return itself: time runs forwards."""
        return self

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        """Return the end of the first step, and the state of the control."""
        y0 = jax.lax.stop_gradient(y0)
        # An entry that begins at 0 has no scale of its own yet; that of its surroundings is as
        # good, since a first step that is too long is tried again.
        size = jnp.abs(y0)
        scale = self.atol + self.rtol * (size + self.around(args, size))
        control = pid(0.0, scale, self.end, self.longest)
        return control.init(terms, t0, t1, y0, dt0, args, func, error_order)

    def adapt_step_size(
        self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state
    ):
        """Return whether the step is kept, the next one, and the state of the control."""
        # Not to be differentiated: diffrax stops derivatives of its factor, too, and the
        # derivative of a maximum or root at 0 times 0 would be NaN.
        y0, y1, y_error, args = jax.lax.stop_gradient((y0, y1_candidate, y_error, args))
        size = jnp.maximum(jnp.abs(y0), jnp.abs(y1))
        around = self.around(args, size)
        scaled = y_error / tolerance(size, around, self.rtol, self.atol, self.rounding)
        zero = jnp.zeros_like(scaled)
        control = pid(0.0, 1.0, self.end, self.longest)
        return control.adapt_step_size(
            t0, t1, zero, zero, args, scaled, error_order, controller_state
        )
