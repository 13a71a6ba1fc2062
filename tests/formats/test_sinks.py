"""The NDTiff sink, read back by ndstorage and tifffile."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ndstorage
import numpy as np
import pytest
from ndtiff_sinks import (
    SUMMARY,
    assert_readers_find,
    assert_same,
    numbered_frame,
    opened_by_tifffile,
    read_by_ndstorage,
    read_by_tifffile,
    read_by_tifffile_as_it_grows,
    write_all,
)

from refocusd.errors import OutputError
from refocusd.formats.ndtiff.writer import NDTiffSink
from refocusd.formats.sink import WrittenKeys
from refocusd.frame import Axes, canonical_axes


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(24, 36), (17, 19), (300, 500)])
def test_both_readers_find_what_was_written(
    tmp_path: Path, dtype: Any, shape: tuple[int, int]
) -> None:
    frames = [numbered_frame(number, shape, dtype) for number in range(13)]
    with NDTiffSink.create(tmp_path / "raw_refocused", SUMMARY) as sink:
        write_all(sink, frames)
        assert_readers_find(sink.path, frames)
    assert_readers_find(sink.path, frames)


def test_frames_may_come_in_any_order(tmp_path: Path) -> None:
    frames = [numbered_frame(int(number)) for number in np.random.default_rng(1).permutation(30)]
    with NDTiffSink.create(tmp_path / "d") as sink:
        write_all(sink, frames)
        assert all(frame.key in sink for frame in frames)
        assert canonical_axes({"time": 99}) not in sink
    assert_readers_find(tmp_path / "d", frames)


def test_tifffile_sees_one_series_with_its_axes(tmp_path: Path) -> None:
    frames = [numbered_frame(number) for number in range(24)]
    with NDTiffSink.create(tmp_path / "d", max_file_bytes=20_000) as sink:
        write_all(sink, frames)
    with opened_by_tifffile(tmp_path / "d" / "NDTiffStack.tif") as tiff:
        (series,) = tiff.series
        assert series.kind == "ndtiff"
        assert dict(zip(series.axes, series.shape, strict=True)) == {
            "T": 4, "C": 2, "Z": 3, "Y": 24, "X": 36,
        }  # fmt: skip
        data = np.moveaxis(series.asarray(), [series.axes.index(axis) for axis in "TCZ"], [0, 1, 2])
    for frame in frames:
        number = frame.metadata["Number"]
        np.testing.assert_array_equal(data[number // 6, number // 3 % 2, number % 3], frame.pixels)


def test_the_summary_says_what_micro_manager_asks(tmp_path: Path) -> None:
    with NDTiffSink.create(tmp_path / "d", SUMMARY) as sink:
        write_all(sink, [numbered_frame(0)])
    with contextlib.redirect_stdout(None), ndstorage.Dataset(str(tmp_path / "d")) as dataset:
        summary = dataset.summary_metadata
    assert summary["TiledImageStorage"] is False
    assert {key: summary[key] for key in SUMMARY} == SUMMARY
    with NDTiffSink.append(tmp_path / "d") as sink:
        assert sink.summary == summary


@pytest.mark.parametrize(
    ("summary", "metadata", "expected"),
    [
        ({}, {"PixelSizeUm": 0.645}, (3, 1e4 / 0.645)),
        ({"PixelSize_um": 0.1}, {"PixelSizeUm": 0}, (3, 1e5)),
        ({}, {}, (1, 1.0)),
        ({}, {"PixelSizeUm": "unknown"}, (1, 1.0)),
        ({}, {"PixelSizeUm": float("nan")}, (1, 1.0)),
        ({}, {"PixelSizeUm": 1e-9}, (1, 1.0)),
    ],
)
def test_the_pixel_size_is_in_the_resolution_tags(
    tmp_path: Path, summary: dict[str, Any], metadata: dict[str, Any], expected: tuple[int, float]
) -> None:
    with NDTiffSink.create(tmp_path / "d", summary) as sink:
        sink.write(numbered_frame(0).pixels, {"z": 0}, metadata)
    with opened_by_tifffile(tmp_path / "d" / "NDTiffStack.tif") as tiff:
        tags = tiff.pages.first.tags
        resolution = [tags[tag].value[0] / tags[tag].value[1] for tag in (282, 283)]
        assert tags[296].value == expected[0]
    assert resolution == pytest.approx([expected[1]] * 2, rel=1e-6)


def test_numpy_numbers_in_axes_and_metadata_become_plain(tmp_path: Path) -> None:
    metadata = {"Exposure": np.float32(0.5), "ROI": np.arange(4), "Binning": np.int64(2)}
    with NDTiffSink.create(tmp_path / "d") as sink:
        sink.write(numbered_frame(0).pixels, {"z": np.int64(3)}, metadata)  # type: ignore[dict-item]
    (found,) = read_by_ndstorage(tmp_path / "d").values()
    assert found.axes == {"z": 3}
    assert found.metadata == {"Exposure": 0.5, "ROI": [0, 1, 2, 3], "Binning": 2}


def test_empty_metadata_and_a_view_of_pixels_are_taken(tmp_path: Path) -> None:
    pixels = numbered_frame(0, (64, 64)).pixels[::2, 1::2]
    with NDTiffSink.create(tmp_path / "d") as sink:
        sink.write(pixels, {"z": 0}, {})
    (found,) = read_by_ndstorage(tmp_path / "d").values()
    np.testing.assert_array_equal(found.pixels, pixels)
    assert found.metadata == {}
    ((page, metadata),) = read_by_tifffile(tmp_path / "d")
    np.testing.assert_array_equal(page, pixels)
    assert metadata == {}


def test_a_dataset_rolls_over_to_further_files(tmp_path: Path) -> None:
    frames = [numbered_frame(number) for number in range(40)]
    path = tmp_path / "d"
    with NDTiffSink.create(path, SUMMARY, max_file_bytes=12_000) as sink:
        write_all(sink, frames[:23])
    with NDTiffSink.append(path, max_file_bytes=12_000) as sink:
        write_all(sink, frames[23:])
    names = {name.name for name in path.iterdir()} - {"NDTiff.index", "NDTiffStack.tif"}
    assert names == {f"NDTiffStack_{number}.tif" for number in range(1, len(names) + 1)}
    assert len(names) > 5
    assert max(name.stat().st_size for name in path.glob("*.tif")) <= 12_000
    assert_readers_find(path, frames)


def test_a_closed_dataset_is_continued(tmp_path: Path) -> None:
    frames = [numbered_frame(number) for number in range(20)]
    path = tmp_path / "d"
    NDTiffSink.create(path, SUMMARY).close()
    for part in (frames[:1], frames[1:1], frames[1:12], frames[12:]):
        with NDTiffSink.append(path) as sink:
            write_all(sink, part)
    assert_readers_find(path, frames)
    with NDTiffSink.append(path) as sink:
        assert all(frame.key in sink for frame in frames)
        with pytest.raises(OutputError, match="already"):
            write_all(sink, frames[5:6])


def test_index_records_do_not_straddle_pages_of_the_file_cache(tmp_path: Path) -> None:
    """A killed process leaves whole pages, so a record within one is complete or absent."""
    index = tmp_path / "d" / "NDTiff.index"
    ends = [0]
    with NDTiffSink.create(tmp_path / "d") as sink:
        for number in range(120):
            axes: Axes = {"time": number, "channel": "x" * (number * 13 % 700)}
            sink.write(numbered_frame(0).pixels, axes, {"Number": number})
            ends.append(index.stat().st_size)
    pages = [(start // 4096, (end - 1) // 4096) for start, end in itertools.pairwise(ends)]
    assert all(first == last for first, last in pages)
    assert pages[-1][0] > 5
    assert len(read_by_ndstorage(tmp_path / "d")) == 120


def test_memory_stays_flat_over_many_frames(tmp_path: Path) -> None:
    pixels = numbered_frame(0, (32, 32)).pixels
    with NDTiffSink.create(tmp_path / "d", max_file_bytes=1_000_000) as sink:
        sink.write(pixels, {"time": 0}, {"Number": 0})
        tracemalloc.start()
        try:
            for number in range(1, 2000):
                sink.write(pixels, {"time": number}, {"Number": number})
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert grown < 300_000  # the pixels alone are 4 MB
    assert len(read_by_tifffile(tmp_path / "d")) == 2000


def test_written_keys_take_eight_bytes_a_frame() -> None:
    keys = WrittenKeys()
    tracemalloc.start()
    try:
        for number in range(40_960):
            keys.add(f"first {number}")
        before, _ = tracemalloc.get_traced_memory()
        for number in range(40_960):
            keys.add(f"second {number}")
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 9 * 40_960
    assert len(keys) == 81_920
    assert all(
        f"{word} {number}" in keys
        for word in ("first", "second")
        for number in range(0, 40_960, 97)
    )
    assert not any(f"third {number}" in keys for number in range(1000))


def test_a_reader_finds_whole_frames_while_others_are_written(tmp_path: Path) -> None:
    path = tmp_path / "d"
    shape = (64, 64)
    found: set[int] = set()
    more = threading.Semaphore(30)

    def read_until_five_stages_were_seen() -> None:
        while len(found) < 5:
            frames = read_by_ndstorage(path)
            for frame in frames.values():
                assert_same(frame, numbered_frame(frame.metadata["Number"], shape))
            for pixels, metadata in read_by_tifffile_as_it_grows(path):
                written = numbered_frame(metadata["Number"], shape)
                np.testing.assert_array_equal(pixels, written.pixels)
            found.add(len(frames))
            more.release(30)

    with (
        NDTiffSink.create(path, SUMMARY, max_file_bytes=200_000) as sink,
        ThreadPoolExecutor(1) as pool,
    ):
        write_all(sink, [numbered_frame(0, shape)])
        reading = pool.submit(read_until_five_stages_were_seen)
        number = 0
        while not reading.done():
            if more.acquire(timeout=0.1):
                number += 1
                write_all(sink, [numbered_frame(number, shape)])
        reading.result()
    assert len(found) == 5


@pytest.mark.parametrize("metadata", [{}, numbered_frame(3).metadata])
def test_metadata_is_ascii_json_where_the_tag_points(
    tmp_path: Path, metadata: dict[str, Any]
) -> None:
    frame = numbered_frame(3)
    with NDTiffSink.create(tmp_path / "d", SUMMARY) as sink:
        sink.write(frame.pixels, frame.axes, metadata)
    raw = (tmp_path / "d" / "NDTiffStack.tif").read_bytes()
    with opened_by_tifffile(tmp_path / "d" / "NDTiffStack.tif") as tiff:
        tag = tiff.pages.first.tags[51123]
        text = raw[tag.valueoffset : tag.valueoffset + tag.count]
    assert tag.count > 4  # four bytes or fewer would have to be in the entry itself
    assert text.endswith(b"\0")
    assert json.loads(text[:-1].decode("ascii")) == metadata
    assert rb'"\u03c6-actin \u86cd\u5149"' in (tmp_path / "d" / "NDTiff.index").read_bytes()
