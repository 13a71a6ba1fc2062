"""The sharp images that training starts from: BBBC038 nuclei, or any folder of yours.

BBBC038 version 1 (Caicedo et al., Nature Methods 16, 1247, 2019; CC0) is the
2018 Data Science Bowl.  Its fluorescence images are what `split.csv` lists,
each with its checksum, so that a download can be proved to be the same data.
"""

from __future__ import annotations

import hashlib
import io
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from rich.progress import Progress

from refocusd.errors import InputError, OutputError

__all__ = [
    "BBBC038_URL",
    "fetch_bbbc038",
    "find_images",
    "pixels_digest",
    "read_image",
]

BBBC038_URL = "https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip"
SUFFIXES = frozenset({".png", ".tif", ".tiff"})


def read_image(path: Path) -> NDArray[np.generic]:
    """One grey image as it is stored.

    Parameters
    ----------
    path : Path
        PNG or TIFF; RGB(A) whose channels are equal counts as grey.

    Returns
    -------
    ndarray of uint8 or uint16, shape (height, width)

    Raises
    ------
    InputError
        If it cannot be read or is not grey.
    """
    try:
        if path.suffix.lower() in {".tif", ".tiff"}:
            import tifffile

            array = np.asarray(tifffile.imread(path))
        else:
            with Image.open(path) as image:
                array = np.asarray(image)
    except (OSError, ValueError, UnidentifiedImageError) as error:
        raise InputError(f"{path} cannot be read as an image ({error}): replace it") from error
    return _grey(array, str(path))


def _grey(array: NDArray[np.generic], what: str) -> NDArray[np.generic]:
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
    """SHA-256 of shape, type and pixels: the same however the file is compressed."""
    digest = hashlib.sha256(f"{image.shape} {image.dtype.str}".encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def find_images(root: Path, names: Iterable[str]) -> dict[str, Path]:
    """Where the named images lie below a folder, at any depth.

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


def _archived_images(archive: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    """The images (not the masks) of the Data Science Bowl's archive."""
    for entry in archive.infolist():
        parts = entry.filename.split("/")
        if len(parts) >= 2 and parts[-2] == "images" and parts[-1].endswith(".png"):
            yield parts[-1], archive.read(entry)


def fetch_bbbc038(
    output: Path, digests: dict[str, str], *, url: str = BBBC038_URL, timeout_s: float = 60.0
) -> str:
    """Download BBBC038 and keep the images of the split, each checked.

    Parameters
    ----------
    output : Path
        New folder, or one to complete.
    digests : dict of str to str
        File name to the leading hexadecimal digits of `pixels_digest`.
    url : str
    timeout_s : float
        Of one network operation.

    Returns
    -------
    str
        SHA-256 of the archive, for your records: its publisher gives none.

    Raises
    ------
    InputError
        If the network fails, or an image is missing or differs.
    OutputError
        If the folder cannot be written.
    """
    buffer = io.BytesIO()
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer, Progress() as progress:  # noqa: S310 - the scheme is ours
            total = int(answer.headers.get("Content-Length") or 0) or None
            task = progress.add_task("downloading BBBC038", total=total)
            while chunk := answer.read(1 << 20):
                buffer.write(chunk)
                progress.advance(task, len(chunk))
        checksum = hashlib.sha256(buffer.getbuffer()).hexdigest()
        archive = zipfile.ZipFile(buffer)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{url} could not be fetched ({error}): check the network, or download the archive "
            f"elsewhere and unpack its images into {output}"
        ) from error
    found: set[str] = set()
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, content in _archived_images(archive):
            if name not in digests:
                continue
            image = _luminance(content)
            if not pixels_digest(image).startswith(digests[name]):
                raise InputError(f"{name} of {url} differs from the image this split was made of")
            Image.fromarray(image).save(output / name)
            found.add(name)
    except OSError as error:
        raise OutputError(f"{output} cannot be written ({error})") from error
    if missing := sorted(set(digests) - found):
        raise InputError(f"{url} lacks {len(missing)} images of the split, e.g. {missing[0]}")
    return checksum


def _luminance(content: bytes) -> NDArray[np.uint8]:
    """The grey of one archived RGBA image; its three channels are equal."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))[..., 0].copy()
