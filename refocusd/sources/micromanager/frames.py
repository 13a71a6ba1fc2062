"""Frames of an acquisition that Micro-Manager keeps in memory, through its data provider.

There is no raw dataset to catch up from, but Micro-Manager keeps the images as long as their
window is open.  They are fetched as fast as the bridge allows and the daemon takes them, and
again if the daemon was restarted meanwhile.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refocusd import __version__
from refocusd.errors import InputError, RefocusdError, TransportError
from refocusd.frame import Pixels, canonical_axes
from refocusd.profiles.microscope_metadata import first_of
from refocusd.sources.micromanager.bridge import Bridge
from refocusd.sources.micromanager.coordinates import GrowingBox
from refocusd.sources.micromanager.values import image_of
from refocusd.sources.output_folder import fresh_output
from refocusd.transport.messages import Open, Outcome
from refocusd.transport.session import Session, State

__all__ = ["FramesInMemory"]

log = logging.getLogger(__name__)

#: Interval of asking for the number of images.
COUNT_S = 0.2
#: Interval of listening to the daemon while it is busy; no call is made.
BUSY_S = 0.005
#: Frames at the daemon at a time.
MOST_OUT = 8
#: After this many failing calls in a row its window counts as closed.
GIVE_UP = 5
#: An acquisition that is over is complete when no image came for this long.
QUIET_S = 1.0
#: If images that were counted are missing then, they are waited for this long.
LATE_S = 5.0


class FramesInMemory:
    """One acquisition, from Micro-Manager's memory to the daemon.

    Parameters
    ----------
    bridge : Bridge
    provider : Java object
        ``org.micromanager.data.DataProvider``.
    endpoint : str
        Of the daemon.
    output : Path
        Folder in which the refocused dataset is made.
    """

    def __init__(self, bridge: Bridge, provider: Any, endpoint: str, output: Path) -> None:
        self._bridge = bridge
        self._provider = provider
        self._data = bridge.call(bridge.studio.data)
        summary = bridge.call(provider.get_summary_metadata)
        self._summary = dict(bridge.properties(summary))
        self._channels = self._names_of_channels(summary)
        self.name = str(self._summary.get("Prefix") or bridge.call(provider.get_name) or "MDA")
        self._output = fresh_output(output, self.name)
        self._box = GrowingBox()
        self._sizes: tuple[int, int, int] | None = None
        self._count = 0
        self._grown_at = 0.0
        self._counted_at = -COUNT_S
        self._found: dict[str, dict[str, int]] = {}
        self._failures = 0
        self._over_since = 0.0
        self._misses = 0
        self._session = Session(endpoint, version=__version__, on_outcome=self._note)
        #: What the daemon is told, once there is an image.
        self._open: Open | None = None
        #: Axes of the frames that have a final state.
        self._done: set[str] = set()

    @property
    def done(self) -> bool:
        """Whether everything was handed over and is on disk, or it was given up."""
        if self._open is not None:
            return self._session.over
        return bool(self._over_since) and time.monotonic() - self._over_since > LATE_S

    @property
    def refused(self) -> str:
        """Why the daemon does not take it; empty if it does."""
        return self._session.refused

    def step(self, *, running: bool) -> float:
        """Do what can be done now; seconds until there may be more.

        Parameters
        ----------
        running : bool
            Whether the acquisition goes on.
        """
        if self._open is not None:
            self._session.pump()
            # A daemon that was restarted is told the same acquisition again.
            if self._session.state is State.READY:
                self._session.announce(self._open)
        if not running:
            self._over_since = self._over_since or time.monotonic()
        try:
            wait_s = self._step()
        except TransportError as error:
            self._failures += 1
            if self._failures >= GIVE_UP:
                raise
            log.warning("%s: %s", self.name, error)
            return COUNT_S
        self._failures = 0
        return wait_s

    def close(self) -> None:
        """Give it up where it stands."""
        if self._session.opened:
            self._session.close(0)
        self._session.hang_up()

    def _step(self) -> float:
        now = time.monotonic()
        session = self._session
        if session.state is State.CLOSING:
            return BUSY_S
        if now - self._counted_at >= COUNT_S:
            self._counted_at = now
            self._look(now)
        if self._open is not None and not session.has_room(MOST_OUT):
            return BUSY_S
        if (wait_s := self._bridge.pace.until_pixels_s()) > 0:
            return wait_s
        if self._again() or (len(self._found) < self._count and self._fetch()):
            return 0.0
        self._finish_if_over(now)
        return BUSY_S if session.in_flight else COUNT_S / 2

    def _look(self, now: float) -> None:
        """How many images there are, and how far the axes go."""
        bridge, provider = self._bridge, self._provider
        count = int(bridge.call(provider.get_num_images))
        if count > self._count:
            axes = [str(axis) for axis in bridge.items(bridge.call(provider.get_axes))]
            self._box.grow({axis: int(bridge.call(provider.get_next_index, axis)) for axis in axes})
            self._count = count
            self._grown_at = now
            self._misses = 0

    def _again(self) -> bool:
        """Fetch a frame again that a daemon took with it; False if there is none."""
        if self._open is None or len(self._done) >= len(self._found) or self._session.in_flight:
            return False
        missing = (at for key, at in self._found.items() if key not in self._done)
        return self._hand_on(next(missing))

    def _fetch(self) -> bool:
        """Fetch one image that was not there before; False if none of them is there yet."""
        # One round through all coordinates for every time that the number of images changed.
        while self._misses < len(self._box):
            coordinates = self._box.next()
            assert coordinates is not None
            if self._hand_on(coordinates):
                return True
            self._misses += 1
            self._box.put_back(coordinates)
        return False

    def _hand_on(self, coordinates: dict[str, int]) -> bool:
        bridge = self._bridge
        text = ",".join(f"{axis}={value}" for axis, value in coordinates.items())
        where = bridge.call(self._data.create_coords, text)
        image = bridge.call(self._provider.get_image, where)
        if image is None:
            return False
        taken_ns = time.perf_counter_ns()
        metadata = dict(bridge.properties(bridge.call(image.get_metadata)))
        metadata["Axes"] = coordinates
        if (channel := coordinates.get("channel", -1)) in range(len(self._channels)):
            metadata.setdefault("Channel", self._channels[channel])
        key = canonical_axes(coordinates)
        self._found[key] = coordinates
        try:
            pixels = self._pixels(image, f"image {text} of {self.name}")
            if self._open is None:
                self._open = self._announcement(pixels, metadata)
                # Its pixels are fetched again once the daemon has room: the first frame only.
                return True
            self._session.submit(pixels, key, metadata, taken_ns)
        except InputError as error:
            log.warning("%s", error)
            if self._open is not None:
                self._session.miss([key], "failed", str(error))
                self._done.add(key)
        return True

    def _pixels(self, image: Any, what: str) -> Pixels:
        bridge = self._bridge
        flat = bridge.call(image.get_raw_pixels)
        nbytes = int(getattr(flat, "nbytes", 0))
        bridge.pace.pixels(nbytes)
        if self._sizes is None or self._sizes[2] != nbytes:
            width, height = bridge.call(image.get_width), bridge.call(image.get_height)
            self._sizes = (int(width), int(height), nbytes)
        return image_of(flat, *self._sizes[:2], what)

    def _announcement(self, pixels: Pixels, first: Mapping[str, Any]) -> Open:
        height, width = pixels.shape
        self._output.parent.mkdir(parents=True, exist_ok=True)
        log.info("%s is in Micro-Manager's memory only: refocused into %s", self.name, self._output)
        return Open(
            acquisition=str(uuid.uuid4()),
            name=self.name,
            height=height,
            width=width,
            dtype="uint8" if pixels.dtype.name == "uint8" else "uint16",
            raw="",
            output=str(self._output),
            summary=json.dumps(self._summary, default=str),
            report=True,
            first=first_of(first),
        )

    def _finish_if_over(self, now: float) -> None:
        if self._open is None or not self._over_since or self._session.in_flight:
            return
        quiet_s = now - max(self._over_since, self._grown_at)
        complete = len(self._done) >= self._count
        if quiet_s > (QUIET_S if complete else LATE_S):
            self._session.close(self._count)

    def _note(self, outcome: Outcome) -> None:
        self._done.add(outcome.axes)

    def _names_of_channels(self, summary: Any) -> list[str]:
        try:
            names = self._bridge.call(summary.get_channel_name_list)
            return [str(name) for name in self._bridge.items(names)]
        except (RefocusdError, AttributeError):
            return []
