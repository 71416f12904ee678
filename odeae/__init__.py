"""Exact learning curves of shallow non-linear autoencoders, from a covariance spectrum.

`predict` integrates the closed equations of the order parameters of online SGD; `simulate` runs
SGD at finite D in the same normalisation; `compare` states how far they are apart. See README.md.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from odeae import landscape, linear, workers
    from odeae.activations import I2, I3, I21, I22, J2, Erf, Linear, Quadrature, ReLU
    from odeae.aligned import AlignedTrajectory, best_decoder, predict_aligned, residual
    from odeae.autoencoder import Autoencoder, Weights
    from odeae.comparison import Comparison, compare
    from odeae.ensembles import ensemble
    from odeae.gaussian import bvn_cdf
    from odeae.images import neurons, plot_neurons
    from odeae.initial import aligned_state, draw_weights, random_state, state_from_weights
    from odeae.inputs import image_patches, natural_patches
    from odeae.mode_dynamics import (
        ModeDynamics,
        estimate_mode_map,
        mode_map,
        mode_map_of_weights,
        plot_mode_dynamics,
    )
    from odeae.plotting import plot, plot_spectrum, plot_sweep
    from odeae.power_laws import LocalSlopes, PowerLaw, fit_power_law, local_slopes
    from odeae.prediction import predict
    from odeae.problem import Problem
    from odeae.regime import RegimeWarning, finite_size
    from odeae.rosenbrock import Rodas4
    from odeae.rules import SGD, Hebb, Oja, Sanger
    from odeae.saving import load, save_all
    from odeae.schedules import CosineSchedule, PowerLawSchedule, StepSchedule
    from odeae.sequential import Plateau, plateaus, plot_plateaus
    from odeae.simulation import simulate
    from odeae.spectrum import Spectrum
    from odeae.stability import Directions, FixedPoint, FixedPointStatus, fixed_points
    from odeae.state import Densities, Modes, OrderParameters, State
    from odeae.store import open_sweep
    from odeae.sweeps import sweep
    from odeae.trajectory import Checkpoint, Status, Trajectory, log_times

# Names are imported at first use, so that `odeae --help` doesn't wait for JAX. No module may have
# the name of a function (predict lives in prediction): importing it would hide the function.
_HOME = {
    "activations": "Erf ReLU Linear Quadrature J2 I2 I21 I22 I3",
    "aligned": "AlignedTrajectory best_decoder predict_aligned residual",
    "autoencoder": "Autoencoder Weights",
    "comparison": "Comparison compare",
    "ensembles": "ensemble",
    "gaussian": "bvn_cdf",
    "images": "neurons plot_neurons",
    "initial": "aligned_state draw_weights random_state state_from_weights",
    "inputs": "image_patches natural_patches",
    "mode_dynamics": "ModeDynamics estimate_mode_map mode_map mode_map_of_weights"
    " plot_mode_dynamics",
    "plotting": "plot plot_spectrum plot_sweep",
    "power_laws": "LocalSlopes PowerLaw fit_power_law local_slopes",
    "prediction": "predict",
    "problem": "Problem",
    "regime": "RegimeWarning finite_size",
    "rosenbrock": "Rodas4",
    "rules": "SGD Hebb Oja Sanger",
    "saving": "load save_all",
    "schedules": "CosineSchedule PowerLawSchedule StepSchedule",
    "sequential": "Plateau plateaus plot_plateaus",
    "simulation": "simulate",
    "spectrum": "Spectrum",
    "stability": "Directions FixedPoint FixedPointStatus fixed_points",
    "state": "Densities Modes OrderParameters State",
    "store": "open_sweep",
    "sweeps": "sweep",
    "trajectory": "Checkpoint Status Trajectory log_times",
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
