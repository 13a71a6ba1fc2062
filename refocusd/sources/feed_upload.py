"""The feed's thread: submits the frames that the hooks put into the buffer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from refocusd import __version__
from refocusd.errors import InputError
from refocusd.formats.tiff.page import Place
from refocusd.sources.buffer import Held
from refocusd.sources.feed_state import FeedState
from refocusd.sources.once import Once
from refocusd.sources.raw_reader import read_place
from refocusd.transport.messages import Advice, Counts, Open, SavedFrame
from refocusd.transport.session import Session, State

log = logging.getLogger(__name__)

#: Ends every warning, so that nobody stops an acquisition because of it.
NOT_AFFECTED = " (raw data is not affected)"
#: How long after the last frame the hook that names the raw dataset may come, s.
LAST_WORD_S = 2.0
#: Time to wait after the acquisition's end for a daemon that never answered, and for a lost one.
ANSWER_S, RETURN_S = 0.5, 10.0


class FeedUpload:
    """Submits the frames of one acquisition, also if the daemon restarts.

    Parameters
    ----------
    state : FeedState
    endpoint : str
        The daemon's address.
    on_advice : callable, optional
        Called with the daemon's focus advice; without it, none is asked for.
    on_gone : callable, optional
        Called when the daemon that gave the advice is gone.

    Attributes
    ----------
    counts : Counts or None
        The daemon's counts, once it has closed the acquisition.
    refocused : str
        Folder of the refocused dataset, once the daemon has closed the acquisition.
    """

    def __init__(
        self,
        state: FeedState,
        endpoint: str,
        *,
        on_advice: Callable[[Advice], None] | None,
        on_gone: Callable[[], None] | None,
    ) -> None:
        self.counts: Counts | None = None
        self.refocused = ""
        self._state = state
        self._changed = state.buffer.changed
        self._session = Session(
            endpoint, version=__version__, on_state=self._entered, on_advice=on_advice
        )
        self._advised = on_advice is not None
        self._on_gone = on_gone
        self._complain = Once(log, note=NOT_AFFECTED)
        self._open: Open | None = None
        self._met = False
        self._starved = False
        self._lost_at = 0.0

    def run(self) -> None:
        """Work until the daemon has closed the acquisition, or no daemon comes.

        Raises
        ------
        InputError
            If the daemon refuses the acquisition, or its first frame cannot be read.
        """
        self._complain = Once(log, self._state.name, NOT_AFFECTED)
        try:
            with self._session as session:
                self._converse(session)
        finally:
            if self._on_gone is not None:
                self._on_gone()

    def _entered(self, state: State) -> None:
        session = self._session
        if state is State.READY:
            assert session.welcome is not None
            self._state.in_order = session.welcome.policy == "complete"
            self._state.listening = self._met = True
            self._complain.forget()
        elif state is State.LOST:
            if self._state.listening:
                self._lost_at = time.monotonic()
            self._state.listening = False
            with self._changed:
                # What became of these is unknown here; the next daemon knows which were written.
                self._state.buffer.missed += session.in_flight
            rest = "; the rest can be refocused from raw later" if self._state.raw else ""
            self._complain(session.reason + rest)
            if self._on_gone is not None:
                self._on_gone()

    def _converse(self, session: Session) -> None:
        while not (session.over or self._state.leaving):
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
        if self._state.leaving and session.state is State.OPEN:
            self._say_closed(session)
        if session.refused:
            raise InputError(session.refused)
        if session.closed:
            self.counts = session.closed.counts
            self.refocused = session.opened.output if session.opened else ""

    @property
    def _gives_up(self) -> bool:
        """Whether the acquisition is over and no daemon has come in time."""
        over_s = time.monotonic() - max(self._state.ended_at, self._lost_at)
        return self._state.ended and over_s > (RETURN_S if self._met else ANSWER_S)

    def _announce(self, session: Session) -> bool:
        """Announce the acquisition once it has a frame; False if there will be none."""
        state = self._state
        with self._changed:
            self._changed.wait_for(lambda: self._open or state.announceable or state.ended, 0.25)
            # Once announced, always announceable: a restarted daemon knows what became of earlier frames.
            announceable = self._open is not None or state.announceable
        if announceable:
            try:
                # A restarted daemon gets the same announcement again.
                self._open = self._open or state.announcement(advise=self._advised)
            except (InputError, OSError):
                # A busy Micro-Manager may report a frame before it is in the file.
                if state.ended and time.monotonic() - state.ended_at > LAST_WORD_S:
                    raise
                session.pump(0.05)
                return True
            session.announce(self._open)
            return True
        if not self._state.ended:
            return True
        session.pump(0.05)
        # The hook that finds out where raw is runs in another thread, and may be late.
        return self._state.taken > 0 and time.monotonic() - self._state.ended_at < LAST_WORD_S

    def _hand_over(self, session: Session) -> None:
        """Submit a frame, or wait for one; close once the last is submitted."""
        if self._state.ended and not (len(self._state.buffer) or self._state.awaited):
            self._say_closed(session)
            return
        self._pass_on(session)
        if self._state.ended and self._state.awaited:
            self._give_up_unsaved()

    def _pass_on(self, session: Session) -> None:
        """Submit a frame if there is one, and credit for it; otherwise wait for either."""
        buffer = self._state.buffer
        with self._changed:
            if not len(buffer):
                self._changed.wait(0.05)
            held = None
            if len(buffer) and session.credit:
                held = buffer.pop(newest=self._starved)
            # Frames that piled up for lack of credit: the live image needs the newest of them.
            in_order = self._state.in_order or not self._state.has_raw
            self._starved = len(buffer) > 0 and held is None and not in_order
            behind, buffer.behind = buffer.behind, 0
        self._tell_skipped(session)
        session.leave(behind, self._state.taken)
        if held is None:
            if len(buffer):
                session.pump(0.05)  # no credit: the daemon is busy
            return
        submitted = False
        try:
            submitted = self._submit(session, held)
        except Exception as error:  # noqa: BLE001 (one odd frame must not end the others)
            self._complain(f"frame {held.axes}: {error}")
        if not submitted:
            with self._changed:
                buffer.miss(held.axes)
        buffer.give_back(held)

    def _submit(self, session: Session, held: Held) -> bool:
        pixels, metadata, place = held.pixels, held.metadata, held.place
        if pixels is None:
            assert place is not None
            if session.reads_raw and self._is_announced(place):
                metadata_at = place.metadata_offset, place.metadata_length
                saved = SavedFrame(place.file, place.offset, *metadata_at)
                return session.submit_saved(saved, held.axes, held.taken_ns)
            pixels, metadata = read_place(self._state.raw, place, f"frame {held.axes}")
        return session.submit(pixels, held.axes, metadata, held.taken_ns)

    def _is_announced(self, place: Place) -> bool:
        """Whether the frame at this place has the shape and type that were announced."""
        form, open_ = place.format, self._open
        here = form.height, form.width, form.dtype_name
        return open_ is not None and here == (open_.height, open_.width, open_.dtype)

    def _tell_skipped(self, session: Session) -> None:
        with self._changed:
            skipped, self._state.skipped = self._state.skipped, {}
        for reason, keys in skipped.items():
            session.miss(keys, "skipped", reason)

    def _give_up_unsaved(self) -> None:
        """Stop waiting for frames that never reach the disk, as when a run was cut short."""
        state = self._state
        with self._changed:
            if len(state.buffer) == 0 and time.monotonic() - state.ended_at > LAST_WORD_S:
                state.buffer.behind += len(state.awaited)
                state.awaited.clear()

    def _say_closed(self, session: Session) -> None:
        with self._changed:
            missed = self._state.buffer.missed + self._state.buffer.axes_left()
        self._tell_skipped(session)
        if not self._state.raw:
            session.miss(missed, "skipped", "no raw")
        session.close(self._state.taken)
