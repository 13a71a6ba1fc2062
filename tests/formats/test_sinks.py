"""The NDTiff sink, read back by ndstorage and tifffile."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ndstorage
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from refocusd.errors import InputError, OutputError
from refocusd.formats.disk_space import check_free_space, free_space_needed
from refocusd.formats.ndtiff.layout import pack_header
from refocusd.formats.ndtiff.writer import NDTiffSink
from refocusd.formats.sink import Sink
from refocusd.formats.written_keys import WrittenKeys
from refocusd.frame import Axes, Frame, canonical_axes

SUMMARY = {"Prefix": "cells", "PixelSize_um": 0.645, "Comment": "20× Öl"}


def numbered_frame(number: int, shape: tuple[int, int] = (24, 36), dtype: Any = np.uint16) -> Frame:
    """Make a frame of which every part follows from its number."""
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
    """All frames that ndstorage finds, by their keys."""
    found: dict[str, Frame] = {}
    with contextlib.redirect_stdout(None), ndstorage.Dataset(str(path)) as dataset:
        for axes in dataset.get_image_coordinates_list():
            frame = Frame(dataset.read_image(**axes), axes, dataset.read_metadata(**axes))
            found[frame.key] = frame
    return found


class Complaints(logging.Handler):
    """What tifffile finds wrong with a file: it logs that."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextlib.contextmanager
def opened_by_tifffile(name: Path) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF of which tifffile has nothing to complain."""
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
                # What a kill may interrupt lies within one word, and pixels are aligned.
                assert page.offset % 4 == 2
                assert page.dataoffsets[0] % 4 == 0
                assert page.bitspersample == 8 * page.asarray().itemsize
                pages.append((page.asarray(), page.tags[51123].value))
    return pages


def read_by_tifffile_as_it_grows(
    path: Path,
) -> list[tuple[np.ndarray[Any, Any], dict[str, Any]]]:
    """Read by tifffile while no frame is added.

    It notes a file's size once, at opening, and takes what is linked later for damage:
    where files grew meanwhile its word counts for nothing, and they are read again.
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
    """Both readers find exactly these frames, pixel by pixel."""
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
    """A killed process leaves whole pages; a record within one is there or is not."""
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


# What is refused


def test_existing_output_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "d"
    with NDTiffSink.create(path) as sink:
        write_all(sink, [numbered_frame(0)])
    before = {name.name: name.read_bytes() for name in path.iterdir()}
    with pytest.raises(OutputError, match=r"exists already.*--output"):
        NDTiffSink.create(path)
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="exists already"):
        NDTiffSink.create(tmp_path / "file")
    with pytest.raises(OutputError, match="starting a dataset"):
        NDTiffSink.create(tmp_path / "file" / "d")
    assert {name.name: name.read_bytes() for name in path.iterdir()} == before


def test_a_start_that_was_killed_is_started_again(tmp_path: Path) -> None:
    """A folder without an index, but with a file of ours that holds no frame."""
    path = tmp_path / "d"
    path.mkdir()
    (path / "NDTiffStack.tif.part").write_bytes(b"II*")
    with pytest.raises(OutputError, match="no dataset to append to"):
        NDTiffSink.append(path)
    with NDTiffSink.create(path) as sink:
        write_all(sink, [numbered_frame(0)])
    assert_readers_find(path, [numbered_frame(0)])


def test_nothing_is_appended_to_a_dataset_of_others(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "NDTiff.index").write_bytes(b"")
    (raw / "NDTiffStack.tif").write_bytes(pack_header(b'{"Prefix": "raw"}'))
    before = {name.name: name.read_bytes() for name in raw.iterdir()}
    with pytest.raises(OutputError, match="was not written by"):
        NDTiffSink.append(raw)
    with pytest.raises(OutputError, match="no dataset to append to"):
        NDTiffSink.append(tmp_path / "nowhere")
    assert {name.name: name.read_bytes() for name in raw.iterdir()} == before


def test_a_second_writer_is_kept_out(tmp_path: Path) -> None:
    path = tmp_path / "d"
    code = f"from refocusd.formats.ndtiff.writer import NDTiffSink; NDTiffSink.append({str(path)!r}).close()"
    with NDTiffSink.create(path) as sink:
        write_all(sink, [numbered_frame(0)])
        with pytest.raises(OutputError, match="another process"):
            NDTiffSink.append(path)
        other = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert other.returncode != 0
        assert "another process" in other.stderr
        write_all(sink, [numbered_frame(1)])
    subprocess.run([sys.executable, "-c", code], check=True)
    assert_readers_find(path, [numbered_frame(0), numbered_frame(1)])


