"""The windows of Micro-Manager that show data, each described once.

A window and its data stay after the end of an acquisition, so an acquisition is found whether or not
it was seen to run.  The list of windows names each by its identity in Java: while the list does not
change, a look takes only one or two calls.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from refocusd.errors import TransportError
from refocusd.sources.micromanager.bridge import Bridge

log = logging.getLogger(__name__)

#: End of an object's text in Java: a number that no other object has.
_IDENTITY = re.compile(r"@[0-9a-f]+$")
#: A window that could not be described this many times is ignored.
MAX_FAILURES = 5


@dataclass(frozen=True, slots=True)
class Window:
    """The data behind one window.

    Parameters
    ----------
    provider : Java object
        ``org.micromanager.data.DataProvider``.
    name : str
    started : str
        When its acquisition began, as Micro-Manager writes it; empty if not known.
    key : str
        Identifies the acquisition; the same for every window on it.  Empty if the window does not
        show an acquisition, but an Album, Snap/Live, or data of a plugin.
    saved_at : str
        Folder or file in which Micro-Manager saves it; empty if it does not.
    frozen : bool
        Whether no more images can come.
    """

    provider: Any
    name: str
    started: str
    key: str
    saved_at: str
    frozen: bool

    @property
    def begun(self) -> float | str:
        """When its acquisition began, to tell it from others."""
        return self.started if self.started_s is None else self.started_s

    @property
    def started_s(self) -> float | None:
        """When its acquisition began, in seconds since 1970; None if `started` cannot be parsed."""
        date, _, zone = self.started.rpartition(" ")
        try:
            return datetime.fromisoformat(date + zone).timestamp()
        except ValueError:
            return None


def window_of(
    provider: Any,
    summary: Mapping[str, Any],
    *,
    name: str = "",
    saved_at: str = "",
    frozen: bool = True,
) -> Window:
    """The description of a window on data with this summary metadata."""
    started = str(summary.get("StartTime") or "")
    name = str(summary.get("Prefix") or name or "MDA")
    # An Album has neither: it is no acquisition.
    key = str(summary.get("UUID") or "") or (f"{started} {name}" if started else "")
    return Window(provider, name, started, key, saved_at, frozen)


class Viewers:
    """Finds the windows of Micro-Manager; for the bridge's thread only.

    Parameters
    ----------
    bridge : Bridge

    Attributes
    ----------
    all_described : bool
        Whether the content of every window is known.
    """

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._displays = bridge.call(bridge.studio.displays)
        self._text = ""
        self._known: set[str] = set()
        self._failures: dict[str, int] = {}
        self.all_described = False

    def new(self) -> list[Window]:
        """The windows that were not known at the last call.

        Raises
        ------
        TransportError
            If the bridge does not answer as it should: Micro-Manager was restarted.
        """
        bridge = self._bridge
        viewers = bridge.call(self._displays.get_all_data_viewers)
        text = str(bridge.call(viewers.to_string)) if hasattr(viewers, "to_string") else ""
        if text and text == self._text:
            return []
        self.all_described = True
        identities, viewer_at = self._identified(viewers, text)
        fresh = []
        for index, identity in enumerate(identities):
            if identity in self._known:
                continue
            window = self._described(identity, viewer_at, index)
            if window is None:
                text, self.all_described = "", False  # to look at it again
                continue
            self._known.add(identity)
            fresh.append(window)
        self._known &= set(identities)
        self._text = text
        return fresh

    def _identified(self, viewers: Any, text: str) -> tuple[list[str], Callable[[int], Any]]:
        """Identities of the windows, and how to get one of them."""
        bridge = self._bridge
        if text:
            identities = text.strip("[]").split(", ") if text != "[]" else []
            told_apart = len(set(identities)) == bridge.call(viewers.size)
            if told_apart and all(map(_IDENTITY.search, identities)):
                return identities, lambda index: bridge.call(viewers.get, index)
        # The bridge returns lists by value, or a window has another text.
        items = bridge.items(viewers)
        return [str(bridge.call(item.hash_code)) for item in items], items.__getitem__

    def _described(
        self, identity: str, viewer_at: Callable[[int], Any], index: int
    ) -> Window | None:
        """The description of a window; None while it cannot be described."""
        try:
            provider = self._bridge.call(viewer_at(index).get_data_provider)
            if provider is None:
                return None
            window = self._describe(provider)
            if window.key or window.frozen or self._bridge.call(provider.get_num_images):
                return window
        except TransportError as error:
            # It may have been closed meanwhile.
            count = self._failures[identity] = self._failures.get(identity, 0) + 1
            if count < MAX_FAILURES:
                return None
            log.warning("a window of Micro-Manager is ignored: %s", error)
            del self._failures[identity]
            return Window(None, "", "", "", "", frozen=True)
        return None  # still empty: it may not be known yet what it will show

    def _describe(self, provider: Any) -> Window:
        bridge = self._bridge
        name = str(bridge.call(provider.get_name) or "")
        # The images of the Snap/Live window can be deleted, those of an acquisition cannot.
        if hasattr(provider, "delete_all_images"):
            return Window(provider, name, "", "", "", frozen=False)
        summary = bridge.properties(bridge.call(provider.get_summary_metadata))
        saved_at = ""
        if hasattr(provider, "get_save_path"):
            saved_at = str(bridge.call(provider.get_save_path) or "")
        frozen = bool(bridge.call(provider.is_frozen))
        return window_of(provider, summary, name=name, saved_at=saved_at, frozen=frozen)
