"""What is computed from order parameters and called for by name."""

import equinox as eqx

from odeae.base.precision import Real
from odeae.model.errors import excess_error, generalisation_error
from odeae.model.state import Overlaps, total_overlaps
from odeae.theory.equations import Equations

# What can be saved beside the error.
QUANTITIES = ("error", "excess", "error_clean", "Q1", "R1", "T1", "T0", "Q0", "bias")


def quantities(names: tuple[str, ...], equations: Equations, y: Real) -> dict[str, Real]:
    """The error and what else `names` says at rows y, of one problem or of lanes."""
    state = equations.layout.unpack(y)
    total = total_overlaps(state, equations.inputs)
    values = named_quantities(names, equations, total, state.bias)
    if "excess" in names:
        assert equations.leading is not None
        values["excess"] = excess_error(
            equations.network, equations.inputs, equations.leading, state
        )
    return values


def named_quantities(names, equations: Equations, total: Overlaps, bias) -> dict[str, Real]:
    """The same from order parameters, but for the excess."""
    network, inputs = equations.network, equations.inputs
    clean = eqx.tree_at(lambda o: o.Q1, total, total.Q1 - inputs.noise * inputs.dim * total.Q0)
    values = {"error": generalisation_error(network, total, bias, inputs.trace)}
    for name in names:
        if name == "error_clean":
            values[name] = generalisation_error(network, clean, bias, inputs.trace)
        elif name != "excess":
            values[name] = bias if name == "bias" else getattr(total, name)
    return values
