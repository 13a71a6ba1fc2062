"""Grey images on disk: reads them, finds them by name, and compares their pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refocusd.errors import InputError

#: Suffixes of image files.
SUFFIXES = frozenset({".png", ".tif", ".tiff"})
#: A TIFF with more pixels than this is not a frame, bytes.
MOST_BYTES = 1 << 30


def read_image(path: Path) -> NDArray[np.generic]:
    """Read one grey image as it is stored.

    Parameters
    ----------
    path : Path
        PNG or TIFF; an RGB(A) image with equal channels counts as grey.

    Returns
    -------
    ndarray of uint8 or uint16, shape (height, width)

    Raises
    ------
    InputError
        If it cannot be read or is not grey.
    """
    return grey(read_stored(path), str(path))


def read_stored(path: Path) -> NDArray[np.generic]:
    """Read all pixels of an image file, of any type and shape.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        if path.suffix.lower() in {".tif", ".tiff"}:
            return _tiff(path)
        with Image.open(path) as image:
            return np.asarray(image)
    except InputError:
        raise
    # tifffile and its decoders raise all kinds of errors for a damaged TIFF.
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as an image ({type(error).__name__}: {error}): replace it"
        ) from error


def _tiff(path: Path) -> NDArray[np.generic]:
    import tifffile

    with tifffile.TiffFile(path) as file:
        # This must come before decoding, because a damaged header may state any size.
        if (claimed := file.series[0].nbytes) > MOST_BYTES:
            raise InputError(
                f"{path} states {claimed} bytes of pixels, more than {MOST_BYTES}: give single frames"
            )
        return np.asarray(file.asarray())


def grey(array: NDArray[np.generic], what: str) -> NDArray[np.generic]:
    """Convert a stored array to the grey image that it holds; see `read_image`."""
    if array.ndim == 3 and array.shape[-1] in (3, 4):
        first = array[..., 0]
        if not all(np.array_equal(first, array[..., i]) for i in (1, 2)):
            raise InputError(f"{what} is a colour image; give grey fluorescence images")
        array = first
    if array.dtype == np.int32:  # how pillow reads 16-bit PNG in some versions
        array = array.astype(np.uint16)
    if array.ndim != 2 or array.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"{what} has shape {array.shape} and type {array.dtype}; "
            "give two-dimensional uint8 or uint16 images"
        )
    return array


def pixels_digest(image: NDArray[np.generic]) -> str:
    """SHA-256 of shape, type and pixels, independent of the file's compression."""
    digest = hashlib.sha256(f"{image.shape} {image.dtype.str}".encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def find_images(root: Path, names: Iterable[str]) -> dict[str, Path]:
    """Paths of the named images below a folder, at any depth.

    Parameters
    ----------
    root : Path
    names : iterable of str
        File names, unique within the folder.

    Returns
    -------
    dict of str to Path
        In the order of `names`.

    Raises
    ------
    InputError
        If the folder does not exist or lacks some of them.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; run 'refocusd train fetch-bbbc038' first")
    known = {path.name: path for path in sorted(root.rglob("*")) if path.suffix in SUFFIXES}
    wanted = list(names)
    missing = [name for name in wanted if name not in known]
    if missing:
        raise InputError(
            f"{root} lacks {len(missing)} of {len(wanted)} images, e.g. {missing[0]}: "
            "run 'refocusd train fetch-bbbc038' to get them"
        )
    return {name: known[name] for name in wanted}
