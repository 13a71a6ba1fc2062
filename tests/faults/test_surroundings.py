"""Faults of the environment: the wall clock jumps, the disk is full, slow or hangs."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from acquisition import MicroscopeProcess
from aftermath import assert_whole
from bad_workers import jumping_clock, slow_disk
from disks import fill, hanging_disk, small_disk
from live import Upload, opened, pump_until, stack
from rig import POSIX, FaultyDaemon, stopped, until
from waiting import PATIENCE_S

from refocusd.transport import messages as wire
from refocusd.transport.client import Connection

DAY_S = 86400.0


@pytest.fixture(scope="module")
def microscope() -> Iterator[MicroscopeProcess]:
    """One real MMCore for all tests."""
    with MicroscopeProcess() as microscope:
        yield microscope


def test_a_wall_clock_that_jumps_forward_and_back(
    microscope: MicroscopeProcess, tmp_path: Path
) -> None:
    """No wait depends on it, and the latest attempt is the last one, whatever its date says."""
    offset = tmp_path / "offset"
    with FaultyDaemon(tmp_path, "--pick-up", environment=jumping_clock(offset)) as daemon:
        microscope.acquire(daemon.endpoint, tmp_path, "clock", frames=80, wait_s=90.0)
        for frames, off_s in ((10, DAY_S), (30, -DAY_S), (45, 3650 * DAY_S)):
            microscope.wait_saved(frames)
            # Replaced atomically: it may be read at any moment.
            (tmp_path / "new").write_text(str(off_s), encoding="utf-8")
            (tmp_path / "new").replace(offset)
        microscope.wait_saved(60)
        daemon.kill()
        offset.write_text(str(-3650 * DAY_S), encoding="utf-8")
        daemon.start()
        microscope.wait_done()
        until(daemon.idle, "the daemon's end of the acquisition")
    assert assert_whole(microscope.raw, tmp_path, microscope.saved) == 80


@POSIX
def test_a_disk_without_a_byte_left_and_room_later(
    microscope: MicroscopeProcess, tmp_path: Path
) -> None:
    """There is no reserve: the system's own error ends a write in the middle of a frame."""
    with (
        small_disk(tmp_path / "disk", 96) as disk,
        FaultyDaemon(tmp_path, environment={"REFOCUSD_RESERVE_MIB": "0"}) as daemon,
    ):
        with stopped(daemon.pid):  # until raw is safe
            microscope.acquire(daemon.endpoint, disk, "full", frames=60, buffer_mib=64)
            microscope.wait_acquired()
            ballast = fill(disk, 3.3)
        until(lambda: any(a.warnings for a in daemon.status().details), "the warning")
        assert shutil.disk_usage(disk).free < 1 << 20
        assert not daemon.idle()
        ballast.unlink()
        until(daemon.idle, "the daemon's end of the acquisition")
        assert assert_whole(microscope.raw, tmp_path, microscope.saved, resumed=False) == 60


@POSIX
def test_a_disk_that_stays_full_until_the_daemon_is_gone(
    microscope: MicroscopeProcess, tmp_path: Path
) -> None:
    """It is killed while paused; the remaining frames are resumed once there is room."""
    with small_disk(tmp_path / "disk", 96) as disk:
        with FaultyDaemon(tmp_path, environment={"REFOCUSD_RESERVE_MIB": "0"}) as daemon:
            with stopped(daemon.pid):
                microscope.acquire(daemon.endpoint, disk, "full", frames=60)
                microscope.wait_acquired()
                ballast = fill(disk, 5.7)
            until(lambda: any(a.warnings for a in daemon.status().details), "the warning")
            daemon.kill()
        ballast.unlink()
        assert assert_whole(microscope.raw, tmp_path, microscope.saved) == 60


def test_a_slow_disk_costs_neither_frames_nor_memory(
    microscope: MicroscopeProcess, tmp_path: Path
) -> None:
    """Frames arrive ten times as fast as they can be written."""
    with FaultyDaemon(tmp_path, environment=slow_disk(0.1)) as daemon:
        process = psutil.Process(daemon.pid)
        before = process.memory_info().rss
        microscope.acquire(daemon.endpoint, tmp_path, "slow", frames=100, wait_s=90.0)
        microscope.wait_acquired()
        assert not daemon.idle(), "the disk was not slow"
        # Its shared memory is touched for the first time here, and counts.
        assert process.memory_info().rss < before + (32 + 32 << 20)
        microscope.wait_done()
        until(daemon.idle, "the daemon's end of the acquisition")
    assert assert_whole(microscope.raw, tmp_path, microscope.saved, resumed=False) == 100


@POSIX
@pytest.mark.parametrize("what", ["raw", "output"])
def test_a_disk_that_hangs_holds_up_neither_others_nor_the_end_of_the_daemon(
    tmp_path: Path, what: str
) -> None:
    """Calls to it wait in the kernel, and nothing in the process can end them."""
    stop_s, margin_s = 3.0, 20.0
    flags = ("--stop-timeout-s", str(stop_s))
    with hanging_disk(tmp_path / "disk") as disk, FaultyDaemon(tmp_path, *flags) as daemon:
        raw = str(disk / "cells_1") if what == "raw" else ""
        output = str(tmp_path / "out") if raw else str(disk / "out")
        with ExitStack() as stack_:
            first, second = (
                stack_.enter_context(Connection(daemon.endpoint, "source")) for _ in range(2)
            )
            first.welcome(PATIENCE_S)
            second.welcome(PATIENCE_S)
            hung = Upload(
                first, wire.Open(str(uuid.uuid4()), "hung", 64, 64, "uint16", raw, output, "{}")
            )
            if raw:
                pump_until(hung, lambda: hung.credit)
                hung.close(3)  # frames that only the disk has
            good = opened(second, tmp_path / "good")
            good.submit(stack(1)[0], '{"time":0}', "{}", 1)
            good.close(1)
            pump_until(good, lambda: hung.pump(0.0) or good.closed)
        assert good.closed is not None
        assert good.closed.counts.final == 1
        asked = time.monotonic()
        daemon.stop()
        assert time.monotonic() - asked < stop_s + margin_s
        assert "a disk hangs" in daemon.log.read_text(encoding="utf-8")
