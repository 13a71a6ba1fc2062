"""Live mode and snaps over the bridge: the view shows the newest frame, the disk gets nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bridge_standin import Standin
from bridge_standin_rig import acquisitions, attached, frame, look, until
from live import opened, pump_until, quick_settings, running, source
from numpy.typing import NDArray

from refocusd.daemon.daemon import Daemon
from refocusd.transport.client import Connection

ViewOf = Callable[[Daemon], Connection]
LIVE_ONLY = {"studio": "off", "live": True}


@pytest.fixture
def view_of() -> Iterator[ViewOf]:
    connections: list[Connection] = []

    def connect(daemon: Daemon) -> Connection:
        connection = Connection(daemon.endpoint, "view", inline=True)
        connection.welcome(90.0)
        connections.append(connection)
        return connection

    yield connect
    for connection in connections:
        connection.close()


def test_live_mode_is_shown_and_written_nowhere(tmp_path: Path, view_of: ViewOf) -> None:
    with Standin() as standin, attached(tmp_path, standin.port, **LIVE_ONLY) as (daemon, _):
        view = view_of(daemon)
        serial, seen = 0, set()
        for number in range(400):
            standin.microscope.expose(number, frame(number))
            if (found := look(view, serial)) is not None:
                shown, pixels = found
                serial = shown.serial
                tags = json.loads(shown.metadata)
                assert np.array_equal(pixels[0], frame(int(tags["ImageNumber"])))
                seen.add(tags["ImageNumber"])
            if len(seen) >= 5:
                break
        assert len(seen) >= 5
        assert shown.name == "live"
        standin.microscope.stop_live()
        # Its end is not an error, and the preview is closed once nothing new comes.
        until(lambda: acquisitions(daemon, "ended"), "end of the preview")
        counts = acquisitions(daemon)[0].counts
    assert counts.failed == counts.skipped == counts.pending == 0
    written = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    # Only what the next daemon must know about this one.
    assert written == [f"attached-{standin.port}"]


def test_a_frame_is_taken_once(tmp_path: Path, view_of: ViewOf) -> None:
    with Standin() as standin, attached(tmp_path, standin.port, **LIVE_ONLY) as (daemon, _):
        view = view_of(daemon)
        standin.microscope.expose(3, frame(3))
        shown, _pixels = until(lambda: look(view), "frame")
        time.sleep(1.5)
        assert look(view, shown.serial) is None
        assert standin.pixel_nbytes == frame(3).nbytes
        standin.microscope.expose(4, frame(4))
        until(lambda: look(view, shown.serial), "next frame")


def test_snaps_are_shown_each_once(tmp_path: Path, view_of: ViewOf) -> None:
    with Standin() as standin, attached(tmp_path, standin.port, **LIVE_ONLY) as (daemon, _):
        view = view_of(daemon)
        serial = 0
        for number in range(2):
            standin.microscope.snap(frame(number))
            shown, pixels = until(lambda: look(view, serial), "snap")  # noqa: B023
            assert shown.name == "snap"
            assert np.array_equal(pixels[0], frame(number))
            serial = shown.serial
        time.sleep(1.5)
        assert look(view, serial) is None


def test_live_mode_after_a_snap_is_not_called_a_snap(tmp_path: Path, view_of: ViewOf) -> None:
    with Standin() as standin, attached(tmp_path, standin.port, **LIVE_ONLY) as (daemon, _):
        view = view_of(daemon)
        standin.microscope.snap(frame(0))
        shown, _pixels = until(lambda: look(view), "snap")
        assert shown.name == "snap"
        standin.microscope.expose(1, frame(1))
        shown, _pixels = until(lambda: look(view, shown.serial), "frame")
        assert shown.name == "live"


def test_a_sequence_that_a_script_acquires_is_not_live_mode(tmp_path: Path) -> None:
    with Standin() as standin, attached(tmp_path, standin.port, **LIVE_ONLY):
        standin.microscope.stream(1, frame(1))
        until(lambda: sum(call.name == "isLiveModeOn" for call in standin.calls) > 3, "questions")
        assert standin.pixel_nbytes == 0


def test_another_roi_or_bit_depth_is_another_preview(tmp_path: Path, view_of: ViewOf) -> None:
    with Standin() as standin, attached(tmp_path, standin.port, **LIVE_ONLY) as (daemon, _):
        view = view_of(daemon)
        serial = 0
        frames: list[NDArray[Any]] = [frame(1), frame(2, (32, 40)), frame(3).astype(np.uint8)]
        for number, pixels in enumerate(frames):
            standin.microscope.expose(number, pixels)
            shown, got = until(lambda: look(view, serial), "frame")  # noqa: B023
            serial = shown.serial
            assert (shown.height, shown.width) == pixels.shape
            assert np.array_equal(got[0], pixels)


def test_a_camera_in_colour_is_named_and_not_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = ""
    with Standin() as standin, attached(tmp_path, standin.port, **LIVE_ONLY):
        standin.microscope.expose(1, np.zeros((32, 32), np.uint8), components=4)

        def heard() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return "an RGB camera?" in said

        until(heard, "warning")


def test_live_rests_while_an_acquisition_runs(tmp_path: Path) -> None:
    with Standin() as standin, attached(tmp_path, standin.port) as (daemon, _):
        store = standin.microscope.begin()
        store.put({"time": 0}, frame(0))
        until(lambda: acquisitions(daemon), "acquisition")
        standin.microscope.expose(1, frame(1))  # a hardware sequence of the acquisition
        time.sleep(1.5)
        assert not [call for call in standin.calls if call.name == "getLastTaggedImage"]
        standin.microscope.end(store)
        standin.microscope.stop_live()
        until(lambda: acquisitions(daemon, "ended"), "end of the acquisition")


def test_the_newest_frame_is_asked_for_thirty_times_a_second_at_most(tmp_path: Path) -> None:
    with Standin() as standin, attached(tmp_path, standin.port, **LIVE_ONLY):
        standin.microscope.expose(0, frame(0))
        until(lambda: standin.pixel_nbytes, "frame")
        standin.calls.clear()
        begun = time.monotonic()
        number = 0
        while time.monotonic() - begun < 2.0:
            number += 1
            standin.microscope.expose(number, frame(number))
            time.sleep(0.01)
        spent = time.monotonic() - begun
        asked = [call for call in standin.calls if call.name == "getLastTaggedImage"]
    assert 3 <= len(asked) <= 30 * spent + 2


# -- previews at the daemon ---------------------------------------------------------------


def test_a_preview_is_an_acquisition_without_place_or_ledger(tmp_path: Path) -> None:
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, Path(), output_="", preview=True)
        assert upload.refused == ""
        assert upload.opened is not None
        assert upload.opened.output == ""
        assert upload.submit(frame(0, (64, 64)), '{"time":0}', "{}", time.perf_counter_ns())
        upload.miss(['{"time":1}'], "failed", "of another size")
        upload.close(2)
        pump_until(upload, lambda: upload.closed)
        assert upload.closed is not None
        assert upload.closed.counts.passed_through == 1
        assert upload.closed.counts.failed == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("what", ["raw", "output"])
def test_a_preview_that_names_a_folder_is_refused(tmp_path: Path, what: str) -> None:
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        folders: dict[str, Any] = {"raw_": "", "output_": "", f"{what}_": str(tmp_path / "x")}
        upload = opened(connection, Path(), preview=True, **folders)
        assert "a preview is not written" in upload.refused


def test_a_preview_whose_source_is_killed_is_closed(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, source_timeout_s=1.0)
    with running(settings) as daemon:
        connection = source(daemon)
        opened(connection, Path(), output_="", preview=True)
        connection.close()
        until(lambda: acquisitions(daemon, "ended"), "end of the preview")


def test_frames_too_large_for_the_ring_are_told_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = ""
    settings = {**LIVE_ONLY, "ring_mib": 1}
    with Standin() as standin, attached(tmp_path, standin.port, **settings):
        standin.microscope.expose(1, frame(1, (1024, 1024)))

        def heard() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return "does not show the live camera" in said

        until(heard, "warning")
        asked = standin.pixel_nbytes
        for number in range(2, 30):
            standin.microscope.expose(number, frame(number, (1024, 1024)))
            time.sleep(0.05)
        assert standin.pixel_nbytes == asked
    assert "larger ring_mib" in said
