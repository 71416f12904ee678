"""Problems in JSON, and back."""

import dataclasses
import json
import sys
from typing import Any

import equinox as eqx
import numpy as np

from odeae.averages.activation import AbstractActivation
from odeae.averages.by_name import CLOSED_FORMS
from odeae.averages.by_name import activation as named
from odeae.averages.quadrature import NAMED_FUNCTIONS, Quadrature
from odeae.base.messages import shortened
from odeae.model.autoencoder import Autoencoder
from odeae.model.problem import Problem
from odeae.model.rule import AbstractRule
from odeae.model.rules import RULES
from odeae.model.schedules import SCHEDULES, FunctionSchedule, as_schedule
from odeae.model.spectrum import Spectrum


class Contradiction(Exception):
    """The content of a file is not what its layout says."""


# A problem but its spectrum, as JSON. A number or a list of numbers is an array of float64, which
# is what a problem consists of; what else a class of the user's own may hold says what it is.
_NAMES: dict[type, str] = {
    kind: name for kinds in (CLOSED_FORMS, RULES, SCHEDULES) for name, kind in kinds.items()
}


_OWN_FUNCTION = "own function"


def described_problem(problem: Problem) -> dict[str, Any]:
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
        name = value.name
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
    return unchecked(kind, **{key: _decoded(value) for key, value in fields.items()})


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


def restored_problem(
    config: dict[str, Any], spectrum: Spectrum, activation: Any, schedule: Any, rule: Any
) -> Problem:
    """Return what `described_problem` described, with functions and classes that were given."""
    names = {f.name for kind in (Autoencoder, Problem) for f in dataclasses.fields(kind)}
    wanted = names - {"spectrum", "autoencoder"}
    if set(config) != wanted:
        raise Contradiction(f"its problem must have {sorted(wanted)}, got {sorted(config)}")
    network = unchecked(
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
    return unchecked(Problem, spectrum=spectrum, autoencoder=network, rule=rule, noise=noise)


def unchecked(cls: type, **fields: Any) -> Any:
    """An object of values that were checked when they were saved; lanes have an extra axis."""
    result = object.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(result, name, value)
    return result
