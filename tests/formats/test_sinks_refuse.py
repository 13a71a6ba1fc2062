"""The NDTiff sink refuses what does not fit, and what it would overwrite."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ndtiff_sinks import assert_readers_find, numbered_frame, write_all

from refocusd.errors import DiskFullError, InputError, OutputError
from refocusd.formats.disk_space import write_error
from refocusd.formats.ndtiff.layout import pack_header
from refocusd.formats.ndtiff.writer import NDTiffSink


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
    """A folder without an index but with a file of ours that contains no frame."""
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


def test_a_path_that_is_too_long_is_reported_as_too_long(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"the path has \d+ characters, too many"):
        NDTiffSink.create(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("number", "winerror", "name", "advice"),
    [
        (errno.ENOENT, 3, "D:\\" + "x" * 250, "the path has 253 characters, too many"),
        (errno.ENOENT, 3, "D:\\data", "see that the disk is connected"),
        (errno.EINVAL, 1295, "D:\\data", "the disk is full"),
    ],
)
def test_what_windows_says_is_understood(
    number: int, winerror: int, name: str, advice: str
) -> None:
    """Windows reports a path that is too long as missing, and Python has no error for a quota."""
    error = OSError(number, "what Windows says", name)
    error.winerror = winerror  # type: ignore[attr-defined, unused-ignore]
    told = write_error(error, Path("D:/data"), "starting a dataset")
    assert advice in str(told)
    assert isinstance(told, DiskFullError) is (winerror == 1295)
