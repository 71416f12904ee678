"""Packages that are needed for some things only."""

import importlib
from typing import Any


def needed_package(name: str, extra: str) -> Any:
    """Import a package of an extra; raise an `ImportError` that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"this needs the package {name}: pip install 'odeae[{extra}]', or in a clone "
            f"pip install '.[{extra}]'"
        ) from error
