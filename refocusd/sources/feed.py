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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from refocusd import __version__
from refocusd.errors import InputError, RefocusdError, TransportError
from refocusd.formats.ndtiff.reader import NDTiffReader
from refocusd.frame import Frame, canonical_axes, checked_pixels
from refocusd.profiles.microscope_metadata import first_of
from refocusd.sources.buffer import MAX_LATER, FrameBuffer, Held
from refocusd.transport.client import SILENCE_S, Connection, Upload
from refocusd.transport.messages import Advice, Behind, Counts, Open, Outcome, Refused, Welcome

__all__ = ["Feed"]

log = logging.getLogger(__name__)

#: How long after the last frame its place on disk may become known.
LAST_WORD_S = 2.0
#: How long the end of the interpreter may be held up to say good-bye.
EXIT_S = 2.0
#: How often the daemon is told of frames that are left to the raw dataset.
TELL_BEHIND_S = 1.0
#: Before the next try where the daemon says "try again".
AGAIN_S = 0.5
#: How long after the acquisition's end a daemon that went away may come back.
RETURN_S = 10.0


class _GoneError(TransportError):
    """The daemon is not there any more; another may come."""


class Feed:
    """Frames of one acquisition on their way to the daemon.

    Parameters
    ----------
    endpoint, output, expected
        As in `Source`.
    buffer_nbytes : int
        Pixels held at most.
    on_advice : callable, optional
        Told by the feed's thread how far the stage is from focus; asked for only if given.
    on_gone : callable, optional
        Told that no daemon says so any more.

    `take`, `saved` and `end` are called by hooks, always through `safely`; they
    copy and return.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        output: str,
        expected: int,
        buffer_nbytes: int,
        on_advice: Callable[[Advice], None] | None = None,
        on_gone: Callable[[], None] | None = None,
    ) -> None:
        self.output = output
        self._endpoint = endpoint
        self._expected = expected
        self._name = ""
        self._has_raw = False
        self._raw = ""
        self._summary = "{}"
        self._buffer = FrameBuffer(buffer_nbytes)
        self._changed = self._buffer.changed
        self._taken = 0
        self._listening = False
        self._in_order = False
        #: Axes of frames that are read from disk once they are saved, to keep the order.
        self._awaited: set[str] = set()
        self._from_disk = False
        self._reader: NDTiffReader | None = None
        self._told_behind_at = 0.0
        self._ended_at = 0.0
        #: Without raw: axes of frames that a daemon has and has not told the end of.
        self._unanswered: dict[str, None] = {}
        self._format: tuple[tuple[int, int], str] | None = None
        #: Metadata of the first frame, and its channel.
        self._first: tuple[dict[str, Any], Any] | None = None
        self._ended = False
        self._leaving = False
        self._complained = ""
        self._done = threading.Event()
        self._counts: Counts | None = None
        self._thread: threading.Thread | None = None
        self._on_advice = on_advice
        self._on_gone = on_gone

    # -- called by hooks ----------------------------------------------------------------

    def begin(self, name: str, *, has_raw: bool) -> None:
        """Start the thread; connecting does not wait for a daemon."""
        self._name = name
        self._has_raw = has_raw
        self._buffer.keep_missed = not has_raw
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
        copy = None
        if wanted and not self._takes_the_detour(axes):
            in_order = self._in_order and self._has_raw
            copy = self._buffer.array_like(pixels, displace=not in_order)
            if copy is None and in_order:
                self._from_disk = True
                self._takes_the_detour(axes)
        if copy is not None:
            np.copyto(copy, pixels)
        with self._changed:
            self._taken += 1
            self._format = self._format or (pixels.shape, pixels.dtype.name)
            if self._first is None:
                self._first = (dict(metadata), metadata["Axes"].get("channel", ""))
            if copy is not None:
                self._buffer.add(Held(axes, taken_ns, dict(metadata), copy))
            elif axes not in self._awaited:
                self._buffer.miss(axes)
            self._changed.notify()

    def _takes_the_detour(self, axes: str) -> bool:
        """Whether this frame is read from disk, as those before it are (policy ``complete``)."""
        with self._changed:
            if not self._from_disk or len(self._awaited) >= MAX_LATER:
                return False
            if not self._awaited and len(self._buffer) == 0:
                self._from_disk = False
                return False
            self._awaited.add(axes)
            return True

    def take_later(self, read: Callable[[], Frame], axes: Any, taken_ns: int) -> None:
        """Note a frame that lies on disk; the feed's thread reads it."""
        key = canonical_axes(axes)
        if self._thread is None:
            return
        with self._changed:
            self._taken += 1
            self._buffer.add(Held(key, taken_ns, {}, read=read))

    def saved(self, dataset: Any, axes: Any) -> None:
        """A frame is in the raw dataset: note where that is, and make its index durable."""
        # pycromanager's own writer keeps its index in memory: killed, no frame is readable.
        index = getattr(dataset, "_index_file", None)
        if index is not None and not index.closed:
            index.flush()
        if not self._raw and self._has_raw:
            summary = getattr(dataset, "_summary_metadata", None) or {}
            with self._changed:
                self._summary = json.dumps(summary, default=str)
                self._raw = str(Path(dataset.path).resolve())
                self._changed.notify()
        if self._awaited:
            key = canonical_axes(axes)
            with self._changed:
                if key in self._awaited:
                    self._awaited.remove(key)
                    taken_ns = time.perf_counter_ns()
                    self._buffer.add(Held(key, taken_ns, {}, read=lambda: self._read_raw(key)))

    def _read_raw(self, key: str) -> Frame:
        self._reader = self._reader or NDTiffReader(self._raw)
        return self._reader.read(key)

    def end(self) -> None:
        """No more frames will come: raw is complete."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def wait(self, timeout_s: float | None) -> Counts | None:
        """Wait until the daemon has closed the acquisition, or there is none."""
        self._done.wait(timeout_s)
        return self._counts

    def _complain(self, text: str) -> None:
        """Once for each kind: a log line for every frame would slow the acquisition down."""
        kind = text[:40]
        if self._complained != kind:
            self._complained = kind
            log.warning("%s: %s (raw data is not affected)", self._name, text)

    @property
    def _announceable(self) -> bool:
        known = self._format is not None or len(self._buffer) > 0
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
                self._listening = False
            self._buffer.clear()
            if self._reader is not None:
                self._reader.close()
            self._done.set()
            atexit.unregister(self._leave)

    def _serve(self) -> None:
        open_: Open | None = None
        gone: _GoneError | None = None
        ended_at = 0.0
        while True:
            if self._ended:
                ended_at = ended_at or time.monotonic()
                if gone and (self._leaving or time.monotonic() - ended_at > RETURN_S):
                    raise gone
            connection = self._connect()
            if connection is None:
                if gone is None:
                    return
                continue
            try:
                open_ = open_ or self._await_first(connection)
                if open_ is not None:
                    upload = Upload(connection, open_, self._answered, on_advice=self._on_advice)
                    self._converse(connection, upload)
            except _GoneError as error:
                self._listening = False
                gone = error
                with self._changed:
                    # What became of these nobody knows; the next daemon does, where they are written.
                    self._buffer.missed += self._unanswered
                    self._unanswered.clear()
                if self._leaving:
                    raise
                self._complain(str(gone))
                # The next daemon picks the acquisition up, and we go on with it.
                time.sleep(AGAIN_S)
            else:
                return
            finally:
                connection.close(linger_s=1.0)
                if self._on_gone is not None:
                    self._on_gone()

    def _converse(self, connection: Connection, upload: Upload) -> None:
        while not (self._ended and upload.opened and not self._pending):
            if self._leaving or self._over(connection, upload):
                break
            self._pass_on(connection, upload)
            self._give_up_unsaved()
        if upload.opened and not upload.closed:
            self._say_closed(upload)
            while not (self._leaving or self._over(connection, upload)):
                upload.pump(0.1)
        if upload.closed:
            self._counts = upload.closed.counts

    def _give_up_unsaved(self) -> None:
        """Frames that never came to disk (a run that was cut short) shall hold up nothing."""
        with self._changed:
            if not self._ended or not self._awaited:
                return
            self._ended_at = self._ended_at or time.monotonic()
            if len(self._buffer) == 0 and time.monotonic() - self._ended_at > LAST_WORD_S:
                self._buffer.behind += len(self._awaited)
                self._awaited.clear()

    @property
    def _pending(self) -> bool:
        return len(self._buffer) > 0 or bool(self._awaited)

    def _over(self, connection: Connection, upload: Upload) -> bool:
        """Whether the daemon has closed the acquisition; an error if it has gone or refuses it."""
        if upload.refused:
            if upload.again:
                raise _GoneError(upload.refused)
            raise InputError(upload.refused)
        if upload.closed and not self._ended:
            raise _GoneError("the daemon was stopped; the rest can be refocused from raw later")
        if connection.silent_s > SILENCE_S:
            raise _GoneError(
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
                self._in_order = message.policy == "complete"
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
                    first = self._buffer.first
                    break
                # The hook that tells where raw lies runs in another thread: it may come last.
                if self._ended:
                    give_up = min(give_up, time.monotonic() + LAST_WORD_S)
            if self._leaving or (self._ended and not self._taken) or time.monotonic() > give_up:
                return None
            # Says Ping as well, so that the daemon does not forget us.
            message = connection.receive(0.05 if self._ended else 0)
            if isinstance(message, Refused):
                # By a daemon that was started meanwhile: it does not know us yet.
                if message.again:
                    raise _GoneError(message.reason)
                raise TransportError(message.reason)
        if self._format is None:
            assert first is not None
            assert first.read is not None
            frame = first.read()
            self._format = (frame.pixels.shape, frame.pixels.dtype.name)
            self._first = (dict(frame.metadata), frame.axes.get("channel", ""))
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
            report=not self._has_raw,
            advise=self._on_advice is not None,
            first=first_of(*self._first) if self._first else "",
        )

    def _pass_on(self, connection: Connection, upload: Upload) -> None:
        """Submit what is held, as far as there is credit; wait for more of either."""
        while upload.pump(0):
            pass
        self._tell_behind(connection, upload)
        buffer = self._buffer
        with self._changed:
            if not len(buffer):
                self._changed.wait(0.05)
            held = buffer.pop() if len(buffer) and upload.credit else None
        if held is None:
            if len(buffer):
                upload.pump(0.05)  # no credit: the daemon is busy
            return
        submitted = False
        try:
            submitted = self._submit(upload, held)
            if submitted and not self._has_raw:
                self._unanswered[held.axes] = None
        except Exception as error:  # noqa: BLE001 (one odd frame must not end the others)
            self._complain(f"frame {held.axes}: {error}")
        with self._changed:
            if not submitted:
                buffer.miss(held.axes)
        buffer.give_back(held)

    def _tell_behind(self, connection: Connection, upload: Upload) -> None:
        """Frames that went by: idle workers may catch them up while we go on."""
        now = time.monotonic()
        if upload.opened is None or now - self._told_behind_at < TELL_BEHIND_S:
            return
        with self._changed:
            behind, self._buffer.behind = self._buffer.behind, 0
            taken = self._taken
        if behind:
            self._told_behind_at = now
            connection.send(Behind(upload.acquisition, behind, taken))

    @staticmethod
    def _submit(upload: Upload, held: Held) -> bool:
        pixels, metadata = held.pixels, held.metadata
        if pixels is None:
            assert held.read is not None
            frame = held.read()
            pixels, metadata = frame.pixels, dict(frame.metadata)
        text = json.dumps(metadata, default=_plain)
        return upload.submit(pixels, held.axes, text, held.taken_ns)

    def _answered(self, outcome: Outcome) -> None:
        self._unanswered.pop(outcome.axes, None)

    def _say_closed(self, upload: Upload) -> None:
        with self._changed:
            missed = self._buffer.missed + self._buffer.axes_left()
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
