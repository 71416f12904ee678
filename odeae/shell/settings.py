"""One table of settings for the shell and for TOML files, and what is built from them."""

import dataclasses
import operator
import re
import tomllib
from pathlib import Path
from typing import Any

from odeae.base.files import existing_file
from odeae.base.messages import nearest, one_of, shortened


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting: `--name` in the shell, `name = …` under `[section]` in a TOML file.

    One of type dict is a table in the file, and NAME=VALUE pairs in the shell.
    """

    name: str
    section: str
    type: type
    help: str
    default: Any = None
    metavar: str | None = None

    @property
    def key(self) -> str:
        """The name as a Python identifier and TOML key."""
        return self.name.replace("-", "_")


def _table(section: str, *rows: tuple) -> list[Setting]:
    return [Setting(name, section, kind, text, *rest) for name, kind, text, *rest in rows]


SPECTRUM = _table(
    "spectrum",
    ("spikes", str, "Spikes, eigenvalue/D each, over an isotropic bulk: 1,0.6,0.3.", None, "LIST"),
    ("dim", int, "Input dimension D (with --spikes and --power-law)."),
    ("bulk", float, "With --spikes: eigenvalue of the other D − M modes \\[1]."),
    ("power-law", float, "Eigenvalues falling as rank^(−EXPONENT).", None, "EXPONENT"),
    ("data", str, "Data file (rows, D): .npy, .npz (or .npz:KEY), .csv or .txt.", None, "FILE"),
    ("covariance", str, "File with a covariance matrix (D, D).", None, "FILE"),
    ("eigenvalues", str, "File with the D eigenvalues.", None, "FILE"),
    ("n-spikes", int, "Modes that are followed one by one; default: the outliers."),
    ("bins", int, "Bins for the other modes \\[32]."),
)
NETWORK = _table(
    "autoencoder",
    ("hidden", int, "Hidden neurons K.", 3),
    ("activation", str, "erf, relu, linear, tanh or gelu.", "erf", "NAME"),
    ("tied", bool, "One weight vector per neuron for encoder and decoder.", False),
    ("gain", float, "Fixed factor between tied weights, w = gain v/√D.", 1.0),
    ("bias", bool, "Hidden biases, trained.", False),
    ("output-bias", bool, "A trained vector added to the output.", False),
    ("noise", float, "Variance s² of noise on the inputs, but not the targets.", 0.0),
)
RULE = _table(
    "rule",
    ("rule", str, "sgd; oja, sanger, hebb (with --activation linear --tied).", "sgd", "NAME"),
    ("lr", float, "Learning rate η; time is steps/D.", 1.0),
    ("lr-encoder", float, "Rate of the encoder, instead of η (0 freezes it)."),
    ("lr-decoder", float, "Rate of the decoder, instead of η."),
    ("lr-bias", float, "Rate of the biases, instead of η."),
    ("weight-decay", float, "Weight decay κ (κ/D per step).", 0.0),
    ("truncated", bool, "Neuron k learns from the output of neurons ≤ k alone.", False),
    ("gradient", str, "For tied weights: full, or encoder or decoder alone.", "full", "PATH"),
    (
        "schedule",
        str,
        "Factor of all rates: step:50=0.1,100=0.01, cosine:END or power-law:EXPONENT,START.",
        None,
        "KIND:…",
    ),
)
STATE = _table(
    "state",
    ("encoder-std", float, "Standard deviation of the initial encoder weights \\[0.1]."),
    ("decoder-std", float, "Standard deviation of the initial decoder weights.", 0.1),
    ("initial-bias", float, "Initial value of every bias.", 0.0),
    ("seed", int, "Seed of initial weights and of SGD \\[0]."),
)
TIMES = _table(
    "times",
    ("end", float, "Last time, in steps/D \\[100]."),
    ("start", float, "First time after 0 \\[end/10⁴, but 0.1 at most]."),
    ("count", int, "Number of log-spaced times, with 0 \\[200; with runs 30]."),
    ("times", str, "These times instead: 0,1,10,100.", None, "LIST"),
)
SOLVE = _table(
    "solve",
    ("rtol", float, "Relative tolerance of the solver.", 1e-6),
    ("atol", float, "Absolute tolerance; default: from the initial state."),
    ("max-steps", int, "Step budget, explicit and implicit steps together.", 100_000),
    ("diffusion", bool, "Follow the noise of SGD's steps (for --noise of order D).", False),
)
ENSEMBLE = _table(
    "ensemble",
    ("members", int, "Predict from this many random starts: their mean and a band."),
)
RUNS = _table(
    "simulate",
    ("runs", int, "Independent runs \\[8]."),
    ("inputs", str, "gaussian, or data: the rows of --data.", "gaussian", "KIND"),
    ("once", bool, "Go through the data once instead of drawing with replacement.", False),
    ("test-samples", int, "Held-out samples per run \\[500]."),
    ("resume", str, "Go on from the runs saved in this file.", None, "FILE.nc"),
)
OUTPUT = _table(
    "output",
    ("output", str, "Save everything to this netCDF file.", None, "FILE.nc"),
    ("plot", str, "Draw the curve(s) into this picture.", None, "FILE.png"),
    ("plot-overlaps", str, "Draw overlaps with principal components into this.", None, "FILE.png"),
    ("overwrite", bool, "Replace existing output files.", False),
)
SWEEP_OUTPUT = [s for s in OUTPUT if s.key != "plot_overlaps"]
SWEEP = _table(
    "sweep",
    (
        "grid",
        dict,
        "Sweep a setting, repeated: lr=0.1,0.3,1 or weight_decay=1e-4:1e-1:20:log or seed=0:9 "
        "(FROM:TO:COUNT, of whole numbers every one). In the file: the table \\[sweep.grid].",
        None,
        "NAME=VALUES",
    ),
    ("zip", bool, "Take the values side by side instead of crossing them.", False),
    ("save", str, "Store these too: excess,error_clean,Q1,R1,T1,T0,Q0,bias.", None, "LIST"),
    ("store", str, "Fill this folder chunk by chunk; run again to go on.", None, "FOLDER.zarr"),
    ("chunk", int, "Curves that are computed and stored at once; default: by their kind."),
    ("workers", int, "Compute in this many processes of this machine."),
    ("devices", bool, "Compute in one process per accelerator of this machine.", False),
    ("dask", str, "Compute on the workers of the Dask scheduler tcp://HOST:PORT.", None, "ADDRESS"),
    (
        "slurm",
        dict,
        "Compute in SLURM jobs, with submitit's parameters: slurm_partition=gpu,timeout_min=60, "
        "and folder=… for jobs and logs \\[odeae-slurm]; cluster=local to try it out.",
        None,
        "KEY=VALUE,…",
    ),
    ("progress", bool, "A bar on stderr; default: at a terminal."),
)
COMMON = [*SPECTRUM, *NETWORK, *RULE, *STATE, *TIMES]


def read(path: str | None, settings: list[Setting], flags: dict[str, Any]) -> dict[str, Any]:
    """Merge defaults, the TOML file at `path` and the flags that were given, the last winning.

    Raises `FileNotFoundError`, or `ValueError` for malformed TOML, unknown sections and keys (with
    the nearest known one) and values of a wrong type.
    """
    values = {s.key: s.default for s in settings}
    given = {key: value for key, value in flags.items() if value is not None}
    if path is not None:
        if not path.strip():
            raise ValueError("the name of the file of settings must not be empty")
        values |= _read_toml(existing_file("config", path), settings)
    for s in settings:
        if s.type is dict and s.key in given:
            given[s.key] = (values[s.key] or {}) | _pairs(s, given[s.key])
    if any(key in given for key in _PLACES):
        values |= {s.key: s.default for s in settings if s.key in _PLACES}  # as for times
    for key in (given.get("grid") or values.get("grid") or {}).keys() & given:
        raise ValueError(f"`{key}` is swept, and also given a value: give one of the two")
    if "times" in values and given.keys() & {"start", "end", "count"}:
        values["times"] = None  # the flags ask for other times than the file
    merged = values | given
    for s in settings:
        value = merged[s.key]
        if s.type is str and isinstance(value, str) and not value.strip():
            raise ValueError(f"`{s.key}` must not be empty: give it a value or leave it out")
    return merged


def _read_toml(path: Path, settings: list[Setting]) -> dict[str, Any]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a mark
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        hint = "" if path.suffix == ".toml" else " (did you mean --data?)"
        raise ValueError(f"can't read {str(path)!r} as TOML: {error}{hint}") from error
    # one file may serve all commands: settings of another command are known, but not used here
    known = {s.section: {} for s in ALL}
    for s in ALL:
        known[s.section][s.key] = s
    used = {(s.section, s.key) for s in settings}
    values = {}
    for section, table in tables.items():
        if section not in known:
            home = next((s.section for s in ALL if s.key == section), None)
            hint = f": put it under [{home}]" if home else nearest(section, known)
            raise ValueError(f"{path}: unknown section [{section}]{hint}")
        if not isinstance(table, dict):
            raise ValueError(
                f"{path}: {section} must be a section, [{section}], got {shortened(table)}"
            )
        for key, value in table.items():
            if key not in known[section]:
                hint = nearest(key, known[section])
                raise ValueError(f"{path}: unknown key {shortened(key)} in [{section}]{hint}")
            value = _typed(known[section][key], value, path)
            if (section, key) in used:
                values[key] = value
    return values


def _typed(setting: Setting, value: Any, path: Path) -> Any:
    if isinstance(value, list) and setting.metavar == "LIST":
        return value
    if setting.type is dict:
        if isinstance(value, dict):
            return value
        table = f"[{setting.section}.{setting.key}]"
        raise ValueError(f"{path}: {setting.key} must be a table, {table}, got {shortened(value)}")
    integer = isinstance(value, int) and not isinstance(value, bool)
    good = {
        int: integer or (isinstance(value, float) and value.is_integer()),
        float: integer or isinstance(value, float),
        bool: isinstance(value, bool),
        str: isinstance(value, str),
    }[setting.type]
    if not good:
        want = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
        raise ValueError(
            f"{path}: `{setting.key}` in [{setting.section}] must be {want[setting.type]}, got "
            f"{shortened(value)}"
        )
    try:
        return setting.type(value)
    except OverflowError:
        raise ValueError(
            f"{path}: `{setting.key}` in [{setting.section}] is too large, {shortened(value)}"
        ) from None


ALL = [*COMMON, *SOLVE, *ENSEMBLE, *RUNS, *SWEEP, *OUTPUT]
_PLACES = ("workers", "devices", "dask", "slurm")


def _pairs(setting: Setting, texts: list[str]) -> dict[str, str]:
    """The NAME=VALUE pairs of a flag that may be repeated; commas may stand between pairs."""
    pairs = {}
    for text in texts:
        for part in re.split(r",(?=[A-Za-z][\w-]*=)", text):
            name, equal, value = part.partition("=")
            key = name.strip().replace("-", "_")
            if not (key and equal):
                raise ValueError(
                    f"--{setting.name} must be {setting.metavar}, got {shortened(part)}"
                )
            if key in pairs:
                raise ValueError(f"--{setting.name} gives {shortened(key)} twice")
            pairs[key] = value.strip()
    return pairs


def numbers(name: str, value: Any) -> list[float]:
    """Return a list of numbers from a TOML list or from text such as 1,0.6,0.3."""
    parts = value.replace(",", " ").split() if isinstance(value, str) else value
    try:
        return [float(part) for part in parts]
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"`{name}` must be numbers such as 1,0.6,0.3, got {shortened(value)}"
        ) from None


# What each source of a spectrum takes beside itself.
_SOURCES = {
    "spikes": ("dim", "bulk"),
    "power_law": ("dim", "n_spikes", "bins"),
    "data": ("n_spikes", "bins"),
    "covariance": ("n_spikes", "bins"),
    "eigenvalues": ("n_spikes", "bins"),
}


def build_spectrum(values: dict[str, Any], read: dict | None = None) -> Any:
    """Return the `Spectrum` that the settings describe.

    `read`: eigenvalues of files that were read before, by (source, file); of such a file there is
    no basis.

    Raises `ValueError` unless there is exactly one source, and for settings that it
    doesn't take.
    """
    from odeae.data.inputs import read_array
    from odeae.model.spectrum import Spectrum

    def flag(name: str) -> str:
        return "--" + name.replace("_", "-")

    given = [name for name in _SOURCES if values[name] is not None]
    if len(given) != 1:
        flags, got = ", ".join(map(flag, _SOURCES)), " and ".join(map(flag, given)) or "none"
        raise ValueError(f"a spectrum needs exactly one of {flags}, got {got}")
    source = given[0]
    for name in ("dim", "bulk", "n_spikes", "bins"):
        if values[name] is not None and name not in _SOURCES[source]:
            raise ValueError(f"{flag(name)} has no meaning beside {flag(source)}")
    options = {name: values[name] for name in ("n_spikes", "bins") if values[name] is not None}
    if "n_spikes" in options:
        options["spikes"] = options.pop("n_spikes")
    if source in ("spikes", "power_law"):
        if values["dim"] is None:
            raise ValueError(f"{flag(source)} needs --dim, the input dimension D")
        if source == "power_law":
            return Spectrum.power_law(values["dim"], values["power_law"], **options)
        bulk = {} if values["bulk"] is None else {"bulk": values["bulk"]}
        return Spectrum.spiked(numbers("spikes", values["spikes"]), values["dim"], **bulk)
    known = (read or {}).get((source, values[source]))
    if known is not None:
        return Spectrum.from_eigenvalues(known, **options)
    build = {
        "data": Spectrum.from_data,
        "covariance": Spectrum.from_covariance,
        "eigenvalues": Spectrum.from_eigenvalues,
    }
    return build[source](read_array(values[source]), **options)


def build_problem(values: dict[str, Any], read: dict | None = None) -> Any:
    """Return the `Problem` that the settings describe; `read` as in `build_spectrum`.

    Raises `ValueError` for settings that the rule doesn't take.
    """
    from odeae.model.autoencoder import Autoencoder
    from odeae.model.problem import Problem
    from odeae.model.rules import RULES

    parts = {s.key: values[s.key] for s in NETWORK if s.key != "noise"}
    kinds = {name.lower(): rule for name, rule in RULES.items()}
    name = one_of("rule", values["rule"].lower(), kinds)
    own = [s for s in RULE if s.key != "rule"]
    if name != "sgd":
        for s in own:
            if s.key not in _OF_EVERY_RULE and values[s.key] != s.default:
                raise ValueError(f"--{s.name} has no meaning beside --rule {name}")
        own = [s for s in own if s.key in _OF_EVERY_RULE]
    settings = {s.key: values[s.key] for s in own}
    settings["schedule"] = build_schedule(values["schedule"])
    network = Autoencoder(**parts)
    rule, spectrum = kinds[name](**settings), build_spectrum(values, read)
    return Problem(spectrum, network, rule, noise=values["noise"])


_OF_EVERY_RULE = ("lr", "weight_decay", "schedule")


def build_schedule(text: str | None) -> Any:
    """Return the schedule of a text such as cosine:200, None for none.

    Raises `ValueError` for an unknown kind and for numbers that don't fit it.
    """
    from odeae.model.schedules import CosineSchedule, PowerLawSchedule, StepSchedule

    if text is None:
        return None
    kind, _, rest = text.partition(":")
    one_of("schedule", kind, ["step", "cosine", "power-law"])
    if kind == "step":
        pairs = [part.partition("=") for part in rest.split(",")]
        if not all(equal for _, equal, _ in pairs):
            raise ValueError(
                f"`schedule` must be like step:50=0.1,100=0.01 (time=factor), got {shortened(text)}"
            )
        times, factors = ([pair[i] for pair in pairs] for i in (0, 2))
        return StepSchedule(numbers("schedule", times), numbers("schedule", factors))
    given = numbers("schedule", rest)
    if len(given) not in (1, 2):
        want = "cosine:END or cosine:END,FINAL" if kind == "cosine" else "power-law:EXPONENT,START"
        raise ValueError(f"`schedule` must be like {want}, got {shortened(text)}")
    return CosineSchedule(*given) if kind == "cosine" else PowerLawSchedule(*given)


def build_state(values: dict[str, Any], problem: Any) -> Any:
    """Return the random initial state that the settings describe."""
    from odeae.model.initial import random_state

    return random_state(problem, **start(values))


def start(values: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `random_state` (and of `ensemble`)."""
    return {
        "encoder_std": values["encoder_std"],
        "decoder_std": values["decoder_std"],
        "bias": values["initial_bias"],
        "seed": 0 if values["seed"] is None else values["seed"],
    }


