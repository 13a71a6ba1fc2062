"""Frames to write, and NDTiff datasets read with other people's readers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ndstorage
import numpy as np
import tifffile

from refocusd.errors import OutputError
from refocusd.formats.sink import Sink
from refocusd.frame import Frame

SUMMARY = {"Prefix": "cells", "PixelSize_um": 0.645, "Comment": "20× Öl"}


def numbered_frame(number: int, shape: tuple[int, int] = (24, 36), dtype: Any = np.uint16) -> Frame:
    """Make a frame that is determined by its number."""
    rows, columns = np.indices(shape, dtype=np.uint32)
    pixels = (rows * 131 + columns * 17 + number * 7919).astype(dtype)
    axes = {
        "time": number // 6,
        "z": number % 3,
        "channel": ("DAPI", "φ-actin 蛍光")[number // 3 % 2],
    }
    return Frame(pixels, axes, {"Number": number, "Camera": "Kamera µ", "PixelSizeUm": 0.645})


def write_all(sink: Sink, frames: Iterable[Frame]) -> None:
    for frame in frames:
        sink.write(frame.pixels, frame.axes, frame.metadata)


def read_by_ndstorage(path: Path) -> dict[str, Frame]:
    """All frames that ndstorage finds, by key."""
    found: dict[str, Frame] = {}
    with contextlib.redirect_stdout(None), ndstorage.Dataset(str(path)) as dataset:
        for axes in dataset.get_image_coordinates_list():
            frame = Frame(dataset.read_image(**axes), axes, dataset.read_metadata(**axes))
            found[frame.key] = frame
    return found


class Complaints(logging.Handler):
    """Collects tifffile's complaints about a file, which it logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextlib.contextmanager
def opened_by_tifffile(name: Path) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF about which tifffile must not complain."""
    complaints = Complaints()
    logging.getLogger("tifffile").addHandler(complaints)
    try:
        with tifffile.TiffFile(name) as tiff:
            yield tiff
    finally:
        logging.getLogger("tifffile").removeHandler(complaints)
    assert not complaints.messages


def read_by_tifffile(path: Path) -> list[tuple[np.ndarray[Any, Any], dict[str, Any]]]:
    """Pixels and metadata of every page of every file, along the chains of IFDs."""
    pages = []
    for name in sorted(path.glob("*.tif")):
        with opened_by_tifffile(name) as tiff:
            assert len(tiff.pages) > 0
            for page in tiff.pages:
                assert isinstance(page, tifffile.TiffPage)
                # Links are aligned words, which a kill cannot split, and pixels are aligned.
                assert page.offset % 4 == 2
                assert page.dataoffsets[0] % 4 == 0
                assert page.bitspersample == 8 * page.asarray().itemsize
                pages.append((page.asarray(), page.tags[51123].value))
    return pages


def read_by_tifffile_as_it_grows(
    path: Path,
) -> list[tuple[np.ndarray[Any, Any], dict[str, Any]]]:
    """Read by tifffile while no frame is added.

    tifffile notes a file's size once, when it opens it, and reports frames that are linked later
    as damage: if files grew meanwhile, its reports are ignored and the files are read again.
    """
    while True:
        sizes = {name: name.stat().st_size for name in path.glob("*.tif")}
        try:
            pages = read_by_tifffile(path)
        except (AssertionError, KeyError):
            if sizes == {name: name.stat().st_size for name in path.glob("*.tif")}:
                raise
            continue
        return pages


def assert_readers_find(path: Path, frames: Iterable[Frame]) -> None:
    """Assert that both readers find exactly these frames, pixel by pixel."""
    expected = {frame.key: frame for frame in frames}
    found = read_by_ndstorage(path)
    assert found.keys() == expected.keys()
    for key, frame in expected.items():
        assert_same(found[key], frame)
    by_number = {frame.metadata["Number"]: frame for frame in expected.values()}
    pages = read_by_tifffile(path)
    assert len(pages) == len(expected)
    for pixels, metadata in pages:
        assert_same(
            Frame(pixels, by_number[metadata["Number"]].axes, metadata),
            by_number[metadata["Number"]],
        )


def assert_same(found: Frame, written: Frame) -> None:
    assert found.pixels.dtype == written.pixels.dtype
    np.testing.assert_array_equal(found.pixels, written.pixels)
    assert dict(found.axes) == dict(written.axes)
    assert found.metadata == written.metadata


def refusal(sink: Sink, frame: Frame) -> str:
    """Write a frame that the sink must refuse, and return its message."""
    try:
        write_all(sink, [frame])
    except OutputError as error:
        return str(error)
    return ""
