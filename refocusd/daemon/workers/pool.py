"""The broker's records of its workers: which are ready, and which frames they hold."""

from __future__ import annotations

import json
import logging
import time

import numpy as np

from refocusd.daemon.acquisitions.run_id import models_of
from refocusd.daemon.acquisitions.state import Acquisition, Send, Task
from refocusd.daemon.workers.describe import describe_worker
from refocusd.daemon.workers.worker import WorkerPeer
from refocusd.errors import TransportError
from refocusd.frame import Pixels
from refocusd.transport import messages as wire
from refocusd.transport.messages import EngineInfo, WorkerStatus
from refocusd.transport.ring import SharedRing

log = logging.getLogger(__name__)

#: Largest number of frames that a worker holds: the current one, and the next, for which it need not wait.
MAX_TASKS = 2


class WorkerPool:
    """Workers and the tasks they hold.

    Parameters
    ----------
    send : callable
        Sends a message to a peer.
    ring : SharedRing
        Read and filled on behalf of workers that cannot map it.
    models : str
        Models (`models_named`) that the daemon's own workers are about to run; "" if not known.

    Attributes
    ----------
    engine : Engines or None
        Engines of the first worker that was ready; None before that.
    """

    def __init__(self, send: Send, ring: SharedRing, models: str = "") -> None:
        self._send = send
        self._ring = ring
        self._models = models
        self._workers: dict[bytes, WorkerPeer] = {}
        self.engine: wire.Engines | None = None

    @property
    def ready(self) -> int:
        """Number of workers that can take frames."""
        return sum(worker.ready for worker in self._workers.values())

    @property
    def idle(self) -> bool:
        """Whether at least one worker can take frames, and none holds one."""
        return self.ready > 0 and not any(worker.tasks for worker in self._workers.values())

    def describe(self) -> list[WorkerStatus]:
        """Every worker, for `Status`."""
        return [describe_worker(worker) for worker in self._workers.values()]

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._workers

    def is_remote(self, identity: bytes) -> bool:
        """Whether this peer is a worker on another host."""
        return identity in self._workers and bool(self._workers[identity].remote)

    # -- the life of a worker -------------------------------------------------------------

    def join(self, identity: bytes, *, pid: int, inline: bool, remote: str = "") -> None:
        """Add a worker that has connected."""
        self._workers[identity] = WorkerPeer(identity, pid, inline, remote)

    def heard(self, identity: bytes) -> None:
        """Note that a worker was heard: any message is a heartbeat."""
        if worker := self._workers.get(identity):
            worker.heard_at = time.monotonic()

    def set_ready(self, identity: bytes, message: wire.Ready) -> None:
        """Note that a worker has built its engines and warmed them up.

        Raises
        ------
        TransportError
            If it runs other models than the first worker: one model must refocus all frames of a channel.
        """
        engine = message.engine
        ours = models_of(self.engine) if self.engine else self._models
        if ours and ours != models_of(engine):
            first = self.engine
            name = (first.model_id or first.backend) if first else "its settings"
            raise TransportError(
                f"this daemon's run is of model {name} ({ours[:12]}), the worker runs "
                f"{engine.model_id or engine.backend} ({engine.model_sha256[:12]}): start it with "
                "the same --model and the same channel_models"
            )
        if worker := self._workers.get(identity):
            worker.ready = True
            worker.engine = engine
            self.engine = self.engine or engine

    def lose(self, identity: bytes, *, cut: bool = False) -> list[Task]:
        """Remove a worker that is gone, and return the tasks that it held, oldest first.

        It was working on the oldest only, so only that frame may have killed the worker.  With
        `cut`, only its link is known to be lost, which proves little.
        """
        worker = self._workers.pop(identity, None)
        if worker is None:
            return []
        if worker.tasks and cut:
            worker.tasks[0].cuts += 1
        elif worker.tasks:
            worker.tasks[0].deaths += 1
        return list(worker.tasks)

    def hung(self, timeout_s: float) -> list[bytes]:
        """Workers that have spent much longer on a frame than usual, or longer than `timeout_s`."""
        return [key for key, worker in self._workers.items() if worker.is_hung(timeout_s)]

    def silent(self, timeout_s: float) -> list[bytes]:
        """Idle workers without a heartbeat for `timeout_s`."""
        return [key for key, worker in self._workers.items() if worker.is_silent(timeout_s)]

    def dismiss(self) -> None:
        """Tell every worker to stop."""
        for identity in self._workers:
            self._send(identity, wire.Stop(), None)

    # -- frames -----------------------------------------------------------------------------

    def free(self, *, fresh: bool) -> WorkerPeer | None:
        """The ready worker with the fewest frames, if any can take one more.

        With `fresh`, a slow worker gets its next frame only when it is idle: a frame that is sent ahead
        would wait for the one before it, while newer ones arrive.
        """
        able = [
            worker
            for worker in self._workers.values()
            if worker.ready
            and len(worker.tasks) < (1 if fresh and not worker.needs_ahead else MAX_TASKS)
        ]
        return min(able, key=lambda worker: len(worker.tasks), default=None)

    def assign(
        self,
        worker: WorkerPeer,
        task: Task,
        acquisition: Acquisition,
        focus: wire.FocusOptics | None = None,
        blur: wire.KnownBlur | None = None,
    ) -> None:
        """Send a frame to a worker, with its known blur; with `focus`, the worker estimates the defocus as well."""
        about, submit = acquisition.open, task.submit
        pixels: Pixels | None = None
        if worker.inline:
            pixels = self._ring.view(  # type: ignore[assignment]
                submit.slot.offset, acquisition.shape, about.dtype
            )
        task.sent_at = time.monotonic()
        task.waited_ms = (time.perf_counter_ns() - submit.taken_ns) / 1e6
        worker.tasks.append(task)
        message = wire.Task(
            task=task.number,
            slot=submit.slot,
            height=about.height,
            width=about.width,
            dtype=about.dtype,
            checksum=submit.checksum,
            focus=focus,
            calibration=self._calibrate(worker, task, acquisition),
            channel=task.channel,
            stream=stream_of(acquisition.id, submit.axes),
            untrusted=task.untrusted,
            blur=blur,
        )
        self._send(worker.identity, message, pixels)

    def _calibrate(self, worker: WorkerPeer, task: Task, acquisition: Acquisition) -> str:
        """Key of the frame's calibration, which is sent to the worker if it does not have it; "" for none."""
        submit, shape = task.submit, acquisition.shape
        found = acquisition.applied.of_frame(submit.axes, submit.metadata, shape)
        if found is None:
            return ""
        if found.key not in worker.calibrations:
            message = wire.Calibration(found.key, found.profile, *shape, list(found.hot_pixels))
            self._send(worker.identity, message, None)
            # The worker forgets its oldest calibration likewise.
            worker.calibrations.append(found.key)
        return found.key

    def take_back(self, identity: bytes, number: int) -> Task | None:
        """The task that a worker answers; None if it does not hold it (any more)."""
        worker = self._workers.get(identity)
        return worker.finish(number) if worker else None

    def engine_of(self, identity: bytes, channel: str) -> EngineInfo:
        """The engine that a ready worker has for a channel (`Task.channel`)."""
        engine = self._workers[identity].engine
        assert engine is not None
        return engine.of_channel(channel)

    def fill(self, identity: bytes, task: Task, part: memoryview | None) -> None:
        """Copy the pixels that a worker without the ring has returned into the slot.

        Raises
        ------
        TransportError
            If they are missing or of the wrong size.
        """
        if not self._workers[identity].inline:
            return
        slot = task.submit.slot
        if part is None or part.nbytes != slot.nbytes:
            raise TransportError("the worker's answer came without its pixels")
        view = self._ring.view(slot.refocused_offset, (1, slot.nbytes), "uint8")
        view[0] = np.frombuffer(part, np.uint8)


def stream_of(acquisition: str, axes: str) -> str:
    """Name of the stream of frames that differ only in time: acquisition, and all axes but time."""
    shared = {name: value for name, value in json.loads(axes).items() if name != "time"}
    return f"{acquisition} {json.dumps(shared, separators=(',', ':'))}"
