"""Modes that have decayed to nothing: whether they would have grown again.

In a given mean field a mode is moved by a linear map of its own row (docs/theory.md 4), so what is
left of it decides when it comes back, however little that is. Where a solve has lost a mode (below
the smallest squares of double precision, or below what an implicit solver follows) and the mode's
map has a growing direction afterwards, the curve can't be trusted from then on.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from odeae.model.layout import columns_of, rows_of
from odeae.model.rule import MeanField
from odeae.model.state import Overlaps
from odeae.theory.equations import Equations

# What is lost must grow by this factor to be missed, because rounding makes flat directions grow a
# little, and to this size, below which nobody sees it.
_FACTOR, _SEEN = 10.0, 1e-20


@eqx.filter_jit
def _maps(equations: Equations, total: Overlaps, bias, times):
    """The linear map of every row at every time, (T, N, width, width)."""
    network, rule, width = equations.network, equations.rule, equations.network.width
    unit = rows_of(network, jnp.eye(width))

    def at_time(total, bias, t):
        output = None if total.output is None else total.output.T0[:-1]
        field = MeanField(total.Q1, total.T0, jnp.diagonal(total.R1), output)

        def of_row(rho):
            inputs = dataclasses.replace(equations.inputs, rho=jnp.full(width, rho))
            moved, _, _ = rule.motion(network, inputs, unit, bias, field, rule.factor(t))
            return columns_of(network, moved).T

        return jax.vmap(of_row)(equations.inputs.rho)

    return jax.vmap(at_time)(total, bias, times)


def time_of_regrowth(
    equations: Equations, total: Overlaps, bias, times, sizes, limits
) -> float | None:
    """Last time before a mode that was lost would have grown, None if there is no such mode.

    `total`, `bias`: order parameters and biases at `times` (T,). `sizes` (T, N): largest weight of
    every row there, NaN where the solve did not come. `limits` (N,): below these a row is lost.
    """
    sizes, limits, times = map(np.asarray, (sizes, limits, times))
    lost = np.logical_or.accumulate(sizes < limits, axis=0)
    if not lost.any():
        return None
    maps = np.asarray(_maps(equations, total, bias, times))
    rates = np.zeros(lost.shape)
    places = lost & np.isfinite(maps).all(axis=(-1, -2))
    rates[places] = np.maximum(np.linalg.eigvals(maps[places]).real.max(axis=-1), 0.0)
    # By the trapezoidal rule between times at which it is lost already.
    growth = np.cumsum(0.5 * (rates[1:] + rates[:-1]) * np.diff(times)[:, None] * lost[:-1], axis=0)
    least = np.log(np.maximum(_FACTOR, _SEEN / np.where(limits > 0.0, limits, 1.0)))
    missed = np.flatnonzero((growth > least).any(axis=1))
    if not len(missed):
        return None
    mode = int(np.argmax(growth[missed[0]]))
    first = int(np.argmax(rates[:, mode] > 0.0))  # it may have begun at any time before this one
    return float(times[max(first - 1, 0)])
