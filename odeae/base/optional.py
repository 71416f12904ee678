"""Packages that are needed for some things only."""

import importlib
from typing import Any


def _optional(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"this needs the package {name}: pip install 'odeae[{extra}]', or in a clone "
            f"pip install '.[{extra}]'"
        ) from error
