"""Writes every open acquisition, each in its own thread.

A disk or share that hangs therefore holds up only the acquisition that is written there.
"""

from __future__ import annotations

import logging
import time

from refocusd.config import Settings
from refocusd.daemon import events
from refocusd.daemon.output.acquisition_writer import AcquisitionWriter
from refocusd.daemon.output.jobs import CloseOutput, Job
from refocusd.daemon.output.preview import Preview
from refocusd.transport.ring import SharedRing

log = logging.getLogger(__name__)


class Writer:
    """Gives each job to the thread of its acquisition.

    The broker's thread uses it, and after its end the thread that stops the daemon.

    Parameters
    ----------
    settings, ring, event_queue
        As for `AcquisitionWriter`.

    Attributes
    ----------
    preview : Preview
        The newest frame, for views.
    """

    def __init__(
        self, settings: Settings, ring: SharedRing, event_queue: events.EventQueue
    ) -> None:
        self._settings = settings
        self._ring = ring
        self._events = event_queue
        self._writers: dict[str, AcquisitionWriter] = {}
        #: Writers that close their output, or could not close it.
        self._closing: list[AcquisitionWriter] = []
        self.preview = Preview()

    def put(self, job: Job) -> None:
        """Queue a job of an acquisition; its answer is an event."""
        key = job.of
        writer = self._writers.get(key)
        if writer is None:
            writer = AcquisitionWriter(key, self._settings, self._ring, self._events, self.preview)
            self._writers[key] = writer
            writer.start()
        writer.put(job)
        if isinstance(job, CloseOutput):
            del self._writers[key]
            self._closing = [each for each in self._closing if not each.join(0.0)] + [writer]

    def stop(self, timeout_s: float) -> None:
        """Finish the jobs so far, close everything, and end the threads."""
        for writer in self._writers.values():
            writer.end()
        deadline = time.monotonic() + timeout_s
        for writer in [*self._writers.values(), *self._closing]:
            if not writer.join(max(0.0, deadline - time.monotonic())):
                log.error(
                    "acquisition %s was not completely written within %.0f s: a disk hangs",
                    writer.acquisition,
                    timeout_s,
                )
