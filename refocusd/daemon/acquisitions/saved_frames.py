"""Frames that sources have on disk: read into their slots, by one thread an acquisition."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from typing import Any

import msgspec
import numpy as np

from refocusd.daemon.events import EventQueue, SavedFrameRead
from refocusd.errors import RefocusdError
from refocusd.formats.tiff.page import PageFormat, Place
from refocusd.frame import checksum
from refocusd.sources.raw_reader import read_place
from refocusd.transport.messages import Open, Submit
from refocusd.transport.ring import SharedRing

log = logging.getLogger(__name__)

#: Pauses before a frame is looked for again that is not in its file yet, in s.
LAG_S = (0.02, 0.1, 0.5)
#: A thread without a frame for so long ends.
IDLE_S = 10.0


class SavedFrames:
    """Reads frames for the broker, which is told of each by an event.

    A disk that hangs holds up its own acquisition only.

    Parameters
    ----------
    ring : SharedRing
    event_queue : EventQueue
    """

    def __init__(self, ring: SharedRing, event_queue: EventQueue) -> None:
        self._ring = ring
        self._events = event_queue
        self._lock = threading.Lock()
        #: By acquisition; their slots bound how many frames wait.
        self._waiting: dict[str, queue.SimpleQueue[Submit]] = {}

    def read(self, open_: Open, frame: Submit) -> None:
        """Have a frame read into its slot."""
        with self._lock:
            waiting = self._waiting.get(open_.acquisition)
            if waiting is None:
                waiting = self._waiting[open_.acquisition] = queue.SimpleQueue()
                arguments = (open_, waiting)
                threading.Thread(
                    target=self._run, args=arguments, name="saved-frames", daemon=True
                ).start()
            waiting.put(frame)

    def _run(self, open_: Open, waiting: queue.SimpleQueue[Submit]) -> None:
        patient = True
        while True:
            try:
                frame = waiting.get(timeout=IDLE_S)
            except queue.Empty:
                with self._lock:
                    if waiting.empty():
                        del self._waiting[open_.acquisition]
                        return
                continue
            try:
                read, error = self._fill(open_, frame, patient=patient), ""
            except Exception as problem:  # noqa: BLE001 (told to the broker: it is caught up)
                read, error = frame, f"{type(problem).__name__}: {problem}"
            # Where files lag behind for good, not every frame is waited for.
            patient = not error
            self._events.put(SavedFrameRead(open_.acquisition, read, error))

    def _fill(self, open_: Open, frame: Submit, *, patient: bool) -> Submit:
        saved = frame.saved
        assert saved is not None
        form = PageFormat(open_.height, open_.width, np.dtype(open_.dtype))
        metadata_at = saved.metadata_offset, saved.metadata_length
        place = Place(saved.file, saved.offset, form, *metadata_at)
        slot: Any = self._ring.view(frame.slot.offset, (form.height, form.width), open_.dtype)
        for pause_s in (*(LAG_S if patient else ()), None):
            try:
                pixels, metadata = read_place(open_.raw, place, f"frame {frame.axes}", slot)
            except (RefocusdError, OSError):
                if pause_s is None:
                    raise
                time.sleep(pause_s)
            else:
                break
        return msgspec.structs.replace(
            frame, checksum=checksum(pixels), metadata=json.dumps(metadata), saved=None
        )
