"""Small recordings of every kind, written by the programs that write them in the field."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from ndstorage import NDTiffDataset
from numpy.typing import NDArray

from refocusd.formats.dataset import Dataset
from refocusd.frame import Frame, canonical_axes

Frames = NDArray[Any]


def real_data() -> Path:
    """Folder of real images; skips the test if there is none."""
    folder = os.environ.get("REFOCUSD_TEST_DATA")
    if not folder:
        pytest.skip("REFOCUSD_TEST_DATA is not set: no real images here")
    return Path(folder)


def frames(*leading: int, dtype: Any = np.uint16, side: tuple[int, int] = (24, 32)) -> Frames:
    """Distinct noise frames of shape (*leading, height, width)."""
    rng = np.random.default_rng(sum(leading))
    return rng.integers(0, np.iinfo(dtype).max, (*leading, *side)).astype(dtype)


def write_ndtiff(
    folder: Path,
    planes: Iterable[tuple[Mapping[str, Any], Frames, Mapping[str, Any]]],
    summary: Mapping[str, Any] | None = None,
) -> Path:
    """A finished NDTiff dataset, written by ndstorage."""
    dataset = NDTiffDataset(str(folder), name=None, writable=True)
    dataset.initialize(dict(summary or {"PixelSize_um": 0.65}))
    for axes, pixels, metadata in planes:
        dataset.put_image(dict(axes), pixels, dict(metadata))
    dataset.finish()
    dataset.close()
    return folder


def write_z_dataset(folder: Path, stack: Frames) -> Path:
    """An NDTiff dataset of one z-stack."""
    return write_ndtiff(
        folder, [({"z": z}, plane, {"ElapsedTime-ms": 10.0 * z}) for z, plane in enumerate(stack)]
    )


def write_micromanager(
    path: Path,
    stack: Frames,
    places: Iterable[tuple[int, int, int, int]],
    summary: Mapping[str, Any],
    *,
    tags: bool = True,
    index_map: bool = True,
) -> Path:
    """A Micro-Manager MMStack in the layout of its MultipageTiffWriter.

    `places` are (channel, z, time, position) of each plane.  Without `tags`, the pages' metadata
    do not say where the pages belong; without `index_map`, the file does not (the acquisition was
    killed).
    """
    places = list(places)
    text = json.dumps(summary).encode()
    map_offset = 40 + len(text)
    offset = map_offset + 8 + 20 * len(places)
    offset += offset % 2
    head = struct.pack(
        "<2sHI8I",
        b"II",
        42,
        offset,
        54773648,
        map_offset,
        0,
        0,
        0,
        0,
        2355492,
        len(text),
    )
    body, rows = b"", []
    for index, (plane, (channel, z, time, position)) in enumerate(zip(stack, places, strict=True)):
        said: dict[str, Any] = {"ElapsedTime-ms": 5.0 * index, "PixelSizeUm": 0.325}
        if tags:
            said |= {
                "ChannelIndex": channel,
                "SliceIndex": z,
                "FrameIndex": time,
                "PositionIndex": position,
                "PositionName": f"Pos{position}",
            }
        metadata = json.dumps(said).encode() + b"\0"
        metadata += b"\0" * (len(metadata) % 2)
        rows.append((channel, z, time, position, offset))
        pixels_at = offset + 2 + 10 * 12 + 4
        entries = [
            (256, 4, 1, plane.shape[1]),
            (257, 4, 1, plane.shape[0]),
            (258, 3, 1, 8 * plane.itemsize),
            (259, 3, 1, 1),
            (262, 3, 1, 1),
            (273, 4, 1, pixels_at),
            (277, 3, 1, 1),
            (278, 3, 1, plane.shape[0]),
            (279, 4, 1, plane.nbytes),
            (51123, 2, len(metadata), pixels_at + plane.nbytes),
        ]
        offset = pixels_at + plane.nbytes + len(metadata)
        body += struct.pack("<H", len(entries))
        body += b"".join(struct.pack("<HHII", *entry) for entry in entries)
        body += struct.pack("<I", 0 if index == len(places) - 1 else offset)
        body += plane.tobytes() + metadata
    table = struct.pack("<II", 3453623 if index_map else 0, len(places))
    table += b"".join(struct.pack("<5I", *row) for row in rows)
    start = head + text + table
    path.write_bytes(start + b"\0" * (len(start) % 2) + body)
    return path


def write_tiff(path: Path, stack: Frames, **options: Any) -> Path:
    """A TIFF, written by tifffile."""
    # Otherwise it would treat three planes as the colours of one.
    options.setdefault("photometric", "minisblack")
    tifffile.imwrite(path, stack, **options)
    return path


def record(axes: Mapping[str, Any], name: str, place: tuple[int, ...]) -> bytes:
    """One record of an NDTiff index."""
    text = json.dumps(axes).encode()
    return (
        struct.pack("<I", len(text))
        + text
        + struct.pack("<I", len(name))
        + name.encode()
        + struct.pack("<8I", *place)
    )


def assert_reads(recording: Dataset, expected: dict[str, Any]) -> None:
    """Assert that every planned frame has the expected pixels, in whatever order they are read."""
    plan = recording.plan()
    assert [canonical_axes(axes) for axes in plan.axes] == recording.axes_keys()
    assert set(recording.axes_keys()) == set(expected)
    assert len(plan.elapsed_ms) == len(plan)
    for axes in reversed(plan.axes):
        frame = recording.read(axes)
        assert frame.axes == axes
        assert frame.pixels.dtype == plan.format.dtype
        assert frame.pixels.shape == (plan.format.height, plan.format.width)
        np.testing.assert_array_equal(frame.pixels, expected[frame.key])


def nth(recording: Dataset, index: int) -> Frame:
    """Frame number `index`, in acquisition order."""
    return recording.read(recording.axes_keys()[index])


def by_z(stack: Frames) -> dict[str, Frames]:
    """The frames of a z-stack by canonical key."""
    return {f'{{"z":{z}}}': plane for z, plane in enumerate(stack)}
