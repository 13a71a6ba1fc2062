"""Acquisitions that were started with Micro-Manager's own button.

pycromanager cannot hook them (pycro-manager#29).  While nothing runs, Micro-Manager is asked
twice a second whether an acquisition does.  When one begins, its window's data provider says
whether it is saved to disk: then the dataset is followed there and the bridge is left alone.
Otherwise its frames are fetched from memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from refocusd.errors import RefocusdError, TransportError
from refocusd.sources.micromanager.bridge import Bridge
from refocusd.sources.micromanager.frames import FramesInMemory

__all__ = ["Studio"]

log = logging.getLogger(__name__)

#: Interval of asking whether an acquisition runs.
POLL_S = 0.5
#: A running acquisition without a window is warned of after this long.
NO_WINDOW_S = 10.0


class Studio:
    """Notices acquisitions in the GUI; belongs to the bridge's thread.

    Parameters
    ----------
    bridge : Bridge
    endpoint : str
        Of the daemon.
    output : Path
        Folder for refocused datasets of acquisitions that are not saved.
    follow : callable
        Follows a dataset on disk, in a thread of its own.
    covered : sequence of Path
        Folders that are followed already, with what appears in them.
    """

    def __init__(
        self,
        bridge: Bridge,
        endpoint: str,
        output: Path,
        follow: Callable[[Path], None],
        covered: Sequence[Path] = (),
    ) -> None:
        self._bridge = bridge
        self._endpoint = endpoint
        self._output = output
        self._follow = follow
        self._covered = [folder.expanduser().absolute() for folder in covered]
        self._acquisitions = bridge.call(bridge.studio.acquisitions)
        self._displays = bridge.call(bridge.studio.displays)
        self._polled_at = -POLL_S
        self._running_since = 0.0
        self._found = False
        self._told = False
        self._memory: FramesInMemory | None = None

    @property
    def busy(self) -> bool:
        """Whether an acquisition runs, or is being fetched from memory."""
        return bool(self._running_since) or self._memory is not None

    def step(self) -> float:
        """Do what can be done now; seconds until there may be more.

        Raises
        ------
        TransportError
            If the bridge does not answer as it should: Micro-Manager was restarted.
        """
        now = time.monotonic()
        wait_s = POLL_S
        if now - self._polled_at >= POLL_S:
            self._polled_at = now
            self._poll(now)
        if self._memory is not None:
            wait_s = self._fetch(self._memory)
        return min(wait_s, max(0.0, self._polled_at + POLL_S - time.monotonic()))

    def close(self) -> None:
        """Give up what is being fetched."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def _poll(self, now: float) -> None:
        if not self._bridge.call(self._acquisitions.is_acquisition_running):
            self._running_since = 0.0
            self._found = self._told = False
            return
        self._running_since = self._running_since or now
        if self._found or self._memory is not None:
            return
        provider = self._provider()
        if provider is not None:
            self._found = True
            self._take(provider)
        elif now - self._running_since > NO_WINDOW_S and not self._told:
            self._told = True
            log.warning(
                "an acquisition runs in Micro-Manager without a window: it cannot be taken from there; "
                "let refocusd follow the folder that it saves to (--follow)"
            )

    def _provider(self) -> Any:
        """The data of the acquisition that runs: the newest window's that may still get images."""
        bridge = self._bridge
        viewers = bridge.items(bridge.call(self._displays.get_all_data_viewers))
        for viewer in reversed(viewers):
            provider = bridge.call(viewer.get_data_provider)
            # Images of the Snap/Live window can be deleted again; an acquisition's cannot.
            if provider is None or hasattr(provider, "delete_all_images"):
                continue
            if not bridge.call(provider.is_frozen):
                return provider
        return None

    def _take(self, provider: Any) -> None:
        if path := self._saved_at(provider):
            log.info("an acquisition runs in Micro-Manager, saved at %s: followed there", path)
            if not any(path.is_relative_to(folder) for folder in self._covered):
                self._follow(path)
            return
        try:
            self._memory = FramesInMemory(self._bridge, provider, self._endpoint, self._output)
        except TransportError as error:
            # Its window was closed as we looked, or Micro-Manager is gone: the next question tells.
            log.warning("an acquisition in Micro-Manager is not taken: %s", error)
            return
        log.info("an acquisition runs in Micro-Manager: %s, not saved to disk", self._memory.name)

    def _saved_at(self, provider: Any) -> Path | None:
        """The folder of the dataset, if it is saved and can be reached from here."""
        said = ""
        if hasattr(provider, "get_save_path"):
            said = str(self._bridge.call(provider.get_save_path) or "")
        if not said:
            return None
        path = Path(said)
        if path.is_file():
            path = path.parent
        if not path.is_dir():
            log.warning("Micro-Manager saves at %s, which cannot be reached from here", path)
            return None
        return path.absolute()

    def _fetch(self, memory: FramesInMemory) -> float:
        try:
            wait_s = memory.step(running=bool(self._running_since))
        except (RefocusdError, OSError) as error:
            log.warning("%s is given up: %s", memory.name, error)
            self.close()
            return POLL_S
        if memory.done:
            if memory.refused:
                log.warning("%s is not refocused: %s", memory.name, memory.refused)
            else:
                log.info("%s is done", memory.name)
            self.close()
        return wait_s
