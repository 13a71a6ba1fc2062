"""Real acquisitions whose daemon is killed, restarted, too slow, or must keep the order."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live import keys, quick_settings, read_all
from test_source import acquire, refocused
from waiting import until

import refocusd
from refocusd.daemon.daemon import Daemon
from refocusd.demo.microscope import DemoMicroscope
from refocusd.errors import RefocusdError
from refocusd.processes.daemon_process import DaemonProcess
from refocusd.transport import messages as wire


def frames_in(output: Path) -> int:
    """Number of frames of a dataset that may not exist yet; a hook must not raise."""
    try:
        return len(keys(output))
    except RefocusdError:
        return 0


@pytest.mark.timeout(300)
def test_a_daemon_killed_and_restarted_goes_on_in_the_same_acquisition(
    demo_microscope: DemoMicroscope, tmp_path: Path
) -> None:
    """It is killed after some frames, misses others, and is back before the last are acquired."""
    flags = ["--backend", "identity", "--ledgers", str(tmp_path / "ledgers"), "--ring-mib", "64"]
    running = [DaemonProcess(flags, tmp_path / "daemon.log")]
    running[0].__enter__()
    endpoint = running[0].endpoint
    flags += ["--endpoint", endpoint, "--pick-up"]
    saved: list[Path] = []

    def events() -> Iterator[dict[str, Any]]:
        planned = demo_microscope.events_snapped(90, [0.0])
        yield from planned[:10]
        until(lambda: saved and frames_in(refocused(saved[0])) >= 5)
        running[0].process.kill()
        running[0].process.wait()
        yield from planned[10:60]
        until(lambda: len(saved) >= 60)
        running.append(DaemonProcess(flags, tmp_path / "daemon.log"))
        running[1].__enter__()
        yield from planned[60:]

    try:
        source = refocusd.Source(endpoint)
        hooks = source.hooks(
            str(tmp_path),
            "again",
            image_saved_fn=lambda _, dataset: saved.append(Path(dataset.path)),
        )
        raw = acquire(events(), hooks)
        counts = source.wait(120.0)
    finally:
        for daemon in running:
            daemon.__exit__(None, None, None)
    assert counts is not None
    assert counts.pending == 0
    assert counts.passed_through == 90
    written = read_all(refocused(raw))
    assert len(written) == 90
    for key, (pixels, _) in read_all(raw).items():
        np.testing.assert_array_equal(written[key][0], pixels)
    # It is the same one, whether the daemon picks it up before or after the source is back.
    assert len(list((tmp_path / "ledgers").glob("*.sqlite"))) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP is POSIX")
def test_in_order_means_in_order_however_little_memory_there_is(
    demo_microscope: DemoMicroscope, tmp_path: Path
) -> None:
    """Policy `complete`: frames that the buffer cannot hold are read from raw in their turn."""
    settings = quick_settings(tmp_path, ring_mib=4, policy="complete")
    with Daemon(settings) as daemon:
        daemon.wait_ready()
        (worker,) = daemon.supervisor.pids().values()
        os.kill(worker, signal.SIGSTOP)
        source = refocusd.Source(daemon.endpoint, buffer_mib=1)
        wake = threading.Timer(3.0, os.kill, (worker, signal.SIGCONT))
        wake.start()
        events = demo_microscope.events_sequenced(80, [0.0])
        raw = acquire(events, source.hooks(str(tmp_path), "ordered"))
        assert source.wait(90.0) == wire.Counts(acquired=80, passed_through=80)
        wake.join()
    order = keys(refocused(raw))
    assert order == keys(raw), "written in the order of acquisition"
    written = read_all(refocused(raw))
    assert all(metadata["refocusd"]["live"] for _, metadata in written.values())


@pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP is POSIX")
def test_between_two_bursts_idle_workers_catch_up_the_first(
    demo_microscope: DemoMicroscope, tmp_path: Path
) -> None:
    with Daemon(quick_settings(tmp_path, ring_mib=4)) as daemon:
        daemon.wait_ready()
        (worker,) = daemon.supervisor.pids().values()
        os.kill(worker, signal.SIGSTOP)
        caught_up: list[int] = []

        def saved(axes: Any, dataset: Any) -> None:
            if axes["time"] == 39:  # the pause between two bursts
                os.kill(worker, signal.SIGCONT)
                deadline = time.monotonic() + 60.0
                output = refocused(Path(dataset.path))
                while time.monotonic() < deadline:
                    if frames_in(output) >= 40:
                        caught_up.append(frames_in(output))
                        return
                    time.sleep(0.1)

        source = refocusd.Source(daemon.endpoint, buffer_mib=1)
        first = demo_microscope.events_sequenced(40, [0.0])
        raw = acquire(first, source.hooks(str(tmp_path), "bursts", image_saved_fn=saved))
        assert source.wait(90.0) == wire.Counts(acquired=40, passed_through=40)
    assert caught_up == [40], "while the acquisition was still open"
    live = [metadata["refocusd"]["live"] for _, metadata in read_all(refocused(raw)).values()]
    assert 0 < sum(live) < 40
