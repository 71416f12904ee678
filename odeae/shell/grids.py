"""Settings become the grid of a sweep, and the pool that solves it."""

import dataclasses
from typing import Any

from odeae.base.messages import nearest, one_of, shortened
from odeae.shell.builders import build_problem, build_spectrum, build_state
from odeae.shell.settings import NETWORK, PLACES, RULE, SPECTRUM, STATE, Setting, as_type, numbers

SWEPT = {s.key: s for s in [*SPECTRUM, *NETWORK, *RULE, *STATE]}


def build_grid(values: dict[str, Any]) -> dict[str, list]:
    """Return the values of every swept setting, each of the setting's own type.

    Raises `ValueError` for settings that can't be swept and for values that don't fit.
    """
    if not values["grid"]:
        raise ValueError("nothing to sweep: give --grid NAME=VALUES or a table [sweep.grid]")
    grid = {}
    for name, given in values["grid"].items():
        if name not in SWEPT:
            raise ValueError(f"can't sweep {shortened(name)}{nearest(name, SWEPT)}")
        grid[name] = _swept(SWEPT[name], given)
    return grid


def _swept(setting: Setting, given: Any) -> list:
    """The values of a swept setting, from the text of a flag or a list or table of the file."""
    numeric = setting.type in (int, float)
    if isinstance(given, str):
        parts = [part.strip() for part in given.split(":")]
        if numeric and len(parts) > 1:
            if len(parts) > 4 or (len(parts) == 4 and parts[3] != "log"):
                raise ValueError(
                    f"a range of `{setting.key}` must be FROM:TO:COUNT, FROM:TO:COUNT:log or, of "
                    f"whole numbers, FROM:TO, got {shortened(given)}"
                )
            keys = ("from", "to", "count", "log")
            given = dict(zip(keys, parts[:3], strict=False)) | {"log": len(parts) == 4}
        else:  # values with commas of their own are parted by semicolons
            own = ";" if ";" in given or setting.metavar == "LIST" else ","
            given = [part.strip() for part in given.split(own) if part.strip()]
    if isinstance(given, dict) and numeric:
        return _range(setting, given)
    if not isinstance(given, list):
        table = " or a table with from, to and count" if numeric else ""
        raise ValueError(
            f"`{setting.key}` must be swept over a list{table}, got {shortened(given)}"
        )
    if not given:
        raise ValueError(f"`{setting.key}` must be swept over at least one value, got none")
    return [_value(setting, value) for value in given]


def _value(setting: Setting, value: Any) -> Any:
    """One swept value in the setting's type, from a file's value or the text of a flag."""
    if setting.metavar == "LIST":  # a text, so that it can label a curve
        return ",".join(f"{number:g}" for number in numbers(setting.key, value))
    try:
        return as_type(setting.type, value)
    except (TypeError, ValueError):
        want = {int: "whole numbers", float: "numbers", bool: "true or false", str: "texts"}
        raise ValueError(
            f"`{setting.key}` must be swept over {want[setting.type]}, got {shortened(value)}"
        ) from None


_MOST = 10**7  # values of a range, which are held in memory


def _range(setting: Setting, table: dict[str, Any]) -> list:
    """The values of { from, to, count, log }, and of whole numbers every one of { from, to }."""
    import numpy as np

    name, integer = setting.key, setting.type is int
    for key in table:
        one_of(f"key of the range of {name}", key, ["from", "to", "count", "log"])
    log = table.get("log", False)
    needed = ("from", "to") if integer else ("from", "to", "count")
    if missing := [key for key in needed if key not in table]:
        raise ValueError(f"a range of `{name}` must say {', '.join(missing)} as well")
    if not isinstance(log, bool):
        raise ValueError(
            f"`log` of the range of `{name}` must be true or false, got {shortened(log)}"
        )
    if integer and (log or "count" in table):
        raise ValueError(
            f"a range of `{name}` holds every whole number from … to: give a list for fewer"
        )
    first, last = (_value(setting, table[key]) for key in ("from", "to"))
    if not (np.isfinite(first) and np.isfinite(last) and first < last):
        raise ValueError(f"a range of `{name}` must be finite and go up, got {first:g} to {last:g}")
    if integer and last - first >= _MOST:
        raise ValueError(
            f"a range of `{name}` must hold at most {_MOST} values, got {last - first + 1}"
        )
    if integer:
        return list(range(first, last + 1))
    count = _value(Setting(f"count of the range of {name}", "", int, ""), table["count"])
    if not 2 <= count <= _MOST:
        raise ValueError(f"a range of `{name}` must have a count from 2 to {_MOST}, got {count}")
    if log and first <= 0:
        raise ValueError(f"a range of `{name}` with log must be positive, got {first:g}")
    return (np.geomspace if log else np.linspace)(first, last, count).tolist()


@dataclasses.dataclass
class Build:
    """`build(**swept)` of a sweep: problem and state of `values`, in which some are swept.

    Files are read where this is made, once, and only their eigenvalues are sent to workers.
    """

    values: dict[str, Any]
    read: dict[tuple[str, str], Any]

    @classmethod
    def of(cls, values: dict[str, Any], grid: dict[str, list]) -> "Build":
        """Read the files that any point of the grid needs."""
        read = {}
        for source in ("data", "covariance", "eigenvalues"):
            for path in grid.get(source, [values[source]]):
                if path is not None:
                    alone = dict.fromkeys(SWEPT) | {source: path}
                    read[source, path] = build_spectrum(alone).given
        return cls({key: values[key] for key in SWEPT}, read)

    def __call__(self, **swept: Any) -> tuple[Any, Any]:
        """Return problem and state at one point of the grid; its numbers may be traced."""
        values = self.values | swept
        problem = build_problem(values, self.read)
        return problem, build_state(values, problem)


def build_pool(values: dict[str, Any]) -> dict[str, Any]:
    """Return where to compute, as an argument of `sweep`; of a pool, one that isn't open yet.

    Raises `ValueError` for more than one, and for parameters that don't fit.
    """
    given = [n for n in PLACES if not (values[n] is None or values[n] is False)]
    if len(given) > 1:
        raise ValueError(f"give only one of {', '.join('--' + name for name in given)}")
    if given in ([], ["workers"]):
        return {"workers": values["workers"]}
    from odeae.sweeps import workers

    if given == ["slurm"]:
        parameters = {key: _plain(value) for key, value in values["slurm"].items()}
        folder = str(parameters.pop("folder", "odeae-slurm"))
        return {"executor": workers.slurm_pool(folder, **parameters)}
    pool = workers.device_pool() if given == ["devices"] else workers.dask_pool(values["dask"])
    return {"executor": pool}


def _plain(value: Any) -> Any:
    """A number, true or false if the text of a flag is one."""
    for kind in (int, float):
        try:
            return kind(value) if isinstance(value, str) else value
        except ValueError:
            pass
    return {"true": True, "false": False}.get(value.lower(), value)
