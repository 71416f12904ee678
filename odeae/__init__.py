"""Exact learning curves of shallow non-linear autoencoders, from a covariance spectrum.

`predict` integrates the closed equations of the order parameters of online SGD; `simulate` runs
SGD at finite D in the same normalisation; `compare` states how far they are apart. See README.md.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from odeae.activations import I2, I3, I21, I22, J2, Erf, Linear, Quadrature, ReLU
    from odeae.autoencoder import Autoencoder, Weights
    from odeae.comparison import Comparison, compare
    from odeae.ensembles import ensemble
    from odeae.gaussian import bvn_cdf
    from odeae.initial import aligned_state, draw_weights, random_state, state_from_weights
    from odeae.plotting import plot, plot_sweep
    from odeae.prediction import predict
    from odeae.problem import Problem
    from odeae.rules import SGD, Hebb, Oja, Sanger
    from odeae.schedules import CosineSchedule, PowerLawSchedule, StepSchedule
    from odeae.simulation import simulate
    from odeae.spectrum import Spectrum
    from odeae.state import Densities, Modes, OrderParameters, State
    from odeae.sweeps import sweep
    from odeae.trajectory import Checkpoint, Status, Trajectory, load, log_times, save_all

# Names are imported at first use, so that `odeae --help` doesn't wait for JAX. No module may have
# the name of a function (predict lives in prediction): importing it would hide the function.
_HOME = {
    "activations": "Erf ReLU Linear Quadrature J2 I2 I21 I22 I3",
    "autoencoder": "Autoencoder Weights",
    "comparison": "Comparison compare",
    "ensembles": "ensemble",
    "gaussian": "bvn_cdf",
    "initial": "aligned_state draw_weights random_state state_from_weights",
    "plotting": "plot plot_sweep",
    "prediction": "predict",
    "problem": "Problem",
    "rules": "SGD Hebb Oja Sanger",
    "schedules": "CosineSchedule PowerLawSchedule StepSchedule",
    "simulation": "simulate",
    "spectrum": "Spectrum",
    "state": "Densities Modes OrderParameters State",
    "sweeps": "sweep",
    "trajectory": "Checkpoint Status Trajectory load log_times save_all",
}
_MODULE = {name: module for module, names in _HOME.items() for name in names.split()}

__version__ = "0.1.0"
__all__ = [
    "I2",
    "I3",
    "I21",
    "I22",
    "J2",
    "SGD",
    "Autoencoder",
    "Checkpoint",
    "Comparison",
    "CosineSchedule",
    "Densities",
    "Erf",
    "Hebb",
    "Linear",
    "Modes",
    "Oja",
    "OrderParameters",
    "PowerLawSchedule",
    "Problem",
    "Quadrature",
    "ReLU",
    "Sanger",
    "Spectrum",
    "State",
    "Status",
    "StepSchedule",
    "Trajectory",
    "Weights",
    "aligned_state",
    "bvn_cdf",
    "compare",
    "draw_weights",
    "ensemble",
    "load",
    "log_times",
    "plot",
    "plot_sweep",
    "predict",
    "random_state",
    "save_all",
    "simulate",
    "state_from_weights",
    "sweep",
]


def __getattr__(name: str):
    if name not in _MODULE:
        raise AttributeError(f"module 'odeae' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"odeae.{_MODULE[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*__all__, "__version__"})
