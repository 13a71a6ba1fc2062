"""What Micro-Manager's acquisition engine says about the acquisition that it ran last.

Looking twice a second misses a window that is closed as soon as its acquisition has ended.  The
engine keeps the summary metadata of its last acquisition until the next one begins: they show that
there was one, but not its images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from refocusd.sources.micromanager.bridge import Bridge
from refocusd.sources.micromanager.viewers import Window, window_of


@dataclass(frozen=True, slots=True)
class LastRun:
    """The acquisition that an engine ran last.

    Parameters
    ----------
    window : Window
        The description that a window on it would have.
    root : str
        Folder in which Micro-Manager saves it, in a folder of its own; empty if it does not.
    images : int
        Number of images that were to be acquired; 0 if not known.
    """

    window: Window
    root: str
    images: int


class Engine:
    """Asks the engine; for the bridge's thread only.

    Parameters
    ----------
    bridge : Bridge

    Attributes
    ----------
    tells : bool
        Whether it has reported the start of any acquisition so far; versions may differ in this.
    """

    def __init__(self, bridge: Bridge) -> None:
        self.tells = False
        self._bridge = bridge
        self._engine: Any = None
        self.renew()

    def renew(self) -> None:
        """Get the current engine: the user can choose another one in Micro-Manager's options."""
        if hasattr(self._bridge.studio, "get_acquisition_engine"):
            self._engine = self._bridge.call(self._bridge.studio.get_acquisition_engine)

    def last_run(self) -> LastRun | None:
        """The acquisition that it ran last; None before the first one, or if it does not report any.

        Raises
        ------
        TransportError
            If the bridge does not answer as it should.
        """
        if not hasattr(self._engine, "get_summary_metadata"):
            return None
        summary = self._bridge.call(self._engine.get_summary_metadata)
        if not isinstance(summary, dict) or not summary.get("StartTime"):
            return None
        self.tells = True
        return LastRun(window_of(None, summary), _root(summary), _images(summary))


def _root(summary: Mapping[str, Any]) -> str:
    """Folder in which it is saved; AcqEngJ names one even if nothing is saved."""
    root = str(summary.get("Directory") or "")
    try:
        settings = json.loads(summary.get("MDA_Settings") or "{}")
    except (TypeError, ValueError):
        return root
    saved = settings.get("save", True) if isinstance(settings, dict) else True
    return root if saved else ""


def _images(summary: Mapping[str, Any]) -> int:
    images = 1
    for axis in ("Frames", "Slices", "Channels", "Positions"):
        length = summary.get(axis, 1)
        images *= length if isinstance(length, int) and 0 <= length < 1 << 31 else 1
    return images
