"""A real daemon in a separate process, and faults of it and its workers."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

import psutil
import pytest
from waiting import PATIENCE_S, until

from refocusd.daemon.daemon import daemon_status
from refocusd.errors import TransportError
from refocusd.processes.daemon_process import DaemonProcess
from refocusd.transport.messages import Status

__all__ = ["POSIX", "ROUNDS", "FaultyDaemon", "kill", "moment", "slowed", "stopped", "until"]

#: Rounds of each fault; the variable of the fuzz tests sets more.
ROUNDS = max(1, int(os.environ.get("REFOCUSD_FUZZ_ROUNDS", "60")) // 60)
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP is POSIX")


def moment(rng: Random, longest_s: float) -> None:
    """Sleep for a random time, log-uniform from 0.1 ms to 1 s, but for `longest_s` at most."""
    time.sleep(min(longest_s, 1e-4 * 10 ** rng.uniform(0, 4)))


def kill(pid: int) -> None:
    """SIGKILL a process (or terminate it on Windows), and wait until it is dead."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.kill()
        # A zombie that is not our child counts as dead.
        until(lambda: not process.is_running() or process.status() == "zombie", f"death of {pid}")


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """SIGSTOP a process inside the block; SIGCONT it at the end, if it still lives."""
    assert sys.platform != "win32"
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def slowed(pid: int, stop_s: float = 0.05, run_s: float = 0.01) -> Iterator[None]:
    """Let a process run only part of the time, like one that waits for a slow disk."""
    assert sys.platform != "win32"
    over = threading.Event()

    def pulse() -> None:
        while not over.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                over.wait(stop_s)
                os.kill(pid, signal.SIGCONT)
            over.wait(run_s)

    thread = threading.Thread(target=pulse, name="slow disk")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _is_worker(process: psutil.Process) -> bool:
    """Whether it is a worker; of one that is ending, Windows may report nothing."""
    try:
        return "refocusd.worker" in " ".join(process.cmdline())
    except (psutil.Error, OSError):
        return False


class FaultyDaemon:
    """``refocusd run`` as a child process that can be killed and restarted at the same address.

    Parameters
    ----------
    place : Path
        For its ledgers and its log (``refocusd.log``).
    flags : str
        Further flags of ``refocusd run``.
    environment : dict, optional
        Added to the environment of the daemon and its workers.
    """

    def __init__(self, place: Path, *flags: str, environment: dict[str, str] | None = None) -> None:
        self.place = place
        self.log = place / "refocusd.log"
        self._flags = ["--backend", "identity", "--ledgers", str(place / "ledgers")]
        self._flags += ["--ring-mib", "32", *flags]
        self._environment = environment or {}
        self._running: DaemonProcess | None = None
        self.endpoint = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the daemon, at its earlier address if it had one, and wait until it is ready."""
        flags = [*self._flags, *(["--endpoint", self.endpoint] if self.endpoint else [])]
        ours = {"REFOCUSD_RESERVE_MIB": "1", **self._environment}
        before = {name: os.environ.get(name) for name in ours}
        os.environ.update(ours)
        try:
            self._running = DaemonProcess(flags, self.log)
            self._running.__enter__()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        self.endpoint = self._running.endpoint

    def stop(self) -> None:
        """Stop the daemon cleanly, or clean up after one that was killed."""
        if self._running is not None:
            self._running.__exit__(None, None, None)
            self._running = None

    def kill(self, *, with_workers: bool = False) -> None:
        """SIGKILL the daemon.  Its workers end by themselves, or at once if `with_workers`."""
        workers = self.workers()
        processes = [psutil.Process(pid) for pid in workers] if with_workers else []
        for process in [*processes, psutil.Process(self.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        kill(self.pid)
        until(lambda: not any(map(psutil.pid_exists, workers)), "the workers' end")
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the daemon."""
        assert self._running is not None
        return self._running.process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._running is not None and self._running.process.poll() is None

    def workers(self) -> list[int]:
        """Process ids of its workers, as the system knows them."""
        try:
            return [c.pid for c in psutil.Process(self.pid).children() if _is_worker(c)]
        except psutil.NoSuchProcess:
            return []

    def status(self) -> Status:
        """The daemon's status."""
        return daemon_status(self.endpoint, PATIENCE_S)

    def ready(self) -> bool:
        """Whether it answers and a worker accepts frames."""
        try:
            return daemon_status(self.endpoint).workers > 0
        except TransportError:
            return False

    def idle(self) -> bool:
        """Whether no acquisition is open."""
        return all(about.state == "ended" for about in self.status().details)
