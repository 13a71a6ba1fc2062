"""One dataset on its way to the daemon while it is written."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Literal

from refocusd import __version__
from refocusd.errors import InputError, TransportError
from refocusd.formats.dataset import Dataset
from refocusd.sources.folders.announcement import announcement, standing
from refocusd.sources.once import Once
from refocusd.transport.messages import Open, Outcome
from refocusd.transport.session import Session, State

__all__ = ["Ending", "Following"]

log = logging.getLogger(__name__)

Ending = Literal["closed", "gone", "refused", "stopped"]

#: A hook of pycromanager, which needs no disk, may come first.
HOOK_FIRST_S = 0.5
#: Live frames handed in that have no final state yet: one at the worker, one at the disk, one
#: between them.  More would wait in the daemon, where the newest cannot overtake those at the
#: disk; here it can.
IN_FLIGHT = 3
#: Of a frame that the daemon gave up, or had done before, it tells no outcome.
FORGET_S = 5.0
#: Frames that wait here for a moment before the oldest are left to the catch-up.
KEEP = 4
#: Frames that a dataset had before we came are left to the catch-up, but for so many.
AT_JOIN = 8
#: After the writer has closed the dataset, for what is still on its way over a share.
SETTLE_S = 0.5
#: Before the next try where a share is away, or another source hands the frames over.
AGAIN_S = 0.5
#: Longest wait for the daemon between two looks at the dataset.
LISTEN_S = 0.1
#: How often a share that comes and goes is complained of.
COMPLAIN_S = 60.0
#: So long a dataset that cannot be read may come back, before it is taken for deleted.
AWAY_S = 60.0


class Following:
    """Submits the frames of one dataset as they are written; for one thread.

    The newest frame goes first.  What the daemon gives no credit for is left to its catch-up,
    which reads the dataset itself.

    Parameters
    ----------
    dataset : Dataset
    endpoint : str
        The daemon's address.
    poll_s : float
        How often the dataset is looked at.
    quiet_s : float
        A dataset that has not grown for so long, and whose writer did not close it, is closed
        here: the daemon catches up what is left.  If it grows again it goes on.
    away_s : float
        How long its share may be away.
    """

    def __init__(
        self,
        dataset: Dataset,
        endpoint: str,
        *,
        poll_s: float,
        quiet_s: float,
        away_s: float = AWAY_S,
    ) -> None:
        self._dataset = dataset
        self._endpoint = endpoint
        self._poll_s = poll_s
        self._quiet_s = quiet_s
        self._away_s = away_s
        #: Frames to submit, oldest first; some may not be whole yet.
        self._waiting: deque[str] = deque(dataset.axes_keys())
        #: Frames that cannot be submitted, and why; those that the daemon was told of.
        self._missed: dict[str, str] = {}
        self._told: set[str] = set()
        #: Frames that the daemon has told the final state of.
        self._done: set[str] = set()
        self._behind = 0
        self._most_credit = 0
        self._in_order = False
        self._retaking = False
        self._gone = False
        self._open: Open | None = None
        #: The acquisition that was opened here; empty for none.
        self._ours = ""
        self._looked_at = 0.0
        self._grown_at = time.monotonic()
        self._away_since = 0.0
        self._complained = False
        self._complained_at = -COMPLAIN_S
        self._warn = Once(log, dataset.path)

    def run(self, stop: threading.Event) -> Ending:
        """Follow until the daemon has closed the acquisition, or `stop` is set.

        Raises
        ------
        InputError
            If the dataset cannot be used.
        """
        begun = time.monotonic()

        def entered(state: State) -> None:
            if state is State.LOST:
                self._warn(f"{session.reason}; the dataset is followed once a daemon is there")

        session = Session(
            self._endpoint, version=__version__, on_state=entered, on_outcome=self._note
        )
        try:
            with session:
                while not stop.is_set():
                    if not self._dataset.axes_keys() or time.monotonic() - begun < HOOK_FIRST_S:
                        self._look()
                        ending = self._ending
                        stop.wait(self._poll_s)
                    else:
                        ending = self._step(session, stop)
                    if ending:
                        return ending
        finally:
            self._dataset.close()
        return "stopped"

    def grows_again(self) -> bool:
        """Whether frames have come since the daemon closed the acquisition."""
        self._looked_at = 0.0
        self._look()
        self._dataset.close()
        return bool(self._waiting)

    # -- the conversation ---------------------------------------------------------------

    def _step(self, session: Session, stop: threading.Event) -> Ending | None:
        """Do what can be done now; how it ended, if it did."""
        waits = session.state not in (State.READY, State.OPEN)
        session.pump(LISTEN_S if waits else 0.0)
        state = session.state
        if state is State.REFUSED:
            self._warn(f"not refocused: {session.reason}")
            return "refused"
        if state is State.CLOSED and session.closed:
            counts = session.closed.counts
            log.info(
                "%s: %d frames, %d pending", self._dataset.path, counts.acquired, counts.pending
            )
            return "gone" if self._gone else "closed"
        if state is State.READY:
            return self._announce(session, stop)
        if state is State.OPEN:
            self._hand_over(session)
        elif state is State.CLOSING and not self._gone:
            self._look()
            self._dataset.close()
            if self._waiting and self._open:
                log.info("%s grows again", self._dataset.path)
                session.announce(self._open)
        return None

    def _announce(self, session: Session, stop: threading.Event) -> Ending | None:
        """Announce the acquisition, unless another source does, or did, hand its frames over."""
        self._look()
        first = next((key for key in self._dataset.axes_keys() if self._whole(key)), "")
        if not first:
            stop.wait(self._poll_s)
            return "gone" if self._is_over() else None
        try:
            self._open = open_ = self._open or announcement(self._dataset, first)
            stands = standing(self._endpoint, open_, self._acquired, self._ours)
        except (OSError, TransportError) as error:
            self._warn(f"{error}: tried again")
            stop.wait(AGAIN_S)
            return None
        if stands != "open":
            if stands == "taken":
                self._warn("another source, such as a script's hook, hands its frames over")
            self._waiting.clear()
            stop.wait(AGAIN_S)
            return self._ending
        assert session.welcome is not None
        self._in_order = session.welcome.policy == "complete"
        self._ours = open_.acquisition
        self._told.clear()
        self._retaking = False
        if not self._in_order:
            self._leave_old_ones(AT_JOIN)
        session.announce(open_)
        log.info("following %s", self._dataset.path)
        return None

    def _hand_over(self, session: Session) -> None:
        """Submit a frame if there is one, and close when there will be none."""
        self._most_credit = max(self._most_credit, session.credit)
        self._look()
        self._name_misses(session)
        session.leave(self._behind, self._acquired)
        self._behind = 0
        over = self._is_over()
        if over and self._away_since:
            self._waiting.clear()  # nobody can read them; they stay pending
        if over and not self._waiting:
            if not self._take_unlisted():
                self._gone = bool(self._away_since)
                session.close(self._acquired)
        elif not self._submit_one(session):
            if time.monotonic() - self._grown_at > SETTLE_S:
                self._dataset.close()  # on Windows an open file could not be deleted
            session.pump(max(0.001, self._looked_at + self._poll_s - time.monotonic()))

    # -- the dataset --------------------------------------------------------------------

    @property
    def _acquired(self) -> int:
        return len(self._dataset.axes_keys())

    def _look(self) -> None:
        """Take up what was written since, at most once in `poll_s`."""
        now = time.monotonic()
        wait_s = AGAIN_S if self._away_since else self._poll_s
        if now - self._looked_at < wait_s:
            return
        try:
            fresh = self._dataset.refresh()
        except (OSError, InputError) as error:
            if not self._away_since:
                self._away_since = now
                self._complained = now - self._complained_at > COMPLAIN_S
                if self._complained:
                    self._complained_at = now
                    log.warning("%s cannot be read (%s): tried again", self._dataset.path, error)
            self._dataset.close()
            fresh = []
        else:
            if self._away_since:
                if self._complained:
                    log.info("%s can be read again", self._dataset.path)
                # What was not seen while it was away is no silence of the writer.
                self._grown_at += now - self._away_since
                self._away_since = 0.0
        self._looked_at = time.monotonic()
        if fresh:
            self._grown_at = self._looked_at
        self._waiting.extend(fresh)
        for key, why in self._dataset.unusable().items():
            if key and key not in self._missed:
                self._missed[key] = why
            elif not key:
                self._warn(why)

    def _is_over(self) -> bool:
        """Whether no frame is to be expected: closed by its writer, silent for long, or gone."""
        now = time.monotonic()
        if self._away_since:
            return now - self._away_since > self._away_s or (
                # Deleted or moved: the folder is gone, and its share is not.
                now - self._away_since > AGAIN_S
                and not self._dataset.path.exists()
                and self._dataset.path.parent.exists()
            )
        rested = now - self._grown_at
        return rested > self._quiet_s or (rested > SETTLE_S and self._dataset.finished)

    @property
    def _ending(self) -> Ending | None:
        """How it ends, if no frame is to be expected."""
        if not self._is_over():
            return None
        return "gone" if self._away_since else "closed"

    def _whole(self, key: str) -> bool:
        try:
            return self._dataset.is_whole(key)
        except OSError:
            return False

    # -- frames -------------------------------------------------------------------------

    def _leave_old_ones(self, keep: int) -> None:
        """Leave all but the newest frames to the catch-up; what it would not find stays here."""
        if len(self._waiting) <= keep:
            return
        unlisted = self._dataset.unlisted()
        old = [self._waiting.popleft() for _ in range(len(self._waiting) - keep)]
        kept = [key for key in old if key in unlisted]
        self._waiting.extendleft(reversed(kept))
        self._behind += len(old) - len(kept)

    def _submit_one(self, session: Session) -> bool:
        """Submit one frame; False if there is nothing to do until the next look."""
        if not self._waiting:
            return False
        if not self._has_room(session):
            if not (self._in_order or self._retaking):
                self._leave_old_ones(KEEP)
            return False
        key = self._next_whole()
        if not key:
            return False
        try:
            frame = self._dataset.read(key)
            if not session.submit(frame.pixels, key, frame.metadata, time.perf_counter_ns()):
                self._waiting.append(key)
                return False
        except InputError as error:
            self._missed[key] = str(error)
        except OSError as error:
            self._warn(f"frame {key} cannot be read now ({error})")
            self._waiting.append(key)
            self._dataset.close()
            return False
        return True

    def _has_room(self, session: Session) -> bool:
        # The daemon gives up its oldest frame for the one in our last slot: when frames are
        # handed in that it could not catch up, one slot stays free.
        if session.credit <= (1 if self._retaking and self._most_credit > 1 else 0):
            return False
        return self._in_order or session.unanswered(FORGET_S) < IN_FLIGHT

    def _take_unlisted(self) -> bool:
        """What a killed writer's index does not name, no catch-up finds: it is submitted here."""
        if self._away_since or self._retaking:
            return False
        left = self._dataset.unlisted() - self._done - set(self._missed)
        self._waiting.extend(key for key in self._dataset.axes_keys() if key in left)
        self._retaking = bool(left)
        return self._retaking

    def _next_whole(self) -> str:
        """The newest frame that is whole (or the oldest, in order), taken out of those that wait."""
        order = list(self._waiting) if self._in_order else list(reversed(self._waiting))
        for key in order:
            if self._whole(key):
                self._waiting.remove(key)
                return key
            if time.monotonic() - self._grown_at > self._quiet_s:
                self._waiting.remove(key)
                self._missed[key] = "raw names it, but its writer never completed it"
            if self._in_order:
                break
        return ""

    def _name_misses(self, session: Session) -> None:
        by_reason: dict[str, list[str]] = {}
        for key, why in self._missed.items():
            if key not in self._told:
                by_reason.setdefault(why, []).append(key)
                self._told.add(key)
        for why, keys in by_reason.items():
            log.warning("%s: %d frames: %s", self._dataset.path, len(keys), why)
            session.miss(keys, "failed", why)

    def _note(self, outcome: Outcome) -> None:
        self._done.add(outcome.axes)
