"""BBBC038 version 1 (Caicedo et al., Nature Methods 16, 1247, 2019; CC0): nuclei.

These are the images of the 2018 Data Science Bowl.  `split.csv` lists the fluorescence images with their
checksums, so that a download can be verified.
"""

from __future__ import annotations

import hashlib
import io
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import Progress

from refocusd.errors import InputError, OutputError
from refocusd_training.data.images import pixels_digest

BBBC038_URL = "https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip"


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
        A new folder, or one to complete.
    digests : dict of str to str
        Leading hexadecimal digits of `pixels_digest` by file name.
    url : str
    timeout_s : float
        Time limit of one network operation.

    Returns
    -------
    str
        SHA-256 of the archive, for the user's records, because its publisher states none.

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
    """The grey values of an archived RGBA image, whose three colour channels are equal."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))[..., 0].copy()
