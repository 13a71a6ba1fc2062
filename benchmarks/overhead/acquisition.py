"""How much longer a real acquisition takes with refocusd's hook in it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.overhead.camera import Burst, BurstCamera
from benchmarks.shared.machine import scratch, settle
from benchmarks.shared.statistics import Pair, percentiles, slow_down
from refocusd.datasets.run_figures import read_attempts
from refocusd.errors import WorkerError
from refocusd.formats.ndtiff.reader import NDTiffReader
from refocusd.processes.daemon_process import DaemonProcess
from refocusd.sources.pycromanager import Source

#: The daemon's engine; ``none`` means no daemon at all, only the hook.
EngineChoice = Literal["identity", "openvino", "none"]
#: ``paced``: the exposure sets the rate.  ``fastest``: the acquisition runs as fast as it can.
Pace = Literal["paced", "fastest"]

_BYTES_PER_PX = 2
#: Limits of a ``fastest`` burst, all of which the circular buffer must hold.
_FASTEST_BYTES = 1 << 30
_FASTEST_FRAMES = 500
_FASTEST_EXPOSURE_MS = 0.1
#: Time limit for the daemon to finish after an acquisition, s: for each frame, and in addition.
_DRAIN_S_PER_FRAME = 3.0
_DRAIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Condition:
    """One kind of acquisition.

    Parameters
    ----------
    engine : {"identity", "openvino", "none"}
    side_px : int
        Side of the square frames.
    pace : {"paced", "fastest"}
    burst_s : float
        Length of a paced burst.
    """

    engine: EngineChoice
    side_px: int
    pace: Pace
    burst_s: float = 3.0

    @property
    def frame_nbytes(self) -> int:
        """Bytes of a frame."""
        return self.side_px**2 * _BYTES_PER_PX

    @property
    def exposure_ms(self) -> float:
        """Exposure; the demo camera adds a little to it for each frame.

        When paced, it is 10 ms (about 95 frames/s), and 25 ms for frames over 1024².
        """
        if self.pace == "fastest":
            return _FASTEST_EXPOSURE_MS
        return 10.0 if self.side_px <= 1024 else 25.0

    @property
    def frames(self) -> int:
        """Frames of one burst."""
        if self.pace == "paced":
            return max(2, round(self.burst_s * 1e3 / self.exposure_ms))
        most = min(_FASTEST_FRAMES, _FASTEST_BYTES // self.frame_nbytes)
        # With --quick, bursts are short at both paces.
        return max(2, round(most * min(1.0, self.burst_s / 3.0)))

    @property
    def burst_mib(self) -> int:
        """Size of one burst in MiB, rounded up."""
        return -(-self.frames * self.frame_nbytes // 2**20)

    def __str__(self) -> str:
        """One line, as in the table."""
        return f"{self.side_px}² {self.pace}, {self.engine}"


@dataclass(slots=True)
class _Hooked:
    """What became of the frames of all hooked bursts of a condition."""

    unaccounted: int = 0
    failed: int = 0
    live: int = 0
    caught_up: int = 0
    latency_ms: list[float] = field(default_factory=list)
    overhead_ms: list[float] = field(default_factory=list)
    engine_ms: list[float] = field(default_factory=list)

    def note(self, condition: Condition, raw: Path, source: Source) -> None:
        """Wait for the daemon and count the frames on disk."""
        counts = source.wait(_DRAIN_S + _DRAIN_S_PER_FRAME * condition.frames)
        if condition.engine == "none":
            return  # without a daemon nothing is refocused
        if counts is None:
            self.unaccounted += condition.frames
            return
        output = raw.with_name(raw.name + "_refocused")
        absent = len(_keys(raw) - _keys(output)) - counts.skipped - counts.failed
        self.unaccounted += max(absent, condition.frames - counts.final, 0)
        self.failed += counts.failed
        for attempt in read_attempts([output]):
            self.live += attempt.live
            self.caught_up += not attempt.live
            if attempt.live and attempt.latency_ms is not None and attempt.engine_ms is not None:
                self.latency_ms.append(attempt.latency_ms)
                self.overhead_ms.append(attempt.latency_ms - attempt.engine_ms)
                self.engine_ms.append(attempt.engine_ms)


def measure_acquisition(
    conditions: list[Condition], pairs: int, parent: Path
) -> Iterator[tuple[Condition, dict[str, Any]]]:
    """Interleaved pairs for each condition; an additional first pair is discarded.

    Parameters
    ----------
    conditions : list of Condition
    pairs : int
        Number for each condition, two or more.
    parent : Path
        Folder on the storage that raw and refocused frames are written to.

    Yields
    ------
    condition, figures
        Of each condition when it is done.
    """
    buffer_mib = max(condition.burst_mib for condition in conditions) * 5 // 4 + 64
    with BurstCamera(buffer_mib) as camera:
        for engine in dict.fromkeys(condition.engine for condition in conditions):
            with scratch(parent) as folder, _daemon(engine, folder) as endpoint:
                for condition in conditions:
                    if condition.engine == engine:
                        yield condition, _measure(camera, condition, pairs, folder, endpoint)


def _measure(
    camera: BurstCamera, condition: Condition, pairs: int, folder: Path, endpoint: str
) -> dict[str, Any]:
    camera.set_up(condition.side_px, condition.exposure_ms)
    _pair(camera, condition, folder, endpoint, _Hooked(), hook_first=True)
    hooked = _Hooked()
    taken = [
        _pair(camera, condition, folder, endpoint, hooked, hook_first=number % 2 == 0)
        for number in range(pairs)
    ]
    slower = slow_down(taken)
    frames = pairs * condition.frames
    return {
        "engine": condition.engine,
        "side_px": condition.side_px,
        "pace": condition.pace,
        "exposure_ms": condition.exposure_ms,
        "frames_per_burst": condition.frames,
        "pairs": [pair.as_json() for pair in taken],
        "slow_down_mean_percent": round(slower.mean, 2),
        "slow_down_low95_percent": round(slower.low, 2),
        "slow_down_high95_percent": round(slower.high, 2),
        "without_hook_frames_per_s": round(frames / sum(p.without_hook_s for p in taken), 2),
        "with_hook_frames_per_s": round(frames / sum(p.with_hook_s for p in taken), 2),
        "without_hook_cpu_per_frame_ms": round(
            1e3 * sum(p.without_hook_cpu_s for p in taken) / frames, 3
        ),
        "with_hook_cpu_per_frame_ms": round(
            1e3 * sum(p.with_hook_cpu_s for p in taken) / frames, 3
        ),
        "frames_acquired": frames,
        "frames_unaccounted": hooked.unaccounted,
        "frames_failed": hooked.failed,
        "frames_live": hooked.live,
        "frames_caught_up": hooked.caught_up,
        **percentiles("latency", hooked.latency_ms),
        **percentiles("overhead", hooked.overhead_ms),
        **percentiles("engine", hooked.engine_ms),
    }


def _pair(
    camera: BurstCamera,
    condition: Condition,
    folder: Path,
    endpoint: str,
    hooked: _Hooked,
    *,
    hook_first: bool,
) -> Pair:
    bursts: dict[bool, Burst] = {}
    for with_hook in (hook_first, not hook_first):
        # Work left from the previous burst (frames, writing, freeing) would disturb this one.
        data = folder / "data"
        settle(data)
        arguments: dict[str, Any] = {"directory": str(data), "name": "burst"}
        source = Source(endpoint, expected=condition.frames) if with_hook else None
        if source is not None:
            arguments = source.hooks(**arguments)
        burst = bursts[with_hook] = camera.burst(condition.frames, arguments)
        saved = len(_keys(burst.raw))
        if saved != condition.frames:
            raise WorkerError(
                f"{condition}: {saved} of {condition.frames} raw frames were saved "
                f"({'with' if with_hook else 'without'} the hook); the figures would mean nothing"
            )
        if source is not None:
            hooked.note(condition, burst.raw, source)
    on, off = bursts[True], bursts[False]
    return Pair(on.seconds, off.seconds, on.cpu_s, off.cpu_s, hook_first)


def _keys(dataset: Path) -> set[str]:
    with closing(NDTiffReader(dataset)) as reader:
        return set(reader.axes_keys())


@contextmanager
def _daemon(engine: EngineChoice, folder: Path) -> Iterator[str]:
    """The address of a daemon with that engine, or for ``none`` one where nothing listens."""
    if engine != "none":
        flags = ["--backend", engine, "--ledgers", str(folder / "ledgers")]
        with DaemonProcess(flags, folder / "refocusd.log") as daemon:
            yield daemon.endpoint
        return
    # Each burst would warn that there is no daemon, which is intended here.
    sources = logging.getLogger("refocusd.sources")
    level = sources.level
    # Bound but not listening: the port refuses connections, and no other program can take it.
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        sources.setLevel(logging.ERROR)
        try:
            yield f"tcp://127.0.0.1:{held.getsockname()[1]}"
        finally:
            sources.setLevel(level)
