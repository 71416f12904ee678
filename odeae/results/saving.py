"""Trajectories in files: everything, bit for bit, as netCDF; the curves alone as CSV."""

import csv
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import numpy as np

from odeae.averages.activation import AbstractActivation
from odeae.averages.activations import CLOSED_FORMS, NAMED_FUNCTIONS
from odeae.averages.activations import activation as named
from odeae.averages.quadrature import Quadrature
from odeae.base.checks import flag
from odeae.base.files import (
    ENDINGS,
    as_path,
    check_ending,
    check_output,
    existing_file,
    seal,
    sealed,
    writing,
)
from odeae.base.messages import nearest, shortened
from odeae.base.status import Status
from odeae.base.version import __version__
from odeae.model.autoencoder import Autoencoder, Weights
from odeae.model.descriptions import activation_name
from odeae.model.problem import Problem
from odeae.model.rule import AbstractRule
from odeae.model.rules import RULES
from odeae.model.schedules import SCHEDULES, FunctionSchedule, as_schedule
from odeae.model.spectrum import Spectrum
from odeae.model.state import (
    Components,
    Densities,
    ModeDensities,
    Modes,
    OrderParameters,
    OutputOverlaps,
    Overlaps,
    State,
)
from odeae.results.checkpoint import Checkpoint
from odeae.results.trajectory import Trajectory

if TYPE_CHECKING:
    import xarray

FORMAT = "odeae trajectory, version 2"


class _Variable(NamedTuple):
    """Where in a Trajectory a variable of a file stands; its dims without those of a batch."""

    path: str
    dims: tuple[str, ...]
    unit: str
    text: str


_OVERLAPS = {
    "Q1": "W Ω Wᵀ/D",
    "R1": "V Ω Wᵀ/D^{3/2}, [k, l] = v_k Ω w_l",
    "T1": "V Ω Vᵀ/D²",
    "T0": "V Vᵀ/D",
    "Q0": "W Wᵀ/D",
}
_ERROR = "variance per input dimension / 2"


def _stored() -> dict[str, _Variable]:
    """All variables that a trajectory is made of: it is saved and loaded by this table alone."""
    pair, mean = ("time", "k", "l"), "of a mode (the mean mode of a bin)"
    rows: dict[str, tuple] = {
        "error": ("error", ("time",), _ERROR, "generalisation error ‖x − x̂‖²/(2D)"),
        "excess": ("above_pca", ("time",), _ERROR, "error above the PCA error of rank K"),
        "test_error": ("test_error", ("time",), _ERROR, "‖x − x̂‖²/(2D) on held-out samples"),
        "bias": ("bias", ("time", "k"), "1", "hidden bias"),
        "status": ("status", (), "1", "how the solve ended"),
        "stop_time": ("stop_time", (), "steps/D", "time that was reached"),
    }
    for part, mode, row in (("spikes", "spike", "spike"), ("bulk", "bin", "row")):
        where = f"order_parameters.{part}"
        for name, text in _OVERLAPS.items():
            rows[f"{name}_{part}"] = (f"{where}.{name}", pair, "1", f"{text}, {part}")
        for name, dim, text in (
            ("R1", "k", "v_0 Ω w_k/D^{3/2}"),
            ("T1", "k_and_output", "v_0 Ω v_k/D², last: v_0 Ω v_0/D²"),
            ("T0", "k_and_output", "v_0·v_k/D, last: |v_0|²/D"),
        ):
            own = (f"{where}.output.{name}", ("time", dim), "1", f"{text}, {part}")
            rows[f"output_{name}_{part}"] = own
        for name, text in (("q", "w wᵀ"), ("r", "u wᵀ"), ("t", "u uᵀ")):
            text, dims = f"density {text} {mean}, u = v/√D, {part}", ("time", mode, "k", "l")
            rows[f"{name}_{part}"] = (f"densities.{part}.{name}", dims, "1", text)
        for when in ("initial", "final"):
            text = f"rows of the {when} state: w = ψ·w_k, u = ψ·v_k/√D and u_0 = ψ·v_0/√D"
            for name in ("encoder", "decoder", "output"):
                dims = (row,) if name == "output" else (row, "k")
                rows[f"{when}_{part}_{name}"] = (f"{when}.{part}.{name}", dims, "1", text)
    for when in ("initial", "final"):
        text = f"Σ w wᵀ that the noise of the steps has added in the {when} state"
        rows[f"{when}_diffusion"] = (f"{when}.diffusion", ("k", "l"), "1", text)
        rows[f"{when}_time"] = (f"{when}.time", (), "steps/D", f"time of the {when} state")
        rows[f"{when}_bias"] = (f"{when}.bias", ("k",), "1", f"hidden biases of the {when} state")
    for name, text in (("encoder", "ψ_i·w_k"), ("decoder", "ψ_i·v_k/√D")):
        text = f"{text}, components by falling eigenvalue"
        dims = ("time", "component", "k")
        rows[f"component_{name}"] = (f"components.{name}", dims, "1", text)
    for name, dims, text in (
        ("encoder", ("k", "mode"), "entries of W at the end"),
        ("decoder", ("k", "mode"), "entries of V at the end"),
        ("output_bias", ("mode",), "entries of the output bias v_0 at the end"),
        ("bias", ("k",), "hidden biases at the end"),
    ):
        rows[f"weights_{name}"] = (f"weights.weights.{name}", dims, "1", text)
    for name, dims, unit, text in (
        ("spikes", ("spike",), "variance/D", "scaled eigenvalue ρ/D of each spike"),
        ("bulk", ("bin",), "variance", "eigenvalue ρ of each bulk bin"),
        ("order", ("mode",), "1", "which eigenvalue, as given, each mode is"),
        ("given", ("mode",), "variance", "eigenvalues ρ as given"),
        ("mean", ("mode",), "√variance", "mean of the inputs"),
        ("basis", ("entry", "mode"), "1", "eigenvectors of the covariance, in columns"),
    ):
        rows[f"spectrum_{name}"] = (f"problem.spectrum.{name}", dims, unit, text)
    return {name: _Variable(*row) for name, row in rows.items()}


