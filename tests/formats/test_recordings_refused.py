"""What cannot be replayed is one clear error before any frame is handed out."""

from __future__ import annotations

import contextlib
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from recordings_on_disk import (
    frames,
    nth,
    write_tiff,
    write_z_dataset,
)

from refocusd.errors import InputError
from refocusd.formats.open_dataset import open_dataset

pytestmark = pytest.mark.fast


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"cannot be read|does not exist"):
        open_dataset("no\0path")
    with pytest.raises(InputError, match=r"looked for NDTiff\.index, TIFF files"):
        open_dataset(tmp_path)


def test_several_datasets_in_one_folder_are_an_error_but_our_own_output_is_none(
    tmp_path: Path,
) -> None:
    write_z_dataset(tmp_path / "run_1", frames(2))
    write_z_dataset(tmp_path / "run_1_refocused", frames(3))
    write_z_dataset(tmp_path / "run_1_refocused_0123abcd", frames(3))
    with open_dataset(tmp_path) as recording:
        assert recording.name == "run_1"
    write_z_dataset(tmp_path / "run_2", frames(2))
    with pytest.raises(InputError, match="2 NDTiff datasets"):
        open_dataset(tmp_path)


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Containers run tests as root, for whom permissions do not bind."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name == "nt", reason="chmod does not take reading away on Windows")
@pytest.mark.parametrize("locked", ["file", "folder", "dataset"])
def test_what_may_not_be_read_is_an_error(tmp_path: Path, locked: str) -> None:
    path = {
        "file": lambda: write_tiff(tmp_path / "a.tif", frames(2)),
        "folder": lambda: write_tiff(tmp_path / "plate" / "a.tif", frames(2)).parent,
        "dataset": lambda: write_z_dataset(tmp_path / "run", frames(2)),
    }
    (tmp_path / "plate").mkdir()
    place = path[locked]()
    open_dataset(place).close()
    place.chmod(0)
    try:
        with without_privileges(), pytest.raises(InputError, match="Permission denied"):
            open_dataset(place)
    finally:
        place.chmod(0o700)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is an empty file"),
        (b"not a TIFF", "is not a TIFF file"),
        (b"II", "is not a TIFF file"),
        (b"II*\0", "holds no page"),
        (b"II*\0\xff\xff\xff\x7f", "of a file of 8 bytes"),
        (b"II+\0\4\0\0\0" + bytes(8), "BigTIFF"),
    ],
)
def test_a_file_that_is_no_tiff_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_dataset(path)


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (
            frames(1, dtype=np.uint8, side=(24, 32 * 3))[0].reshape(24, 32, 3),
            {"photometric": "rgb"},
            "RGB",
        ),
        (np.zeros((3, 24, 32), np.float32), {"photometric": "minisblack"}, "32-bit floating-point"),
        (np.zeros((24, 32), np.int16), {}, "16-bit signed"),
        (np.zeros((24, 32), np.uint32), {}, "32-bit unsigned"),
        (np.zeros((24, 32), np.uint8), {"photometric": "miniswhite"}, "inverted"),
        (
            np.zeros((24, 32), np.uint8),
            {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)},
            "palette",
        ),
        (np.zeros((12, 32), np.uint8), {}, "smallest side taken is 16 px"),
        (np.zeros((64, 64), np.uint8), {"compression": "jpeg"}, "JPEG"),
    ],
)
def test_frames_that_are_no_camera_counts_are_an_error(
    tmp_path: Path, pixels: Any, options: dict[str, Any], message: str
) -> None:
    path = write_tiff(tmp_path / "a.tif", pixels, **options)
    with pytest.raises(InputError, match=message):
        open_dataset(path)


