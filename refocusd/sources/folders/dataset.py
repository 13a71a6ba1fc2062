"""One dataset on its way to the daemon while it is written."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from typing import Literal

from refocusd import __version__
from refocusd.errors import InputError, TransportError
from refocusd.formats.dataset import Dataset
from refocusd.sources.folders.announcement import announcement, standing
from refocusd.transport.client import SILENCE_S, Connection, Upload
from refocusd.transport.messages import Behind, Open, Outcome

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
#: How often the daemon is told of frames that are left to the catch-up.
TELL_BEHIND_S = 1.0
#: Before the next try where a share or the daemon is away.
AGAIN_S = 0.5
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
        self._told: set[str] = set()
        #: Frames that the daemon has told the final state of.
        self._done: set[str] = set()
        #: When frames were handed in that it has not told of yet.
        self._in_flight: dict[str, float] = {}
        self._missed: dict[str, str] = {}
        self._behind = 0
        self._told_behind_at = 0.0
        self._most_credit = 0
        self._looked_at = 0.0
        self._grown_at = time.monotonic()
        self._away_since = 0.0
        self._complained = False
        self._complained_at = -COMPLAIN_S
        self._in_order = False
        self._retaking = False
        self._said: set[str] = set()
        self._ours = ""

    def run(self, stop: threading.Event) -> Ending:
        """Follow until the daemon has closed the acquisition, or `stop` is set.

        Raises
        ------
        InputError
            If the dataset cannot be used.
        """
        begun = time.monotonic()
        try:
            while not stop.is_set():
                if not self._dataset.axes_keys() or time.monotonic() - begun < HOOK_FIRST_S:
                    self._look()
                    if self._is_over():
                        return "gone" if self._away_since else "closed"
                    stop.wait(self._poll_s)
                    continue
                try:
                    return self._connected(stop)
                except TransportError as error:
                    self._say(f"{error}; the dataset is followed once a daemon is there")
                    stop.wait(AGAIN_S)
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

    def _connected(self, stop: threading.Event) -> Ending:
        first = next((k for k in self._dataset.axes_keys() if self._whole(k)), "")
        if not first:
            self._look()
            stop.wait(self._poll_s)
            return "gone" if self._is_over() else self._again("its first frame is not whole yet")
        try:
            open_ = announcement(self._dataset, first)
        except OSError as error:
            return self._again(f"it cannot be read ({error})")
        while (stands := standing(self._endpoint, open_, self._acquired, self._ours)) != "open":
            if stands == "taken":
                self._say("another source, such as a script's hook, hands its frames over")
            self._waiting.clear()
            self._look()
            if self._is_over():
                return "gone" if self._away_since else "closed"
            if stop.wait(AGAIN_S):
                return "stopped"
        with Connection(self._endpoint, "source", version=__version__) as connection:
            welcome = connection.welcome(SILENCE_S, stop)
            self._in_order = welcome.policy == "complete"
            log.info("following %s", self._dataset.path)
            return self._converse(connection, open_, stop)

    def _again(self, why: str) -> Ending:
        raise TransportError(f"{self._dataset.path}: {why}")

    def _converse(self, connection: Connection, open_: Open, stop: threading.Event) -> Ending:
        upload = Upload(connection, open_, self._note)
        self._ours = open_.acquisition
        self._told.clear()
        self._in_flight.clear()
        self._retaking = False
        if not self._in_order:
            self._leave_old_ones(AT_JOIN)
        while not stop.is_set():
            while upload.pump(0):
                pass
            self._most_credit = max(self._most_credit, upload.credit)
            if upload.refused and not upload.again:
                self._say(f"not refocused: {upload.refused}")
                return "refused"
            self._check(connection, upload)
            self._look()
            self._name_misses(upload)
            self._tell_behind(connection, upload)
            over = self._is_over()
            if over and self._away_since:
                self._waiting.clear()  # nobody can read them; they stay pending
            if upload.opened and over and not self._waiting:
                if self._take_unlisted():
                    continue
                upload.close(self._acquired)
                if ended := self._wait_closed(connection, upload, stop):
                    return ended
                # It grows again: the same acquisition goes on.
                log.info("%s grows again", self._dataset.path)
                upload = Upload(connection, open_, self._note)
                continue
            if not self._submit_one(upload):
                self._dataset_rests()
                upload.pump(self._until_next_look())
        return "stopped"

    def _check(self, connection: Connection, upload: Upload) -> None:
        if upload.refused:
            raise TransportError(upload.refused)
        if connection.silent_s > SILENCE_S:
            raise TransportError(f"the daemon at {self._endpoint} went away")
        if upload.closed:
            raise TransportError("the daemon was stopped")

    def _wait_closed(
        self, connection: Connection, upload: Upload, stop: threading.Event
    ) -> Ending | None:
        """Until the daemon has caught up and closed; None if the dataset grows again."""
        gone = bool(self._away_since)
        while not upload.closed:
            if stop.is_set():
                return "stopped"
            upload.pump(0.25)
            if upload.refused or connection.silent_s > SILENCE_S:
                self._check(connection, upload)
            if not gone:
                self._look()
                if self._waiting:
                    return None
                self._dataset.close()
        counts = upload.closed.counts
        log.info("%s: %d frames, %d pending", self._dataset.path, counts.acquired, counts.pending)
        return "gone" if gone else "closed"

    # -- the dataset --------------------------------------------------------------------

    @property
    def _acquired(self) -> int:
        return len(self._dataset.axes_keys())

    def _until_next_look(self) -> float:
        return max(0.001, self._looked_at + self._poll_s - time.monotonic())

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
                self._say(why)

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

    def _dataset_rests(self) -> None:
        """Between frames no file stays open: on Windows it could not be deleted."""
        if time.monotonic() - self._grown_at > SETTLE_S:
            self._dataset.close()

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

    def _submit_one(self, upload: Upload) -> bool:
        """Submit one frame; False if there is nothing to do until the next look."""
        if not (upload.opened and self._waiting):
            return False
        # The daemon gives up its oldest frame for the one in our last slot: when frames are
        # handed in that it could not catch up, one slot stays free.
        if upload.credit <= (1 if self._retaking and self._most_credit > 1 else 0):
            return self._no_room()
        if len(self._in_flight) >= IN_FLIGHT and not self._in_order:
            now = time.monotonic()
            self._in_flight = {k: t for k, t in self._in_flight.items() if now - t < FORGET_S}
            if len(self._in_flight) >= IN_FLIGHT:
                return self._no_room()
        key = self._next_whole()
        if not key:
            return False
        try:
            frame = self._dataset.read(key)
            text = json.dumps(dict(frame.metadata), default=str)
            if not upload.submit(frame.pixels, key, text, time.perf_counter_ns()):
                self._waiting.append(key)
                return False
            self._in_flight[key] = time.monotonic()
        except InputError as error:
            self._missed[key] = str(error)
        except OSError as error:
            self._say(f"frame {key} cannot be read now ({error})")
            self._waiting.append(key)
            self._dataset.close()
            return False
        return True

    def _take_unlisted(self) -> bool:
        """What a killed writer's index does not name, no catch-up finds: it is submitted here."""
        if self._away_since:
            return False
        if self._retaking:
            return False
        left = self._dataset.unlisted() - self._done - set(self._missed)
        self._waiting.extend(key for key in self._dataset.axes_keys() if key in left)
        self._retaking = bool(left)
        return self._retaking

    def _no_room(self) -> bool:
        if not (self._in_order or self._retaking):
            self._leave_old_ones(KEEP)
        return False

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

    def _name_misses(self, upload: Upload) -> None:
        if not upload.opened:
            return
        by_reason: dict[str, list[str]] = {}
        for key, why in self._missed.items():
            if key not in self._told:
                by_reason.setdefault(why, []).append(key)
                self._told.add(key)
        for why, keys in by_reason.items():
            log.warning("%s: %d frames: %s", self._dataset.path, len(keys), why)
            upload.miss(keys, "failed", why)

    def _note(self, outcome: Outcome) -> None:
        self._done.add(outcome.axes)
        self._in_flight.pop(outcome.axes, None)

    def _tell_behind(self, connection: Connection, upload: Upload) -> None:
        now = time.monotonic()
        if self._behind and upload.opened and now - self._told_behind_at > TELL_BEHIND_S:
            self._told_behind_at = now
            connection.send(Behind(upload.acquisition, self._behind, max(1, self._acquired)))
            self._behind = 0

    def _say(self, text: str) -> None:
        """Once: this is looked at many times a second."""
        if text not in self._said and len(self._said) < 100:
            self._said.add(text)
            log.warning("%s: %s", self._dataset.path, text)
