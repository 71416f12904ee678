"""Patches of images as data."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from odeae.base.checks import numbers, whole
from odeae.base.files import as_path, existing_file
from odeae.base.messages import shortened
from odeae.base.optional import needed_package
from odeae.base.precision import ArrayLike

if TYPE_CHECKING:
    Path = str | os.PathLike[str]
    Images = Path | ArrayLike | Sequence[Path | ArrayLike]  # a folder, or several images
else:
    Images = Any  # the errors of this module, which are written for people, come first

_IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")
_ENDINGS = f"expected files ending in {', '.join(_IMAGES)}"


def image_patches(images: Images, size: int = 32, stride: int = 12) -> np.ndarray:
    """Return grey patches of images, as data for `Spectrum.from_data` and `simulate`.

    The command `odeae patches patches.npy photographs --size 16` does the same in the shell.

    Args:
        images: A folder of image files, or a list of files or arrays. Arrays are grey (H, W) or
            coloured (H, W, 3 or 4), with whole numbers 0…255 (or the range of another integer type)
            or floats 0…1.
        size: Side of a patch in pixels, so that D = size².
        stride: Pixels from one patch to the next, along both axes.

    Returns:
        Patches of shape (n, size²), with the mean of each patch removed, scaled to unit variance
        per pixel (averaged over pixels).

    Raises:
        ImportError: If scikit-image is missing; the message names the extra.
        FileNotFoundError: If there is no such folder or file.
        ValueError: For no images, files that aren't images, images smaller than `size`, images
            without any contrast, or more than 16 GiB of patches.

    Example:
        >>> odeae.image_patches([rng.random((32, 32))], size=8, stride=8).shape
        (16, 64)
    """
    size, stride = whole("size", size, at_least=2), whole("stride", stride)
    skimage = needed_package("skimage", "data")
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
    """Return the images, or their paths, with the name of each for messages."""
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


def natural_patches(size: int = 32, stride: int = 12) -> np.ndarray:
    """Return `image_patches` of eight photographs bundled with scikit-image and scikit-learn.

    The command `odeae patches patches.npy --size 16` does the same in the shell.

    Args:
        size: Side of a patch in pixels, so that D = size².
        stride: Pixels from one patch to the next, along both axes.

    Returns:
        Patches as `image_patches` returns them. Size 32 and stride 12 give 13,104 patches with
        D = 1024 and one exact zero mode.

    Raises:
        ImportError: If the packages are missing; the message names the extra.
        ValueError: If `size` or `stride` gives no patches, or more than 16 GiB of patches.

    Example:
        >>> odeae.natural_patches(size=16, stride=100).shape
        (..., 256)
    """
    size, stride = whole("size", size, at_least=2), whole("stride", stride)
    datasets = needed_package("sklearn.datasets", "data")
    data = needed_package("skimage.data", "data")
    names = ("astronaut", "camera", "chelsea", "coffee", "rocket")
    photographs = [getattr(data, name)() for name in names]
    photographs += [data.stereo_motorcycle()[0], *datasets.load_sample_images().images]
    return image_patches(photographs, size, stride)
