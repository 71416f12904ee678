"""Linear autoencoders, exactly: learning curves in closed form, their ends, their optimal rates.

Each neuron sits on one principal component, so that a mode is two numbers, its encoder w and its
decoder u, and learns independently of the other modes. The landscape of all weights is in
`odeae.landscape`.

For readers of Pretorius, Kroon & Kamper (2018), the DAE paper: their w_1, w_2 are w and u, their
λ/τ is η ρ̃, ε/τ is η s²/D, Nγ/τ is κ, with t in steps/D. An argument `decay` is their γ (with N
absorbed): κ/η, or κ/√(η_w η_v) for two rates.

Source: docs/theory.md 7.
"""

from odeae.linear.curves import ModeCurve as ModeCurve
from odeae.linear.curves import aligned_curve as aligned_curve
from odeae.linear.curves import decayed_mode_curve as decayed_mode_curve
from odeae.linear.curves import mode_curve as mode_curve
from odeae.linear.rates import equivalent_decay as equivalent_decay
from odeae.linear.rates import fixed_point as fixed_point
from odeae.linear.rates import mode_loss as mode_loss
from odeae.linear.rates import optimal_rate as optimal_rate
from odeae.linear.rates import optimal_rate_ratio as optimal_rate_ratio
from odeae.results.aligned import AlignedTrajectory

AlignedCurve = AlignedTrajectory  # the name of the result of `aligned_curve`
