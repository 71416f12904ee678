"""Settings become problems, states and times."""

from typing import Any

from odeae.base.messages import one_of, shortened
from odeae.shell.settings import NETWORK, RULE, numbers

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
