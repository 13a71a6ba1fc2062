"""A stand-in for the daemon that views connect to, with realistic frames and killable workers.

The tests of the view need states that a real daemon reaches rarely or slowly; `test_view_daemon`
tests against the real one.  Frames are the demo's specimen, and those that can be browsed are in
real NDTiff datasets.
"""

from __future__ import annotations

import json
import math
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
import zmq
from numpy.typing import NDArray
from user_curve import as_daemon

from refocusd.datasets.run_folder import RUN_FILE, notes_of, trust_maps_of
from refocusd.demo.specimen import Specimen
from refocusd.formats.ndtiff.writer import NDTiffSink
from refocusd.formats.open_sink import SinkKind, create_sink
from refocusd.imaging.quality import focus_score
from refocusd.imaging.trust_map import AS_ACQUIRED, trust_shape
from refocusd.transport import messages as wire
from refocusd.transport.outcome_log import OutcomeLog
from refocusd.transport.ring import RingAddress

CHANNELS = ("DAPI", "Cy5")
DEFOCUS_UM = (-12.0, -8.0, -4.0, 0.0, 4.0, 8.0, 12.0)
PIXEL_UM = 0.645
ENGINE = wire.Engines("openvino", "bf16", "CPU", "engine-key", "live-nuclei-2", "0" * 64)
BOUNDS_MS = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Frames to show: axes without time, raw and refocused pixels, scores."""

    axes: tuple[dict[str, int | str], ...]
    raw: NDArray[Any]
    refocused: NDArray[Any]
    scores: tuple[tuple[float, float], ...]

    def facts(self, index: int) -> wire.FrameFacts:
        before, after = self.scores[index]
        in_focus = np.array_equal(self.raw[index], self.refocused[index])
        doubtful = self.axes[index]["z"] == 0
        return wire.FrameFacts(
            offset=100.0,
            scale=400.0,
            engine_ms=12.0,
            worker_ms=15.0,
            focus_before=before,
            focus_after=after,
            flux_ratio=1.003,
            clipped=0,
            verdict="passed_through" if in_focus else "doubtful" if doubtful else "trusted",
            reasons=["light of one part changed by 23%"] if doubtful else [],
            interval_counts=None if in_focus else 12.5,
            interval_share=None if in_focus else 0.25,
            written="raw" if in_focus else "refocused",
            blur_px=None if in_focus else 6.25,
            blur_uncertainty=None if in_focus else 0.12,
            blur_source=None if in_focus else "profile",
        )

    def trust(self, index: int) -> NDArray[np.uint8]:
        """A frame's trust map: every percentage from left to right; the top row marks raw."""
        rows, columns = trust_shape(self.raw.shape[1:])
        cells = np.tile(np.linspace(0, 100, columns), (rows, 1)).astype(np.uint8)
        cells[0] = AS_ACQUIRED
        in_focus = np.array_equal(self.raw[index], self.refocused[index])
        return np.full_like(cells, AS_ACQUIRED) if in_focus else cells


def scene_of_nuclei() -> Scene:
    """The demo's nuclei through focus in two channels; the truth stands in for refocused frames."""
    specimen = Specimen()
    rng = np.random.default_rng(1)
    axes: list[dict[str, int | str]] = []
    raw, refocused, scores = [], [], []
    for z, defocus in enumerate(DEFOCUS_UM):
        for channel in CHANNELS:
            frame = specimen.frame(channel, specimen.focus.at() + defocus, 10.0, rng)
            truth = np.clip(np.rint(specimen.truth(channel)), 0, 65535).astype(np.uint16)
            after = frame if defocus == 0 else truth
            axes.append({"channel": channel, "z": z})
            raw.append(frame)
            refocused.append(after)
            scores.append((focus_score(frame), focus_score(after)))
    return Scene(tuple(axes), np.stack(raw), np.stack(refocused), tuple(scores))


