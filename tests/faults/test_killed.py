"""Processes are killed or stopped at random moments of real acquisitions; nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from acquisition import MicroscopeProcess
from aftermath import assert_whole
from bad_workers import slow_disk
from rig import POSIX, ROUNDS, FaultyDaemon, kill, moment, stopped, until

from refocusd.transport.client import SILENCE_S
from refocusd.transport.messages import WorkerStatus

#: Time for the daemon to notice a lost worker and start another, s.
NOTICED_S = 1.0


@pytest.fixture(scope="module")
def microscope() -> Iterator[MicroscopeProcess]:
    """One real MMCore for all tests that leave it alive."""
    with MicroscopeProcess() as microscope:
        yield microscope


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("victim", ["worker", "daemon", "both"])
def test_killed_at_random_moments(
    microscope: MicroscopeProcess, tmp_path: Path, victim: str, number: int
) -> None:
    """The daemon is restarted now and then, with or without picking up, and killed again."""
    rng = Random(f"{victim} {number}")
    with FaultyDaemon(tmp_path, *rng.choice([["--pick-up"], []]), "--workers", "2") as daemon:
        microscope.acquire(daemon.endpoint, tmp_path, victim, frames=120)
        for frames in sorted(rng.sample(range(1, 110), 2)):
            microscope.wait_saved(frames)
            moment(rng, 0.3)
            if not daemon.alive:
                daemon.start()
            if victim == "worker":
                for worker in daemon.workers()[: rng.choice([1, 2])]:
                    kill(worker)
            else:
                daemon.kill(with_workers=victim == "both")
        microscope.wait_acquired()
        microscope.wait_done()
    assert len(microscope.saved) == 120
    assert assert_whole(microscope.raw, tmp_path, microscope.saved) == 120


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_daemon_killed_in_the_middle_of_a_frame(
    microscope: MicroscopeProcess, tmp_path: Path, number: int
) -> None:
    """The disk is so slow that the kill nearly always falls between the halves of a frame."""
    rng = Random(f"half {number}")
    with FaultyDaemon(tmp_path, environment=slow_disk(0.1)) as daemon:
        microscope.acquire(daemon.endpoint, tmp_path, "half", frames=30)
        until(lambda: _frames_done(daemon) > 1, "a refocused frame")
        moment(rng, 0.5)
        daemon.kill()
        microscope.wait_acquired()
        microscope.wait_done()
    assert assert_whole(microscope.raw, tmp_path, microscope.saved) == 30


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("daemon_too", [False, True], ids=["script", "script and daemon"])
def test_a_script_killed_at_a_random_moment(tmp_path: Path, daemon_too: bool, number: int) -> None:
    rng = Random(f"script {daemon_too} {number}")
    with FaultyDaemon(tmp_path) as daemon, MicroscopeProcess() as microscope:
        microscope.acquire(daemon.endpoint, tmp_path, "script", frames=400)
        microscope.wait_saved(rng.randint(1, 60))
        moment(rng, 0.5)
        if daemon_too and rng.random() < 0.5:
            daemon.kill(with_workers=True)
            moment(rng, 0.1)
            microscope.kill()
        else:
            microscope.kill()
            if daemon_too:
                moment(rng, 0.1)
                daemon.kill()
        saved, raw = microscope.saved, microscope.raw
    assert assert_whole(raw, tmp_path, saved) >= len(saved) > 0


@POSIX
def test_a_hung_worker_is_replaced_while_the_acquisition_goes_on(
    microscope: MicroscopeProcess, tmp_path: Path
) -> None:
    """It has refocused frames before, so five seconds for one frame are too long."""
    with FaultyDaemon(tmp_path) as daemon:
        microscope.acquire(daemon.endpoint, tmp_path, "hung", frames=60, wait_s=90.0)
        until(lambda: _frames_done(daemon) > 5, "refocused frames")
        (hung,) = daemon.workers()
        with stopped(hung):
            microscope.wait_done()
            assert daemon.workers() != [hung]
        until(daemon.idle, "the daemon's end of the acquisition")
    assert assert_whole(microscope.raw, tmp_path, microscope.saved, resumed=False) == 60


@POSIX
def test_a_stopped_daemon_does_not_stop_the_acquisition(
    microscope: MicroscopeProcess, tmp_path: Path
) -> None:
    """It is stopped for longer than its workers and the source tolerate silence."""
    with FaultyDaemon(tmp_path) as daemon:
        microscope.acquire(daemon.endpoint, tmp_path, "stopped", frames=80, wait_s=90.0)
        microscope.wait_saved(20)
        with stopped(daemon.pid):
            until_s = time.monotonic() + SILENCE_S + 1.0
            microscope.wait_acquired()
            assert len(microscope.saved) == 80
            until(lambda: time.monotonic() > until_s, "the end of all patience")
        microscope.wait_done()
        until(daemon.ready, "the daemon's first breath")
        until(daemon.idle, "the daemon's end of the acquisition")
    assert assert_whole(microscope.raw, tmp_path, microscope.saved) == 80


@pytest.mark.timeout(300)
def test_a_killed_worker_is_replaced_as_quickly_as_the_first_one_started(
    microscope: MicroscopeProcess, tmp_path: Path
) -> None:
    """The new worker loads the real engine on the CPU while frames keep coming.

    The time depends on the machine's load, so the limit is relative to the start of the daemon
    with its first worker in the same run, before any frame came.  It allows the camera and the
    handling of its frames twice the processor time of the new worker.
    """
    begun = time.monotonic()
    with FaultyDaemon(tmp_path, "--backend", "openvino") as daemon:
        until(daemon.ready, "the first worker")
        started_s = time.monotonic() - begun
        microscope.acquire(
            daemon.endpoint, tmp_path, "engine", frames=0, exposure_ms=50.0, wait_s=90.0
        )
        until(lambda: _frames_done(daemon) > 5, "refocused frames")
        (old,) = daemon.workers()
        begun = time.monotonic()
        kill(old)
        until(
            lambda: any(w.frames for w in _crew(daemon) if w.pid != old),
            "the next frame",
        )
        took_s = time.monotonic() - begun
        microscope.end()
        microscope.wait_done()
        until(daemon.idle, "the daemon's end of the acquisition")
    whole = assert_whole(microscope.raw, tmp_path, microscope.saved, resumed=False, unchanged=False)
    assert whole == len(microscope.saved) > 5
    assert took_s <= 3 * started_s + NOTICED_S, f"{took_s:.1f} s, the first one {started_s:.1f} s"


def _crew(daemon: FaultyDaemon) -> list[WorkerStatus]:
    return daemon.status().crew


def _frames_done(daemon: FaultyDaemon) -> int:
    """Frames that the present workers have answered."""
    return sum(worker.frames for worker in _crew(daemon))
