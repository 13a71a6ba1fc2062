"""Reads frames that sources have on disk into their slots, in one thread per acquisition."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from functools import partial
from typing import Any

import msgspec
import numpy as np

from refocusd.daemon.events import EventQueue, SavedFrameRead
from refocusd.daemon.output.patience import answer_of
from refocusd.errors import RefocusdError
from refocusd.formats.tiff.page import PageFormat, Place
from refocusd.frame import Pixels, checksum
from refocusd.sources.raw_reader import read_place
from refocusd.transport.messages import Open, Submit
from refocusd.transport.ring import SharedRing

log = logging.getLogger(__name__)

#: Pauses before another attempt at a frame that is not in its file yet, in s.
LAG_S = (0.02, 0.1, 0.5)
#: A thread that has had no frame for this long ends, in s.
IDLE_S = 10.0
#: Time limit for an answer of the disk, in s; after that, frames are left to the catch-up until it answers.
HANGS_S = 5.0
HANGS = "the disk does not answer"


class SavedFrames:
    """Reads frames for the broker, which receives a `SavedFrameRead` event for each.

    A disk that hangs holds up only its own acquisition, and only for `HANGS_S`.

    Parameters
    ----------
    ring : SharedRing
    event_queue : EventQueue
    """

    def __init__(self, ring: SharedRing, event_queue: EventQueue) -> None:
        self._ring = ring
        self._events = event_queue
        self._lock = threading.Lock()
        #: Frames that wait, by acquisition; their number is bounded by the slots.
        self._waiting: dict[str, queue.SimpleQueue[Submit]] = {}

    def read(self, open_: Open, frame: Submit) -> None:
        """Queue a frame to be read into its slot."""
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
        answered = threading.Event()
        answered.set()
        # Not directly into the slot: a read that was abandoned may end when the slot belongs to another frame.
        shape = open_.height, open_.width
        array = np.empty(shape, open_.dtype)
        while True:
            try:
                frame = waiting.get(timeout=IDLE_S)
            except queue.Empty:
                with self._lock:
                    if waiting.empty():
                        del self._waiting[open_.acquisition]
                        return
                continue
            metadata, error = "", HANGS
            if answered.is_set():
                answered.clear()
                ask = partial(_read, open_, frame, array, answered, patient=patient)
                metadata, error = answer_of(ask, (metadata, error), HANGS_S)
            if error is HANGS:
                array = np.empty(shape, open_.dtype)
            # If files always lag behind, not every frame is waited for.
            patient = not error
            if not error:
                slot: Any = self._ring.view(frame.slot.offset, shape, open_.dtype)
                slot[:] = array
                frame = msgspec.structs.replace(
                    frame, checksum=checksum(array), metadata=metadata, saved=None
                )
            hangs = error is HANGS
            self._events.put(SavedFrameRead(open_.acquisition, frame, error, hangs=hangs))


def _read(
    open_: Open, frame: Submit, into: Pixels, answered: threading.Event, *, patient: bool
) -> tuple[str, str]:
    """Read a frame; return its metadata as JSON, and why it could not be read."""
    saved = frame.saved
    assert saved is not None
    form = PageFormat(open_.height, open_.width, np.dtype(open_.dtype))
    metadata_at = saved.metadata_offset, saved.metadata_length
    place = Place(saved.file, saved.offset, form, *metadata_at)
    what = open_.raw, place, f"frame {frame.axes}", into
    try:
        for pause_s in LAG_S if patient else ():
            try:
                return json.dumps(read_place(*what)[1]), ""
            except (RefocusdError, OSError):
                time.sleep(pause_s)
        return json.dumps(read_place(*what)[1]), ""
    except Exception as problem:  # noqa: BLE001 (reported to the broker: it is caught up)
        return "", f"{type(problem).__name__}: {problem}"
    finally:
        answered.set()
