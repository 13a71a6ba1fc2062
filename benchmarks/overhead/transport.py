"""Rate and latency of the frame path without a microscope: ring against TCP, and over a long time."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil

from benchmarks.shared.machine import Medium, file_system, scratch, settle
from benchmarks.shared.statistics import percentiles
from benchmarks.shared.stream import Streamed, sample_frames, stream
from refocusd.errors import OutputError
from refocusd.processes.daemon_process import DaemonProcess

Way = Literal["ring", "tcp"]
WAYS: tuple[Way, ...] = ("ring", "tcp")

#: Frames at the start of a stream, which touch the ring's memory for the first time; reported separately.
_WARM_UP = 64
#: Limits of the data of one stream: in bytes, and as a share of the free space.
_STREAM_BYTES = 4 << 30
_SHARE_OF_FREE = 0.2
#: Rates for latency measurements, frames/s, and how many times as fast the way must be able to go.
_PACES_FPS = (100.0, 40.0)
_HEAD_ROOM = 1.25


@dataclass(slots=True)
class _Rounds:
    """All repetitions of one way at one size on one medium."""

    unpaced_fps: list[float] = field(default_factory=list)
    written_ms: list[float] = field(default_factory=list)
    answered_ms: list[float] = field(default_factory=list)
    warm_up_ms: list[float] = field(default_factory=list)
    frames: int = 0
    unaccounted: int = 0
    failed: int = 0

    def count(self, streamed: Streamed, frames: int) -> Streamed:
        """Add a stream's frames to the counts; returns the stream."""
        self.frames += frames
        self.unaccounted += streamed.unaccounted
        self.failed += streamed.failed
        return streamed


def measure_transport(
    sides_px: Sequence[int], media: Sequence[Medium], repetitions: int, frames: int
) -> Iterator[dict[str, Any]]:
    """Ring and TCP in turn, for each size and medium, with the pass-through engine.

    Parameters
    ----------
    sides_px : sequence of int
        Sizes of the square frames.
    media : sequence of (str, Path)
        Where the refocused frames go.
    repetitions : int
        Streams of each of the two ways, at each pace.
    frames : int
        Most frames of a stream; large frames allow fewer, see `_fitting`.
    """
    for kind, parent in media:
        with scratch(parent) as folder, _daemons(folder) as endpoints:
            for side_px in sides_px:
                yield from _compare_ways(kind, folder, endpoints, side_px, repetitions, frames)


