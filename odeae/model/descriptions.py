"""Networks, rules and problems in a few words, for reprs and titles."""

import dataclasses
from typing import TYPE_CHECKING, Any

import equinox as eqx
import numpy as np

from odeae.base.checks import shown
from odeae.base.precision import is_known
from odeae.model.autoencoder import Autoencoder
from odeae.model.rule import AbstractRule
from odeae.model.schedules import FunctionSchedule

if TYPE_CHECKING:
    from odeae.model.problem import Problem


def describe_network(network: Autoencoder) -> str:
    """Return a network in a few words: erf, K=3, tied, biases."""
    extra = [
        text
        for text, there in (
            ("tied", network.tied),
            (f"gain {_short(network.gain)}", _differs(network.gain, 1.0)),
            ("biases", network.bias),
            ("output bias", network.output_bias),
        )
        if there
    ]
    return ", ".join([network.activation.name, f"K={network.hidden}", *extra])


def describe_rule(problem: "Problem") -> str:
    """Return the rule of a problem in a few words: truncated SGD, noise 0.5."""
    text = ", ".join([problem.rule.title, *_schedule(problem.rule)])
    if _differs(problem.noise, 0.0):
        text += f", noise {_short(problem.noise)}"
    return text


def describe_problem(problem: "Problem") -> dict[str, str]:
    """Return the parts of a problem in a few words each, the rule with all numbers set."""
    rule = problem.rule
    known = ("truncated", "gradient", "schedule")  # in the title and in `_schedule`
    values = {f.name: getattr(rule, f.name) for f in dataclasses.fields(rule)}
    numbers = [
        f"{name} {_short(value)}"
        for name, value in values.items()
        if name not in known and value is not None and (name == "lr" or _differs(value, 0.0))
    ]
    return {
        "spectrum": str(problem.spectrum).removeprefix("Spectrum(").removesuffix(")"),
        "network": describe_network(problem.autoencoder),
        "rule": ", ".join([rule.title, *numbers, *_schedule(rule)]),
        "noise": _short(problem.noise),
    }


def _schedule(rule: AbstractRule) -> list[str]:
    if rule.schedule is None:
        return []
    if isinstance(rule.schedule, FunctionSchedule) or not isinstance(rule.schedule, eqx.Module):
        return ["own schedule"]
    return [type(rule.schedule).__name__.removesuffix("Schedule").lower() + " schedule"]


def _differs(value: Any, default: float) -> bool:
    """Return whether a number, or the number of any lane, may differ from `default`."""
    return not is_known(value) or bool(np.any(np.asarray(value) != default))


def _short(value: Any) -> str:
    return "of each lane" if is_known(value) and np.ndim(value) else shown(value)
