"""Real inputs: arrays in files, and patches of images."""

import importlib
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import jax
import numpy as np

from odeae.checks import numbers, whole
from odeae.files import as_path, existing_file
from odeae.words import shortened

_READERS = (".npy", ".npz", ".csv", ".txt")


def read_array(path: str | os.PathLike, key: str | None = None) -> np.ndarray:
    """Return the array in a .npy (memory-mapped), .npz, .csv or .txt file.

    Args:
        path: the file. "file.npz:name" means the array `name` of an archive of several.
        key: the same name, apart from the path.

    Returns:
        The array as it is in the file, of any shape and dtype.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, unreadable contents, or an archive that holds several
            arrays while `key` names none of them.

    Example:
        `read_array("faces.npz:train")`
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


class Rows:
    """Data as people have them, as a matrix (n, D) whose rows are read by rows[index], in float64.

    Arrays in memory or on disk (anything with a shape that can be indexed), lists, JAX arrays,
    torch tensors, tables of pandas or polars, sparse matrices. With `flatten` also image stacks
    (n, H, W, …). Only the rows that are asked for are read.

    Raises `ValueError` for text, missing values and other shapes, naming the argument.
    """

    def __init__(self, name: str, x: Any, flatten: bool = False):
        self.name, self.flatten = name, flatten
        if hasattr(x, "to_numpy") and hasattr(x, "columns"):
            x = _table(name, x)
        elif hasattr(x, "tocsr"):
            x = x.tocsr()
        elif isinstance(x, np.ma.MaskedArray) or not _on_demand(x):
            x = numbers(name, x)
        if getattr(getattr(x, "dtype", None), "kind", "f") in "cSUmM":
            raise ValueError(f"`{name}` must hold real numbers, got dtype {x.dtype}")
        self.source, shape = x, tuple(int(n) for n in x.shape)
        if len(shape) > 2 and not flatten:
            raise ValueError(
                f"`{name}` must have shape (rows, dim), got shape {shape}; if these are images, "
                "flatten=True makes each a row, as does x.reshape(len(x), -1)"
            )
        if len(shape) < 2:
            raise ValueError(f"`{name}` must have shape (rows, dim), got shape {shape}")
        self.shape = (shape[0], int(np.prod(shape[1:])))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = self.source[index]
        rows = numbers(self.name, rows.toarray() if hasattr(rows, "toarray") else rows)
        return rows.reshape(len(rows), -1) if rows.ndim > 2 else rows


def pieces(name: str, x: Any, batch: int = 4096, flatten: bool = False) -> Iterator[np.ndarray]:
    """Rows of `x`, `batch` at a time; of an iterable of pieces those that it holds.

    Raises `ValueError` as `Rows` does, and for pieces of different widths.
    """
    if isinstance(x, Sequence) and not (len(x) and len(getattr(x[0], "shape", ())) >= 2):
        x = numbers(name, x)  # rows, not pieces
    if hasattr(x, "shape"):
        rows = Rows(name, x, flatten)
        for start in range(0, max(len(rows), 1), batch):
            yield rows[start : start + batch]
        return
    if not isinstance(x, Iterable):
        raise ValueError(
            f"`{name}` must be an array (rows, dim) or an iterable of such arrays, got "
            f"{type(x).__name__}"
        )
    width = None
    for piece in x:
        image = flatten and len(getattr(piece, "shape", ())) == 2
        rows = Rows(name, piece[None] if image else piece, flatten)
        width = rows.shape[1] if width is None else width
        if rows.shape[1] != width:
            raise ValueError(
                f"`{name}` must keep its width: got a piece of {rows.shape[1]} columns after "
                f"pieces of {width}"
            )
        yield rows[:]


def as_rows(name: str, x: Any, flatten: bool = False) -> Rows:
    """`x` as rows that can be taken in any order; what comes in pieces is read into memory."""
    if not hasattr(x, "shape"):
        x = np.concatenate(list(pieces(name, x, flatten=flatten)) or [np.zeros((0, 0))])
    return Rows(name, x, flatten)


def _on_demand(x: Any) -> bool:
    """Whether rows can be taken out of `x` as it is: arrays of NumPy, and files such as HDF5."""
    if isinstance(x, jax.Array) or hasattr(x, "detach"):
        return False
    return hasattr(x, "shape") and hasattr(x, "__getitem__")


def _table(name: str, x: Any) -> np.ndarray:
    """The numbers of a table of pandas or polars; whatever else it holds is named."""
    values = x.to_numpy()
    if values.dtype.kind in "biuf":
        return values
    for label, column in zip(x.columns, values.T, strict=True):
        for row, value in enumerate(column):
            if not isinstance(value, Real | np.bool_):
                raise ValueError(
                    f"`{name}` must hold real numbers, got {shortened(value)} in column "
                    f"{shortened(label)}, row {row}: drop such columns or rows, or turn them "
                    "into numbers"
                )
    return values.astype(float)


_IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")
_ENDINGS = f"expected files ending in {', '.join(_IMAGES)}"


def image_patches(images: Any, size: int = 32, stride: int = 12) -> np.ndarray:
    """Grey patches of images, as data for `Spectrum.from_data` and `simulate`.

    Args:
        images: a folder of image files, or a list of files or arrays: grey (H, W) or coloured
            (H, W, 3 or 4), whole numbers 0…255 (or of another integer type) or floats 0…1.
        size: side of a patch in pixels, so that D = size².
        stride: pixels from one patch to the next, along both axes.

    Returns:
        (n, size²) with the mean of each patch removed, scaled to unit variance per pixel (averaged
        over pixels).

    Raises:
        ImportError: scikit-image is missing; names the extra.
        FileNotFoundError: no such folder or file.
        ValueError: no images, files that aren't images, images smaller than `size`, images without
            any contrast, or more than 16 GiB of patches.

    Example:
        `odeae.image_patches("photographs", size=16)`, in the shell
        `odeae patches patches.npy photographs --size 16`
    """
    size, stride = whole("size", size, at_least=2), whole("stride", stride)
    skimage = _needed("skimage")
    loaded = [(name, _grey(name, image, skimage)) for name, image in _named_images(images)]
    name, smallest = min(((name, min(image.shape)) for name, image in loaded), key=lambda x: x[1])
    if size > smallest:
        raise ValueError(f"`size` must be at most {smallest}, the side of {name}, got {size}")
    need = sum(image.size for _, image in loaded) / stride**2 * size**2 * 8
    if need > 16 * 2**30:
        raise ValueError(
            f"patches of `size` {size} at every {stride} pixels need about {need / 2**30:.0f} GiB; "
            "give a larger `stride`"
        )
    pieces = []
    for _, image in loaded:
        windows = np.lib.stride_tricks.sliding_window_view(image, (size, size))
        pieces.append(windows[::stride, ::stride].reshape(-1, size * size))
    x = np.concatenate(pieces)
    x -= x.mean(axis=1, keepdims=True)
    variance = x.var(axis=0).mean()
    if not variance > 0.0:
        raise ValueError("`images` must have some contrast: all their patches are equal")
    return x / np.sqrt(variance)


def _named_images(images: Any) -> list[tuple[str, Any]]:
    """The images, or their paths, with what each is called in a message."""
    if isinstance(images, str | os.PathLike):
        folder = as_path("images", images)
        if folder.is_file():
            return [(repr(str(folder)), folder)]
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder of images {str(folder)!r}")
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _IMAGES)
        if not files:
            raise ValueError(f"{str(folder)!r} holds no images: {_ENDINGS}")
        return [(repr(file.name), file) for file in files]
    several = list(images) if np.iterable(images) else []
    if not several:
        raise ValueError(f"`images` must be a folder or a list of images, got {shortened(images)}")
    return [(f"image {i}", image) for i, image in enumerate(several)]


def _grey(name: str, image: Any, skimage: Any) -> np.ndarray:
    if isinstance(image, str | os.PathLike):
        path = existing_file("images", image)
        if path.suffix.lower() not in _IMAGES:
            raise ValueError(f"{str(path)!r} is no image: {_ENDINGS}")
        try:
            image = skimage.io.imread(path)
        except (OSError, ValueError, SyntaxError) as error:
            line = (str(error).splitlines() or [""])[0]
            raise ValueError(f"can't read {str(path)!r} as an image: {line}") from error
    image = np.asarray(image)
    if image.dtype.kind not in "bui":
        image = np.asarray(numbers("images", image))
        if not np.all(np.isfinite(image)):
            raise ValueError(f"`images` must be finite, which {name} is not")
    else:
        image = skimage.util.img_as_float64(image)
    if image.ndim == 3 and image.shape[-1] in (3, 4):
        return skimage.color.rgb2gray(image[..., :3])
    if image.ndim != 2:
        raise ValueError(
            f"`images` must be grey (H, W) or coloured (H, W, 3 or 4), got shape {image.shape} "
            f"of {name}"
        )
    return image


def _needed(*names: str) -> Any:
    """Return the last of the named modules of the extra `data`; the others are imported too."""
    try:
        return [importlib.import_module(name) for name in names][-1]
    except ImportError as error:
        raise ImportError(
            "images need the extra `data`: pip install 'odeae[data]', or in a clone "
            f"pip install '.[data]' ({error})"
        ) from error


def natural_patches(size: int = 32, stride: int = 12) -> np.ndarray:
    """`image_patches` of eight photographs bundled with scikit-image and scikit-learn.

    Args:
        size: side of a patch in pixels, so that D = size².
        stride: pixels from one patch to the next, along both axes.

    Returns:
        As of `image_patches`. Size 32, stride 12: 13,104 patches, D = 1024, and one exact zero
        mode.

    Raises:
        ImportError: the packages are missing; names the extra.
        ValueError: `size` or `stride` that give no patches, or more than 16 GiB of them.

    Example:
        `odeae.natural_patches(size=16)`, in the shell `odeae patches patches.npy --size 16`
    """
    size, stride = whole("size", size, at_least=2), whole("stride", stride)
    datasets = _needed("skimage", "sklearn", "sklearn.datasets")
    data = importlib.import_module("skimage.data")
    names = ("astronaut", "camera", "chelsea", "coffee", "rocket")
    photographs = [getattr(data, name)() for name in names]
    photographs += [data.stereo_motorcycle()[0], *datasets.load_sample_images().images]
    return image_patches(photographs, size, stride)
