"""Acquisitions of Micro-Manager's GUI: what exists is taken, whether or not it was seen to run.

pycromanager cannot hook them (pycro-manager#29), and an acquisition of half a second is over
before anybody has asked whether one runs.  So twice a second what refocusd has taken is compared
with what there is: the windows, which stay after the end of an acquisition, and the folders in
which acquisitions are saved.  Saved ones are followed on disk and the bridge is left alone; the
others are fetched from Micro-Manager's memory, one after the other.  Of those whose window was
closed before, the engine tells that they ran, and the daemon says so.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from datetime import datetime
from pathlib import Path

from refocusd.errors import RefocusdError, TransportError
from refocusd.frame import counted
from refocusd.sources.folders.offers import command_for
from refocusd.sources.micromanager.bridge import Bridge
from refocusd.sources.micromanager.engine import Engine, LastRun
from refocusd.sources.micromanager.frames import KEEP_OPEN, FramesInMemory, place_of
from refocusd.sources.micromanager.save_roots import SaveRoots
from refocusd.sources.micromanager.unseen import UnseenAcquisitions
from refocusd.sources.micromanager.viewers import Viewers, Window, window_of

log = logging.getLogger(__name__)

#: Interval of comparing, and of asking in which folder acquisitions are saved.
RECONCILE_S, SETTINGS_S = 0.5, 5.0
#: Interval of asking what the engine ran last: shorter than an acquisition with its window takes.
ENGINE_S = 0.25
#: A folder in which an acquisition was saved is looked for during this time.
UNREACHED_S = 10.0
#: Looks at all windows, without it, after which an acquisition that has ended has none: a busy
#: Micro-Manager shows it late.
LOOKS = 4


class Studio:
    """Takes the acquisitions of the GUI; belongs to the bridge's thread.

    Parameters
    ----------
    bridge : Bridge
    endpoint : str
        Of the daemon.
    output : Path
        Folder for refocused datasets of acquisitions that are not saved.
    roots : SaveRoots
    since_s : float
        Finished acquisitions that were begun since, in seconds since 1970, are taken; older ones
        are named.

    Attributes
    ----------
    running : bool
        Whether an acquisition runs now.
    """

    def __init__(
        self, bridge: Bridge, endpoint: str, output: Path, roots: SaveRoots, since_s: float
    ) -> None:
        self.running = False
        self._bridge = bridge
        self._endpoint = endpoint
        self._output = output
        self._roots = roots
        self._since_s = since_s
        self._acquisitions = bridge.call(bridge.studio.acquisitions)
        self._viewers = Viewers(bridge)
        self._engine = Engine(bridge)
        self._unseen = UnseenAcquisitions(endpoint)
        self._reconciled_at = -RECONCILE_S
        self._asked_at = -SETTINGS_S
        self._engine_at = -ENGINE_S
        self._first_look = True
        #: Whether the acquisition that runs is shown, or saved.
        self._found = False
        #: Acquisitions that were taken, or are not to be.
        self._known: set[str] = set()
        #: When the acquisitions that had a window were begun.
        self._shown: set[float | str] = set()
        #: What the engine ran last, and what it ran without a window so far, with the looks since.
        self._last_run: LastRun | None = None
        self._windowless: list[tuple[LastRun, int]] = []
        #: Those in memory, in the order in which they were begun.
        self._waiting: deque[Window] = deque()
        self._memory: FramesInMemory | None = None
        #: Folders of saved acquisitions that are not there, and since when.
        self._unreached: dict[Path, float] = {}

    @property
    def busy(self) -> bool:
        """Whether an acquisition runs, or is being fetched from memory."""
        return self.running or bool(self._waiting) or self._memory is not None

    def step(self) -> float:
        """Do what can be done now; seconds until there may be more.

        Raises
        ------
        TransportError
            If the bridge does not answer as it should: Micro-Manager was restarted.
        """
        now = time.monotonic()
        if now - self._engine_at >= ENGINE_S:
            self._engine_at = now
            self._ask_engine(now)
        if now - self._reconciled_at >= RECONCILE_S:
            self._reconciled_at = now
            self._reconcile(now)
        if self._memory is None and self._waiting:
            self._memory = self._begin(self._waiting.popleft())
        wait_s = RECONCILE_S
        if self._memory is not None:
            wait_s = self._fetch(self._memory)
        next_at = min(self._reconciled_at + RECONCILE_S, self._engine_at + ENGINE_S)
        return min(wait_s, max(0.0, next_at - time.monotonic()))

    def keep_alive(self) -> None:
        """Tell the daemon that what is being fetched is not given up: the bridge takes its time."""
        if self._memory is not None:
            self._memory.keep_alive()

    def close(self) -> None:
        """Give up what is being fetched."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        self._unseen.tell()

    def _reconcile(self, now: float) -> None:
        was_running = self.running
        self.running = bool(self._bridge.call(self._acquisitions.is_acquisition_running))
        windows = self._viewers.new()
        for window in windows:
            self._consider(window, now)
        self._waiting = deque(sorted(self._waiting, key=lambda window: window.started))
        self._first_look = False
        runs = self.running or was_running
        # The window may be there a moment before the acquisition is said to run.
        shown = any(window.key and (runs or not window.frozen) for window in windows)
        self._found = shown or (self._found and runs)
        # The settings are those of the acquisition that runs: the next one may have others.
        if windows or runs or now - self._asked_at >= SETTINGS_S:
            self._asked_at = now
            self._found |= self._watch_save_root() and self.running
            self._engine.renew()
        self._account()
        if was_running and not self.running:
            if not (self._found or self._engine.tells):
                about = {"Prefix": "an acquisition", "StartTime": str(datetime.now().astimezone())}
                why = "it was neither shown nor saved"
                self._lose(window_of(None, about), f"{why}; {KEEP_OPEN}")
            self._found = False
        self._unseen.tell()
        for folder, since in list(self._unreached.items()):
            self._reach(folder, now - since)

    def _consider(self, window: Window, now: float) -> None:
        """Take what a new window shows, if it is an acquisition that was not taken yet."""
        if not window.key:
            log.info("a window of Micro-Manager is no acquisition: %s", window.name)
            return
        if window.key in self._known:
            return
        self._known.add(window.key)
        self._shown.add(window.begun)
        if window.frozen and self._is_old(window):
            where = window.saved_at
            command = command_for(Path(where)) if where else "save it and use `refocusd process`"
            log.info(
                "%s was acquired in Micro-Manager before refocusd was started: it is left as it is; "
                "to refocus it: %s",
                window.name,
                command,
            )
        elif window.saved_at:
            log.info("an acquisition of Micro-Manager is saved at %s", window.saved_at)
            place = Path(window.saved_at)
            in_file = os.path.isfile(place)  # noqa: PTH113 (as `files.exists`)
            self._watch((place.parent if in_file else place).parent, now)
        else:
            log.info("an acquisition of Micro-Manager is in its memory: %s", window.name)
            self._waiting.append(window)

    def _watch(self, root: Path, now: float) -> None:
        if not self._roots.watch(root):
            self._unreached.setdefault(root, now)

    def _ask_engine(self, now: float) -> None:
        """Note what the engine has begun since it was last asked."""
        run, last = self._engine.last_run(), self._last_run
        if run is None or (last is not None and run.window.key == last.window.key):
            return
        self._last_run = run
        self._reconciled_at = -RECONCILE_S  # its window may not stay for long
        if run.root:
            self._watch(Path(run.root), now)
        elif (run.window.started_s or 0.0) >= self._since_s:
            self._windowless.append((run, 0))

    def _account(self) -> None:
        """Say what the engine ran without a window that anybody saw, and without saving it."""
        waiting, self._windowless = self._windowless, []
        for each, looks in waiting:
            if each.window.begun in self._shown:
                continue
            if looks >= LOOKS:
                # An earlier process may have fetched it.
                if not place_of(each.window, self._output)[1].exists():
                    why = "it had no window, or one that was closed before refocusd could see it"
                    self._lose(each.window, f"{why}; {KEEP_OPEN}", each.images)
                continue
            runs = self.running and each is self._last_run
            looked = self._viewers.all_described and not runs
            self._windowless.append((each, looks + looked))

    def _lose(self, window: Window, why: str, images: int = 0) -> None:
        """Have it said that nothing of an acquisition is refocused."""
        about = f"begun at {window.started}" + (f", {counted(images, 'image')}" if images else "")
        self._unseen.add(
            window, f"{window.name} of Micro-Manager ({about}) is not refocused: {why}"
        )

    def _is_old(self, window: Window) -> bool:
        if not window.saved_at and place_of(window, self._output)[1].exists():
            return False  # an earlier daemon began it: there may be more to do
        started_s = window.started_s
        return self._first_look if started_s is None else started_s < self._since_s

    def _watch_save_root(self) -> bool:
        """Watch the folder that the settings of acquisitions name: not every one has a window.

        False where they say that acquisitions are not saved.
        """
        bridge = self._bridge
        settings = bridge.call(self._acquisitions.get_acquisition_settings)
        if settings is None or not bridge.call(settings.save):
            return False
        if root := str(bridge.call(settings.root) or ""):
            self._roots.watch(Path(root))
        return True

    def _reach(self, folder: Path, waited_s: float) -> None:
        if self._roots.watch(folder):
            del self._unreached[folder]
        elif waited_s > UNREACHED_S:
            del self._unreached[folder]
            log.warning(
                "Micro-Manager saves in %s, which cannot be reached from here: its acquisitions there "
                "are not refocused; choose a folder that this computer can read",
                folder,
            )

    def _begin(self, window: Window) -> FramesInMemory | None:
        try:
            return FramesInMemory(self._bridge, window, self._endpoint, self._output)
        except TransportError as error:
            self._lose(window, str(error))
            return None

    def _fetch(self, memory: FramesInMemory) -> float:
        try:
            # Where a later one waits, Micro-Manager does not acquire this one any more.
            wait_s = memory.step(running=self.running and not self._waiting)
        except (RefocusdError, OSError) as error:
            log.warning("%s is given up: %s", memory.name, error)
            if not memory.told:
                self._lose(memory.window, str(error))
            self.close()
            return 0.0
        if memory.done:
            if memory.refused or memory.lost:
                self._lose(memory.window, memory.refused or f"{memory.lost}; {KEEP_OPEN}")
            self.close()
            return 0.0
        return wait_s
