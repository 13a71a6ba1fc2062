"""The hooks on pycromanager's Java backend: Java saves each frame, then reports its index entry."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from disks import hanging_disk
from java_acquisition import SIDE, JavaAcquisition, axes_of, contents, index_entry
from java_ndtiff import JavaNDTiff, frame_of
from live import quick_settings, read_all
from numpy.typing import NDArray
from pycromanager import (
    Acquisition,
    ExploreAcquisition,
    MagellanAcquisition,
    XYTiledAcquisition,
)
from pycromanager.acquisition.acq_eng_py.main.acq_notification import AcqNotification
from test_source_recovers import frames_in
from waiting import PATIENCE_S, until

import refocusd
from refocusd.daemon.acquisitions import lifecycle, saved_frames
from refocusd.daemon.daemon import Daemon, daemon_status
from refocusd.errors import ConfigError, TransportError
from refocusd.formats.tiff.growing_file import GrowingFile
from refocusd.processes.daemon_process import DaemonProcess
from refocusd.transport import messages as wire
from refocusd.transport.ring import Slot


def entries_of(folder: Path, frames: int) -> list[bytes]:
    """Index entries as Java's writer would make them for `frames` frames."""
    java = JavaNDTiff(folder / "ahead", "java")
    entries = [index_entry(*java.put_image(*contents(number))) for number in range(frames)]
    java.abandon()
    return entries


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(quick_settings(tmp_path)) as daemon:
        daemon.wait_ready()
        yield daemon


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the threads, except the test's, that read pixels of raw frames from disk."""
    seen: set[str] = set()
    read = GrowingFile.pixels

    def pixels(*arguments: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            seen.add(threading.current_thread().name)
        return read(*arguments)

    monkeypatch.setattr(GrowingFile, "pixels", pixels)
    return seen


@pytest.fixture
def source(daemon: Daemon) -> refocusd.Source:
    return refocusd.Source(daemon.endpoint)


@pytest.fixture
def acquisition(source: refocusd.Source, tmp_path: Path) -> Iterator[JavaAcquisition]:
    acquisition = JavaAcquisition(source, tmp_path)
    yield acquisition
    acquisition.close()


@pytest.mark.parametrize("by_java", [True, False], ids=["java", "ndstorage"])
def test_the_daemon_reads_saved_frames_and_no_pixels_pass_through_the_users_process(
    source: refocusd.Source, tmp_path: Path, readers: set[str], by_java: bool
) -> None:
    acquisition = JavaAcquisition(source, tmp_path, by_java=by_java)
    assert acquisition.hooks["image_process_fn"] is None
    acquisition.acquire(*range(30))
    acquisition.finish()
    assert source.wait(90.0) == wire.Counts(acquired=30, passed_through=30)
    acquisition.check(30)
    written = read_all(acquisition.refocused).values()
    assert any(metadata["refocusd"]["live"] for _, metadata in written)
    assert "asks-disk" in readers
    assert readers <= {"asks-disk", "catch-up"}
    acquisition.close()


def test_a_tiled_acquisition_is_refocused_though_nobody_tells_of_its_end(
    source: refocusd.Source, tmp_path: Path, readers: set[str]
) -> None:
    """Its frames are in a folder of their own; the thread that tells of them ends with it."""
    acquisition = JavaAcquisition(source, tmp_path, tiled=True)
    monitor = threading.Thread(target=lambda: acquisition.acquire(*range(12)))
    monitor.start()
    monitor.join()
    acquisition.finish()
    assert source.wait(90.0) == wire.Counts(acquired=12, passed_through=12)
    acquisition.check(12)
    assert "asks-disk" in readers
    acquisition.close()


@pytest.mark.parametrize(
    ("kind", "given", "left_out"),
    [
        (XYTiledAcquisition, {"tile_overlap": 10}, {"notification_callback_fn"}),
        (ExploreAcquisition, {"z_step_um": 1}, {"notification_callback_fn"}),
        (MagellanAcquisition, {}, {"directory", "name", "notification_callback_fn"}),
        (Acquisition, {"show_display": False}, set()),
    ],
)
def test_each_class_of_acquisition_gets_the_hooks_that_it_takes(
    daemon: Daemon, kind: Any, given: dict[str, Any], left_out: set[str]
) -> None:
    all_of_them = {"directory", "name", "image_process_fn", "image_saved_fn"}
    all_of_them |= {"notification_callback_fn", *given}
    hooks = refocusd.Source(daemon.endpoint).hooks(acquisition=kind, java=True, **given)
    assert set(hooks) == all_of_them - left_out


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (XYTiledAcquisition, {"event_generation_hook_fn": print}),
        (XYTiledAcquisition, {"notification_callback_fn": print}),
        (MagellanAcquisition, {"directory": "data"}),
    ],
)
def test_an_argument_that_a_class_of_acquisition_does_not_take_is_refused_at_once(
    kind: Any, given: dict[str, Any]
) -> None:
    [name] = given
    source = refocusd.Source("tcp://127.0.0.1:9")
    with pytest.raises(ConfigError, match=f"{kind.__name__} takes no {name}: leave it out"):
        source.hooks(acquisition=kind, **given)
    source.hooks(acquisition=kind)  # nothing has begun


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_frames_that_your_own_hook_keeps_from_us_are_caught_up(
    source: refocusd.Source, tmp_path: Path
) -> None:
    """It raises, and ends the thread that tells of saved frames; Java goes on."""

    def own(axes: dict[str, Any], dataset: Any) -> None:
        if axes["time"] == 2:
            raise RuntimeError("the user's own mistake")

    acquisition = JavaAcquisition(source, tmp_path, own=own)
    monitor = threading.Thread(target=lambda: acquisition.acquire(*range(6)))
    monitor.start()
    monitor.join()
    for number in range(3, 6):
        acquisition.save(number)
    acquisition.finish()
    counts = source.wait(90.0)
    assert counts is not None
    assert (counts.passed_through, counts.pending) == (6, 0)
    acquisition.check(6)
    acquisition.close()


