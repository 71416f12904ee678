"""Reading a store that may be replaced: a dataset must not read another sweep's files."""

import os
from pathlib import Path

from zarr.storage import LocalStore


class PinnedStore(LocalStore):
    """A Zarr store that reads only what was at its path when it was opened.

    A sweep that was extended lies at the same path and names its files alike: without this, an
    older dataset would read other curves than those it says. Raises `RuntimeError` at any use
    once the store was replaced or removed.
    """

    def __init__(self, root: Path, *, read_only: bool = True):
        self._pin = _identity(root)
        super().__init__(root, read_only=read_only)

    @property
    def root(self) -> Path:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The folder of the store, in which every file is looked for."""
        if _identity(self._root) != self._pin:
            raise RuntimeError(
                f"the sweep at {str(self._root)!r} was extended, replaced or removed since this "
                "dataset was opened: open it again, with `odeae.open_sweep`"
            )
        return self._root

    @root.setter
    def root(self, path: Path) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._root = path


def _identity(root: Path) -> tuple[int, ...] | None:
    """What tells a store from another one at the same path: its metadata are written once."""
    try:
        about = os.stat(root / "zarr.json")
    except OSError:
        return None
    return about.st_dev, about.st_ino, about.st_mtime_ns
