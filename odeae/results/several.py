"""Several curves in one Trajectory: which parts they share, and how one of them is taken out."""

import dataclasses
import json
from typing import TYPE_CHECKING, Any, SupportsIndex

import jax
import numpy as np

if TYPE_CHECKING:
    Index = SupportsIndex | slice
else:  # what is neither is refused in words, not by a type checker of the tests
    Index = Any

ENSEMBLE = "theory, ensemble"  # the `source` of curves from several starts
# The fields that runs and members have in common; runs also have their `initial`.
SHARED = {"times", "problem", "source", "settings"}


def picked(trajectory: Any, index: int | slice) -> Any:
    """One of several curves, or a slice of them, along the first of their axes."""
    if np.ndim(trajectory.times) > 1:  # vmap gives all to every lane
        return jax.tree.map(lambda x: x[index], trajectory)
    shared = set(SHARED)
    if trajectory.initial is not None and np.ndim(trajectory.initial.bias) == 1:
        shared.add("initial")
    parts: dict[str, Any] = {}
    for field in dataclasses.fields(trajectory):
        value = getattr(trajectory, field.name)
        if field.name == "weights" and value is not None:
            value = value.of_runs(index)
        elif field.name not in shared:
            value = jax.tree.map(lambda x: x[index], value)
        parts[field.name] = value
    known = json.loads(trajectory.settings)
    if isinstance(known.get("solver"), list):  # where members differ in it
        parts["settings"] = json.dumps(known | {"solver": known["solver"][index]})
    if trajectory.source == ENSEMBLE and not isinstance(index, slice):
        parts["source"] = "theory"
    return type(trajectory)(**parts)
