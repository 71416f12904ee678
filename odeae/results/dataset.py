"""A trajectory as an xarray.Dataset."""

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from odeae.base.version import __version__
from odeae.results.restoring import described_problem
from odeae.results.saving import FORMAT
from odeae.results.trajectory import Trajectory
from odeae.results.variables import OVERLAPS, STORED, attributes

if TYPE_CHECKING:
    import xarray


def to_xarray(trajectory: Trajectory, basis: bool) -> "xarray.Dataset":
    """`Trajectory.to_xarray`."""
    import xarray as xr

    lead, name = trajectory.error.ndim - 1, trajectory.batch_name
    batch = tuple(name if i == 0 else f"{name}_{i}" for i in range(lead))
    data: dict[str, tuple[tuple[str, ...], Any]] = {}
    for name, variable in STORED.items():
        value = _at(trajectory, variable.path)
        if value is not None and (basis or name != "spectrum_basis"):
            own = np.ndim(value) - len(variable.dims)  # what simulated runs share has no run axis
            lead_dims = batch or ("run",)  # of weights, which one run keeps
            data[name] = ((*lead_dims[:own], *variable.dims), value)
    derived: dict[str, tuple[tuple[str, ...], Any]] = {
        name: ((*batch, "time", "k", "l"), getattr(trajectory, name)) for name in OVERLAPS
    }
    if "excess" not in data:
        derived["excess"] = ((*batch, "time"), trajectory.excess)
    if np.any(np.asarray(trajectory.problem.noise)):
        derived["error_clean"] = ((*batch, "time"), trajectory.error_clean)
    if trajectory.components is not None:
        overlaps, dims = trajectory.overlaps, (*batch, "time", "k", "component")
        for name in ("encoder", "decoder"):
            derived[f"overlap_{name}"] = (dims, getattr(overlaps, name))
            derived[f"within_{name}"] = (dims, getattr(overlaps, f"{name}_within"))
            share = getattr(overlaps, f"subspace_{name}")
            derived[f"subspace_{name}"] = ((*batch, "time"), share)
    counts = np.asarray(trajectory.problem.spectrum.multiplicity, np.int64)
    derived["spectrum_multiplicity"] = (("bin",), counts)
    dataset = xr.Dataset(
        {name: (dims, np.asarray(values)) for name, (dims, values) in (data | derived).items()},
        coords={"time": trajectory.shared_times()},
    )
    for name in map(str, dataset.variables):
        dataset[name].attrs = attributes(name)
    dataset.attrs = {
        "format": FORMAT,
        "odeae_version": __version__,
        "source": trajectory.source,
        "problem": json.dumps(described_problem(trajectory.problem)),
        "settings": trajectory.settings,
        "derived": " ".join(derived),
        "time_axes": np.ndim(trajectory.times),
        "reference": "Refinetti & Goldt, ICML 2022, arXiv:2201.02115",
    }
    if trajectory.weights is not None:
        dataset.attrs["checkpoint"] = json.dumps(_scalars(trajectory.weights, ("weights",)))
    return dataset


def _at(tree: Any, path: str) -> Any:
    """The value at a path such as "initial.bulk.encoder", None where there is none."""
    for name in path.split("."):
        tree = getattr(tree, name, None)
    return tree


def _scalars(module: Any, others: tuple[str, ...]) -> dict[str, Any]:
    names = [f.name for f in dataclasses.fields(module) if f.name not in others]
    return {name: getattr(module, name) for name in names}
