"""Files that are complete or absent, with a checksum that shows later changes."""

import contextlib
import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from odeae.base.messages import shortened

ENDINGS = (".nc", ".csv")  # files of trajectories

# The last line of a sealed file. HDF5 knows by itself where its own part of a file ends.
_SEAL = re.compile(rb"\nodeae sha256 ([0-9a-f]{64})\n")
_SEAL_LENGTH = len("\nodeae sha256 \n") + 64


def as_path(name: str, value: object) -> Path:
    """Return `value` as a path; raise `ValueError` if it can't be the name of a file."""
    try:
        path = Path(value)  # pyright: ignore[reportArgumentType]
    except TypeError as error:
        raise ValueError(f"`{name}` must be the name of a file, got {shortened(value)}") from error
    try:
        path.stat()
    except ValueError as error:  # a text that no system accepts
        raise ValueError(f"`{name}` must be the name of a file, got {shortened(value)}") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError(f"`{name}` is too long: {shortened(str(value))}") from error
    return path


def existing_file(name: str, value: object) -> Path:
    """Return `value`, the argument `name`, as the path of an existing file.

    Raises `IsADirectoryError` for a folder and `FileNotFoundError` for a path without a file.
    """
    path = as_path(name, value)
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder, expected a file")
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    return path


def check_ending(path: str | os.PathLike[str], endings: Sequence[str] = ENDINGS) -> Path:
    """Return `path` if its name ends in one of `endings`, such as (".nc", ".csv"), in any case.

    Raises `ValueError` for any other ending, with a list of the endings.
    """
    path = as_path("path", path)
    if path.suffix.lower() not in endings:
        raise ValueError(f"output {str(path)!r} must end in {' or '.join(endings)}")
    return path


def check_output(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Return `path` if a file may be written there.

    Raises `FileExistsError` for an existing file unless `overwrite`, `FileNotFoundError` for a
    missing folder, `IsADirectoryError` for a folder and `PermissionError` for a path that can't be
    written.
    """
    path = as_path("path", path)
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
def writing(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it becomes `path` on success, else is removed."""
    path = check_output(path, overwrite)
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(8)}{path.suffix}")
    # The system subtracts the umask from these permissions. To read the umask one has to set it,
    # which other threads would see.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def seal(path: str | os.PathLike[str]) -> None:
    """Append a line with the SHA-256 of all bytes before it, for `sealed` to check."""
    digest = _digest(path, os.path.getsize(path))
    with open(path, "ab") as file:
        file.write(f"\nodeae sha256 {digest}\n".encode())


def sealed(path: str | os.PathLike[str]) -> bool | None:
    """Return whether a file is unchanged since `seal`; None for a file without a seal.

    A damaged HDF5 file must not even be opened: one flipped bit can make the HDF5 library hang, or
    return other numbers without an error.
    """
    size = os.path.getsize(path) - _SEAL_LENGTH
    if size < 0:
        return None
    with open(path, "rb") as file:
        file.seek(size)
        line = _SEAL.fullmatch(file.read())
    return None if line is None else line[1].decode() == _digest(path, size)


def _digest(path: str | os.PathLike[str], size: int) -> str:
    """Return the SHA-256 of the first `size` bytes, read in pieces: files may exceed memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while size > 0:
            piece = file.read(min(size, 2**20))
            if not piece:  # another process has shortened the file since its size was read
                break
            digest.update(piece)
            size -= len(piece)
    return digest.hexdigest()