def test_a_frame_that_does_not_fit_the_dataset_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d"
    good = numbered_frame(0)
    other_shape, other_type = numbered_frame(1, (40, 32)), numbered_frame(1, dtype=np.uint8)
    with NDTiffSink.create(path, max_file_bytes=100_000) as sink:
        with pytest.raises(OutputError, match="more than a TIFF"):
            write_all(sink, [numbered_frame(1, (300, 300))])
        write_all(sink, [good])
        size = (path / "NDTiffStack.tif").stat().st_size
        refused: list[tuple[Any, Any, Any, str]] = [
            (good.pixels, good.axes, {}, "already"),
            (other_shape.pixels, {"time": 1}, {}, "32×40 px uint16.*36×24 px uint16"),
            (other_type.pixels, {"time": 1}, {}, "36×24 px uint8.*36×24 px uint16"),
            (good.pixels, {"time": "first"}, {}, "'time'.*names.*numbers"),
            (good.pixels, {"time": 1, "channel": "x" * 2000}, {}, "shorten"),
            (good.pixels, {"time": 1}, {"When": object()}, "no JSON form"),
        ]
        for pixels, axes, metadata, message in refused:
            with pytest.raises(OutputError, match=message):
                sink.write(pixels, axes, metadata)
        with pytest.raises(InputError, match="float64"):
            sink.write(good.pixels.astype(float), {"time": 1}, {})
        with pytest.raises(InputError, match="axis 'time'"):
            sink.write(good.pixels, {"time": 1.5}, {})  # type: ignore[dict-item]
        assert (path / "NDTiffStack.tif").stat().st_size == size
    with NDTiffSink.append(path) as sink:
        for pixels, axes, metadata, message in refused:
            with pytest.raises(OutputError, match=message):
                sink.write(pixels, axes, metadata)
    with pytest.raises(OutputError, match="closed"):
        sink.write(good.pixels, {"time": 1}, {})
    assert_readers_find(path, [good])


def test_a_damaged_index_is_not_cut(tmp_path: Path) -> None:
    """Appending behind a hole in the index would lose the frames behind it."""
    path = tmp_path / "d"
    with NDTiffSink.create(path) as sink:
        write_all(sink, [numbered_frame(number) for number in range(60)])
    index = path / "NDTiff.index"
    whole = index.read_bytes()
    index.write_bytes(whole[:100] + b"\xff" * 50 + whole[150:])
    with pytest.raises(OutputError, match=r"damaged at byte \d+ of"):
        NDTiffSink.append(path)
    assert len(index.read_bytes()) == len(whole)
    index.write_bytes(whole)
    (path / "NDTiffStack.tif").rename(path / "away")
    with pytest.raises(OutputError, match=r"lost NDTiffStack\.tif"):
        NDTiffSink.append(path)
    assert index.read_bytes() == whole


def test_a_summary_without_json_form_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="summary metadata"):
        NDTiffSink.create(tmp_path / "d", {"when": object()})
    assert not (tmp_path / "d").exists()


# A disk that is full


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
@pytest.mark.parametrize("room", [0, 1, 100, 178, 5000, 24_000])
def test_a_frame_that_the_disk_refuses_is_undone(tmp_path: Path, room: int) -> None:
    """A limit on the file's length stops a write anywhere within a frame."""
    import resource

    path = tmp_path / "d"
    frames = [numbered_frame(number, (100, 120)) for number in range(4)]
    with NDTiffSink.create(path, SUMMARY) as sink:
        write_all(sink, frames[:2])
        before = {name.name: name.read_bytes() for name in path.iterdir()}
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = (path / "NDTiffStack.tif").stat().st_size + room
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(OutputError, match="the disk is full"):
                write_all(sink, frames[2:3])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert frames[2].key not in sink
        assert {name.name: name.read_bytes() for name in path.iterdir()} == before
        assert_readers_find(path, frames[:2])
        write_all(sink, frames[2:])
    assert_readers_find(path, frames)


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
@pytest.mark.parametrize("room", [0, 10, 60])
@pytest.mark.parametrize("first_of_its_file", [True, False])
def test_an_index_record_that_the_disk_refuses_is_undone(
    tmp_path: Path, room: int, first_of_its_file: bool
) -> None:
    """The files of frames are kept shorter than the index, so that the limit meets that alone."""
    import resource

    path = tmp_path / "d"
    frames = [numbered_frame(number, (16, 20)) for number in range(64)]
    written = 60 if first_of_its_file else 61  # two frames a file
    with NDTiffSink.create(path, SUMMARY, max_file_bytes=2200) as sink:
        write_all(sink, frames[:written])
        index = (path / "NDTiff.index").read_bytes()
        assert len(index) > 2200
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(index) + room, hard))
        try:
            with pytest.raises(OutputError, match="the disk is full"):
                write_all(sink, frames[written : written + 1])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (path / "NDTiff.index").read_bytes() == index
        assert_readers_find(path, frames[:written])
        write_all(sink, frames[written:])
    assert len(list(path.glob("*.tif"))) == 32
    assert_readers_find(path, frames)


def refusal(sink: Sink, frame: Frame) -> str:
    """Write a frame, and return what the sink says against it."""
    try:
        write_all(sink, [frame])
    except OutputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("max_file_bytes", [2**32, 200_000])
