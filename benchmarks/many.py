"""Many curves: a grid of problems, what is exact for each, and odeint at a given error.

K = M = 3, erf, t = 200, 200 times: `lr_encoder` × `weight_decay` × starts, beside a decoder's rate
of 1. Independent of the package.
"""

from typing import NamedTuple

import baselines
import numpy as np

DIM = 1000
TOLERANCES = 10.0 ** -np.arange(4.0, 10.1, 0.25)


class Grid(NamedTuple):
    """Values (n,) of each curve, the curves, and their errors (n, T) at `times` at rtol 1e-12."""

    lr_encoder: np.ndarray
    weight_decay: np.ndarray
    seed: np.ndarray
    curves: list
    times: np.ndarray
    exact: np.ndarray

    def gap(self, errors):
        """Largest deviation from exact over the times, median over the curves."""
        return np.median(np.abs(errors - self.exact).max(axis=1))

    def sample(self, n):
        """`n` of the curves, picked at random (the same ones each time)."""
        which = np.random.default_rng(0).permutation(len(self.curves))[:n]
        values = (column[which] for column in self[:3])
        curves = [self.curves[i] for i in which]
        return Grid(*values, curves, self.times, self.exact[which])


def grid(pool, rates=10, decays=10, seeds=10):
    """rates × decays × seeds problems, and `odeint`'s errors at rtol 1e-12.

    These agree with DOP853 at rtol 1e-13 to 5e-12.
    """
    times = np.geomspace(1e-2, 200.0, 200)
    axes = np.geomspace(0.3, 3.0, rates), np.linspace(0.0, 0.05, decays), np.arange(seeds)
    values = [axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")]
    starts = [start(seed) for seed in range(seeds)]
    curves = [
        baselines.Curve(*starts[seed], lr_encoder=rate, decay=decay)
        for rate, decay, seed in zip(*values, strict=True)
    ]
    exact = baselines.odeint_many(pool, curves, times, rtol=1e-12, atol=1e-14)
    return Grid(*values, curves, times, exact)


def start(seed):
    """ρ̃, rows w and u, and tr Ω/D of start `seed` of the grid."""
    return baselines.random_start(baselines.SPIKES, 1.0, DIM, hidden=3, std=0.1, seed=seed)


def nearest(tolerances, errors, target):
    """Return the tolerance whose error is nearest to `target`, by ratio, and that error."""
    best = int(np.argmin(np.abs(np.log(np.array(errors) / target))))
    return tolerances[best], errors[best]


def odeint_at(pool, part, target):
    """Solver of all curves of `part` by odeint on the pool, at median error `target`.

    Returns a function without arguments that gives errors (n, T), its tolerance and its error.
    """

    few = part.sample(100)

    def solve(some, rtol):
        return baselines.odeint_many(pool, some.curves, some.times, rtol, rtol * 1e-2)

    rtol, _ = nearest(TOLERANCES, [few.gap(solve(few, rtol)) for rtol in TOLERANCES], target)
    return lambda: solve(part, rtol), rtol, part.gap(solve(part, rtol))
