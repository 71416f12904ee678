"""Activations by their names in the shell and in files."""

from odeae.averages.activation import AbstractActivation
from odeae.averages.closed import Erf, Linear, ReLU
from odeae.averages.quadrature import NAMED_FUNCTIONS, Quadrature
from odeae.base.messages import one_of, shortened

CLOSED_FORMS: dict[str, type[AbstractActivation]] = {"erf": Erf, "relu": ReLU, "linear": Linear}


def activation(name: str) -> AbstractActivation:
    """Return the activation called `name`: erf, relu, linear, tanh or gelu, in any case."""
    name = str(name).lower()
    one_of("activation", name, [*CLOSED_FORMS, *NAMED_FUNCTIONS])
    if name in CLOSED_FORMS:
        return CLOSED_FORMS[name]()
    return Quadrature(NAMED_FUNCTIONS[name])


def as_activation(value: object) -> AbstractActivation:
    """Return an activation, given itself or its name; raise `ValueError` for anything else."""
    if isinstance(value, AbstractActivation):
        return value
    if isinstance(value, str):
        return activation(value)
    if isinstance(value, type) and issubclass(value, AbstractActivation):
        made = "Quadrature(fn)" if issubclass(value, Quadrature) else f"{value.__name__}()"
        raise ValueError(
            f"`activation` must be an activation, got the class {value.__name__}; write {made}"
        )
    raise ValueError(
        "`activation` must be a name or an activation such as odeae.Erf(), got "
        f"{shortened(value)}; for a function use odeae.Quadrature(fn)"
    )
