"""Who asks how it goes, who watches, and what they may order."""

from __future__ import annotations

import logging
import os

from refocusd import __version__
from refocusd.daemon.acquisitions.lifecycle import Course
from refocusd.daemon.output.preview import Preview
from refocusd.daemon.workers.pool import Crew, Send
from refocusd.errors import TransportError
from refocusd.transport import messages as wire
from refocusd.transport.ring import SharedRing

__all__ = ["Reception"]

log = logging.getLogger(__name__)


class Reception:
    """Answers control peers and views.

    Parameters
    ----------
    course, crew, ring, preview
        What there is to tell.
    send : callable
        Sends a message to a peer.

    Attributes
    ----------
    looks : dict of bytes to int
        Views that wait for a frame later than the serial they have.
    """

    def __init__(
        self, course: Course, crew: Crew, ring: SharedRing, preview: Preview, send: Send
    ) -> None:
        self._course = course
        self._crew = crew
        self._ring = ring
        self._preview = preview
        self._send = send
        self.looks: dict[bytes, int] = {}

    def asked(self, identity: bytes, role: wire.Role, message: wire.Message) -> None:
        """A control peer or a view wants something.

        Raises
        ------
        TransportError
            If that is not for a peer of this role.
        """
        if isinstance(message, wire.StatusRequest):
            self._send(identity, self.status(), None)
        elif isinstance(message, wire.Look) and role == "view":
            self.looks[identity] = message.after
            self.show()
            if identity in self.looks:
                self._preview.ask(message.max_side)
        elif isinstance(message, wire.Pause):
            log.info("paused" if message.paused else "going on")
            self._course.queues.paused = message.paused and not self._course.stopping
        elif isinstance(message, wire.CatchUp):
            self._course.catch_up_when_idle = message.on
        else:
            raise TransportError(f"a {role} peer does not send {type(message).__name__}")

    def show(self) -> None:
        """Answer the views that wait for the newest frame."""
        for identity, after in list(self.looks.items()):
            if newest := self._preview.newest(after):
                del self.looks[identity]
                self._send(identity, newest[0], newest[1])  # type: ignore[arg-type]

    def status(self) -> wire.Status:
        """State of the daemon."""
        course = self._course
        return wire.Status(
            version=__version__,
            pid=os.getpid(),
            workers=self._crew.ready,
            engine=self._crew.engine,
            acquisitions=course.counts(),
            stopping=course.stopping,
            details=course.details(),
            crew=self._crew.overview(),
            ring_nbytes=self._ring.address.nbytes,
            ring_free=course.queues.free_nbytes,
            paused=course.queues.paused,
            catch_up=course.catch_up_when_idle,
            frames=course.statistics.frames,
            stages=course.statistics.stages,
            raw_nbytes=course.statistics.raw_nbytes,
            serial=self._preview.serial,
            uptime_s=course.statistics.uptime_s,
        )
