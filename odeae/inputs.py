"""Real inputs: arrays in files, and patches of photographs that Python packages bundle."""

import os
import zipfile
from pathlib import Path

import numpy as np

_READERS = (".npy", ".npz", ".csv", ".txt")


def read_array(path: str | os.PathLike) -> np.ndarray:
    """Return the array in a .npy (memory-mapped), .npz (with one array), .csv or .txt file.

    Raises `FileNotFoundError`, or `ValueError` for another kind of file or unreadable contents.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r")
        if path.suffix == ".npz":
            with np.load(path) as archive:
                if len(archive.files) != 1:
                    raise ValueError(f"it holds {len(archive.files)} arrays, expected one")
                return archive[archive.files[0]]
        if path.suffix in (".csv", ".txt"):
            return np.loadtxt(path, delimiter="," if path.suffix == ".csv" else None)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        hint = " (has it a header line? remove it)" if path.suffix in (".csv", ".txt") else ""
        raise ValueError(f"can't read {str(path)!r}: {error}{hint}") from error
    raise ValueError(f"can't read {str(path)!r}: expected one of {', '.join(_READERS)}")


def natural_patches(size: int = 32, stride: int = 12) -> np.ndarray:
    """Grey patches of eight photographs bundled with scikit-image and scikit-learn.

    Returns (n, size²) with the mean of each patch removed, scaled to unit variance per pixel
    (averaged over pixels). Size 32, stride 12: 13,104 patches, D = 1024, and one exact zero mode.
    Raises `ImportError` naming the extra if the packages are missing.
    """
    try:
        from skimage import color, data
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise ImportError(
            "the photographs come with the extra `data`: pip install 'odeae[data]', or in a clone "
            f"pip install '.[data]' ({error})"
        ) from error
    names = ("astronaut", "camera", "chelsea", "coffee", "rocket")
    photographs = [getattr(data, name)() for name in names]
    photographs += [data.stereo_motorcycle()[0], *load_sample_images().images]
    pieces = []
    for photograph in photographs:
        grey = color.rgb2gray(photograph) if photograph.ndim == 3 else photograph / 255.0
        windows = np.lib.stride_tricks.sliding_window_view(grey, (size, size))
        pieces.append(windows[::stride, ::stride].reshape(-1, size * size))
    x = np.concatenate(pieces)
    x -= x.mean(axis=1, keepdims=True)
    return x / np.sqrt(x.var(axis=0).mean())
