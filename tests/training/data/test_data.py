"""Images as input: what is read, what is refused, and downloads that are verified."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from refocusd_training.data.bbbc038 import fetch_bbbc038
from refocusd_training.data.images import find_images, pixels_digest, read_image

from refocusd.errors import InputError


def archive(path: Path, images: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]) -> str:
    """Write a zip in the layout of the Data Science Bowl's; return its URL."""
    with zipfile.ZipFile(path, "w") as file:
        for name, grey in images.items():
            stem = name.removesuffix(".png")
            buffer = io.BytesIO()
            opaque = np.full_like(grey, 255)
            Image.fromarray(np.stack([grey, grey, grey, opaque], -1)).save(buffer, "png")
            file.writestr(f"{stem}/images/{name}", buffer.getvalue())
            file.writestr(f"{stem}/masks/{name}", b"not an image")
    return path.as_uri()


def test_a_download_keeps_the_images_of_the_split_and_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = {f"{n}.png": rng.integers(0, 255, (20, 30), dtype=np.uint8) for n in "abc"}
    url = archive(tmp_path / "bowl.zip", images)
    digests = {name: pixels_digest(images[name])[:16] for name in ("a.png", "c.png")}
    checksum = fetch_bbbc038(tmp_path / "out", digests, url=url)
    assert checksum == hashlib.sha256((tmp_path / "bowl.zip").read_bytes()).hexdigest()
    found = find_images(tmp_path / "out", digests)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]
    np.testing.assert_array_equal(read_image(found["a.png"]), images["a.png"])


def test_a_download_that_differs_is_refused(tmp_path: Path) -> None:
    url = archive(tmp_path / "bowl.zip", {"a.png": np.zeros((20, 30), np.uint8)})
    with pytest.raises(InputError, match="differs"):
        fetch_bbbc038(tmp_path / "out", {"a.png": "0" * 16}, url=url)


def test_a_download_that_lacks_images_or_is_no_archive_is_refused(tmp_path: Path) -> None:
    url = archive(tmp_path / "bowl.zip", {})
    with pytest.raises(InputError, match="lacks 1 images"):
        fetch_bbbc038(tmp_path / "out", {"a.png": "00"}, url=url)
    (tmp_path / "page.zip").write_bytes(b"<html>moved</html>")
    with pytest.raises(InputError, match="check the network"):
        fetch_bbbc038(tmp_path / "out", {}, url=(tmp_path / "page.zip").as_uri())


def test_missing_folders_and_images_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fetch-bbbc038"):
        find_images(tmp_path / "none", ["a.png"])
    with pytest.raises(InputError, match="lacks 1 of 1"):
        find_images(tmp_path, ["a.png"])


def test_colour_and_broken_images_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colour = tmp_path / "colour.png"
    Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(colour)
    with pytest.raises(InputError, match="colour"):
        read_image(colour)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n nothing follows")
    with pytest.raises(InputError, match="cannot be read"):
        read_image(broken)
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path / "absent.tif")


@pytest.mark.parametrize("compression", [None, "lzw"])
def test_a_damaged_tiff_is_read_or_refused_and_nothing_else(
    compression: str | None, tmp_path: Path
) -> None:
    rng = np.random.default_rng(7)
    path = tmp_path / "frame.tif"
    tifffile.imwrite(path, rng.integers(0, 900, (40, 50), dtype=np.uint16), compression=compression)
    whole = bytearray(path.read_bytes())
    said = []
    for _ in range(300):
        damaged = whole.copy()
        for at in rng.integers(8, 360, 3):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_image(path)
        except InputError as error:
            said.append(str(error))
    assert len(said) > 50
    assert all(str(path) in line for line in said)
