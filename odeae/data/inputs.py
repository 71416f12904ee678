"""Arrays in files, as data."""

import os
import zipfile
from pathlib import Path

import numpy as np

from odeae.base.files import as_path, existing_file
from odeae.base.messages import shortened

_READERS = (".npy", ".npz", ".csv", ".txt")


def read_array(path: str | os.PathLike[str], key: str | None = None) -> np.ndarray:
    """Return the array in a .npy (memory-mapped), .npz, .csv or .txt file.

    Args:
        path: The file. "file.npz:name" means the array `name` in an archive of several arrays.
        key: The name of the array, separate from the path.

    Returns:
        The array as it is in the file, of any shape and dtype.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For another kind of file, unreadable contents, or an archive of several arrays
            if `key` names none of them.

    Example:
        >>> x = read_array("faces.npz:train")
    """
    path = as_path("path", path)
    whole = str(path)
    if key is None and not path.is_file() and ".npz:" in whole:
        file, _, key = whole.rpartition(":")
        path = Path(file)
    existing_file("path", path)
    if key is not None and path.suffix != ".npz":
        raise ValueError(f"`key` names an array of a .npz file, got {str(path)!r}")
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r")
        if path.suffix == ".npz":
            with np.load(path) as archive:
                names = archive.files
                if key is None and len(names) == 1:
                    key = names[0]
                if key not in names:
                    got = "" if key is None else f", got {shortened(key)}"
                    raise ValueError(
                        f"it holds the arrays {', '.join(names)}: choose one of them, as "
                        f"{path.name}:{names[0]}{got}"
                        if names
                        else "it holds no array"
                    )
                return archive[key]
        if path.suffix in (".csv", ".txt"):
            return np.loadtxt(path, delimiter="," if path.suffix == ".csv" else None)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        hint = " (has it a header line? remove it)" if path.suffix in (".csv", ".txt") else ""
        raise ValueError(f"can't read {str(path)!r}: {error}{hint}") from error
    raise ValueError(f"can't read {str(path)!r}: expected one of {', '.join(_READERS)}")