def build_times(values: dict[str, Any], count: int, dim: int | None = None) -> Any:
    """Return the save times; with `dim`, whole steps of that D."""
    import numpy as np

    from odeae.base.times import log_times, save_times

    if values["times"] is None:
        end = 100.0 if values["end"] is None else values["end"]
        count = count if values["count"] is None else values["count"]
        return log_times(end, count, values["start"], dim)
    times = save_times(numbers("times", values["times"]))
    return times if dim is None else np.unique(np.round(times * dim)) / dim


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


def whole(value: Any) -> int:
    """A whole number of a file, or of a text such as 1000 or 1e9; raises `ValueError`."""
    if isinstance(value, str):
        value = float(value) if "e" in value.lower() else int(value)
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError
        return int(value)
    return operator.index(value)


def _value(setting: Setting, value: Any) -> Any:
    """One swept value in the setting's type, from a file's value or the text of a flag."""
    if setting.metavar == "LIST":  # a text, so that it can label a curve
        return ",".join(f"{number:g}" for number in numbers(setting.key, value))
    plain = isinstance(value, str)
    bools = {"true": True, "yes": True, "false": False, "no": False}
    try:
        if setting.type is bool:
            return value if isinstance(value, bool) else bools[value.lower()]
        if isinstance(value, bool) or (setting.type is str and not plain):
            raise ValueError
        if setting.type is int:
            return whole(value)
        return setting.type(value)
    except (AttributeError, KeyError, TypeError, ValueError):
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


def build_pool(values: dict[str, Any]) -> Any:
    """Return the pool that computes, not yet open, or None for this process.

    Raises `ValueError` for more than one, and for parameters that don't fit.
    """
    given = [n for n in _PLACES if not (values[n] is None or values[n] is False)]
    if len(given) > 1:
        raise ValueError(f"give only one of {', '.join('--' + name for name in given)}")
    if not given:
        return None
    from odeae.base.checks import whole
    from odeae.sweeps import workers

    if given == ["workers"]:
        return workers.process_pool(whole("workers", values["workers"]))
    if given == ["devices"]:
        return workers.device_pool()
    if given == ["dask"]:
        return workers.dask_pool(values["dask"])
    parameters = {key: _plain(value) for key, value in values["slurm"].items()}
    return workers.slurm_pool(str(parameters.pop("folder", "odeae-slurm")), **parameters)


def _plain(value: Any) -> Any:
    """A number, true or false if the text of a flag is one."""
    for kind in (int, float):
        try:
            return kind(value) if isinstance(value, str) else value
        except ValueError:
            pass
    return {"true": True, "false": False}.get(value.lower(), value)
