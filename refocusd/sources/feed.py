"""Frames from the hooks to the daemon: a bounded buffer, and one thread that empties it.

The hook puts a frame into a buffer (a copy, if anybody else may write to its memory) and returns; all
that can wait (sockets, the ring, JSON) happens in the feed's thread.
"""

from __future__ import annotations

import atexit
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from refocusd.errors import RefocusdError
from refocusd.frame import REPLACED, canonical_axes, checked_pixels
from refocusd.sources.buffer import MAX_LATER, FrameBuffer, Held
from refocusd.sources.feed_state import FeedState, FirstFrame
from refocusd.sources.feed_upload import NOT_AFFECTED, FeedUpload
from refocusd.sources.once import Once
from refocusd.sources.raw_reader import saved_place
from refocusd.transport.messages import Advice, Counts

log = logging.getLogger(__name__)

#: Closing the acquisition may delay the interpreter's exit by this much.
EXIT_S = 2.0


class Feed:
    """Frames of one acquisition on their way to the daemon.

    Parameters
    ----------
    endpoint, output, expected
        As in `Source`.
    buffer_nbytes : int
        Bytes of pixels held at most.
    on_advice : callable, optional
        Called by the feed's thread with the daemon's focus advice; without it, none is asked for.
    on_gone : callable, optional
        Called when the daemon that gave the advice is gone.

    Hooks call `take`, `saved` and `end`, always through `safely`; these copy and return.
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
        self._state = FeedState(FrameBuffer(buffer_nbytes), output, expected)
        self._changed = self._state.buffer.changed
        self._from_disk = False
        self._complain = Once(log, note=NOT_AFFECTED)
        self._upload = FeedUpload(self._state, endpoint, on_advice=on_advice, on_gone=on_gone)
        self._thread: threading.Thread | None = None
        self._done = threading.Event()

    @property
    def output(self) -> str:
        """Folder of the refocused dataset; empty for the one beside raw."""
        return self._state.output

    @property
    def has_raw(self) -> bool:
        """Whether the acquisition saves raw data."""
        return self._state.has_raw

    def begin(self, name: str, *, has_raw: bool, summary: str = "{}") -> None:
        """Start the thread; this does not wait for a daemon.

        Parameters
        ----------
        name : str
        has_raw : bool
            Whether the acquisition saves raw data; the summary is then read from these.
        summary : str
            Summary metadata as JSON.
        """
        self._complain = Once(log, name, NOT_AFFECTED)
        state = self._state
        state.name, state.has_raw, state.summary = name, has_raw, summary
        state.buffer.keep_missed = not has_raw
        if not has_raw and not state.output:
            self._done.set()
            return
        # A daemon thread, because the user's script may end at any time.
        self._thread = threading.Thread(target=self._run, name="refocusd-feed", daemon=True)
        self._thread.start()
        atexit.register(self._leave)

    def safely(self, do: Callable[[], object]) -> None:
        """Run our part of a hook; errors are logged, never raised."""
        try:
            do()
        except Exception as error:  # noqa: BLE001 (an exception here would hang the acquisition)
            self._complain(f"{type(error).__name__}: {error}")

    def take(self, image: Any, metadata: Any, taken_ns: int, *, keep: bool = False) -> None:
        """Put a frame into the buffer; if it is full, the oldest makes room.

        `keep` states that nobody will write to the image's memory again, so that it need not be copied.
        """
        if self._thread is None:
            return
        state = self._state
        axes = canonical_axes(metadata["Axes"])
        pixels = checked_pixels(image, what=f"frame {axes}")
        # Without a daemon, a copy would be wasted: if one comes later, it catches the frame up from raw.
        wanted = state.listening or not state.has_raw
        copy = None
        if wanted and not self._takes_the_detour(axes):
            in_order = state.in_order and state.has_raw
            copy = state.buffer.array_for(pixels, displace=not in_order, keep=keep)
            if copy is None and in_order:
                self._from_disk = True
                self._takes_the_detour(axes)
        if copy is not None and not keep:
            np.copyto(copy, pixels)
        with self._changed:
            state.taken += 1
            if state.first is None:
                state.first = FirstFrame.of(pixels, metadata, metadata["Axes"].get("channel", ""))
            if copy is not None:
                state.buffer.add(Held(axes, taken_ns, dict(metadata), copy, kept=keep))
            elif axes not in state.awaited:
                state.buffer.miss(axes)
            self._changed.notify()

    def _takes_the_detour(self, axes: str) -> bool:
        """Whether this frame is read from disk, like those before it (policy ``complete``)."""
        state = self._state
        with self._changed:
            if not self._from_disk or len(state.awaited) >= MAX_LATER:
                return False
            if not state.awaited and len(state.buffer) == 0:
                self._from_disk = False
                return False
            state.awaited.add(axes)
            return True

    def refuse(self, axes: Any, told_as: Any, why: str) -> None:
        """Leave out a frame that has the same axes as another one, of which raw keeps only one.

        Parameters
        ----------
        axes : mapping
            Axes of both frames.
        told_as : mapping
            Axes under which the ledger records the frame that is left out.
        why : str
            What happened, and what to do about it.
        """
        if self._thread is None:
            return
        state = self._state
        self._complain(f"{why} ({REPLACED!r})")
        with self._changed:
            state.taken += 1
            state.replaced[canonical_axes(axes)] += 1
            self._skip([canonical_axes(told_as)], REPLACED)

    def skip(self, keys: list[str], reason: str) -> None:
        """Report frames, by canonical axes, that will not come, and why."""
        if self._thread is None:
            return
        with self._changed:
            self._state.taken += len(keys)
            self._skip(keys, reason)

    def _skip(self, keys: list[str], reason: str) -> None:
        skipped = self._state.skipped.setdefault(reason, [])
        skipped += keys[: MAX_LATER - len(skipped)]
        self._changed.notify()

    def take_saved(self, dataset: Any, axes: Any, taken_ns: int) -> None:
        """Note where a frame is on disk: the daemon reads it there, or if it cannot, our thread."""
        if self._thread is None:
            return
        place = saved_place(dataset, axes)
        with self._changed:
            self._state.taken += 1
            self._state.buffer.add(Held(canonical_axes(axes), taken_ns, {}, place=place))

    def saved(self, dataset: Any, axes: Any) -> None:
        """Note that a frame was saved, and where the raw dataset is; flush the dataset's index."""
        # pycromanager's writer keeps its index in memory: if it were killed, no frame would be readable.
        index = getattr(dataset, "_index_file", None)
        if index is not None and not index.closed:
            index.flush()
        state = self._state
        if not state.raw and state.has_raw:
            summary = getattr(dataset, "_summary_metadata", None) or {}
            with self._changed:
                state.summary = json.dumps(summary, default=str)
                state.raw = str(Path(dataset.path).resolve())
                self._changed.notify()
        if state.awaited or state.replaced:
            key = canonical_axes(axes)
            with self._changed:
                if state.replaced[key] > 0:
                    # This frame will be replaced by another one.
                    state.replaced[key] -= 1
                elif key in state.awaited:
                    state.awaited.remove(key)
                    place, taken_ns = saved_place(dataset, axes), time.perf_counter_ns()
                    state.buffer.add(Held(key, taken_ns, {}, place=place))

    def end(self) -> None:
        """Note that no more frames will come: raw is complete."""
        with self._changed:
            self._state.ended_at = self._state.ended_at or time.monotonic()
            self._changed.notify()

    def wait(self, timeout_s: float | None) -> Counts | None:
        """Wait until the daemon has closed the acquisition, or it is clear that there is no daemon."""
        self._done.wait(timeout_s)
        return self._upload.counts

    @property
    def refocused(self) -> str:
        """Folder of the refocused dataset, once the daemon has closed the acquisition."""
        return self._upload.refocused

    def _run(self) -> None:
        try:
            self._upload.run()
        except RefocusdError as error:
            self._complain(str(error))
        finally:
            with self._changed:
                self._thread = None
                self._state.listening = False
            self._state.buffer.clear()
            self._done.set()
            atexit.unregister(self._leave)

    def _leave(self) -> None:
        """Close the acquisition when the interpreter exits, without waiting for the daemon's work."""
        thread = self._thread
        if thread is not None and thread.is_alive():
            with self._changed:
                self._state.leaving = True
                self._changed.notify()
            thread.join(EXIT_S)
