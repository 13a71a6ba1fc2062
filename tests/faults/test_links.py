"""The only worker is on "another host", and the connection to it is cut, slow or silent."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from acquisition import MicroscopeProcess
from aftermath import assert_whole
from bad_workers import environment
from proxy import Proxy
from rig import ROUNDS, FaultyDaemon, moment, until

from refocusd.transport.secure.keys import KeyStore


@pytest.fixture(scope="module")
def microscope() -> Iterator[MicroscopeProcess]:
    """One real MMCore for all tests."""
    with MicroscopeProcess() as microscope:
        yield microscope


@contextmanager
def far_worker(
    place: Path, patience_s: float = 60.0, bent: dict[str, str] | None = None
) -> Iterator[tuple[FaultyDaemon, Proxy]]:
    """Run a daemon whose only worker connects through a proxy, with a key."""
    with socket.create_server(("127.0.0.2", 0)) as free:
        address = f"tcp://127.0.0.2:{free.getsockname()[1]}"
    key = place / "far.key"
    KeyStore(place / "keys").new("far", key)
    listening = ["--workers", "0", "--listen", address, "--keys", str(place / "keys")]
    patience = {"REFOCUSD_TASK_TIMEOUT_S": str(patience_s)}
    with (
        FaultyDaemon(place, *listening, environment=patience) as daemon,
        Proxy(address) as proxy,
    ):
        command = [sys.executable, "-m", "refocusd", "worker", "--connect", proxy.endpoint]
        command += ["--keys", str(key), "--backend", "identity"]
        with (place / "worker.log").open("wb") as log:
            process = subprocess.Popen(command, stderr=log, env={**os.environ, **(bent or {})})
        try:
            until(lambda: any(w.remote for w in daemon.status().crew), "the worker's arrival")
            yield daemon, proxy
            assert process.poll() is None, "the worker has given up"
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_line_that_is_cut_at_random_moments(
    microscope: MicroscopeProcess, tmp_path: Path, number: int
) -> None:
    rng = Random(f"cut {number}")
    with far_worker(tmp_path) as (daemon, proxy):
        microscope.acquire(daemon.endpoint, tmp_path, "cut", frames=150, wait_s=90.0)
        microscope.wait_saved(rng.randint(1, 40))
        for _ in range(4):
            moment(rng, 0.5)
            proxy.cut()
        proxy.mode = "closed"
        proxy.cut()
        moment(rng, 1.0)
        proxy.mode = "open"
        microscope.wait_done()
        until(daemon.idle, "the daemon's end of the acquisition")
    assert assert_whole(microscope.raw, tmp_path, microscope.saved) == 150


def test_a_line_that_is_slow_for_a_while(microscope: MicroscopeProcess, tmp_path: Path) -> None:
    with far_worker(tmp_path) as (daemon, proxy):
        proxy.delay_s = 0.2
        microscope.acquire(daemon.endpoint, tmp_path, "delayed", frames=60, wait_s=90.0)
        microscope.wait_acquired()
        (about,) = daemon.status().details
        assert about.counts.passed_through < 60, "the line was not slow"
        proxy.delay_s = 0.0
        microscope.wait_done()
        until(daemon.idle, "the daemon's end of the acquisition")
    assert assert_whole(microscope.raw, tmp_path, microscope.saved, resumed=False) == 60


def test_a_line_that_swallows_everything(microscope: MicroscopeProcess, tmp_path: Path) -> None:
    """As when a cable is pulled: neither side is told, and both have to notice."""
    with far_worker(tmp_path) as (daemon, proxy):
        microscope.acquire(daemon.endpoint, tmp_path, "silent", frames=100, wait_s=90.0)
        microscope.wait_saved(20)
        proxy.mode = "half open"
        until(lambda: daemon.status().workers == 0, "the daemon's notice")
        assert not daemon.idle()
        proxy.mode = "open"
        microscope.wait_done()
        until(daemon.idle, "the daemon's end of the acquisition")
    assert assert_whole(microscope.raw, tmp_path, microscope.saved, resumed=False) == 100


def test_a_far_worker_whose_answers_come_too_late(
    microscope: MicroscopeProcess, tmp_path: Path
) -> None:
    """The daemon cannot kill it: answers arrive after its frames went to somebody else."""
    late = environment("late", every=30, late_s=2.0)
    with far_worker(tmp_path, patience_s=0.5, bent=late) as (daemon, _):
        microscope.acquire(
            daemon.endpoint, tmp_path, "late", frames=50, exposure_ms=20.0, wait_s=90.0
        )
        microscope.wait_done()
        until(daemon.idle, "the daemon's end of the acquisition")
    said = daemon.log.read_text(encoding="utf-8")
    assert "holds one frame too long; its frames go to others" in said
    assert "say Hello first" in said, "no answer came late"
    assert assert_whole(microscope.raw, tmp_path, microscope.saved, resumed=False) == 50
