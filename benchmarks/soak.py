"""A hundred thousand frames through a real daemon whose workers are killed at random.

One acquisition of small frames is submitted as fast as the daemon takes them; at
intervals a worker is killed (SIGKILL).  At the end every frame is read back from the
refocused dataset and compared.  Memory, handles and threads of daemon and
workers are read regularly, so that growth with the number of frames shows as a slope.  To show whether
the ledger slows down, the rates over the second and over the last fifth of the frames are compared, and
queries of the finished ledger are timed.

    python -m benchmarks.soak --json benchmarks/results/soak-<machine>.json
    python -m benchmarks.soak --frames 3000 --kill-every 5      checks that it runs
    python -m benchmarks.soak --frames 1000000 --size 64        shows what grows with the number of frames
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from tempfile import gettempdir
from typing import Any

if __package__ in (None, ""):  # run as a file: the helpers are found from the folder above
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import psutil

from benchmarks.shared.machine import file_system, machine, scratch
from benchmarks.shared.stream import Streamed, sample_frames, stream
from refocusd.cli.console import console, messages, progress, write_json
from refocusd.daemon.daemon import daemon_status
from refocusd.errors import RefocusdError
from refocusd.formats.ndtiff.reader import NDTiffReader
from refocusd.frame import Pixels
from refocusd.ledger import Ledger
from refocusd.processes.daemon_process import DaemonProcess

#: Longest time between two readings of the processes' resources.
READ_EVERY_S = 0.5
#: Share of the frames at the start, when memory is touched for the first time, that slopes leave out.
WARM_UP_SHARE = 0.2


@dataclass
class Readings:
    """Resources of daemon and workers (see `_taken`), by the number of frames done."""

    frames: list[int] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)
    daemon: list[tuple[float, int, int]] = field(default_factory=list)
    workers: list[tuple[float, int, int]] = field(default_factory=list)

    def slopes(self) -> dict[str, Any]:
        """Growth per 100 000 frames by least squares, and the first and last readings."""
        figures: dict[str, Any] = {"readings_count": len(self.frames)}
        behind = [i for i, n in enumerate(self.frames) if n >= WARM_UP_SHARE * self.frames[-1]]
        frames = np.array([self.frames[i] for i in behind], float)
        for who, rows in (("daemon", self.daemon), ("worker", self.workers)):
            table = np.array([rows[i] for i in behind], float)
            for column, unit in enumerate(("rss_mib", "handles_count", "threads_count")):
                values = table[:, column]
                slope = float(np.polyfit(frames, values, 1)[0]) if len(behind) > 2 else 0.0
                figures[f"{who}_{unit}_first"] = round(float(values[0]), 2)
                figures[f"{who}_{unit}_last"] = round(float(values[-1]), 2)
                figures[f"{who}_{unit}_per_100000_frames"] = round(slope * 1e5, 2)
        return figures | self._rates()

    def _rates(self) -> dict[str, float]:
        """Frames per second over the second and over the last fifth of the frames."""
        last = self.frames[-1]
        figures = {}
        for name, begin, end in (("early", 0.2, 0.4), ("late", 0.8, 1.0)):
            inside = [i for i, n in enumerate(self.frames) if begin * last <= n <= end * last]
            if len(inside) > 1:
                a, b = inside[0], inside[-1]
                spent_s = self.at_s[b] - self.at_s[a]
                figures[f"frames_per_s_{name}"] = round(
                    (self.frames[b] - self.frames[a]) / spent_s, 1
                )
        return figures


class Tormentor:
    """Kills workers at random and reads the processes' resources, in a separate thread."""

    def __init__(self, endpoint: str, pid: int, kill_every_s: float, seed: int) -> None:
        self._endpoint = endpoint
        self._daemon = psutil.Process(pid)
        self._kill_every_s = kill_every_s
        self._rng = Random(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tormentor")
        self.done = 0
        self.kills = 0
        self.readings = Readings()

    def __enter__(self) -> Tormentor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        kill_at = self._next_kill()
        read_at = time.monotonic()
        while not self._over.wait(0.02):
            now = time.monotonic()
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just been killed; try later
                if now >= read_at:
                    read_at = now + min(READ_EVERY_S, self._kill_every_s / 4)
                    self._read()
                if now >= kill_at:
                    kill_at = self._next_kill()
                    self._kill()

    def _kill(self) -> None:
        # Only workers that have processed frames are killed: a daemon ends, by design, if workers die
        # three times in a row before they can work, and fails a frame on which three workers died.
        crew = daemon_status(self._endpoint).crew
        if able := [w.pid for w in crew if w.state != "starting" and w.frames]:
            psutil.Process(self._rng.choice(able)).kill()
            self.kills += 1

    def _next_kill(self) -> float:
        return time.monotonic() + self._rng.uniform(0.5, 1.5) * self._kill_every_s

    def _workers(self) -> list[psutil.Process]:
        return [c for c in self._daemon.children() if "refocusd.worker" in " ".join(c.cmdline())]

    def _read(self) -> None:
        daemon, workers = _taken(self._daemon), [_taken(w) for w in self._workers()]
        if workers:
            self.readings.frames.append(self.done)
            self.readings.at_s.append(time.monotonic())
            self.readings.daemon.append(daemon)
            # The worker that uses most memory: workers that have just started use little.
            self.readings.workers.append(max(workers))


def _taken(process: psutil.Process) -> tuple[float, int, int]:
    """Private memory in MiB (the ring is shared), handles, threads."""
    with process.oneshot():
        memory = process.memory_info()
        shared = getattr(memory, "shared", 0)
        # Windows has handles, other systems file descriptors.
        handles = getattr(process, "num_handles", None) or process.num_fds
        return (memory.rss - shared) / 2**20, handles(), process.num_threads()


def soak(
    frames: int, side_px: int, workers: int, kill_every_s: float, folder: Path, seed: int = 0
) -> dict[str, Any]:
    """Submit one acquisition of `frames` frames while workers are killed; its figures.

    Parameters
    ----------
    frames, side_px, workers : int
    kill_every_s : float
        Mean time between two kills.
    folder : Path
        For the refocused dataset and the ledger.
    seed : int
        Seed of the times of kills and of the choice of workers.

    Raises
    ------
    RefocusdError
        If the daemon cannot be started, refuses the acquisition, or ends.
    """
    pixels = sample_frames(side_px)
    output = folder / "soak_refocused"
    flags = ["--backend", "identity", "--ledgers", str(folder / "ledgers"), "--ring-mib", "64"]
    flags += ["--workers", str(workers)]
    log = folder / "refocusd.log"
    with DaemonProcess(flags, log) as daemon, progress() as bar:
        task = bar.add_task("frames", total=frames)
        with Tormentor(daemon.endpoint, daemon.process.pid, kill_every_s, seed) as tormentor:

            def on_written(done: int) -> None:
                tormentor.done = done
                if done % 100 == 0:
                    bar.update(task, completed=done)

            streamed = stream(
                daemon.endpoint,
                output,
                pixels,
                frames,
                fps=None,
                inline=False,
                on_written=on_written,
            )
    return {
        "frames": frames,
        "side_px": side_px,
        "workers_count": workers,
        "sink_file_system": file_system(folder),
        "took_s": round(streamed.seconds, 1),
        "frames_per_s": round(frames / streamed.seconds, 1),
        "kill_every_mean_s": kill_every_s,
        "workers_killed_count": tormentor.kills,
        **_lost(streamed, output, pixels, frames),
        **_ledger_times(folder / "ledgers", frames),
        "log_kib": log.stat().st_size // 1024,
        **tormentor.readings.slopes(),
    }


def _lost(streamed: Streamed, output: Path, pixels: list[Pixels], frames: int) -> dict[str, int]:
    """Numbers of frames that are missing, differ from raw, have no final state, or failed."""
    wrong = 0
    with closing(NDTiffReader(output)) as reader:
        keys = set(reader.axes_keys())
        for number, key in _keys(frames):
            if key in keys:
                wrong += not np.array_equal(reader.read(key).pixels, pixels[number % len(pixels)])
    return {
        "frames_lost": frames - len(keys),
        "frames_wrong": wrong,
        "frames_unaccounted": streamed.unaccounted,
        "frames_failed": streamed.failed,
    }


def _ledger_times(ledgers: Path, frames: int) -> dict[str, float]:
    """Times of typical queries of a ledger of `frames` attempts."""
    (path,) = ledgers.glob("*.sqlite")
    asked = [key for number, key in _keys(frames) if number % max(1, frames // 1000) == 0]
    with Ledger(path, read_only=True) as ledger:
        (acquisition,), (run,) = ledger.acquisitions(), ledger.runs()
        times = [time.perf_counter()]
        for key in asked:
            ledger.state_of(run, acquisition, key)
        times.append(time.perf_counter())
        count = sum(1 for _ in ledger.fates(run, acquisition))
        times.append(time.perf_counter())
        ledger.copy_to(path.with_name("copy.sqlite"))
        times.append(time.perf_counter())
    one, every, copy = (later - earlier for earlier, later in itertools.pairwise(times))
    return {
        "ledger_frames": count,
        "ledger_mib": round(path.stat().st_size / 2**20, 1),
        "ledger_one_frame_us": round(one / len(asked) * 1e6, 1),
        "ledger_all_frames_s": round(every, 2),
        "ledger_copy_s": round(copy, 2),
    }


def _keys(frames: int) -> Iterator[tuple[int, str]]:
    return ((n, json.dumps({"time": n}, separators=(",", ":"))) for n in range(frames))


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; exit status 1 if a frame was lost, 2 for an error."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--size", "--side", dest="side", type=int, default=128, help="pixels")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kill-every", type=float, default=10.0, help="seconds, mean")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--disk", type=Path, default=Path(gettempdir()), help="folder to write to")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    options = parser.parse_args(arguments)
    about = machine()
    try:
        with scratch(options.disk) as folder:
            found = soak(
                options.frames,
                options.side,
                options.workers,
                options.kill_every,
                folder,
                options.seed,
            )
    except RefocusdError as error:
        messages.print(f"error: {error}", markup=False)
        return 2
    write_json(
        options.json,
        {
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": about,
            "soak": found,
        },
    )
    for name, value in found.items():
        console.print(f"{name}: {value}", markup=False)
    lost = ("frames_lost", "frames_wrong", "frames_unaccounted", "frames_failed")
    return 1 if any(found[name] for name in lost) else 0


if __name__ == "__main__":
    sys.exit(main())
