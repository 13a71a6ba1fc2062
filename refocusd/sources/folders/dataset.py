"""Follows one dataset while it is written, and submits its frames to the daemon."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from typing import Literal

from refocusd import __version__
from refocusd.backoff import may_pass
from refocusd.errors import InputError, OutputError, TransportError
from refocusd.formats.dataset import Dataset
from refocusd.formats.lock import BEING_WRITTEN
from refocusd.frame import REPLACED, counted, repeat_of
from refocusd.sources.folders.announcement import announcement, standing
from refocusd.sources.folders.growth import AWAY_S, Growth
from refocusd.sources.once import Once
from refocusd.transport.messages import Open, Outcome
from refocusd.transport.records import UNFIT
from refocusd.transport.session import Session, State

log = logging.getLogger(__name__)

Ending = Literal["closed", "gone", "refused", "busy", "stopped"]

#: A pycromanager hook needs no disk, so it gets this long to announce the acquisition first.
HOOK_FIRST_S = 0.5
#: Live frames in the daemon at the same time: one in the worker, one being written, one in between.
#: More would wait in the daemon, where the newest frame cannot overtake them as it can here.
IN_FLIGHT = 3
#: Frames without an outcome for this long no longer count as being in the daemon: it reports none
#: for a frame that it gave up or had refocused before.
FORGET_S = 5.0
#: Frames kept while there is no room; older ones are left to the catch-up.
KEEP = 4
#: Of the frames written before following began, this many are submitted; the catch-up does the others.
AT_JOIN = 8
#: Wait before the next attempt if another source submits the frames, s.
AGAIN_S = 0.5
#: Longest wait for the daemon between two looks at the dataset.
LISTEN_S = 0.1


class Following:
    """Submits the frames of one dataset as they are written; for one thread.

    The newest frame goes first.  Frames for which the daemon gives no credit are left to its
    catch-up, which reads the dataset itself.

    Parameters
    ----------
    dataset : Dataset
    endpoint : str
        The daemon's address.
    poll_s : float
        Interval of looking for new frames.
    quiet_s : float
        If a dataset has not grown for this long and its writer has not closed it, its acquisition is
        closed here, and the daemon catches up the rest.  If it grows again, the acquisition is reopened.
    away_s : float
        How long its share may be unreachable.
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
        self._growth = Growth(dataset, poll_s=poll_s, quiet_s=quiet_s, away_s=away_s)
        self._endpoint = endpoint
        self._poll_s = poll_s
        #: Frames to submit, oldest first; some may not be whole yet.
        self._waiting: deque[str] = deque(dataset.axes_keys())
        #: Frames that cannot be submitted, and why; those that were reported to the daemon.
        self._missed: dict[str, str] = {}
        self._told: set[str] = set()
        #: Frames after which others of the same axes came, and how often.
        self._replaced: Counter[str] = Counter()
        #: Frames whose final state the daemon has reported.
        self._done: set[str] = set()
        self._behind = 0
        self._most_credit = 0
        self._in_order = False
        self._retaking = False
        self._gone = False
        self._open: Open | None = None
        #: The acquisition that was opened here; empty for none.
        self._ours = ""
        self._warn = Once(log, dataset.path)

    def run(self, stop: threading.Event) -> Ending:
        """Follow until the daemon has closed the acquisition, or `stop` is set.

        Raises
        ------
        InputError
            If the dataset cannot be used.
        """
        begun = time.monotonic()
        session = Session(self._endpoint, version=__version__, on_outcome=self._note)
        try:
            with session:
                while not stop.is_set():
                    if not self._dataset.axes_keys() or time.monotonic() - begun < HOOK_FIRST_S:
                        self._look()
                        ending: Ending | None = self._growth.ending
                        if ending == "closed" and self._dataset.axes_keys():
                            ending = None  # its writer closed it; it is not refocused yet
                        stop.wait(self._poll_s)
                    else:
                        ending = self._step(session, stop)
                    if ending is not None:
                        return ending
        finally:
            self._dataset.close()
        return "stopped"

    def grows_again(self) -> bool:
        """Whether frames have come since the daemon closed the acquisition."""
        before = self._replaced.total()
        self._look(now=True)
        self._dataset.close()
        return bool(self._waiting) or self._replaced.total() > before

    def _step(self, session: Session, stop: threading.Event) -> Ending | None:
        """Do the next step; return how following ended, if it did."""
        waits = session.state not in (State.READY, State.OPEN)
        session.pump(LISTEN_S if waits else 0.0)
        state = session.state
        if state is State.REFUSED:
            if BEING_WRITTEN in session.reason:
                self._warn("another command is refocusing it; followed again when that has ended")
                return "busy"
            self._warn(f"not refocused: {session.reason}")
            return "refused"
        if state is State.CLOSED and session.closed:
            counts, path = session.closed.counts, self._dataset.path
            log.info("%s: %s, %d pending", path, counted(counts.acquired), counts.pending)
            return "gone" if self._gone else "closed"
        if state is State.READY:
            return self._announce(session, stop)
        if state is State.OPEN:
            self._hand_over(session)
        elif not self._gone:
            self._look()
            self._dataset.close()
            if state is State.CLOSING and self._waiting and self._open:
                log.info("%s grows again", self._dataset.path)
                session.announce(self._open)
        if state is State.LOST:
            self._warn(f"{session.reason}; the dataset is followed once a daemon is there")
            if self._growth.ending == "gone":
                return "gone"
        return None

    def _announce(self, session: Session, stop: threading.Event) -> Ending | None:
        """Announce the acquisition, unless another source submits its frames, or has done so."""
        self._look()
        first = next((key for key in self._dataset.axes_keys() if self._growth.is_whole(key)), "")
        if not first:
            stop.wait(self._poll_s)
            return "gone" if self._growth.ending else None
        try:
            self._open = open_ = self._open or announcement(self._dataset, first)
            stands = standing(self._endpoint, open_, self._growth.frames, self._ours)
        except OutputError as error:
            self._warn(f"not refocused: {error}")
            return "refused"
        except (OSError, TransportError) as error:
            self._warn(f"{error}: tried again")
            stop.wait(AGAIN_S)
            return None
        if stands != "open":
            if stands == "taken":
                self._warn("another source, such as a script's hook, hands its frames over")
            self._waiting.clear()
            stop.wait(AGAIN_S)
            return self._growth.ending
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
        ending = self._growth.ending
        if ending == "gone":
            self._waiting.clear()  # nobody can read them; they stay pending
        if ending and not self._waiting:
            self._note_unusable(ended=ending == "closed")
            self._name_misses(session)
            if not self._take_unlisted():
                self._gone = ending == "gone"
                session.close(self._acquired)
        elif not self._submit_one(session):
            if self._growth.rests:
                self._dataset.close()  # on Windows an open file cannot be deleted
            session.pump(max(0.001, self._growth.until_next_s))

    @property
    def _acquired(self) -> int:
        return self._growth.frames + self._replaced.total()

    def _look(self, *, now: bool = False) -> None:
        """Take in the frames that were written since the last look."""
        self._waiting.extend(self._growth.look(now=now))
        for key in self._growth.replaced:
            self._replaced[key] += 1
            self._missed[repeat_of(key, self._replaced[key])] = REPLACED
        self._growth.replaced.clear()
        self._note_unusable()

    def _note_unusable(self, *, ended: bool = False) -> None:
        for key, why in self._dataset.unusable(ended=ended).items():
            if key:
                self._missed.setdefault(key, f"{UNFIT}: {why}")
            else:
                self._warn(why)

    def _leave_old_ones(self, keep: int) -> None:
        """Leave all but the newest frames to the catch-up, except those that it would not find."""
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
        except (InputError, OSError) as error:
            if isinstance(error, InputError) and not may_pass(error):
                self._missed[key] = f"{UNFIT}: {error}"
                return True
            self._warn(f"frame {key} cannot be read now ({error})")
            self._waiting.append(key)
            self._dataset.close()
            return False
        return True

    def _has_room(self, session: Session) -> bool:
        # When our last slot is used, the daemon gives up its oldest frame.  One slot therefore stays
        # free while we submit frames that it could not catch up.
        if session.credit <= (1 if self._retaking and self._most_credit > 1 else 0):
            return False
        return self._in_order or session.unanswered(FORGET_S) < IN_FLIGHT

    def _take_unlisted(self) -> bool:
        """Submit frames that a killed writer's index does not name: no catch-up would find them."""
        if self._growth.away_since or self._retaking:
            return False
        left = self._dataset.unlisted() - self._done - set(self._missed)
        self._waiting.extend(key for key in self._dataset.axes_keys() if key in left)
        self._retaking = bool(left)
        return self._retaking

    def _next_whole(self) -> str:
        """Remove and return the newest complete frame that waits; in order, the oldest."""
        order = list(self._waiting) if self._in_order else list(reversed(self._waiting))
        for key in order:
            if self._growth.is_whole(key):
                self._waiting.remove(key)
                return key
            if self._growth.quiet:
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
            log.warning("%s: %s: %s", self._dataset.path, counted(len(keys)), why)
            session.miss(keys, "skipped" if why == REPLACED else "failed", why)

    def _note(self, outcome: Outcome) -> None:
        self._done.add(outcome.axes)