def test_a_full_disk_stops_writing_until_there_is_room(
    small_disk: Path, max_file_bytes: int
) -> None:
    path = small_disk / "d"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(500_000))
    frames = [numbered_frame(number, (100, 120)) for number in range(30)]
    written = 0
    with NDTiffSink.create(path, SUMMARY, max_file_bytes=max_file_bytes) as sink:
        while not (said := refusal(sink, frames[written])):
            written += 1
        assert "the disk is full: free some space" in said
        assert 0 < written < 25
        for _ in range(3):
            assert "the disk is full" in refusal(sink, frames[written])
            assert_readers_find(path, frames[:written])
        ballast.unlink()
        write_all(sink, frames[written:])
    assert_readers_find(path, frames)


def test_too_little_space_is_said_before_it_runs_out(tmp_path: Path) -> None:
    path = tmp_path / "not" / "there" / "yet"
    needed = free_space_needed(2048 * 2048 * 2, 1000)
    assert needed > 2048 * 2048 * 2 * 1000
    check_free_space(path, 1, reserve_bytes=0)
    with pytest.raises(OutputError, match=r"GiB free.*needs 1048576\.00 GiB.*2\.00 GiB.*--output"):
        check_free_space(path, 2**50, reserve_bytes=2**31)
    with pytest.raises(OutputError, match="GiB"):
        check_free_space(path, 0, reserve_bytes=2**60)


# A crash at any byte

WRITES = st.tuples(
    st.booleans(),  # whether the process dies in this write
    st.floats(0, 1),  # at which of its bytes
    st.booleans(),  # whether the chain of IFDs was linked already
    st.booleans(),  # in the pixels, or in the index
)


@settings(max_examples=60, deadline=None)
@given(writes=st.lists(WRITES, min_size=1, max_size=8), limit=st.sampled_from([1500, 2300, 2**32]))
def test_no_frame_is_lost_to_a_crash_at_any_byte(
    writes: list[tuple[bool, float, bool, bool]], limit: int
) -> None:
    """What was written before stays; the frame of the crash is there whole, or can be written."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d"
        sink = NDTiffSink.create(path, SUMMARY, max_file_bytes=limit)
        committed: list[Frame] = []
        for number, (crashes, where, linked, in_pixels) in enumerate(writes):
            frame = numbered_frame(number, (16, 20))
            before = {name.name: name.read_bytes() for name in path.iterdir()}
            write_all(sink, [frame])
            committed.append(frame)
            if crashes:
                sink.close()
                after = {name.name: name.read_bytes() for name in path.iterdir()}
                torn = interrupted(before, after, where, linked=linked, in_pixels=in_pixels)
                for name in path.iterdir():
                    name.unlink()
                for name_, content in torn.items():
                    (path / name_).write_bytes(content)
                sink = NDTiffSink.append(path, max_file_bytes=limit)
                assert all(old.key in sink for old in committed[:-1])
                if frame.key not in sink:
                    assert_readers_find(path, committed[:-1])
                    write_all(sink, [frame])
            assert_readers_find(path, committed)
        sink.close()


def interrupted(
    before: dict[str, bytes],
    after: dict[str, bytes],
    where: float,
    *,
    linked: bool,
    in_pixels: bool,
) -> dict[str, bytes]:
    """Return the files as a process killed within a write would leave them.

    The order is: frame, link in the chain of IFDs, name of the file if the
    frame is its first, index record.
    """
    (stack,) = [
        name
        for name, content in after.items()
        if name.endswith(".tif") and before.get(name) != content
    ]
    # A file's first frame is written under another name.
    was = before.get(stack, before.get(stack + ".part", b""))
    head = was or after[stack][:4] + bytes(4) + after[stack][8:12]
    unlinked = head + after[stack][len(head) :]
    state = dict(before)
    if in_pixels or not linked:
        cut = round(where * len(unlinked)) if in_pixels else len(unlinked)
        state[stack if stack in before else stack + ".part"] = unlinked[: max(cut, len(was))]
    else:
        state.pop(stack + ".part", None)
        state[stack] = after[stack]
        old, new = before["NDTiff.index"], after["NDTiff.index"]
        state["NDTiff.index"] = new[: len(old) + round(where * (len(new) - len(old)))]
    return state


def test_a_frame_that_a_power_failure_took_can_be_written_again(tmp_path: Path) -> None:
    """The index may reach the disk before the pixels, and end in zeros."""
    frames = [numbered_frame(number) for number in range(8)]
    path = tmp_path / "d"
    with NDTiffSink.create(path) as sink:
        write_all(sink, frames)
    stack, index = path / "NDTiffStack.tif", path / "NDTiff.index"
    stack.write_bytes(stack.read_bytes()[:-3000])
    index.write_bytes(index.read_bytes() + bytes(5000))
    with NDTiffSink.append(path) as sink:
        assert [frame.key in sink for frame in frames] == [True] * 6 + [False] * 2
        assert_readers_find(path, frames[:6])
        write_all(sink, frames[6:])
    assert_readers_find(path, frames)


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
    assert tag.count > 4  # up to four bytes would have to be in the entry itself
    assert text.endswith(b"\0")
    assert json.loads(text[:-1].decode("ascii")) == metadata
    assert rb'"\u03c6-actin \u86cd\u5149"' in (tmp_path / "d" / "NDTiff.index").read_bytes()
