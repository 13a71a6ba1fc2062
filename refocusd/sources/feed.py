"""What stands behind the hooks: a bounded buffer, and one thread that empties it.

The hook copies a frame into a buffer of its own and returns; everything that
can wait (sockets, the ring, JSON) happens in the feed's thread.
"""

from __future__ import annotations

import atexit
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refocusd import __version__
from refocusd.errors import InputError, RefocusdError
from refocusd.formats.ndtiff.reader import NDTiffReader
from refocusd.frame import Frame, canonical_axes, checked_pixels
from refocusd.profiles.microscope_metadata import first_of
from refocusd.sources.buffer import MAX_LATER, FrameBuffer, Held
from refocusd.sources.once import Once
from refocusd.transport.messages import Advice, Counts, Open
from refocusd.transport.session import Session, State

__all__ = ["Feed"]

log = logging.getLogger(__name__)

#: How long after the last frame its place on disk may become known.
LAST_WORD_S = 2.0
#: How long the end of the interpreter may be held up to say good-bye.
EXIT_S = 2.0
#: How long after the acquisition's end a daemon may answer that never did, or may come back.
ANSWER_S, RETURN_S = 0.5, 10.0


@dataclass(frozen=True, slots=True)
class _First:
    """What the announcement needs of the first frame."""

    shape: tuple[int, int]
    dtype: str
    metadata: dict[str, Any]
    channel: Any


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
        self._expected = expected
        self._name = ""
        self._has_raw = False
        self._raw = ""
        self._summary = "{}"
        self._buffer = FrameBuffer(buffer_nbytes)
        self._changed = self._buffer.changed
        self._taken = 0
        self._first: _First | None = None
        #: Whether a daemon answers, and whether it wants the frames in their order.
        self._listening = False
        self._in_order = False
        #: Axes of frames that are read from disk once they are saved, to keep the order.
        self._awaited: set[str] = set()
        self._from_disk = False
        self._reader: NDTiffReader | None = None
        self._ended_at = 0.0
        self._leaving = False
        self._done = threading.Event()
        self._counts: Counts | None = None
        self._thread: threading.Thread | None = None
        # Of the thread.
        self._session = Session(
            endpoint, version=__version__, on_state=self._entered, on_advice=on_advice
        )
        self._advised = on_advice is not None
        self._on_gone = on_gone
        self._open: Open | None = None
        self._met = False
        self._lost_at = 0.0
        self._complain = Once(log, note=" (raw data is not affected)")

    # -- called by hooks ----------------------------------------------------------------

    def begin(self, name: str, *, has_raw: bool) -> None:
        """Start the thread; connecting does not wait for a daemon."""
        self._name = name
        self._complain = Once(log, name, " (raw data is not affected)")
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
            if self._first is None:
                channel = metadata["Axes"].get("channel", "")
                self._first = _First(pixels.shape, pixels.dtype.name, dict(metadata), channel)
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
            self._ended_at = time.monotonic()
            self._changed.notify()

    def wait(self, timeout_s: float | None) -> Counts | None:
        """Wait until the daemon has closed the acquisition, or there is none."""
        self._done.wait(timeout_s)
        return self._counts

    # -- the thread ---------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with self._session as session:
                self._converse(session)
        except RefocusdError as error:
            self._complain(str(error))
        finally:
            with self._changed:
                self._thread = None
                self._listening = False
            self._buffer.clear()
            if self._reader is not None:
                self._reader.close()
            if self._on_gone is not None:
                self._on_gone()
            self._done.set()
            atexit.unregister(self._leave)

    def _entered(self, state: State) -> None:
        session = self._session
        if state is State.READY:
            assert session.welcome is not None
            self._in_order = session.welcome.policy == "complete"
            self._listening = self._met = True
            self._complain.forget()
        elif state is State.LOST:
            if self._listening:
                self._lost_at = time.monotonic()
            self._listening = False
            with self._changed:
                # What became of these nobody knows; the next daemon does, where they are written.
                self._buffer.missed += session.in_flight
            rest = "; the rest can be refocused from raw later" if self._raw else ""
            self._complain(session.reason + rest)
            if self._on_gone is not None:
                self._on_gone()

    def _converse(self, session: Session) -> None:
        while not (session.over or self._leaving):
            session.pump(0.0 if session.state in (State.READY, State.OPEN) else 0.2)
            state = session.state
            if state is State.READY:
                if not self._announce(session):
                    return
            elif state is State.OPEN:
                self._hand_over(session)
            elif state in (State.CONNECTING, State.LOST) and self._gives_up:
                self._complain(session.reason)
                return
        if self._leaving and session.opened:
            self._say_closed(session)
        if session.refused:
            raise InputError(session.refused)
        if session.closed:
            self._counts = session.closed.counts

    @property
    def _ended(self) -> bool:
        return self._ended_at > 0

    @property
    def _gives_up(self) -> bool:
        """Whether the acquisition is over, and no daemon is to be expected any more."""
        over_s = time.monotonic() - max(self._ended_at, self._lost_at)
        return self._ended and over_s > (RETURN_S if self._met else ANSWER_S)

    def _announce(self, session: Session) -> bool:
        """Announce the acquisition once its first frame is there; False if that never comes."""
        with self._changed:
            self._changed.wait_for(lambda: self._announceable or self._ended, 0.25)
            announceable = self._announceable
        if announceable:
            # A daemon that was restarted is told the same acquisition again.
            self._open = self._open or self._announcement()
            session.announce(self._open)
            return True
        if not self._ended:
            return True
        session.pump(0.05)
        # The hook that tells where raw lies runs in another thread: it may come last.
        return self._taken > 0 and time.monotonic() - self._ended_at < LAST_WORD_S

    @property
    def _announceable(self) -> bool:
        known = self._first is not None or len(self._buffer) > 0
        return known and (bool(self._raw) or not self._has_raw)

    def _announcement(self) -> Open:
        first = self._first
        if first is None:
            held = self._buffer.first
            assert held is not None
            assert held.read is not None
            frame = held.read()
            pixels = frame.pixels
            channel = frame.axes.get("channel", "")
            first = _First(pixels.shape, pixels.dtype.name, dict(frame.metadata), channel)
        height, width = first.shape
        return Open(
            acquisition=str(uuid.uuid4()),
            name=self._name,
            height=height,
            width=width,
            dtype="uint8" if first.dtype == "uint8" else "uint16",
            raw=self._raw,
            output=self.output,
            summary=self._summary,
            expected=self._expected,
            report=not self._has_raw,
            advise=self._advised,
            first=first_of(first.metadata, first.channel),
        )

    def _hand_over(self, session: Session) -> None:
        """Submit a frame, or wait for one; say so when the last is through."""
        if self._ended and not (len(self._buffer) or self._awaited):
            self._say_closed(session)
            return
        self._pass_on(session)
        if self._ended and self._awaited:
            self._give_up_unsaved()

    def _pass_on(self, session: Session) -> None:
        """Submit what is held, as far as there is credit; wait for more of either."""
        buffer = self._buffer
        with self._changed:
            if not len(buffer):
                self._changed.wait(0.05)
            held = buffer.pop() if len(buffer) and session.credit else None
            behind, buffer.behind = buffer.behind, 0
        session.leave(behind, self._taken)
        if held is None:
            if len(buffer):
                session.pump(0.05)  # no credit: the daemon is busy
            return
        submitted = False
        try:
            pixels, metadata = held.pixels, held.metadata
            if pixels is None:
                assert held.read is not None
                frame = held.read()
                pixels, metadata = frame.pixels, dict(frame.metadata)
            submitted = session.submit(pixels, held.axes, metadata, held.taken_ns)
        except Exception as error:  # noqa: BLE001 (one odd frame must not end the others)
            self._complain(f"frame {held.axes}: {error}")
        if not submitted:
            with self._changed:
                buffer.miss(held.axes)
        buffer.give_back(held)

    def _give_up_unsaved(self) -> None:
        """Frames that never came to disk (a run that was cut short) shall hold up nothing."""
        with self._changed:
            if len(self._buffer) == 0 and time.monotonic() - self._ended_at > LAST_WORD_S:
                self._buffer.behind += len(self._awaited)
                self._awaited.clear()

    def _say_closed(self, session: Session) -> None:
        with self._changed:
            missed = self._buffer.missed + self._buffer.axes_left()
        if not self._raw:
            session.miss(missed, "skipped", "no raw")
        session.close(self._taken)

    def _leave(self) -> None:
        """At the interpreter's end: say good-bye, do not wait for the daemon's work."""
        thread = self._thread
        if thread is not None and thread.is_alive():
            with self._changed:
                self._leaving = True
                self._changed.notify()
            thread.join(EXIT_S)