def written_datasets(
    folder: Path, scene: Scene, times: int = 2, pending: int = 1, kind: SinkKind = "ndtiff"
) -> Path:
    """Write raw and refocused datasets of a scene; the last `pending` frames are raw only."""
    raw_path, output = folder / "cells_1", folder / "cells_1_refocused"
    with (
        NDTiffSink.create(raw_path) as raw,
        create_sink(kind, output) as refocused,
        create_sink(kind, trust_maps_of(output)) as maps,
    ):
        total = times * len(scene.axes)
        for number in range(total):
            index = number % len(scene.axes)
            axes = {"time": number // len(scene.axes), **scene.axes[index]}
            metadata = {"PixelSizeUm": PIXEL_UM, "Exposure": 10.0, "Camera": "Demo"}
            raw.write(scene.raw[index], axes, metadata)
            if number < total - pending:
                facts = scene.facts(index)
                made_by = {
                    "version": "0.1.0",
                    "state": "passed_through" if facts.verdict == "passed_through" else "refocused",
                    "live": True,
                    "latency_ms": 31.0,
                    **msgspec.structs.asdict(facts),
                }
                refocused.write(scene.refocused[index], axes, {**metadata, "refocusd": made_by})
                maps.write(scene.trust(index), axes, {})
    return raw_path


def written_run(folder: Path, scene: Scene, kind: SinkKind = "ndtiff") -> Path:
    """A refocused dataset of two time points as the daemon leaves it; the last frame is pending."""
    raw = written_datasets(folder, scene, kind=kind)
    output = raw.with_name(f"{raw.name}_refocused")
    run = {"acquisition": "id-1", "run": "run-1", "raw": str(raw), "engine": {"model_id": "live-2"}}
    (notes_of(output) / RUN_FILE).write_text(json.dumps(run), encoding="utf-8")
    return output


@dataclass
class StandIn:
    """Answers a view in a separate thread, on a free port.

    Parameters
    ----------
    scene : Scene
    fps : float
        New frames per second; 0 makes one for every `Look`, as fast as they are requested.
    raw : Path or None
        Dataset that the status names.
    times : int
        Time points, after which the frames begin again.
    """

    scene: Scene
    fps: float = 25.0
    raw: Path | None = None
    times: int = 2
    address: str = "tcp://127.0.0.1:0"
    workers: list[wire.WorkerStatus] = field(default_factory=list)
    paused: bool = False
    catching_up: bool = True
    shown: int = 0
    looks: int = 0
    actions: list[wire.Message] = field(default_factory=list)
    endpoint: str = ""
    outcomes: OutcomeLog = field(default_factory=OutcomeLog)
    status_changes: dict[str, Any] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _generation: int = 1
    _begun: float = field(default_factory=time.monotonic)
    _known: set[bytes] = field(default_factory=set)
    _acquisition: str = field(default_factory=lambda: str(uuid.uuid4()))

    def __enter__(self) -> Self:
        self.workers = [self._worker("ready")]
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        as_daemon(self._socket)
        self._bind()
        self.endpoint = self._socket.getsockopt(zmq.LAST_ENDPOINT).decode().rstrip("\0")  # type: ignore[union-attr]
        self._thread = threading.Thread(target=self._run, name="stand-in")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()
        self._socket.close()
        self._context.term()

    def _bind(self) -> None:
        """Bind the address, which its previous owner may not have released yet."""
        for left in reversed(range(100)):
            try:
                self._socket.bind(self.address)
            except zmq.ZMQError:
                if not left:
                    self._socket.close()
                    self._context.term()
                    raise
                time.sleep(0.05)
            else:
                return

    @property
    def acquisition(self) -> str:
        """Id of the only acquisition."""
        return self._acquisition

    def kill_worker(self) -> None:
        """Report a lost worker as the broker does."""
        self.workers = []

    def restart_worker(self) -> None:
        """Report a new worker, without its engine yet."""
        self._generation += 1
        self.workers = [self._worker("starting")]

    def worker_ready(self) -> None:
        """Report that the worker has its engine."""
        self.workers = [self._worker("ready")]

    def _worker(self, state: Any) -> wire.WorkerStatus:
        engine = None if state == "starting" else ENGINE
        name = f"worker-0.{self._generation}"
        return wire.WorkerStatus(name, 4000 + self._generation, state, False, 120, 25.0, engine)

    def _run(self) -> None:
        waiting: dict[bytes, wire.Look] = {}
        following: dict[bytes, int] = {}
        while not self._stop.is_set():
            if self._socket.poll(5):
                parts = self._socket.recv_multipart()
                message = wire.decode(parts[1])
                if isinstance(message, wire.Follow):
                    following[parts[0]] = message.after
                else:
                    self._on_message(parts[0], message, waiting)
            for identity, after in list(following.items()):
                if self.outcomes.serial > after:
                    self._send(identity, self.outcomes.after(following.pop(identity)))
            self._make_frames()
            for identity, look in list(waiting.items()):
                if self.fps == 0:
                    self.shown += 1
                if self.shown > look.after:
                    del waiting[identity]
                    self._show(identity, look.max_side)

    def _make_frames(self) -> None:
        if self.fps and self.workers and not self.paused:
            self.shown = max(self.shown, int((time.monotonic() - self._begun) * self.fps))

    def _on_message(
        self, identity: bytes, message: wire.Message, waiting: dict[bytes, wire.Look]
    ) -> None:
        if isinstance(message, wire.Hello):
            self._known.add(identity)
            ring = RingAddress(0, -1, "", 0)
            self._send(identity, wire.Welcome(wire.PROTOCOL, "0.1.0", ring))
        elif identity not in self._known:
            self._send(
                identity, wire.Refused("say Hello first (the daemon may have been restarted)")
            )
        elif isinstance(message, wire.StatusRequest):
            self._send(identity, self.status())
        elif isinstance(message, wire.Look):
            self.looks += 1
            waiting[identity] = message
        elif isinstance(message, (wire.Pause, wire.CatchUp)):
            self.actions.append(message)
            if isinstance(message, wire.Pause):
                self.paused = message.paused
            else:
                self.catching_up = message.on
        else:
            self._send(identity, wire.Ping())

    def _send(
        self, identity: bytes, message: wire.Message, pixels: NDArray[Any] | None = None
    ) -> None:
        parts = [identity, wire.encode(message)]
        if pixels is not None:
            parts.append(pixels.tobytes())
        self._socket.send_multipart(parts)

    def _show(self, identity: bytes, side: int) -> None:
        number = self.shown
        index = number % len(self.scene.axes)
        height, width = self.scene.raw.shape[1:]
        step = max(1, -(-max(height, width) // side))
        both = np.stack([self.scene.raw[index], self.scene.refocused[index]])
        facts = self.scene.facts(index)
        time_point = number // len(self.scene.axes) % self.times
        axes = {"time": time_point, **self.scene.axes[index]}
        shown = wire.Shown(
            serial=number,
            acquisition=self._acquisition,
            name="cells_1",
            axes=json.dumps(dict(sorted(axes.items())), separators=(",", ":")),
            state="passed_through" if facts.verdict == "passed_through" else "refocused",
            height=height,
            width=width,
            dtype=both.dtype.name,  # type: ignore[arg-type]
            step=step,
            metadata=json.dumps({"PixelSize_um": PIXEL_UM, "Exposure": 10.0}),
            facts=facts,
            latency_ms=28.0 + 6.0 * math.sin(number / 7),
            live=True,
            trust=self.scene.trust(index).tobytes(),
        )
        self._send(identity, shown, np.ascontiguousarray(both[:, ::step, ::step]))

    def _doubted(self, time: int, z: int) -> wire.DoubtedFrame:
        axes = f'{{"channel":"DAPI","time":{time},"z":{z}}}'
        facts = self.scene.facts(0)
        return wire.DoubtedFrame(self._acquisition, axes, facts.verdict, facts.reasons)

    def status(self) -> wire.Status:
        """The status as the daemon would report it."""
        done = self.shown
        counts = wire.Counts(
            acquired=done + 4, refocused=done - done // 7, passed_through=done // 7, pending=4
        )
        height, width = self.scene.raw.shape[1:]
        detail = wire.AcquisitionStatus(
            id=self._acquisition,
            name="cells_1",
            raw=str(self.raw) if self.raw else "",
            output=f"{self.raw}_refocused" if self.raw else "",
            run="live-nuclei-2",
            state="live",
            height=height,
            width=width,
            dtype=self.scene.raw.dtype.name,  # type: ignore[arg-type]
            counts=counts,
            queued=2,
            deferred=0,
            warnings=[],
        )
        buckets = [0, 0, 0, 0, done // 3, done - done // 3 - done // 20, done // 20, 0, 0, 0, 0]
        histogram = wire.Histogram(BOUNDS_MS, buckets, 30.0 * done)
        engine = wire.Histogram(
            BOUNDS_MS, [0, 0, 0, done // 4, done - done // 4, 0, 0, 0, 0, 0, 0], 12.0 * done
        )
        values: dict[str, Any] = {
            "version": "0.1.0",
            "pid": 3999,
            "workers": sum(worker.state != "starting" for worker in self.workers),
            "engine": ENGINE,
            "acquisitions": {self._acquisition: counts},
            "stopping": False,
            "details": [detail],
            "crew": self.workers,
            "ring_nbytes": 512 << 20,
            "ring_free": 470 << 20,
            "paused": self.paused,
            "catch_up": self.catching_up,
            "frames": {
                "refocused": done - done // 7,
                "passed_through: already in focus": done // 7,
            },
            "stages": {"total": histogram, "engine": engine},
            "raw_nbytes": done * height * width * 2,
            "serial": done,
            "doubted": [self._doubted(time, z=0) for time in reversed(range(self.times))],
            "uptime_s": time.monotonic() - self._begun,
            **self.status_changes,
        }
        return wire.Status(**values)
