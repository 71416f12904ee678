"""One table of settings for the shell and for TOML files, and what is built from them."""

import dataclasses
import operator
import re
import tomllib
from pathlib import Path
from typing import Any

from odeae.base.files import existing_file
from odeae.base.messages import nearest, shortened


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
    if any(key in given for key in PLACES):
        values |= {s.key: s.default for s in settings if s.key in PLACES}  # as for times
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
    place = f"{path}: `{setting.key}` in [{setting.section}]"
    try:
        if isinstance(value, str) != (setting.type is str):
            raise TypeError
        return as_type(setting.type, value)
    except OverflowError:
        raise ValueError(f"{place} is too large, {shortened(value)}") from None
    except (TypeError, ValueError):
        want = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
        raise ValueError(f"{place} must be {want[setting.type]}, got {shortened(value)}") from None


def as_type(kind: type, value: Any) -> Any:
    """A value of a file, or of the text of a flag, as a bool, whole number, number or text.

    Raises `ValueError`, `TypeError` or `OverflowError` for what is none.
    """
    if kind is bool and isinstance(value, str):
        value = {"true": True, "yes": True, "false": False, "no": False}.get(value.lower())
    if isinstance(value, bool) != (kind is bool) or (kind is str and not isinstance(value, str)):
        raise TypeError
    return whole(value) if kind is int else kind(value)


ALL = [*COMMON, *SOLVE, *ENSEMBLE, *RUNS, *SWEEP, *OUTPUT]
PLACES = ("workers", "devices", "dask", "slurm")


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


def whole(value: Any) -> int:
    """A whole number of a file, or of a text such as 1000 or 1e9; raises `ValueError`."""
    if isinstance(value, str):
        value = float(value) if "e" in value.lower() else int(value)
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError
        return int(value)
    return operator.index(value)