def test_what_the_daemon_does_not_see_on_its_disks_is_read_here(
    source: refocusd.Source,
    acquisition: JavaAcquisition,
    readers: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    acquisition.acquire(*range(10))
    acquisition.finish()
    assert source.wait(90.0) == wire.Counts(acquired=10, passed_through=10)
    acquisition.check(10)
    assert "refocusd-feed" in readers
    assert "asks-disk" not in readers


def test_a_frame_that_is_told_before_it_is_on_disk_is_waited_for(
    source: refocusd.Source, acquisition: JavaAcquisition, readers: set[str], tmp_path: Path
) -> None:
    """Its place holds zeros at first, because the file has its full size from the start."""
    acquisition.acquire(0)
    for number, entry in enumerate(entries_of(tmp_path, 12)[1:], 1):
        acquisition.tell(number, entry)
        acquisition.save(number)
    acquisition.finish()
    assert source.wait(90.0) == wire.Counts(acquired=12, passed_through=12)
    acquisition.check(12)
    assert "refocusd-feed" not in readers


def test_a_frame_that_is_taken_again_under_its_axes_is_accounted_for(
    source: refocusd.Source, acquisition: JavaAcquisition, caplog: pytest.LogCaptureFixture
) -> None:
    acquisition.acquire(0, 1, 1, 2)
    acquisition.finish()
    assert source.wait(90.0) == wire.Counts(acquired=4, passed_through=3, skipped=1)
    acquisition.check(3)
    assert "give frames that are taken again an axis of their own" in caplog.text


def test_a_frame_that_comes_to_disk_far_too_late_is_caught_up(
    source: refocusd.Source, daemon: Daemon, acquisition: JavaAcquisition, tmp_path: Path
) -> None:
    """Nothing is read from a place that is not written yet, and nothing waits long for it."""
    acquisition.acquire(0)
    entries = entries_of(tmp_path, 5)
    for number in (1, 2, 3, 4):
        acquisition.tell(number, entries[number])
    until(lambda: [a.deferred for a in daemon_status(daemon.endpoint, PATIENCE_S).details] == [4])
    for number in (1, 2, 3, 4):
        acquisition.save(number)
    acquisition.finish()
    assert source.wait(90.0) == wire.Counts(acquired=5, passed_through=5)
    acquisition.check(5)


@pytest.mark.timeout(300)
def test_a_daemon_that_starts_late_and_is_killed_loses_no_saved_frame(tmp_path: Path) -> None:
    flags = ["--backend", "identity", "--ledgers", str(tmp_path / "ledgers"), "--ring-mib", "64"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    flags += ["--endpoint", endpoint, "--pick-up"]
    source = refocusd.Source(endpoint)
    acquisition = JavaAcquisition(source, tmp_path)
    acquisition.acquire(*range(20))
    with DaemonProcess(flags, tmp_path / "late.log") as killed:
        acquisition.acquire(*range(20, 30))
        until(lambda: frames_in(acquisition.refocused) >= 5)
        killed.process.kill()
        killed.process.wait()
    acquisition.acquire(*range(30, 50))
    with DaemonProcess(flags, tmp_path / "again.log"):
        acquisition.acquire(*range(50, 60))
        acquisition.finish()
        counts = source.wait(120.0)
    assert counts is not None
    assert (counts.pending, counts.passed_through) == (0, 60)
    acquisition.check(60)
    acquisition.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_frames, "HANGS_S", 0.5)


@contextmanager
def hanging(file: Path) -> Iterator[None]:
    """Make opening this file hang until the block ends, as on a share that went away."""
    kept = file.with_suffix(".kept")
    with hanging_disk(file.parents[1] / "share") as share:
        file.rename(kept)
        file.symlink_to(share / file.name)
        try:
            yield
        finally:
            file.unlink()
            kept.rename(file)


def test_a_disk_that_hangs_is_given_up_and_its_frames_are_caught_up_when_it_answers(
    source: refocusd.Source,
    daemon: Daemon,
    acquisition: JavaAcquisition,
    tmp_path: Path,
    impatient: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Meanwhile another acquisition is refocused as usual."""
    acquisition.acquire(0, 1)
    until(lambda: [about.counts.final for about in daemon_status(daemon.endpoint).details] == [2])
    with hanging(next(acquisition.raw.glob("*.tif"))):
        acquisition.acquire(*range(2, 40))
        # No slot is held for longer than the wait for the disk.
        until(lambda: daemon_status(daemon.endpoint).details[0].deferred >= 30)
        [about] = daemon_status(daemon.endpoint).details
        assert about.warnings == [
            f"{acquisition.raw} does not answer: its frames are left to the catch-up"
        ]
        other = JavaAcquisition(refocusd.Source(daemon.endpoint), tmp_path / "other")
        other.acquire(*range(10))
        other.finish()
        assert other.source.wait(90.0) == wire.Counts(acquired=10, passed_through=10)
        other.check(10)
        other.close()
    acquisition.acquire(*range(40, 45))
    acquisition.finish()
    assert source.wait(90.0) == wire.Counts(acquired=45, passed_through=45)
    acquisition.check(45)
    assert "does not answer" in caplog.text


def test_a_disk_that_hangs_for_good_ends_an_acquisition_with_frames_pending(
    tmp_path: Path, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "OPENING", 2)
    settings = quick_settings(tmp_path, source_timeout_s=1.0)
    with Daemon(settings) as daemon:
        daemon.wait_ready()
        source = refocusd.Source(daemon.endpoint)
        acquisition = JavaAcquisition(source, tmp_path)
        acquisition.acquire(0, 1)
        until(lambda: [a.counts.final for a in daemon_status(daemon.endpoint).details] == [2])
        with hanging(next(acquisition.raw.glob("*.tif"))):
            acquisition.acquire(*range(2, 10))
            acquisition.finish()
            counts = source.wait(90.0)
            assert counts == wire.Counts(acquired=10, passed_through=2, pending=8)
            [about] = daemon_status(daemon.endpoint).details
            assert "cannot be opened within" in " ".join(
                about.warnings
            ) or "disk hangs" in " ".join(about.warnings)
        acquisition.close()


class _InMemory:
    """Like `NDRAMDatasetJava`: frames are in Java's memory and come over the bridge."""

    def read_image(self, **axes: Any) -> NDArray[Any]:
        return frame_of(axes["time"], SIDE)

    def read_metadata(self, **axes: Any) -> dict[str, Any]:
        return {"Camera": "c", "number": axes["time"]}


def test_frames_that_java_keeps_in_memory_are_refocused_into_the_output(
    daemon: Daemon, tmp_path: Path
) -> None:
    source = refocusd.Source(daemon.endpoint, output=str(tmp_path / "live"))
    hooks = source.hooks(None, "memory", java=True)
    for number in range(5):
        hooks["image_saved_fn"](axes_of(number), _InMemory())
    hooks["notification_callback_fn"](AcqNotification.create_data_sink_finished_notification())
    assert source.wait(90.0) == wire.Counts(acquired=5, passed_through=5)
    written = read_all(tmp_path / "live")
    for number in range(5):
        pixels, metadata = written[f'{{"channel":"DAPI","time":{number}}}']
        np.testing.assert_array_equal(pixels, frame_of(number, SIDE))
        assert metadata["number"] == number


@pytest.mark.parametrize("name", ["../secret.tif", "/etc/passwd", "..\\secret.tif", ""])
def test_the_daemon_reads_nothing_outside_the_raw_dataset(name: str) -> None:
    frame = wire.SavedFrame(name, 0, 0, 2)
    message = wire.Submit("a", "{}", Slot(4096, 8), 0, "", 0, saved=frame)
    with pytest.raises(TransportError, match="not a message"):
        wire.decode(wire.encode(message))
