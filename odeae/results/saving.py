"""Trajectories in files: everything, bit for bit, as netCDF; the curves alone as CSV."""

import csv
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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
from odeae.base.version import __version__
from odeae.model.spectrum import Spectrum
from odeae.results.aligned import AlignedTrajectory
from odeae.results.restoring import Contradiction, restored_problem, unchecked
from odeae.results.trajectory import Trajectory
from odeae.results.variables import ARGUMENTS, PARTS, STORED

if TYPE_CHECKING:
    import xarray

    from odeae.averages.activation import AbstractActivation
    from odeae.model.rule import AbstractRule

    OwnActivation = str | AbstractActivation
    OwnSchedule = Callable[[Any], Any]
    OwnRule = AbstractRule
else:  # what is neither is refused in words, not by a type checker of the tests
    OwnActivation = OwnSchedule = OwnRule = Any

FORMAT = "odeae trajectory, version 2"


def save_all(
    path: str | os.PathLike[str],
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
    path: str | os.PathLike[str],
    group: str | None = None,
    activation: OwnActivation | None = None,
    schedule: OwnSchedule | None = None,
    rule: OwnRule | None = None,
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
    except Contradiction as error:
        raise ValueError(f"can't read {str(path)!r}: {error}") from error


def groups(path: str | os.PathLike[str]) -> list[str]:
    """Names of the trajectories that `save_all` wrote into one file; [] for one of its own.

    Raises the errors of `load` for files that odeae can't read.
    """
    return [name for name in _check(path, None) if name]


def _check(path: str | os.PathLike[str], group: str | None) -> list[str]:
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


def _attributes(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
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
    unknown = [name for name in names if name not in STORED]
    if unknown:
        raise Contradiction(f"this odeae knows no variables {', '.join(unknown)}")
    values = {STORED[name].path: data[name].values for name in names}
    counts = tuple(int(m) for m in data["spectrum_multiplicity"].values)
    fields = [f.name for f in dataclasses.fields(Spectrum) if f.name != "multiplicity"]
    own = {name: values.pop(f"problem.spectrum.{name}", None) for name in fields}
    spectrum = unchecked(Spectrum, multiplicity=counts, **own)
    problem = restored_problem(json.loads(about["problem"]), spectrum, activation, schedule, rule)
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
    kind = AlignedTrajectory if "encoder" in values else Trajectory
    result = _assembled(kind, "", values)
    if values:
        raise Contradiction(f"this odeae knows no {', '.join(values)}")
    return result


def _assembled(kind: type, where: str, values: dict[str, Any]) -> Any:
    """An object of the values whose paths begin with `where`; None if there are none.

    Takes what it uses out of `values`.
    """
    if kind in ARGUMENTS:
        needed, optional = ARGUMENTS[kind]
        default = dict.fromkeys((*needed, *optional))
    else:
        default = {f.name: f.default for f in dataclasses.fields(kind)}
        needed = {name for name, value in default.items() if value is dataclasses.MISSING}
    parts, found = PARTS.get(kind, {}), {}
    for name in default:
        if name in parts:
            value = _assembled(parts[name], f"{where}{name}.", values)
        else:
            value = values.pop(f"{where}{name}", None)
        if value is not None:
            found[name] = value
    missing = [f"{where}{name}" for name in default if name in needed and name not in found]
    if found and missing:
        raise Contradiction(f"it lacks {', '.join(missing)}")
    if not found:
        return None
    return kind(**found) if kind in ARGUMENTS else unchecked(kind, **(default | found))
