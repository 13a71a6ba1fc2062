"""Acquisitions of Micro-Manager's GUI: taken whether or not they were seen to run.

pycromanager cannot hook them (pycro-manager#29), and an acquisition of half a second is over
before anybody has asked whether one runs.  Therefore the acquisitions that refocusd has taken are
compared twice a second with those that exist: with the windows, which stay after the end of an
acquisition, and with the folders in which acquisitions are saved.  Saved ones are followed on disk
without the bridge; the others are fetched from Micro-Manager's memory, one after the other.  If a
window was closed too early, the engine still knows that the acquisition ran, and the daemon reports it.
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
#: Interval of asking what the engine ran last: shorter than any acquisition with a window.
ENGINE_S = 0.25
#: A folder in which an acquisition is saved must appear within this time.
UNREACHED_S = 10.0
#: An acquisition that has ended has no window if this many looks at all windows did not find it: a
#: busy Micro-Manager shows it late.
LOOKS = 4


class Studio:
    """Takes the acquisitions of the GUI; for the bridge's thread only.

    Parameters
    ----------
    bridge : Bridge
    endpoint : str
        Address of the daemon.
    output : Path
        Folder for refocused datasets of acquisitions that are not saved.
    roots : SaveRoots
    since_s : float
        Finished acquisitions that began after this time, in seconds since 1970, are taken; older
        ones are only named in the log.

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
        #: Whether the running acquisition has a window, or is saved.
        self._found = False
        #: Acquisitions that were taken, or were found not to be ours to take.
        self._known: set[str] = set()
        #: When the acquisitions that had a window began.
        self._shown: set[float | str] = set()
        #: The engine's last run, and its runs that had no window in this many looks so far.
        self._last_run: LastRun | None = None
        self._windowless: list[tuple[LastRun, int]] = []
        #: Acquisitions in memory to be fetched, in the order in which they began.
        self._waiting: deque[Window] = deque()
        self._memory: FramesInMemory | None = None
        #: Folders of saved acquisitions that do not exist here, and since when.
        self._unreached: dict[Path, float] = {}

    @property
    def busy(self) -> bool:
        """Whether an acquisition runs, or is being fetched from memory."""
        return self.running or bool(self._waiting) or self._memory is not None

    def step(self) -> float:
        """Do what can be done now; return the seconds until there may be more.

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
        """Keep the session with the daemon alive while the bridge takes its time."""
        if self._memory is not None:
            self._memory.keep_alive()

    def close(self) -> None:
        """Give up the acquisition that is being fetched."""
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
        # The window may appear a moment before Micro-Manager reports that the acquisition runs.
        shown = any(window.key and (runs or not window.frozen) for window in windows)
        self._found = shown or (self._found and runs)
        # The settings are those of the running acquisition; the next one may have others.
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
        """Take the acquisition of a new window, unless it was taken already."""
        if not window.key:
            log.info("a window of Micro-Manager does not show an acquisition: %s", window.name)
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
        """Note the acquisition that the engine has begun since it was last asked."""
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
        """Report acquisitions that the engine ran unsaved, and without a window that was seen."""
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
        """Report that nothing of an acquisition is refocused."""
        about = f"begun at {window.started}" + (f", {counted(images, 'image')}" if images else "")
        self._unseen.add(
            window, f"{window.name} of Micro-Manager ({about}) is not refocused: {why}"
        )

    def _is_old(self, window: Window) -> bool:
        if not window.saved_at and place_of(window, self._output)[1].exists():
            return False  # an earlier daemon has begun it, and may not have finished
        started_s = window.started_s
        return self._first_look if started_s is None else started_s < self._since_s

    def _watch_save_root(self) -> bool:
        """Watch the folder in the acquisition settings, because not every acquisition has a window.

        False if acquisitions are not saved.
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
            # If a later acquisition waits, Micro-Manager has finished this one.
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