_STORED = _stored()

# What a file holds besides, for those who read it without odeae.
_DERIVED = {
    "time": ("steps/D", "time"),
    "error_clean": (_ERROR, "the same on inputs without the noise"),
    "excess": (_ERROR, "error above the PCA error of rank K"),
    **{name: ("1", text) for name, text in _OVERLAPS.items()},
    "overlap_encoder": ("1", "cosine of w_k with principal component i"),
    "overlap_decoder": ("1", "cosine of v_k with principal component i"),
    "within_encoder": ("1", "the same for the part of w_k within the span of the components"),
    "within_decoder": ("1", "the same for the part of v_k within the span of the components"),
    "subspace_encoder": ("1", "share of the first min(K, n) components that W spans"),
    "subspace_decoder": ("1", "share of the first min(K, n) components that V spans"),
    "spectrum_multiplicity": ("1", "modes in each bulk bin"),
}

# Which class the parts of a class have; all their other fields are variables or attributes.
_PARTS: dict[type, dict[str, type]] = {
    Trajectory: {
        "order_parameters": OrderParameters,
        "densities": Densities,
        "components": Components,
        "weights": Checkpoint,
        "initial": State,
        "final": State,
    },
    OrderParameters: {"spikes": Overlaps, "bulk": Overlaps},
    Overlaps: {"output": OutputOverlaps},
    Densities: {"spikes": ModeDensities, "bulk": ModeDensities},
    Checkpoint: {"weights": Weights},
    State: {"spikes": Modes, "bulk": Modes},
}