def test_files_of_different_formats_are_an_error(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", frames(2)[0])
    write_tiff(tmp_path / "b.tif", frames(2, dtype=np.uint8)[0])
    with pytest.raises(InputError, match=r"b\.tif has frames of 32×24 px uint8"):
        open_dataset(tmp_path)


def test_a_frame_above_the_limit_is_an_error_before_memory_is_taken(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", np.zeros((2000, 2000), np.uint16), compression="zlib")
    tracemalloc.start()
    with pytest.raises(InputError, match="above the limit of 1000000"):
        open_dataset(path, max_frame_bytes=1_000_000)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("compression", ["zlib", "lzw", "packbits", "zstd"])
def test_a_small_file_that_claims_a_huge_frame_takes_no_memory(
    tmp_path: Path, compression: str
) -> None:
    path = write_tiff(tmp_path / "a.tif", frames(1)[0], metadata=None, compression=compression)
    with tifffile.TiffFile(path, mode="r+") as file:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            file.pages.first.tags[tag].overwrite(20_000)
    tracemalloc.start()
    with pytest.raises(InputError, match="cannot hold the 800000000"):
        open_dataset(path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("options", [{}, {"imagej": True}, {"ome": True}, {"compression": "lzw"}])
def test_no_truncation_of_a_stack_passes_unnoticed(tmp_path: Path, options: dict[str, Any]) -> None:
    stack = frames(4)
    path = write_tiff(tmp_path / "a.tif", stack, photometric="minisblack", **options)
    whole = path.read_bytes()
    # tifffile puts pixels last, or directories and their values.
    for cut in range(0, len(whole) - 16, 97):
        path.write_bytes(whole[:cut])
        try:
            dataset = open_dataset(path)
        except InputError:
            continue
        # All frames are there: those whose pixels were cut are named, and the others as they were.
        # What has a description before its first frame has them all if only directories were cut.
        with dataset:
            lost = [key for key in dataset if dataset.unfit(key)]
            assert all("of a file of" in dataset.unfit(key) for key in lost)
            undescribed = "the description that told" in dataset.source
            assert len(dataset) == 4 or undescribed
            assert lost or undescribed or "ome" not in options
            for index, key in enumerate(dataset):
                if key not in lost:
                    np.testing.assert_array_equal(dataset.read(key).pixels, stack[index])


@pytest.mark.parametrize(
    ("tag", "value"), [("ImageWidth", 31), ("ImageLength", 23), ("BitsPerSample", 8)]
)
@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
def test_a_header_that_does_not_match_its_pixels_is_an_error(
    tmp_path: Path, tag: str, value: int, compression: str | None
) -> None:
    path = write_tiff(
        tmp_path / "a.tif",
        frames(5),
        metadata=None,
        photometric="minisblack",
        compression=compression,
    )
    with tifffile.TiffFile(path, mode="r+") as file:
        for page in file.pages:
            page.aspage().tags[tag].overwrite(value)

    def read_all() -> None:
        with open_dataset(path) as recording:
            for index in range(len(recording)):
                nth(recording, index)

    with pytest.raises(InputError, match=r"needs|decodes to"):
        read_all()


@pytest.mark.parametrize(
    ("options", "old", "new", "message"),
    [
        ({"imagej": True}, b"channels=4", b"channels=3", "promises 3 frames, and it has 4 pages"),
        ({"ome": True}, b'PlaneCount="4"', b'PlaneCount="3"', "promises 4 planes, and it has 3"),
        ({"ome": True}, b'SizeX="32"', b'SizeX="33"', "metadata that says"),
        ({"ome": True}, b'Type="uint16"', b'Type="uint32"', "metadata that says"),
        (
            {"ome": True},
            b'<?xml version="1.0" encoding="UTF-8"?>',
            b'<!DOCTYPE OME [<!ENTITY a "b">]>',
            "document type",
        ),
        ({"ome": True}, b"</Image>", b"</Im", "unreadable OME-XML"),
        (
            {},
            b'"shape": [4, 24, 32]',
            b'"shape":[9999,24,32]',
            "promises 9999 frames, and 4 can be used",
        ),
        ({}, b"24, 32]", b"32, 24]", "changed after it was written"),
    ],
)
def test_metadata_that_contradict_the_pages_are_an_error(
    tmp_path: Path, options: dict[str, Any], old: bytes, new: bytes, message: str
) -> None:
    path = write_tiff(tmp_path / "a.tif", frames(4), photometric="minisblack", **options)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new.ljust(len(old)), 1))
    with pytest.raises(InputError, match=message):
        open_dataset(path)


def test_a_file_that_changed_after_opening_is_an_error(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", frames(2)[0])
    recording = open_dataset(path)
    recording.close()
    write_tiff(path, frames(2, side=(40, 40))[0])
    with pytest.raises(InputError, match=r"the others elsewhere|has changed"):
        nth(recording, 0)
    recording.close()


def test_a_png_that_is_no_camera_frame_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(path)
    with pytest.raises(InputError, match="in colour"):
        open_dataset(path)
    Image.fromarray(frames(1)[0]).save(path)
    path.write_bytes(path.read_bytes()[:-60])
    with open_dataset(path) as recording, pytest.raises(InputError, match="damaged"):
        nth(recording, 0)


def test_a_frame_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with open_dataset(write_tiff(tmp_path / "a.tif", frames(2)[0])) as recording:
        for axes in ({"time": 1}, {"time": -1}, '{"z":0}'):
            with pytest.raises(InputError, match="has no frame"):
                recording.read(axes)
