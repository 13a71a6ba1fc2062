"""What stands behind the hooks: a bounded buffer, and one thread that empties it.

The hook copies a frame into a buffer of its own and returns; everything that
can wait (sockets, the ring, JSON) happens in the feed's thread.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refocusd import __version__
from refocusd.errors import InputError, RefocusdError, TransportError
from refocusd.frame import Frame, Pixels, canonical_axes, checked_pixels
from refocusd.transport.client import SILENCE_S, Connection, Upload
from refocusd.transport.messages import Counts, Open, Refused, Welcome

__all__ = ["Feed"]

log = logging.getLogger(__name__)

#: Frames known by axes only while they wait to be read from disk, at most.
MAX_LATER = 100_000
#: How long after the last frame its place on disk may become known.
LAST_WORD_S = 2.0
#: How long the end of the interpreter may be held up to say good-bye.
EXIT_S = 2.0


@dataclass(slots=True)
class _Held:
    """A frame in the buffer, or (with `read`) one that is still on disk only."""

    axes: str
    taken_ns: int
    metadata: dict[str, Any]
    pixels: Pixels | None = None
    read: Callable[[], Frame] | None = None


class Feed:
    """Frames of one acquisition on their way to the daemon.

    Parameters
    ----------
    endpoint, output, expected
        As in `Source`.
    buffer_nbytes : int
        Pixels held at most.

    `take`, `saved` and `end` are called by hooks, always through `safely`; they
    copy and return.
    """

    def __init__(self, endpoint: str, *, output: str, expected: int, buffer_nbytes: int) -> None:
        self.output = output
        self._endpoint = endpoint
        self._expected = expected
        self._room = buffer_nbytes
        self._name = ""
        self._has_raw = False
        self._raw = ""
        self._summary = "{}"
        self._held: deque[_Held] = deque()
        self._spare: list[Pixels] = []
        self._missed: list[str] = []
        self._taken = 0
        self._listening = False
        self._format: tuple[tuple[int, int], str] | None = None
        self._ended = False
        self._leaving = False
        self._complained = False
        self._changed = threading.Condition()
        self._done = threading.Event()
        self._counts: Counts | None = None
        self._thread: threading.Thread | None = None

    # -- called by hooks ----------------------------------------------------------------

    def begin(self, name: str, *, has_raw: bool) -> None:
        """Start the thread; connecting does not wait for a daemon."""
        self._name = name
        self._has_raw = has_raw
        if not has_raw and not self.output:
            self._done.set()
            return
        # A daemon thread: the user's script may end, or die, without asking us.
        self._thread = threading.Thread(target=self._run, name="refocusd-feed", daemon=True)
        self._thread.start()
        atexit.register(self._leave)

    def safely(self, do: Callable[[], object]) -> None:
        """Run our part of a hook: whatever goes wrong there is logged, never raised."""
        try:
            do()
        except Exception as error:  # noqa: BLE001 (an exception here would hang the acquisition)
            self._complain(f"{type(error).__name__}: {error}")

    def take(self, image: Any, metadata: Any, taken_ns: int) -> None:
        """Copy a frame into the buffer; the oldest makes room when it is full."""
        if self._thread is None:
            return
        axes = canonical_axes(metadata["Axes"])
        pixels = checked_pixels(image, what=f"frame {axes}")
        # Until a daemon listens a copy would be for nobody: raw has the frame, and the
        # daemon, if one comes, catches it up from there.
        wanted = self._listening or not self._has_raw
        copy = self._buffer_like(pixels) if wanted else None
        if copy is not None:
            np.copyto(copy, pixels)
        with self._changed:
            self._taken += 1
            self._format = self._format or (pixels.shape, pixels.dtype.name)
            if copy is None:
                self._miss(axes)
            else:
                self._held.append(_Held(axes, taken_ns, dict(metadata), copy))
            self._changed.notify()

    def take_later(self, read: Callable[[], Frame], axes: Any, taken_ns: int) -> None:
        """Note a frame that lies on disk; the feed's thread reads it."""
        key = canonical_axes(axes)
        if self._thread is None:
            return
        with self._changed:
            self._taken += 1
            if len(self._held) >= MAX_LATER:
                self._miss(self._held.popleft().axes)
            self._held.append(_Held(key, taken_ns, {}, read=read))
            self._changed.notify()

    def saved(self, dataset: Any) -> None:
        """A frame is in the raw dataset: note where that is, and make its index durable."""
        # pycromanager's own writer keeps its index in memory: killed, no frame is readable.
        index = getattr(dataset, "_index_file", None)
        if index is not None and not index.closed:
            index.flush()
        if self._raw or not self._has_raw:
            return
        summary = getattr(dataset, "_summary_metadata", None) or {}
        with self._changed:
            self._summary = json.dumps(summary, default=str)
            self._raw = str(Path(dataset.path).resolve())
            self._changed.notify()

    def end(self) -> None:
        """No more frames will come: raw is complete."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def wait(self, timeout_s: float | None) -> Counts | None:
        """Wait until the daemon has closed the acquisition, or there is none."""
        self._done.wait(timeout_s)
        return self._counts

    # -- the buffer ---------------------------------------------------------------------

    def _buffer_like(self, pixels: Pixels) -> Pixels | None:
        """An array of that shape within the buffer's room: a spare, a new one, or the oldest's."""
        with self._changed:
            while self._spare:
                spare = self._spare.pop()
                if spare.shape == pixels.shape and spare.dtype == pixels.dtype:
                    return spare
                self._room += spare.nbytes
            if pixels.nbytes <= self._room:
                self._room -= pixels.nbytes
                return np.empty_like(pixels)
            # Live stays fresh: the oldest is left to the catch-up.
            while self._held:
                oldest = self._held.popleft()
                self._miss(oldest.axes)
                array = oldest.pixels
                if array is None:
                    continue
                if array.shape == pixels.shape and array.dtype == pixels.dtype:
                    return array
                self._room += array.nbytes
        return None

    def _miss(self, axes: str) -> None:
        """A frame goes by.  With raw data the daemon finds it there; without, it must be told."""
        if not self._has_raw and len(self._missed) < MAX_LATER:
            self._missed.append(axes)

    def _complain(self, text: str) -> None:
        """Once an acquisition: a log line for every frame would slow it down."""
        if not self._complained:
            self._complained = True
            log.warning("%s: %s (raw data is not affected)", self._name, text)

    @property
    def _announceable(self) -> bool:
        known = self._format is not None or bool(self._held)
        return known and (bool(self._raw) or not self._has_raw)

    # -- the thread ---------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._serve()
        except RefocusdError as error:
            self._complain(str(error))
        finally:
            with self._changed:
                self._thread = None
                self._held.clear()
                self._spare.clear()
            self._done.set()
            atexit.unregister(self._leave)

    def _serve(self) -> None:
        connection = self._connect()
        if connection is None:
            return
        try:
            open_ = self._await_first(connection)
            if open_ is None:
                return
            upload = Upload(connection, open_)
            while not (self._ended and upload.opened and not self._held):
                if self._leaving or self._over(connection, upload):
                    break
                self._pass_on(upload)
            if upload.opened and not upload.closed:
                self._say_closed(upload)
                while not (self._leaving or self._over(connection, upload)):
                    upload.pump(0.1)
            if upload.closed:
                self._counts = upload.closed.counts
        finally:
            connection.close(linger_s=1.0)

    def _over(self, connection: Connection, upload: Upload) -> bool:
        """Whether the daemon has closed the acquisition; an error if it has gone or refuses it."""
        if upload.refused:
            raise InputError(upload.refused)
        if upload.closed and not self._ended:
            raise TransportError("the daemon was stopped; the rest can be refocused from raw later")
        if connection.silent_s > SILENCE_S:
            raise TransportError(
                f"the daemon at {self._endpoint} went away; the rest of the frames can be refocused "
                "from raw later"
            )
        return upload.closed is not None

    def _connect(self) -> Connection | None:
        """A welcomed connection; None when the acquisition ends before there is a daemon."""
        connection = Connection(self._endpoint, "source", version=__version__)
        begun = time.monotonic()
        while True:
            # A short acquisition may be over before the daemon's answer was read: one last look.
            last = self._ended or self._leaving
            message = connection.receive(0.5 if last else 0.2)
            if isinstance(message, Refused):
                connection.close()
                raise TransportError(message.reason)
            if isinstance(message, Welcome):
                connection.accept(message)
                self._listening = True
                return connection
            if last or time.monotonic() - begun > SILENCE_S:
                self._complain(
                    f"no refocusd daemon answers at {self._endpoint}; start one with `refocusd run`. "
                    "Frames are saved raw only meanwhile"
                )
            if last:
                connection.close()
                return None

    def _await_first(self, connection: Connection) -> Open | None:
        """What to announce, once there is a frame and its raw dataset has a place."""
        give_up = math.inf
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._announceable or self._ended, 0.25)
                if self._announceable:
                    first = self._held[0] if self._held else None
                    break
                # The hook that tells where raw lies runs in another thread: it may come last.
                if self._ended:
                    give_up = min(give_up, time.monotonic() + LAST_WORD_S)
            if self._leaving or (self._ended and not self._taken) or time.monotonic() > give_up:
                return None
            # Says Ping as well, so that the daemon does not forget us.
            message = connection.receive(0.05 if self._ended else 0)
            if isinstance(message, Refused):
                raise TransportError(message.reason)
        if self._format is None:
            assert first is not None
            assert first.read is not None
            pixels = first.read().pixels
            self._format = (pixels.shape, pixels.dtype.name)
        (height, width), dtype = self._format
        return Open(
            acquisition=str(uuid.uuid4()),
            name=self._name,
            height=height,
            width=width,
            dtype="uint8" if dtype == "uint8" else "uint16",
            raw=self._raw,
            output=self.output,
            summary=self._summary,
            expected=self._expected,
        )

    def _pass_on(self, upload: Upload) -> None:
        """Submit what is held, as far as there is credit; wait for more of either."""
        while upload.pump(0):
            pass
        with self._changed:
            if not self._held:
                self._changed.wait(0.05)
            held = self._held.popleft() if self._held and upload.credit else None
        if held is None:
            if self._held:
                upload.pump(0.05)  # no credit: the daemon is busy
            return
        submitted = False
        try:
            submitted = self._submit(upload, held)
        except Exception as error:  # noqa: BLE001 (one odd frame must not end the others)
            self._complain(f"frame {held.axes}: {error}")
        with self._changed:
            if not submitted:
                self._miss(held.axes)
            if held.pixels is not None:
                self._spare.append(held.pixels)

    @staticmethod
    def _submit(upload: Upload, held: _Held) -> bool:
        pixels, metadata = held.pixels, held.metadata
        if pixels is None:
            assert held.read is not None
            frame = held.read()
            pixels, metadata = frame.pixels, dict(frame.metadata)
        text = json.dumps(metadata, default=_plain)
        return upload.submit(pixels, held.axes, text, held.taken_ns)

    def _say_closed(self, upload: Upload) -> None:
        with self._changed:
            missed = self._missed + [held.axes for held in self._held]
        if not self._raw:
            upload.miss(missed, "skipped", "no raw")
        upload.close(self._taken)

    def _leave(self) -> None:
        """At the interpreter's end: say good-bye, do not wait for the daemon's work."""
        thread = self._thread
        if thread is not None and thread.is_alive():
            with self._changed:
                self._leaving = True
                self._changed.notify()
            thread.join(EXIT_S)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)