def to_xarray(trajectory: Trajectory, basis: bool) -> "xarray.Dataset":
    """`Trajectory.to_xarray`."""
    import xarray as xr

    lead, name = trajectory.error.ndim - 1, trajectory._batch_name
    batch = tuple(name if i == 0 else f"{name}_{i}" for i in range(lead))
    data: dict[str, tuple[tuple[str, ...], Any]] = {}
    for name, variable in _STORED.items():
        value = _at(trajectory, variable.path)
        if value is not None and (basis or name != "spectrum_basis"):
            own = np.ndim(value) - len(variable.dims)  # what simulated runs share has no run axis
            data[name] = ((*batch[:own], *variable.dims), value)
    derived: dict[str, tuple[tuple[str, ...], Any]] = {
        name: ((*batch, "time", "k", "l"), getattr(trajectory, name)) for name in _OVERLAPS
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
        unit, text = _STORED[name][2:] if name in data else _DERIVED[name]
        dataset[name].attrs = {"units": unit, "long_name": text}
    dataset["status"].attrs |= {
        "flag_values": [int(s) for s in Status],
        "flag_meanings": " ".join(s.name for s in Status),
    }
    dataset.attrs = {
        "format": FORMAT,
        "odeae_version": __version__,
        "source": trajectory.source,
        "problem": json.dumps(_describe(trajectory.problem)),
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


def save_all(
    path: str | os.PathLike,
    trajectories: dict[str | None, Trajectory],
    overwrite: bool = False,
    *,
    basis: bool = False,
) -> None:
    """Write several trajectories to one file, whole or not at all.

    A name that ends in ".nc" makes a netCDF file with everything, a group for each trajectory,
    which `load(path, group=name)` reads. One that ends in ".csv" makes a table for other programs:
    a row per time, columns `theory_error`, `theory_excess`, `runs_error_0`, …; a cell is empty
    where a curve has no such time.

    Args:
        path: File to be written.
        trajectories: Name → trajectory, such as `{"theory": theory, "runs": runs}`.
        overwrite: Whether an existing file may be replaced.
        basis: Whether netCDF keeps the eigenvectors of the spectrum, D×D doubles per trajectory,
            so that neurons can be drawn in input space after `load`.

    Raises:
        ValueError: For another ending, no trajectories, or names that are no group names.
        OSError: For an existing file (unless `overwrite`), a missing or unwritable folder.

    Example:
        odeae.save_all("both.nc", {"theory": theory, "runs": runs})
    """
    basis, overwrite = flag("basis", basis), flag("overwrite", overwrite)
    if not isinstance(trajectories, dict) or not trajectories:
        got = "none" if isinstance(trajectories, dict) else type(trajectories).__name__
        raise ValueError(
            "save_all takes a file and a dict of trajectories, such as "
            f'save_all("x.nc", {{"theory": theory}}), got {got}'
        )
    for group, trajectory in trajectories.items():
        if not isinstance(trajectory, Trajectory):
            raise ValueError(
                f"save_all takes odeae Trajectories, got {type(trajectory).__name__} for "
                f"{shortened(group)}"
            )
        plain = isinstance(group, str) and group.isprintable() and group.strip(". ")
        if group is not None and not (plain and "/" not in str(group)):
            raise ValueError(
                f"a name of a trajectory must be a word without '/', got {shortened(group)}"
            )
    table = check_ending(check_output(path, overwrite), ENDINGS).suffix.lower() == ".csv"
    if table and basis:
        raise ValueError(f"a CSV file such as {str(path)!r} can't hold a `basis`: save as .nc")
    with writing(path, overwrite) as temporary:
        if table:
            _write_table(temporary, trajectories)
            return
        for i, (group, trajectory) in enumerate(trajectories.items()):
            trajectory.to_xarray(basis=basis).to_netcdf(
                temporary, mode="w" if i == 0 else "a", group=group, engine="h5netcdf"
            )
        seal(temporary)


def _write_table(path: Path, trajectories: dict[str | None, Trajectory]) -> None:
    """One row per time, one column per curve; numbers as Python prints them, exactly."""
    columns: dict[str, dict[float, float]] = {}
    for group, trajectory in trajectories.items():
        times = trajectory.shared_times().tolist()
        for name in ("error", "excess", "error_clean", "test_error"):
            if name == "error_clean" and not np.any(np.asarray(trajectory.problem.noise)):
                continue
            values = getattr(trajectory, name)
            if values is None:
                continue
            values = np.asarray(values)
            for lane in np.ndindex(values.shape[:-1]):
                words = [*([] if group is None else [group]), name, *map(str, lane)]
                curve = zip(times, values[lane].tolist(), strict=True)
                columns["_".join(words)] = dict(curve)
    rows = sorted(set().union(*columns.values()))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["time", *columns])
        writer.writerows([t, *(column.get(t, "") for column in columns.values())] for t in rows)


def load(
    path: str | os.PathLike,
    group: str | None = None,
    activation: Any = None,
    schedule: Any = None,
    rule: Any = None,
) -> Trajectory:
    """Return the `Trajectory` that was saved at `path` (in `group`), bit for bit.

    Args:
        path: A netCDF file of `Trajectory.save` or `save_all`.
        group: Name of the trajectory, for files of `save_all`.
        activation: Needed if the network had a `Quadrature` of a function of your own, which a
            file can't hold.
        schedule: Needed if the schedule was a function of your own.
        rule: Needed if a rule of your own can't be found by its name.

    Activations, rules and schedules that are classes of your own are found by the name of their
    module if your program has imported it: a file that comes from elsewhere imports nothing and
    runs no code. What is given though the file holds it must equal it. Eigenvectors are kept only
    by `save(..., basis=True)`; to simulate on real inputs without, build the spectrum from the data
    again (`weights` go on exactly).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For files that odeae didn't write, that were written in another layout, or
            that are damaged, and for what is needed but not given.

    Example:
        runs = odeae.load("both.nc", group="runs")
    """
    import xarray as xr

    names = _check(path, group)
    if group is None and "" not in names:
        raise ValueError(f"{str(path)!r} holds {', '.join(names)}: pass one of them as group=")
    try:
        with xr.open_dataset(path, group=group, engine="h5netcdf", decode_cf=False) as opened:
            data = opened.load()
        return _trajectory(data, activation, schedule, rule)
    except _Contradiction as error:
        raise ValueError(f"can't read {str(path)!r}: {error}") from error


class _Contradiction(Exception):
    """The content of a file is not what its layout says."""


def groups(path: str | os.PathLike) -> list[str]:
    """Names of the trajectories that `save_all` wrote into one file; [] for one of its own.

    Raises the errors of `load` for files that odeae can't read.
    """
    return [name for name in _check(path, None) if name]


def _check(path: str | os.PathLike, group: str | None) -> list[str]:
    """Names of the trajectories of a file, "" for one of its own, if `group` is one of them."""
    if as_path("path", path).suffix == ".zarr":
        raise ValueError(f"{str(path)!r} is the store of a sweep: open it by odeae.open_sweep")
    file = existing_file("path", path)
    text = repr(str(file))
    if group is not None and not isinstance(group, str):
        raise ValueError(f"`group` must be the name of a trajectory, got {shortened(group)}")
    if file.suffix.lower() == ".csv":
        raise ValueError(f"{text} is a table for other programs: load reads files saved as .nc")
    whole = sealed(path)
    if whole is False:
        raise ValueError(
            f"{text} is damaged: its checksum is not that of what odeae wrote; take a copy of it "
            "or compute it again"
        )
    found = _attributes(path)
    if not found:
        raise ValueError(f"{text} holds no odeae trajectory")
    about = next(iter(found.values()))
    if about.get("format") != FORMAT:
        by = about.get("odeae_version", "before 0.1.0")
        raise ValueError(
            f"{text} has another layout, {about.get('format', 'version 1')!r} of odeae {by}, than "
            f"this odeae {__version__} reads, {FORMAT!r}: read it with odeae {by} or compute "
            "it again"
        )
    if whole is None:
        raise ValueError(
            f"{text} was changed or cut off after odeae wrote it: its last line, a checksum, is "
            "missing; take a copy of it or compute it again"
        )
    names = [name for name in found if name]
    if group is not None and group not in names:
        if not names:
            raise ValueError(f"{text} has no groups, such as {shortened(group)}: leave out `group`")
        raise ValueError(f"no group {shortened(group)} in {text}{nearest(group, names)}")
    return list(found)


def _attributes(path: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """The attributes of each trajectory in a file, by its group, "" for one of its own."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            parts = {"": file} | {n: x for n, x in file.items() if isinstance(x, h5py.Group)}
            found = {name: dict(part.attrs) for name, part in parts.items()}
    except Exception as error:  # HDF5 has an error of another kind for every part of a file
        raise ValueError(f"can't read {str(path)!r} as netCDF: {error}") from error
    return {name: attributes for name, attributes in found.items() if "problem" in attributes}


def _trajectory(data: "xarray.Dataset", activation: Any, schedule: Any, rule: Any) -> Trajectory:
    about = data.attrs
    besides = {"time", "spectrum_multiplicity", *about["derived"].split()}
    names = [name for name in map(str, data.variables) if name not in besides]
    unknown = [name for name in names if name not in _STORED]
    if unknown:
        raise _Contradiction(f"this odeae knows no variables {', '.join(unknown)}")
    values = {_STORED[name].path: data[name].values for name in names}
    counts = tuple(int(m) for m in data["spectrum_multiplicity"].values)
    fields = [f.name for f in dataclasses.fields(Spectrum) if f.name != "multiplicity"]
    own = {name: values.pop(f"problem.spectrum.{name}", None) for name in fields}
    spectrum = _unchecked(Spectrum, multiplicity=counts, **own)
    problem = _problem(json.loads(about["problem"]), spectrum, activation, schedule, rule)
    lead = np.shape(values["error"])[: int(about["time_axes"]) - 1]
    times = data["time"].values
    values |= {
        "times": np.broadcast_to(times, (*lead, *times.shape)).copy(),
        "problem": problem,
        "source": about["source"],
        "settings": about["settings"],
    }
    if "checkpoint" in about:
        scalars = json.loads(about["checkpoint"])
        values |= {f"weights.{name}": value for name, value in scalars.items()}
    result = _assembled(Trajectory, "", values)
    if values:
        raise _Contradiction(f"this odeae knows no {', '.join(values)}")
    return result


def _assembled(kind: type, where: str, values: dict[str, Any]) -> Any:
    """An object of the values whose paths begin with `where`; None if there are none.

    Takes what it uses out of `values`.
    """
    if dataclasses.is_dataclass(kind):
        default = {f.name: f.default for f in dataclasses.fields(kind)}
        needed = {name for name, value in default.items() if value is dataclasses.MISSING}
    else:  # Weights, a NamedTuple
        default = dict.fromkeys(Weights._fields)
        needed = set(default) - set(Weights._field_defaults)
    parts, found = _PARTS.get(kind, {}), {}
    for name in default:
        if name in parts:
            value = _assembled(parts[name], f"{where}{name}.", values)
        else:
            value = values.pop(f"{where}{name}", None)
        if value is not None:
            found[name] = value
    missing = [f"{where}{name}" for name in default if name in needed and name not in found]
    if found and missing:
        raise _Contradiction(f"it lacks {', '.join(missing)}")
    if not found:
        return None
    return kind(**found) if kind is Weights else _unchecked(kind, **(default | found))


# A problem but its spectrum, as JSON. A number or a list of numbers is an array of float64, which
# is what a problem consists of; what else a class of the user's own may hold says what it is.

_NAMES: dict[type, str] = {
    kind: name for kinds in (CLOSED_FORMS, RULES, SCHEDULES) for name, kind in kinds.items()
}
_OWN_FUNCTION = "own function"


def _describe(problem: Problem) -> dict[str, Any]:
    """All of a problem but its spectrum, in JSON's types."""
    network = problem.autoencoder
    return {
        "hidden": network.hidden,
        "activation": _encoded(network.activation),
        "tied": network.tied,
        "bias": network.bias,
        "output_bias": network.output_bias,
        "gain": _encoded(network.gain),
        "rule": _encoded(problem.rule),
        "noise": _encoded(problem.noise),
    }


def _encoded(value: Any) -> Any:
    """A value in JSON's types, from which `_decoded` makes the same again."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float) and not isinstance(value, np.generic):
        return {"python": value}
    if isinstance(value, tuple | list):
        return {type(value).__name__: [_encoded(item) for item in value]}
    if isinstance(value, Quadrature):
        name = activation_name(value)
        known = {"name": name, "scale": value.scale, "q_max": value.q_max}
        return known | ({"function": _name(value.fn)} if name == _OWN_FUNCTION else {})
    if isinstance(value, FunctionSchedule):
        return {"name": _OWN_FUNCTION, "function": _name(value.fn)}
    if isinstance(value, eqx.Module):
        fields = {f.name: _encoded(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if type(value) in _NAMES:
            return {"name": _NAMES[type(value)]} | fields
        return {"name": _name(type(value)), "fields": fields}
    if hasattr(value, "dtype") and np.dtype(value.dtype).kind in "fiub":
        array = np.asarray(value)
        if array.dtype == np.float64 and array.size:
            return array.tolist()
        values = array.ravel().tolist()
        return {"dtype": array.dtype.str, "shape": list(array.shape), "values": values}
    return {"name": _OWN_FUNCTION, "function": _name(value)}


def _name(thing: Any) -> str:
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{kind.__module__}:{kind.__qualname__}"


class _NotHeld(Exception):
    """What a file can't hold, or what isn't found here: the user is to give it."""


def _decoded(config: Any, base: type = eqx.Module) -> Any:
    """The value that `_encoded` described. Values were checked when they were saved."""
    if config is None or isinstance(config, bool | str):
        return config
    if not isinstance(config, dict):
        return np.asarray(config, np.float64)
    if "python" in config:
        return config["python"]
    if "dtype" in config:
        return np.asarray(config["values"], config["dtype"]).reshape(config["shape"])
    for kind in (tuple, list):
        if kind.__name__ in config:
            return kind(_decoded(item) for item in config[kind.__name__])
    fields = dict(config)
    name = fields.pop("name")
    if name == _OWN_FUNCTION:
        raise _NotHeld(
            f"a function of your own, {config['function']}, which no file holds: pass it"
        )
    if name in NAMED_FUNCTIONS:
        return Quadrature(NAMED_FUNCTIONS[name], **fields)
    known = {text: kind for kind, text in _NAMES.items()}
    kind = known.get(name)
    if kind is None:
        kind, fields = _own_class(name, base), config["fields"]
    if set(fields) != {f.name for f in dataclasses.fields(kind)}:
        raise _NotHeld(f"of a class {name} that had other fields, {', '.join(fields)}: pass it")
    return _unchecked(kind, **{key: _decoded(value) for key, value in fields.items()})


def _own_class(name: str, base: type) -> type:
    """The class of this name, in a module that this process has imported already."""
    module, _, path = name.partition(":")
    if module not in sys.modules:
        raise _NotHeld(f"of a class of your own, {name}: import {module} first, or pass it")
    found: Any = sys.modules[module]
    for part in path.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise _NotHeld(f"of a class of your own, {name}, which isn't there: pass it")
    return found


def _bare(config: Any) -> Any:
    """A description without the places of classes and functions, which may have moved."""
    if isinstance(config, list):
        return [_bare(item) for item in config]
    if not isinstance(config, dict):
        return config
    own = {key: _bare(value) for key, value in config.items() if key != "function"}
    if isinstance(config.get("name"), str):
        own["name"] = config["name"].rpartition(":")[2]
    return own


def _given(what: str, config: Any, given: Any, base: type, example: str) -> Any:
    """What the file holds, or else what `load` was given for it, which must fit the file."""
    if given is None:
        try:
            return _decoded(config, base)
        except _NotHeld as error:
            raise ValueError(
                f"the {what} of this trajectory was {error}, as load(..., {example})"
            ) from error
    if what != "schedule" and not isinstance(given, base):
        raise ValueError(f"`{what}` must be as in load(..., {example}), got {shortened(given)}")
    old, new = (json.dumps(_bare(x), sort_keys=True) for x in (config, _encoded(given)))
    if old != new:
        raise ValueError(
            f"the {what} of this trajectory is {old}, but load was given {new}: leave it out, or "
            "give the one it was computed with"
        )
    return given


def _problem(
    config: dict[str, Any], spectrum: Spectrum, activation: Any, schedule: Any, rule: Any
) -> Problem:
    names = {f.name for kind in (Autoencoder, Problem) for f in dataclasses.fields(kind)}
    wanted = names - {"spectrum", "autoencoder"}
    if set(config) != wanted:
        raise _Contradiction(f"its problem must have {sorted(wanted)}, got {sorted(config)}")
    network = _unchecked(
        Autoencoder,
        **{name: config[name] for name in ("hidden", "tied", "bias", "output_bias")},
        activation=_given(
            "activation",
            config["activation"],
            named(activation) if isinstance(activation, str) else activation,
            AbstractActivation,
            "activation=odeae.Quadrature(fn)",
        ),
        gain=_decoded(config["gain"]),
    )
    kind = config["rule"]
    if rule is None:
        # the schedule may have to be given, also for a rule that the file holds
        fields = kind.get("fields", kind)
        planned = _given(
            "schedule", fields["schedule"], as_schedule(schedule), eqx.Module, "schedule=fn"
        )
        bare = {**fields, "schedule": None}
        kind = {**kind, "fields": bare} if "fields" in kind else bare
        rule = _given("rule", kind, None, AbstractRule, "rule=...")
        object.__setattr__(rule, "schedule", planned)
    else:
        rule = _given("rule", kind, rule, AbstractRule, "rule=...")
    noise = _decoded(config["noise"])
    return _unchecked(Problem, spectrum=spectrum, autoencoder=network, rule=rule, noise=noise)


def _unchecked(cls: type, **fields: Any) -> Any:
    """An object of values that were checked when they were saved; lanes have an extra axis."""
    result = object.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(result, name, value)
    return result
