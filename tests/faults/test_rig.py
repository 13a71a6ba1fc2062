"""Tests of the rig itself: one round of each kind of fault."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from acquisition import MicroscopeProcess
from aftermath import assert_raw_is_as_acquired, assert_whole, refocused_of, resume, verify
from bad_workers import Fault, environment
from disks import fill, small_disk
from rig import POSIX, FaultyDaemon, slowed, stopped, until


@pytest.fixture(scope="module")
def microscope() -> Iterator[MicroscopeProcess]:
    """One real MMCore for all tests that leave it alive."""
    with MicroscopeProcess() as microscope:
        yield microscope


def test_an_acquisition_that_nothing_happens_to_is_whole(
    microscope: MicroscopeProcess, tmp_path: Path
) -> None:
    with FaultyDaemon(tmp_path) as daemon:
        microscope.acquire(daemon.endpoint, tmp_path, "calm", frames=40, wait_s=90.0)
        microscope.wait_done()
        until(daemon.idle, "the daemon's end of the acquisition")
    assert microscope.counts is not None
    assert microscope.counts["passed_through"] == 40
    assert assert_whole(microscope.raw, tmp_path, microscope.saved, resumed=False) == 40


@POSIX
def test_a_stopped_worker_and_a_slow_daemon(microscope: MicroscopeProcess, tmp_path: Path) -> None:
    with FaultyDaemon(tmp_path) as daemon:
        microscope.acquire(daemon.endpoint, tmp_path, "stopped", frames=60, wait_s=90.0)
        microscope.wait_saved(10)
        with stopped(daemon.workers()[0]):
            microscope.wait_saved(30)
        with slowed(daemon.pid):
            microscope.wait_acquired()
        microscope.wait_done()
        until(daemon.idle, "the daemon's end of the acquisition")
    assert assert_whole(microscope.raw, tmp_path, microscope.saved, resumed=False) == 60


def test_a_full_disk_for_what_is_refocused(microscope: MicroscopeProcess, tmp_path: Path) -> None:
    """The reserve is what raw needs: with less, the acquisition itself would fail."""
    reserve = {"REFOCUSD_RESERVE_MIB": "32"}
    with (
        small_disk(tmp_path / "disk", 128) as disk,
        FaultyDaemon(tmp_path, environment=reserve) as daemon,
    ):
        microscope.acquire(daemon.endpoint, disk, "full", frames=40, exposure_ms=50)
        microscope.wait_saved(5)
        ballast = fill(disk, 40.0)
        microscope.wait_acquired()
        assert len(microscope.saved) == 40
        until(lambda: any(a.warnings for a in daemon.status().details), "the warning")
        ballast.unlink()
        until(daemon.idle, "the daemon's end of the acquisition")
        assert assert_whole(microscope.raw, tmp_path, microscope.saved, resumed=False) == 40


@pytest.mark.parametrize("fault", ["nan", "pixels", "error", "exit", "twice", "order"])
def test_a_worker_that_goes_wrong(
    microscope: MicroscopeProcess, tmp_path: Path, fault: Fault
) -> None:
    with FaultyDaemon(tmp_path, environment=environment(fault, every=13)) as daemon:
        microscope.acquire(daemon.endpoint, tmp_path, fault, frames=40)
        microscope.wait_acquired()
        until(daemon.idle, "the daemon's end of the acquisition")
    assert assert_whole(microscope.raw, tmp_path, microscope.saved) == 40


def test_killing_leaves_nothing_behind(tmp_path: Path) -> None:
    with FaultyDaemon(tmp_path) as daemon:
        workers = daemon.workers()
        assert len(workers) == 1
        daemon.kill()
        assert not daemon.alive
        assert not any(map(psutil.pid_exists, workers))
        daemon.start()
        assert daemon.ready()
        assert daemon.workers() != workers
    assert os.environ.get("BAD_WORKER") is None


def test_the_aftermath_notices_what_is_wrong(microscope: MicroscopeProcess, tmp_path: Path) -> None:
    """A check that cannot fail proves nothing."""
    with FaultyDaemon(tmp_path) as daemon:
        microscope.acquire(daemon.endpoint, tmp_path, "altered", frames=5, wait_s=90.0)
        microscope.wait_done()
        until(daemon.idle, "the daemon's end of the acquisition")
    raw, saved = microscope.raw, microscope.saved
    resume(raw, tmp_path)
    assert verify(raw, tmp_path)["clean"]
    with pytest.raises(AssertionError, match="lost a frame"):
        assert_raw_is_as_acquired(raw, {**saved, '{"time":99}': 1})
    with pytest.raises(AssertionError, match="has changed"):
        assert_raw_is_as_acquired(raw, dict.fromkeys(saved, 1))
    stack = refocused_of(raw) / "NDTiffStack.tif"
    data = bytearray(stack.read_bytes())
    data[len(data) // 2] ^= 1
    stack.write_bytes(data)
    with pytest.raises(AssertionError):
        verify(raw, tmp_path)
