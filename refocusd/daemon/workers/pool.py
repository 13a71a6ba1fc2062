"""The workers as the broker sees them: who is ready, who holds which frame."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np

from refocusd.daemon.acquisitions.describe import describe_worker
from refocusd.daemon.acquisitions.run_id import models_of
from refocusd.daemon.acquisitions.state import Acquisition, Task, WorkerPeer
from refocusd.errors import TransportError
from refocusd.frame import Pixels
from refocusd.transport import messages as wire
from refocusd.transport.messages import EngineInfo, WorkerStatus
from refocusd.transport.ring import SharedRing

__all__ = ["Crew", "Send"]

log = logging.getLogger(__name__)

#: Sends a message, with pixels if any, to the peer of that identity.
Send = Callable[[bytes, wire.Message, Pixels | None], None]
#: Frames a worker holds: one at work, one at hand, so that it never waits for the wire.
AT_HAND = 2
#: A worker is taken for hung after so many times its slowest pixel of late, but not before ...
HUNG_FACTOR = 10.0
HUNG_AT_LEAST_S = 5.0


class Crew:
    """Workers and the tasks they hold.

    Parameters
    ----------
    send : callable
        Sends a message to a peer.
    ring : SharedRing
        Read and filled on behalf of workers that cannot map it.
    """

    def __init__(self, send: Send, ring: SharedRing) -> None:
        self._send = send
        self._ring = ring
        self._workers: dict[bytes, WorkerPeer] = {}
        #: What the workers run; None until the first is ready.
        self.engine: wire.Engines | None = None
        #: Models that our own workers are about to run (`models_named`), if they are known.
        self.models = ""

    @property
    def ready(self) -> int:
        """Workers that take frames."""
        return sum(worker.ready for worker in self._workers.values())

    @property
    def idle(self) -> bool:
        """Whether no worker holds a frame, and at least one could."""
        return self.ready > 0 and not any(worker.tasks for worker in self._workers.values())

    def overview(self) -> list[WorkerStatus]:
        """Every worker, as `Status` tells it."""
        return [describe_worker(worker) for worker in self._workers.values()]

    def knows(self, identity: bytes) -> bool:
        """Whether this peer is a worker."""
        return identity in self._workers

    def is_remote(self, identity: bytes) -> bool:
        """Whether this peer is a worker on another host."""
        return identity in self._workers and bool(self._workers[identity].remote)

    def join(self, identity: bytes, *, pid: int, inline: bool, remote: str = "") -> None:
        """A worker process said hello."""
        self._workers[identity] = WorkerPeer(identity, pid, inline, remote)

    def heard(self, identity: bytes) -> None:
        """Any message is a heartbeat."""
        if worker := self._workers.get(identity):
            worker.heard = time.monotonic()

    def set_ready(self, identity: bytes, message: wire.Ready) -> None:
        """A worker has built and warmed its engine.

        Raises
        ------
        TransportError
            If it runs other models than the first: all frames of a channel are of one model.
        """
        engine = message.engine
        ours = models_of(self.engine) if self.engine else self.models
        if ours and ours != models_of(engine):
            first = self.engine
            named = (first.model_id or first.backend) if first else "its settings"
            raise TransportError(
                f"this daemon's run is of model {named} ({ours[:12]}), the worker runs "
                f"{engine.model_id or engine.backend} ({engine.model_sha256[:12]}): start it with "
                "the same --model and the same channel_models"
            )
        if worker := self._workers.get(identity):
            worker.ready = True
            worker.engine = engine
            self.engine = self.engine or engine

    def engine_of(self, identity: bytes, channel: str) -> EngineInfo:
        """What a worker that is ready refocuses a channel with (`Task.channel`)."""
        engine = self._workers[identity].engine
        assert engine is not None
        return engine.of_channel(channel)

    def free(self) -> WorkerPeer | None:
        """The ready worker with the fewest frames at hand, if any can take one more."""
        able = [w for w in self._workers.values() if w.ready and len(w.tasks) < AT_HAND]
        return min(able, key=lambda worker: len(worker.tasks), default=None)

    def assign(
        self,
        worker: WorkerPeer,
        task: Task,
        acquisition: Acquisition,
        focus: wire.FocusOptics | None = None,
    ) -> None:
        """Send a frame to a worker; with `focus` it estimates the defocus as well."""
        open_, submit = acquisition.open, task.submit
        pixels: Pixels | None = None
        if worker.inline:
            shape = (open_.height, open_.width)
            pixels = self._ring.view(submit.slot.offset, shape, open_.dtype)  # type: ignore[assignment]
        task.sent_at = time.monotonic()
        task.waited_ms = (time.perf_counter_ns() - submit.taken_ns) / 1e6
        worker.tasks.append(task)
        message = wire.Task(
            task=task.number,
            slot=submit.slot,
            height=open_.height,
            width=open_.width,
            dtype=open_.dtype,
            checksum=submit.checksum,
            focus=focus,
            calibration=self._calibrate(worker, task, acquisition),
            channel=task.channel,
        )
        self._send(worker.identity, message, pixels)

    def _calibrate(self, worker: WorkerPeer, task: Task, acquisition: Acquisition) -> str:
        """Key of the frame's calibration, which the worker knows from then on; "" for none."""
        height, width = acquisition.open.height, acquisition.open.width
        submit = task.submit
        found = acquisition.applied.of_frame(submit.axes, submit.metadata, (height, width))
        if found is None:
            return ""
        if found.key not in worker.calibrations:
            hot = list(found.hot_pixels)
            message = wire.Calibration(found.key, found.profile, height, width, hot)
            self._send(worker.identity, message, None)
            # The worker forgets its oldest as well.
            worker.calibrations.append(found.key)
        return found.key

    def take_back(self, identity: bytes, number: int) -> Task | None:
        """The task that a worker answers, or None if it does not hold it (any more)."""
        worker = self._workers.get(identity)
        for task in worker.tasks if worker else ():
            if task.number == number:
                assert worker is not None
                worker.tasks.remove(task)
                now = time.monotonic()
                pixels = max(1, task.submit.slot.nbytes)
                worker.s_per_px = max(0.99 * worker.s_per_px, (now - task.sent_at) / pixels)
                worker.answered += 1
                worker.recent.append(now)
                if worker.tasks:  # the next one begins only now
                    worker.tasks[0].sent_at = now
                return task
        return None

    def fill(self, identity: bytes, task: Task, part: memoryview | None) -> None:
        """Copy the pixels that a worker without the ring sent back into the slot.

        Raises
        ------
        TransportError
            If they are missing or of the wrong size.
        """
        worker = self._workers[identity]
        if not worker.inline:
            return
        slot = task.submit.slot
        if part is None or part.nbytes != slot.nbytes:
            raise TransportError("the worker's answer came without its pixels")
        view = self._ring.view(slot.refocused_offset, (1, slot.nbytes), "uint8")
        view[0] = np.frombuffer(part, np.uint8)

    def lose(self, identity: bytes, *, cut: bool = False) -> list[Task]:
        """The tasks of a worker that is gone, oldest first.

        Only the oldest was at work, so only it may be what killed the worker.  With
        `cut` nothing is known but that its link is lost, which proves little.
        """
        worker = self._workers.pop(identity, None)
        if worker is None:
            return []
        tasks = list(worker.tasks)
        if tasks and cut:
            tasks[0].cuts += 1
        elif tasks:
            tasks[0].deaths += 1
        return tasks

    def hung(self, timeout_s: float) -> list[bytes]:
        """Workers that hold one frame much longer than they did before, or than `timeout_s`."""
        now = time.monotonic()
        return [
            worker.identity
            for worker in self._workers.values()
            if worker.tasks and now - worker.tasks[0].sent_at > _patience_s(worker, timeout_s)
        ]

    def silent(self, timeout_s: float) -> list[bytes]:
        """Idle workers that were not heard for `timeout_s`."""
        now = time.monotonic()
        return [
            worker.identity
            for worker in self._workers.values()
            if not worker.tasks
            and (worker.ready or worker.remote)
            and now - worker.heard > timeout_s
        ]

    def dismiss(self) -> None:
        """Tell every worker to stop."""
        for identity in self._workers:
            self._send(identity, wire.Stop(), None)


def _patience_s(worker: WorkerPeer, timeout_s: float) -> float:
    if not worker.s_per_px:
        return timeout_s
    usual_s = worker.s_per_px * worker.tasks[0].submit.slot.nbytes
    return min(timeout_s, max(HUNG_AT_LEAST_S, HUNG_FACTOR * usual_s))
