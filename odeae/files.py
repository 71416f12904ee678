"""Files are whole or not there: written beside their place, then moved into it."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def check_output(path: str | os.PathLike, overwrite: bool = False) -> Path:
    """Return `path` if a file may be written there.

    Raises `FileExistsError` for an existing file unless `overwrite`, `FileNotFoundError` for a
    missing folder, `IsADirectoryError` and `PermissionError` for what can't be written.
    """
    path = Path(path)
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"output folder {str(folder)!r} does not exist; create it first")
    if path.is_dir():
        raise IsADirectoryError(f"output {str(path)!r} is a folder, expected a file name")
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"output file {str(path)!r} exists; pass overwrite=True (--overwrite) to replace it"
        )
    if not os.access(folder, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise PermissionError(f"output {str(path)!r} is not writable")
    return path


@contextlib.contextmanager
def writing(path: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the same folder, moved to `path` on success, else removed."""
    path = check_output(path, overwrite)
    handle, name = tempfile.mkstemp(suffix=path.suffix, prefix=f".{path.stem}-", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp makes files private
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
