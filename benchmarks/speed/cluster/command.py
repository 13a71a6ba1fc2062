"""Run ``refocusd process`` as a user does, and measure its time, processor time and memory."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import psutil

from refocusd.errors import RefocusdError

SLOW_ENGINE = Path(__file__).parent / "slow_engine"
ENGINE_MS = 20.0


def process(
    plate: Path, folder: Path, flags: Sequence[str], *, one_core: bool = False
) -> dict[str, float]:
    """Run ``refocusd process`` on a plate; its times in s, frames/s, and memory of its largest process in MiB.

    `one_core` binds it to the first available core.
    """
    folder.mkdir()
    report = folder / "report.json"
    command = [sys.executable, "-m", "refocusd", "process", str(plate), "--output", str(folder)]
    command += ["--threads", "1", "--ledgers", str(folder / "ledgers"), "--json", str(report)]
    begun = time.perf_counter()
    bound = _bind_to_one_core if one_core else None
    before = _processor_s()
    with subprocess.Popen(
        [*command, *flags], stderr=subprocess.PIPE, text=True, preexec_fn=bound
    ) as running:
        peak = _Peak(running.pid)
        _, said = running.communicate()
    took_s = time.perf_counter() - begun
    if running.returncode:
        raise RefocusdError(f"{' '.join(flags)} ended with {running.returncode}: {said[-2000:]}")
    (done,) = json.loads(report.read_text(encoding="utf-8"))["datasets"]
    return {
        "command_s": took_s,
        "frames_per_s": done["frames_per_s"],
        "frames_refocused": done["refocused"],
        "processor_s": _processor_s() - before,
        "worker_mib": peak.stop() / 2**20,
    }


def _bind_to_one_core() -> None:
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])


def _processor_s() -> float:
    """Processor time of all child processes that have ended, s."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class _Peak:
    """Peak memory of a process or any of its children, whichever is largest; read ten times a second."""

    def __init__(self, pid: int) -> None:
        self._of = psutil.Process(pid)
        self._most = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._ended.wait(0.1):
            with suppress(psutil.NoSuchProcess):
                for child in (self._of, *self._of.children(recursive=True)):
                    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                        self._most = max(self._most, child.memory_info().rss)

    def stop(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._most


@contextmanager
def engine_takes(milliseconds: float = ENGINE_MS) -> Iterator[None]:
    """Make the identity engine take this time per frame in all processes started within the context."""
    path = os.pathsep.join(filter(None, [str(SLOW_ENGINE), os.environ.get("PYTHONPATH", "")]))
    with mock.patch.dict(
        os.environ, {"PYTHONPATH": path, "BENCHMARK_ENGINE_MS": str(milliseconds)}
    ):
        yield
