"""Optional packages, which only some functions need."""

import importlib
from typing import Any


def needed_package(name: str, extra: str) -> Any:
    """Import a package of an extra; the `ImportError` for a missing one says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"this needs the package {name}: pip install 'odeae[{extra}]', or in a clone "
            f"pip install '.[{extra}]'"
        ) from error
