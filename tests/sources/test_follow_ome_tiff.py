"""OME-TIFF is followed while pymmcore-plus' own writer, ome-writers, writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished import blurred, verify
from followed import ended, following
from live import quick_settings, running
from test_follow import live_frames
from waiting import until

from refocusd.daemon.daemon import Daemon
from refocusd.errors import InputError
from refocusd.formats.open_dataset import open_dataset
from refocusd.sources.folders.scanner import Scanner

writers = pytest.importorskip("ome_writers", reason="ome-writers is not installed")

#: Three times, two channels, two planes.
FRAMES = blurred(12)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(quick_settings(tmp_path)) as daemon:
        yield daemon


def stream(path: Path, **changes: Any) -> Any:
    """Open the stream that pymmcore-plus opens in ome-writers for ``output="cells.ome.tiff"``."""
    sizes = {"t": 3, "c": ["DAPI", "GFP"], "z": 2, "y": 64, "x": 64} | changes.pop("sizes", {})
    settings = writers.AcquisitionSettings(
        root_path=str(path),
        dimensions=writers.dims_from_standard_axes(sizes),
        dtype="uint16",
        format={"name": "tifffile", **changes} if changes else "tifffile",
    )
    return writers.create_stream(settings)


def key(n: int) -> dict[str, Any]:
    return {"time": n // 4, "channel": ["DAPI", "GFP"][n // 2 % 2], "z": n % 2}


def test_frames_are_there_as_soon_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "cells.ome.tiff"
    with stream(path) as out:
        out.append(FRAMES[0])
        until(lambda: path.stat().st_size > FRAMES[0].nbytes, "the first frame")
        dataset = open_dataset(path, growing=True)
        assert len(dataset) == 1
        for frame in FRAMES[1:5]:
            out.append(frame)
        until(lambda: [*dataset.refresh(), len(dataset)][-1] == 5, "five frames")
        assert not dataset.finished
        with dataset:
            np.testing.assert_array_equal(dataset.read(key(4)).pixels, FRAMES[4])
        for frame in FRAMES[5:]:
            out.append(frame)
    dataset.refresh()
    assert open_dataset(path, growing=True).finished
    with open_dataset(path) as whole:
        assert whole.axes_keys() == dataset.axes_keys()
        assert whole.summary["ChNames"] == ["DAPI", "GFP"]


@pytest.mark.parametrize("times", [3, None], ids=["stopped", "endless"])
def test_what_was_written_of_the_last_time_point_is_read(tmp_path: Path, times: int | None) -> None:
    path = tmp_path / "cells.ome.tiff"
    with stream(path, sizes={"t": times}) as out:
        for frame in FRAMES[:6]:
            out.append(frame)
    for growing in (True, False):
        with open_dataset(path, growing=growing) as dataset:
            assert len(dataset) == 6
            for n in range(6):
                np.testing.assert_array_equal(dataset.read(key(n)).pixels, FRAMES[n])


def test_every_frame_of_a_growing_ome_tiff_is_done(daemon: Daemon, tmp_path: Path) -> None:
    raw = tmp_path / "data" / "cells.ome.tiff"
    raw.parent.mkdir()
    with following(raw.parent, daemon.endpoint, quiet_s=20.0):
        with stream(raw) as out:
            for frame in FRAMES[:6]:
                out.append(frame)
            # The first frames are refocused before the last ones are written.
            until(lambda: live_frames(daemon, "cells") > 0, "a frame of the file")
            for frame in FRAMES[6:]:
                out.append(frame)
        until(
            lambda: (counts := ended(daemon, "cells")) is not None and counts.acquired == 12,
            "the end of the file",
        )
    status, said = verify(raw, place=tmp_path)
    assert status == 0, said
    with open_dataset(raw.with_name("cells_refocused")) as refocused:
        for n in range(12):
            np.testing.assert_array_equal(refocused.read(key(n)).pixels, FRAMES[n])


# According to its package, ome-writers will replace it.
@pytest.mark.filterwarnings("ignore:The 'pymmcore_plus.mda.handlers' module:FutureWarning")
def test_of_a_file_that_is_filled_in_place_it_is_said_what_to_do(tmp_path: Path) -> None:
    useq: Any = pytest.importorskip("useq", reason="pymmcore-plus is not installed")
    handlers: Any = pytest.importorskip("pymmcore_plus.mda.handlers")
    path = tmp_path / "cells.ome.tif"
    sequence = useq.MDASequence(time_plan={"interval": 0, "loops": 3})
    writer = handlers.OMETiffWriter(path)
    writer.sequenceStarted(sequence, {})
    first = next(iter(sequence))
    writer.frameReady(FRAMES[0], first, {"mda_event": first})
    with pytest.raises(InputError, match=r"full size before the first frame.*refocusd process"):
        open_dataset(path, growing=True)
    writer.sequenceFinished(sequence)


def test_compressed_files_are_left_until_they_are_finished(tmp_path: Path) -> None:
    path = tmp_path / "cells.ome.tiff"
    settings = writers.AcquisitionSettings(
        root_path=str(path),
        dimensions=writers.dims_from_standard_axes({"t": 2, "y": 64, "x": 64}),
        dtype="uint16",
        format="tifffile",
        compression="lzw",
    )
    with writers.create_stream(settings) as out:
        out.append(FRAMES[0])
        out.append(FRAMES[1])
    with pytest.raises(InputError, match="it is compressed"):
        open_dataset(path, growing=True)
    assert len(open_dataset(path)) == 2


def test_an_ome_tiff_is_found_and_ours_is_not(tmp_path: Path) -> None:
    for name in ("cells.ome.tif", "cells_refocused.ome.tif", "a.tif"):
        (tmp_path / name).write_bytes(b"II")
    scanner = Scanner(tmp_path)
    assert [found.path.name for found in scanner.scan()] == ["cells.ome.tif"]
    (tmp_path / "cells.ome.tif").write_bytes(b"II+")
    assert [found.new for found in scanner.scan()] == [False]


@pytest.mark.parametrize("count", [1, 2, 4, 5, 12])
@pytest.mark.parametrize("times", [3, None], ids=["planned", "endless"])
def test_frames_have_the_same_axes_while_a_file_grows_and_afterwards(
    tmp_path: Path, times: int | None, count: int
) -> None:
    path = tmp_path / "cells.ome.tiff"
    with stream(path, sizes={"t": times}) as out:
        out.append(FRAMES[0])
        until(lambda: path.stat().st_size > FRAMES[0].nbytes, "the first frame")
        growing = open_dataset(path, growing=True)
        for frame in FRAMES[1:count]:
            out.append(frame)
        until(lambda: [*growing.refresh(), len(growing)][-1] == count, "all frames")
    growing.refresh()
    # A single page does not show whether others follow.
    assert growing.finished == (count > 1)
    with growing, open_dataset(path) as whole:
        assert growing.axes_keys() == whole.axes_keys()
        for n in range(count):
            np.testing.assert_array_equal(growing.read(key(n)).pixels, FRAMES[n])
            np.testing.assert_array_equal(whole.read(key(n)).pixels, FRAMES[n])


def test_a_time_lapse_without_an_end_is_not_finished_by_its_first_frame(tmp_path: Path) -> None:
    path = tmp_path / "cells.ome.tiff"
    settings = writers.AcquisitionSettings(
        root_path=str(path),
        dimensions=writers.dims_from_standard_axes({"t": None, "y": 64, "x": 64}),
        dtype="uint16",
        format="tifffile",
    )
    with writers.create_stream(settings) as out:
        out.append(FRAMES[0])
        until(lambda: path.stat().st_size > FRAMES[0].nbytes, "the first frame")
        growing = open_dataset(path, growing=True)
        assert (len(growing), growing.finished) == (1, False)
        for frame in FRAMES[1:4]:
            out.append(frame)
        until(lambda: [*growing.refresh(), len(growing)][-1] == 4, "all frames")
    growing.refresh()
    with growing, open_dataset(path) as whole:
        assert growing.finished
        assert growing.axes_keys() == whole.axes_keys() == [f'{{"time":{n}}}' for n in range(4)]
