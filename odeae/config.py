"""One table of settings for the shell and for TOML files, and what is built from them."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from odeae.words import nearest, one_of


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting: `--name` in the shell, `name = …` under `[section]` in a TOML file."""

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
    ("dim", int, "Input dimension D (for --spikes and --power-law)."),
    ("bulk", float, "Eigenvalue of the other D − M modes, for --spikes \\[1]."),
    ("power-law", float, "Eigenvalues falling as rank^(−EXPONENT).", None, "EXPONENT"),
    ("data", str, "Data file (rows, D): .npy, .npz, .csv or .txt.", None, "FILE"),
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
    ("count", int, "Number of log-spaced times, from end/10⁴, and 0 \\[200; with runs 30]."),
    ("times", str, "These times instead: 0,1,10,100.", None, "LIST"),
)
SOLVE = _table(
    "solve",
    ("rtol", float, "Relative tolerance of the solver.", 1e-6),
    ("atol", float, "Absolute tolerance; default: from the initial state."),
    ("max-steps", int, "Step budget of the solver.", 100_000),
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
    ("test-samples", int, "Held-out samples per run.", 500),
    ("resume", str, "Go on from the runs saved in this file.", None, "FILE.nc"),
)
OUTPUT = _table(
    "output",
    ("output", str, "Save everything to this netCDF file.", None, "FILE.nc"),
    ("plot", str, "Draw the curve(s) into this picture.", None, "FILE.png"),
    ("plot-overlaps", str, "Draw overlaps with principal components into this.", None, "FILE.png"),
    ("overwrite", bool, "Replace existing output files.", False),
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
        values |= _read_toml(Path(path), settings)
    if "times" in values and ("end" in given or "count" in given):
        values["times"] = None  # the flags ask for other times than the file
    return values | given


def _read_toml(path: Path, settings: list[Setting]) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
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
            raise ValueError(f"{path}: {section} must be a section, [{section}], got {table!r}")
        for key, value in table.items():
            if key not in known[section]:
                hint = nearest(key, known[section])
                raise ValueError(f"{path}: unknown key {key!r} in [{section}]{hint}")
            value = _typed(known[section][key], value, path)
            if (section, key) in used:
                values[key] = value
    return values


def _typed(setting: Setting, value: Any, path: Path) -> Any:
    if isinstance(value, list) and setting.metavar == "LIST":
        return value
    whole = isinstance(value, int) and not isinstance(value, bool)
    good = {
        int: whole,
        float: whole or isinstance(value, float),
        bool: isinstance(value, bool),
        str: isinstance(value, str),
    }[setting.type]
    if not good:
        want = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
        raise ValueError(
            f"{path}: `{setting.key}` in [{setting.section}] must be {want[setting.type]}, got "
            f"{value!r}"
        )
    return setting.type(value)


ALL = [*COMMON, *SOLVE, *ENSEMBLE, *RUNS, *OUTPUT]


def numbers(name: str, value: Any) -> list[float]:
    """Return a list of numbers from a TOML list or from text such as 1,0.6,0.3."""
    parts = value.replace(",", " ").split() if isinstance(value, str) else value
    try:
        return [float(part) for part in parts]
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` must be numbers such as 1,0.6,0.3, got {value!r}") from None


# What each source of a spectrum takes beside itself.
_SOURCES = {
    "spikes": ("dim", "bulk"),
    "power_law": ("dim", "n_spikes", "bins"),
    "data": ("n_spikes", "bins"),
    "covariance": ("n_spikes", "bins"),
    "eigenvalues": ("n_spikes", "bins"),
}


def build_spectrum(values: dict[str, Any]) -> Any:
    """Return the `Spectrum` that the settings describe.

    Raises `ValueError` unless there is exactly one source, and for settings it doesn't take.
    """
    from odeae.inputs import read_array
    from odeae.spectrum import Spectrum

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
    build = {
        "data": Spectrum.from_data,
        "covariance": Spectrum.from_covariance,
        "eigenvalues": Spectrum.from_eigenvalues,
    }
    return build[source](read_array(values[source]), **options)


def build_problem(values: dict[str, Any]) -> Any:
    """Return the `Problem` that the settings describe.

    Raises `ValueError` for settings that the rule doesn't take.
    """
    from odeae.autoencoder import Autoencoder
    from odeae.problem import Problem
    from odeae.rules import RULES

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
    return Problem(build_spectrum(values), network, kinds[name](**settings), noise=values["noise"])


_OF_EVERY_RULE = ("lr", "weight_decay", "schedule")


def build_schedule(text: str | None) -> Any:
    """Return the schedule of a text such as cosine:200, None for none.

    Raises `ValueError` for an unknown kind and for numbers that don't fit it.
    """
    from odeae.schedules import CosineSchedule, PowerLawSchedule, StepSchedule

    if text is None:
        return None
    kind, _, rest = text.partition(":")
    one_of("schedule", kind, ["step", "cosine", "power-law"])
    if kind == "step":
        pairs = [part.partition("=") for part in rest.split(",")]
        if not all(equal for _, equal, _ in pairs):
            raise ValueError(
                f"`schedule` must be like step:50=0.1,100=0.01 (time=factor), got {text!r}"
            )
        times, factors = ([pair[i] for pair in pairs] for i in (0, 2))
        return StepSchedule(numbers("schedule", times), numbers("schedule", factors))
    given = numbers("schedule", rest)
    if len(given) not in (1, 2):
        want = "cosine:END or cosine:END,FINAL" if kind == "cosine" else "power-law:EXPONENT,START"
        raise ValueError(f"`schedule` must be like {want}, got {text!r}")
    return CosineSchedule(*given) if kind == "cosine" else PowerLawSchedule(*given)


def build_state(values: dict[str, Any], problem: Any) -> Any:
    """Return the random initial state that the settings describe."""
    from odeae.initial import random_state

    return random_state(problem, **start(values))


def start(values: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `random_state` (and of `ensemble`)."""
    return {
        "encoder_std": values["encoder_std"],
        "decoder_std": values["decoder_std"],
        "bias": values["initial_bias"],
        "seed": values["seed"] or 0,
    }


def build_times(values: dict[str, Any], count: int, dim: int | None = None) -> Any:
    """Return the save times; with `dim`, whole steps of that D."""
    import numpy as np

    from odeae.checks import save_times
    from odeae.trajectory import log_times

    if values["times"] is None:
        end = 100.0 if values["end"] is None else values["end"]
        return log_times(end, count if values["count"] is None else values["count"], dim=dim)
    times = save_times(numbers("times", values["times"]))
    return times if dim is None else np.unique(np.round(times * dim)) / dim
