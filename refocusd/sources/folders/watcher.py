"""Watches a folder: datasets that grow are followed, finished ones are named in the log.

Needs nothing from the program that writes, and works over a network share, because it only reads at
intervals.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from refocusd.errors import InputError, RefocusdError
from refocusd.files import exists
from refocusd.formats.open_dataset import open_dataset
from refocusd.sources.folders.dataset import Ending, Following
from refocusd.sources.folders.growth import AWAY_S
from refocusd.sources.folders.offers import command_for, refocused_as
from refocusd.sources.folders.scanner import MAX_DEPTH, Found, Pulse, Scanner, pulse_of

log = logging.getLogger(__name__)

#: Shortest interval between scans, and the largest share of the time that scans may take.
SCAN_S = 0.25
SCAN_SHARE = 0.1
#: A dataset that changed within this time before watching began is growing.
RECENT_S = 30.0
#: A dataset that stopped growing without being closed by its writer is closed after this time.
QUIET_S = 120.0
#: Datasets followed at the same time; further ones wait.
MAX_FOLLOWED = 8
#: Wait before the next attempt if another command is writing the output of a dataset, s.
BUSY_S = 1.0
#: Time limit for the threads to end.
STOP_S = 5.0


@dataclass(slots=True)
class _Followed:
    thread: threading.Thread
    ending: Ending | None = None


class Follower:
    """Follows the datasets that grow below a folder.

    Parameters
    ----------
    folder : path
        The folder to watch, with the folders in it.
    endpoint : str
        The daemon's address.
    poll_s : float
        Interval of looking for new frames in a growing dataset.
    quiet_s : float
        A dataset that has not grown for this long is closed, and continued if it grows again.
    recent_s : float
        A dataset that changed within this time before watching began counts as growing.
    away_s : float
        How long the share of a followed dataset may be unreachable.
    since_s : float
        A dataset that changed after this time, in seconds since 1970, is followed even if it was
        finished when watching began.
    depth : int
        Datasets are searched for to this depth below the folder.
    offers_since_s : float
        Older datasets that were never refocused are named in the log if they changed after this
        time, in seconds since 1970.
    unfinished : collection of str
        Acquisitions that an earlier daemon left unfinished; this daemon finishes them, with the
        model of that time.

    Examples
    --------
    >>> stop = threading.Event()
    >>> Follower("D:/data", "tcp://127.0.0.1:8751").run(stop)  # doctest: +SKIP
    """

    def __init__(
        self,
        folder: str | Path,
        endpoint: str,
        *,
        poll_s: float = 0.05,
        quiet_s: float = QUIET_S,
        recent_s: float = RECENT_S,
        away_s: float = AWAY_S,
        since_s: float = math.inf,
        depth: int = MAX_DEPTH,
        offers_since_s: float = 0.0,
        unfinished: Collection[str] = (),
    ) -> None:
        # Not resolved: a link, such as that of a share, may be changed to another target meanwhile.
        self.folder = Path(folder).absolute()
        self._endpoint = endpoint
        self._poll_s = poll_s
        self._quiet_s = quiet_s
        self._recent_s = recent_s
        self._away_s = away_s
        self._since_s = since_s
        self._offers_since_s = offers_since_s
        self._unfinished = frozenset(unfinished)
        self._scanner = Scanner(self.folder, depth)
        self._first_scan = True
        self._followed: dict[Path, _Followed] = {}
        self._waiting: list[Path] = []
        self._refused: set[Path] = set()
        #: State of datasets when they were closed, because a scan may see their last change later.
        self._ended: dict[Path, Pulse] = {}
        self._left = False

    @property
    def idle(self) -> bool:
        """Whether no dataset is being followed; may be used in other threads."""
        return not (self._first_scan or self._followed or self._waiting)

    def leave(self) -> None:
        """End `run`; may be called in other threads."""
        self._left = True

    def run(self, stop: threading.Event) -> None:
        """Watch until `stop` is set; never raises."""
        log.info("watching %s for datasets", self.folder)
        ended = threading.Event()
        wait_s = 0.0
        while not (self._left or stop.wait(wait_s)):
            begun = time.monotonic()
            try:
                self._step(ended)
            except Exception:
                log.exception("watching %s: tried again", self.folder)
            wait_s = max(SCAN_S, (time.monotonic() - begun) / SCAN_SHARE)
        ended.set()
        deadline = time.monotonic() + STOP_S
        for followed in list(self._followed.values()):
            # A thread that hangs in a read of a dead share ends with the process.
            followed.thread.join(max(0.0, deadline - time.monotonic()))

    def _step(self, stop: threading.Event) -> None:
        for path, followed in list(self._followed.items()):
            if not followed.thread.is_alive():
                del self._followed[path]
                if followed.ending == "gone":
                    self._scanner.forget(path)
                if followed.ending == "refused":
                    self._refused.add(path)
        found = self._scanner.scan()
        for one in sorted(found, key=lambda found: found.changed_ns):
            self._consider(one)
        if exists(self.folder):
            self._first_scan = False
        # The newest first, because that is what the user watches.
        while self._waiting and len(self._followed) < MAX_FOLLOWED:
            self._follow(self._waiting.pop(), stop)

    def _consider(self, found: Found) -> None:
        path = found.path
        known = path in self._followed or path in self._refused or path in self._waiting
        if known or self._ended.get(path) == found.pulse:
            return
        old = found.new and self._first_scan
        past = found.changed_ns / 1e9 < self._since_s
        old = old and (past or refocused_as(path) in self._unfinished)
        if not old or self._is_growing(found):
            self._waiting.append(path)
        elif found.changed_ns / 1e9 >= self._offers_since_s and not refocused_as(path):
            log.info("%s was never refocused; to do it: %s", path, command_for(path))

    def _is_growing(self, found: Found) -> bool:
        if time.time() - found.changed_ns / 1e9 > self._recent_s:
            return False
        try:
            dataset = open_dataset(found.path, growing=True)
        except InputError:
            return True  # it may just have been created
        with closing(dataset):
            return not dataset.finished

    def _follow(self, path: Path, stop: threading.Event) -> None:
        thread = threading.Thread(
            target=self._run_one, args=(path, stop), name=f"follow-{path.name}", daemon=True
        )
        self._followed[path] = _Followed(thread)
        thread.start()

    def _run_one(self, path: Path, stop: threading.Event) -> None:
        followed = self._followed[path]
        try:
            following = Following(
                open_dataset(path, growing=True),
                self._endpoint,
                poll_s=self._poll_s,
                quiet_s=self._quiet_s,
                away_s=self._away_s,
            )
            while not stop.is_set():
                followed.ending = following.run(stop)
                if followed.ending == "busy":
                    stop.wait(BUSY_S)
                    continue
                # Read before the next look, so that a frame that comes between the two changes it.
                pulse = pulse_of(path)
                if followed.ending != "closed" or not following.grows_again():
                    self._ended[path] = pulse
                    return
        except RefocusdError as error:
            log.warning("%s is not followed: %s", path, error)
        except Exception:
            log.exception("following %s", path)