def _compare_ways(
    kind: str,
    folder: Path,
    endpoints: dict[Way, str],
    side_px: int,
    repetitions: int,
    frames: int,
) -> Iterator[dict[str, Any]]:
    pixels = sample_frames(side_px)
    count = min(frames, _fitting(folder, pixels[0].nbytes))
    warm_up = min(_WARM_UP, count // 2)
    rounds: dict[Way, _Rounds] = {way: _Rounds() for way in WAYS}

    def one(way: Way, fps: float | None) -> Streamed:
        output = folder / "stream_refocused"
        settle(output)
        streamed = stream(endpoints[way], output, pixels, count, fps=fps, inline=way == "tcp")
        return rounds[way].count(streamed, count)

    for number in range(repetitions):
        for way in WAYS if number % 2 == 0 else WAYS[::-1]:
            rounds[way].unpaced_fps.append(count / one(way, None).seconds)
    paces = {way: _sustainable_fps(float(np.median(rounds[way].unpaced_fps))) for way in WAYS}
    for number in range(repetitions):
        for way in WAYS if number % 2 == 0 else WAYS[::-1]:
            streamed = one(way, paces[way])
            rounds[way].warm_up_ms += streamed.written_ms[:warm_up]
            rounds[way].written_ms += streamed.written_ms[warm_up:]
            rounds[way].answered_ms += streamed.answered_ms[warm_up:]
    settle(folder / "stream_refocused")
    for way in WAYS:
        done = rounds[way]
        yield {
            "way": way,
            "side_px": side_px,
            "sink_on": kind,
            "sink_file_system": file_system(folder),
            "frames_per_stream": count,
            "frames": done.frames,
            "unpaced_median_frames_per_s": round(float(np.median(done.unpaced_fps)), 1),
            "unpaced_each_frames_per_s": [round(fps, 1) for fps in done.unpaced_fps],
            "paced_at_frames_per_s": round(paces[way], 1),
            "warm_up_frames": warm_up,
            "warm_up_max_ms": round(max(done.warm_up_ms), 3),
            **percentiles("overhead", done.written_ms),
            **percentiles("answered", done.answered_ms),
            "frames_unaccounted": done.unaccounted,
            "frames_failed": done.failed,
        }


def measure_sustained(side_px: int, medium: Medium, seconds: float) -> dict[str, Any]:
    """Rate of frames as fast as possible, and the processes' resources at the start and at the end.

    The acquisitions are of a few GiB and are removed when they are complete, so that
    the disk does not limit the length.  The first is not counted: it touches the
    ring's pages, which count as memory of the processes from then on.

    Parameters
    ----------
    side_px : int
    medium : (str, Path)
        Where the refocused frames go.
    seconds : float
        Minimum time spent streaming.
    """
    kind, parent = medium
    pixels = sample_frames(side_px)
    with scratch(parent) as folder:
        flags = ["--backend", "identity", "--ledgers", str(folder / "ledgers")]
        with DaemonProcess(flags, folder / "refocusd.log") as daemon:
            processes = _daemon_and_workers(daemon.process.pid)
            # Short runs also consist of several acquisitions.
            count = min(_fitting(folder, pixels[0].nbytes), max(2, round(20 * seconds)))

            def one(frames: int) -> Streamed:
                output = folder / "stream_refocused"
                shutil.rmtree(output, ignore_errors=True)
                return stream(daemon.endpoint, output, pixels, frames, fps=None, inline=False)

            one(min(count, 2 * _WARM_UP))
            start = {name: _taken(process) for name, process in processes.items()}
            cpu_s = {name: -_cpu_s(process) for name, process in processes.items()}
            done: list[Streamed] = []
            while sum(part.seconds for part in done) < seconds:
                done.append(one(count))
            for name, process in processes.items():
                cpu_s[name] += _cpu_s(process)
            end = {name: _taken(process) for name, process in processes.items()}
    spent_s = sum(part.seconds for part in done)
    each = [count / part.seconds for part in done]
    return {
        "side_px": side_px,
        "sink_on": kind,
        "sink_file_system": file_system(parent),
        "seconds_s": round(spent_s, 1),
        "frames": count * len(done),
        "frames_per_acquisition": count,
        "sustained_frames_per_s": round(count * len(done) / spent_s, 1),
        "slowest_acquisition_frames_per_s": round(min(each), 1),
        **{
            f"{name}_cpu_per_frame_ms": round(1e3 * spent / (count * len(done)), 3)
            for name, spent in cpu_s.items()
        },
        "frames_unaccounted": sum(part.unaccounted for part in done),
        "frames_failed": sum(part.failed for part in done),
        **{
            f"{name}_{when}_{what}": value
            for name in processes
            for when, taken in (("start", start), ("end", end))
            for what, value in taken[name].items()
        },
    }


def _sustainable_fps(fastest_fps: float) -> float:
    """A rate at which no queue grows, so that the latency is that of the path."""
    for pace in _PACES_FPS:
        if fastest_fps >= _HEAD_ROOM * pace:
            return pace
    return fastest_fps / 2


@contextmanager
def _daemons(folder: Path) -> Iterator[dict[Way, str]]:
    """A daemon whose worker uses the ring, and one whose worker uses the socket."""
    settings = folder / "tcp.toml"
    settings.write_text("inline = true\n", encoding="utf-8")
    common = ["--backend", "identity", "--ledgers", str(folder / "ledgers")]
    with (
        DaemonProcess(common, folder / "ring.log") as ring,
        DaemonProcess([*common, "--config", str(settings)], folder / "tcp.log") as tcp,
    ):
        yield {"ring": ring.endpoint, "tcp": tcp.endpoint}


def _fitting(folder: Path, frame_nbytes: int) -> int:
    """The number of frames that one stream may write to `folder`."""
    free = shutil.disk_usage(folder).free
    # A longer stream would measure the disk's write-back, and may leave no space for other programs.
    most = min(_STREAM_BYTES, round(free * _SHARE_OF_FREE))
    count = most // frame_nbytes
    if count < 2:
        raise OutputError(
            f"{folder} has {free / 2**30:.1f} GiB free, too little to measure there; name another "
            "folder with --disk or --memory"
        )
    return count


def _daemon_and_workers(pid: int) -> dict[str, psutil.Process]:
    daemon = psutil.Process(pid)
    (worker,) = daemon.children()
    return {"daemon": daemon, "worker": worker}


def _taken(process: psutil.Process) -> dict[str, float]:
    """Memory, handles and threads of a process; the ring counts in each process that has touched it."""
    with process.oneshot():
        memory = process.memory_info()
        if sys.platform == "win32":
            handles = process.num_handles()
        else:
            handles = process.num_fds()
        shared = getattr(memory, "shared", 0)
        return {
            "rss_mib": round(memory.rss / 2**20, 1),
            # Without the ring and other shared memory; a leak would show here.
            "private_rss_mib": round((memory.rss - shared) / 2**20, 1),
            "handles_count": handles,
            "threads_count": process.num_threads(),
        }


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
