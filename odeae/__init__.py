"""Exact learning curves of shallow non-linear autoencoders, from a covariance spectrum.

`predict` integrates the closed equations of the order parameters of online SGD; `simulate` runs
SGD at finite D in the same normalisation; `compare` states how far they are apart. See README.md.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from odeae import landscape, linear
    from odeae.analysis.compare import Comparison, compare
    from odeae.analysis.fixed_points import Directions, FixedPoint, FixedPointStatus, fixed_points
    from odeae.analysis.mode_map import (
        ModeDynamics,
        estimate_mode_map,
        mode_map,
        mode_map_of_weights,
        plot_mode_dynamics,
    )
    from odeae.analysis.plateaus import Plateau, plateaus, plot_plateaus
    from odeae.analysis.power_laws import LocalSlopes, PowerLaw, fit_power_law, local_slopes
    from odeae.averages.activations import I2, I3, I21, I22, J2, Erf, Linear, Quadrature, ReLU
    from odeae.averages.special import bvn_cdf
    from odeae.data.inputs import image_patches, natural_patches
    from odeae.model.autoencoder import Autoencoder, Weights
    from odeae.model.initial import aligned_state, draw_weights, random_state, state_from_weights
    from odeae.model.problem import Problem
    from odeae.model.rules import SGD, Hebb, Oja, Sanger
    from odeae.model.schedules import CosineSchedule, PowerLawSchedule, StepSchedule
    from odeae.model.spectrum import Spectrum
    from odeae.model.state import Densities, Modes, OrderParameters, State
    from odeae.plotting.curves import plot, plot_spectrum, plot_sweep
    from odeae.plotting.neurons import neurons, plot_neurons
    from odeae.results.saving import load, save_all
    from odeae.results.trajectory import Checkpoint, Status, Trajectory, log_times
    from odeae.simulation.sgd import simulate
    from odeae.sweeps import workers
    from odeae.sweeps.store import open_sweep
    from odeae.sweeps.sweep import sweep
    from odeae.theory.aligned import AlignedTrajectory, best_decoder, predict_aligned, residual
    from odeae.theory.ensemble import ensemble
    from odeae.theory.predict import predict
    from odeae.theory.regime import RegimeWarning, finite_size
    from odeae.theory.rosenbrock import Rodas4

# Names are imported at first use, so that `odeae --help` doesn't wait for JAX. No module may have
# the name of a function (predict lives in prediction): importing it would hide the function.
_HOME = {
    "averages.activations": "Erf ReLU Linear Quadrature J2 I2 I21 I22 I3",
    "theory.aligned": "AlignedTrajectory best_decoder predict_aligned residual",
    "model.autoencoder": "Autoencoder Weights",
    "analysis.compare": "Comparison compare",
    "theory.ensemble": "ensemble",
    "averages.special": "bvn_cdf",
    "plotting.neurons": "neurons plot_neurons",
    "model.initial": "aligned_state draw_weights random_state state_from_weights",
    "data.inputs": "image_patches natural_patches",
    "analysis.mode_map": "ModeDynamics estimate_mode_map mode_map mode_map_of_weights"
    " plot_mode_dynamics",
    "plotting.curves": "plot plot_spectrum plot_sweep",
    "analysis.power_laws": "LocalSlopes PowerLaw fit_power_law local_slopes",
    "theory.predict": "predict",
    "model.problem": "Problem",
    "theory.regime": "RegimeWarning finite_size",
    "theory.rosenbrock": "Rodas4",
    "model.rules": "SGD Hebb Oja Sanger",
    "results.saving": "load save_all",
    "model.schedules": "CosineSchedule PowerLawSchedule StepSchedule",
    "analysis.plateaus": "Plateau plateaus plot_plateaus",
    "simulation.sgd": "simulate",
    "model.spectrum": "Spectrum",
    "analysis.fixed_points": "Directions FixedPoint FixedPointStatus fixed_points",
    "model.state": "Densities Modes OrderParameters State",
    "sweeps.store": "open_sweep",
    "sweeps.sweep": "sweep",
    "results.trajectory": "Checkpoint Status Trajectory log_times",
}
_MODULE = {name: module for module, names in _HOME.items() for name in names.split()}
_WHOLE = (
    "landscape",
    "linear",
    "workers",
)  # used by their own names, as odeae.linear.aligned_curve

__version__ = "0.1.0"
__all__ = [
    "I2",
    "I3",
    "I21",
    "I22",
    "J2",
    "SGD",
    "AlignedTrajectory",
    "Autoencoder",
    "Checkpoint",
    "Comparison",
    "CosineSchedule",
    "Densities",
    "Directions",
    "Erf",
    "FixedPoint",
    "FixedPointStatus",
    "Hebb",
    "Linear",
    "LocalSlopes",
    "ModeDynamics",
    "Modes",
    "Oja",
    "OrderParameters",
    "Plateau",
    "PowerLaw",
    "PowerLawSchedule",
    "Problem",
    "Quadrature",
    "ReLU",
    "RegimeWarning",
    "Rodas4",
    "Sanger",
    "Spectrum",
    "State",
    "Status",
    "StepSchedule",
    "Trajectory",
    "Weights",
    "aligned_state",
    "best_decoder",
    "bvn_cdf",
    "compare",
    "draw_weights",
    "ensemble",
    "estimate_mode_map",
    "finite_size",
    "fit_power_law",
    "fixed_points",
    "image_patches",
    "landscape",
    "linear",
    "load",
    "local_slopes",
    "log_times",
    "mode_map",
    "mode_map_of_weights",
    "natural_patches",
    "neurons",
    "open_sweep",
    "plateaus",
    "plot",
    "plot_mode_dynamics",
    "plot_neurons",
    "plot_plateaus",
    "plot_spectrum",
    "plot_sweep",
    "predict",
    "predict_aligned",
    "random_state",
    "residual",
    "save_all",
    "simulate",
    "state_from_weights",
    "sweep",
    "workers",
]


def __getattr__(name: str):
    if name in _WHOLE:
        return importlib.import_module(f"odeae.{name}")
    if name not in _MODULE:
        raise AttributeError(f"module 'odeae' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"odeae.{_MODULE[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*__all__, "__version__"})
