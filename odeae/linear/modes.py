"""The numbers of linear modes: checks of the arguments, and the error of a mode."""

import numpy as np

from odeae.base.checks import broadcast, finite, numbers
from odeae.base.precision import ArrayLike, Real, is_traced


def mode_arguments(**given: ArrayLike) -> list[Real]:
    """Return arguments as arrays of one shape; check the sign of those whose name implies one."""
    values = {name: numbers(name, value) for name, value in given.items()}
    for name, value in values.items():
        if is_traced(value):
            continue
        finite(name, value)
        if name in ("encoder", "decoder") and np.any(np.abs(value) > 1e50):
            raise ValueError(f"`{name}` must be at most 1e50 in size: squares of squares overflow")
        positive = name.startswith("lr_")
        bad = value <= 0 if positive else value < 0
        if name not in ("encoder", "decoder", "product") and np.any(bad):
            want = "positive (the closed form has no frozen part)" if positive else "≥ 0"
            raise ValueError(f"`{name}` must be {want}, got {float(np.min(value)):g}")
    return broadcast(**values)


def refuse_zero(eigenvalue: Real) -> None:
    """Raise `ValueError` for a concrete eigenvalue of 0."""
    if not is_traced(eigenvalue) and np.any(eigenvalue == 0):
        raise ValueError("`eigenvalue` must be positive, got 0: such a mode has nothing to learn")


def mode_error(p: Real, lam: Real, eps: Real) -> Real:
    """Return ½λ(1 − p)² + ½εp², the error of a mode of product p."""
    return 0.5 * lam * (1.0 - p) ** 2 + 0.5 * eps * p**2
