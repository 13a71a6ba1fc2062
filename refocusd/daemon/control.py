"""What control peers and views ask for: status, previews, a pause, catch-up."""

from __future__ import annotations

import logging
import os

from refocusd import __version__
from refocusd.daemon.acquisitions.lifecycle import Lifecycle
from refocusd.daemon.acquisitions.registry import Acquisitions
from refocusd.daemon.acquisitions.scheduler import Scheduler
from refocusd.daemon.acquisitions.state import Send
from refocusd.daemon.output.preview import Preview
from refocusd.daemon.workers.pool import WorkerPool
from refocusd.errors import TransportError
from refocusd.transport import messages as wire

__all__ = ["Control"]

log = logging.getLogger(__name__)


class Control:
    """Answers control peers and views.

    Parameters
    ----------
    acquisitions, scheduler, lifecycle, pool, preview
        What is reported and controlled.
    ring_nbytes : int
    send : callable
        Sends a message to a peer.
    """

    def __init__(
        self,
        acquisitions: Acquisitions,
        scheduler: Scheduler,
        lifecycle: Lifecycle,
        pool: WorkerPool,
        preview: Preview,
        ring_nbytes: int,
        send: Send,
    ) -> None:
        self._acquisitions = acquisitions
        self._scheduler = scheduler
        self._lifecycle = lifecycle
        self._pool = pool
        self._preview = preview
        self._ring_nbytes = ring_nbytes
        self._send = send
        #: Views that wait for a frame, and the serial that it must be later than.
        self._waiting: dict[bytes, int] = {}

    def receive(self, identity: bytes, role: wire.Role, message: wire.Message) -> None:
        """Do what a control peer or a view asks for.

        Raises
        ------
        TransportError
            If a peer of this role may not ask for that.
        """
        match message:
            case wire.StatusRequest():
                self._send(identity, self.status(), None)
            case wire.Look() if role == "view":
                self._waiting[identity] = message.after
                self.show()
                if identity in self._waiting:
                    self._preview.ask(message.max_side)
            case wire.Pause():
                log.info("paused" if message.paused else "resumed")
                self._scheduler.paused = message.paused and not self._lifecycle.stopping
            case wire.CatchUp():
                self._lifecycle.catch_up_when_idle = message.on
            case _:
                raise TransportError(f"a {role} peer does not send {type(message).__name__}")

    def show(self) -> None:
        """Send the newest frame to the views that wait for it."""
        for identity, after in list(self._waiting.items()):
            if newest := self._preview.newest(after):
                del self._waiting[identity]
                self._send(identity, newest[0], newest[1])  # type: ignore[arg-type]

    def forget(self, identity: bytes) -> None:
        """A view has gone."""
        self._waiting.pop(identity, None)

    def status(self) -> wire.Status:
        """State of the daemon."""
        details = self._acquisitions.details()
        statistics = self._lifecycle.statistics
        return wire.Status(
            version=__version__,
            pid=os.getpid(),
            workers=self._pool.ready,
            engine=self._pool.engine,
            acquisitions={about.id: about.counts for about in details},
            stopping=self._lifecycle.stopping,
            details=details,
            crew=self._pool.describe(),
            ring_nbytes=self._ring_nbytes,
            ring_free=self._scheduler.free_nbytes,
            paused=self._scheduler.paused,
            catch_up=self._lifecycle.catch_up_when_idle,
            frames=statistics.frames,
            stages=statistics.stages,
            raw_nbytes=statistics.raw_nbytes,
            serial=self._preview.serial,
            uptime_s=statistics.uptime_s,
        )
