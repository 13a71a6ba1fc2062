"""Frames of an acquisition that Micro-Manager keeps in memory, through its data provider.

There is no raw dataset to catch up from, but Micro-Manager keeps the images as long as their
window is open: they are fetched as fast as the bridge may be used and the daemon takes them,
and fetched again where the daemon was restarted meanwhile.
"""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refocusd.errors import InputError, RefocusdError, TransportError
from refocusd.formats.refocused_name import SUFFIX
from refocusd.frame import Pixels, canonical_axes
from refocusd.profiles.microscope_metadata import first_of
from refocusd.sources.micromanager.bridge import Bridge
from refocusd.sources.micromanager.coordinates import GrowingBox
from refocusd.sources.micromanager.delivery import Delivery
from refocusd.sources.micromanager.values import image_of
from refocusd.transport.messages import Open

__all__ = ["FramesInMemory"]

log = logging.getLogger(__name__)

#: How often the number of images is asked for.
COUNT_S = 0.2
#: While the daemon works on what it has; no call is made.
BUSY_S = 0.005
#: Frames at the daemon at a time.
MOST_OUT = 8
#: Failing calls in a row after which its window is taken for closed.
GIVE_UP = 5
#: An acquisition that is over and has had no new image for so long is complete.
QUIET_S = 1.0
#: How long images that are counted may be missing then.
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
        self._endpoint = endpoint
        summary = bridge.call(provider.get_summary_metadata)
        self._summary = dict(bridge.properties(summary))
        self._channels = self._names_of_channels(summary)
        self.name = str(self._summary.get("Prefix") or bridge.call(provider.get_name) or "MDA")
        stamp = time.strftime("%Y%m%d-%H%M%S")
        self._output = _free(output / f"{_file_name(self.name)}_{stamp}{SUFFIX}")
        self._box = GrowingBox()
        self._sizes: tuple[int, int, int] | None = None
        self._count = 0
        self._grown_at = 0.0
        self._finishing = False
        self._counted_at = -COUNT_S
        self._found: dict[str, dict[str, int]] = {}
        self._failures = 0
        self._over_since = 0.0
        self._misses = 0
        self._delivery: Delivery | None = None

    @property
    def done(self) -> bool:
        """Whether everything was handed over and is on disk, or it was given up."""
        if self._delivery is not None:
            return self._delivery.over
        return bool(self._over_since) and time.monotonic() - self._over_since > LATE_S

    @property
    def refused(self) -> str:
        """Why the daemon does not take it; empty if it does."""
        return self._delivery.refused if self._delivery else ""

    def step(self, *, running: bool) -> float:
        """Do what can be done now; seconds until there may be more.

        Parameters
        ----------
        running : bool
            Whether the acquisition goes on.
        """
        if self._delivery is not None:
            self._delivery.pump()
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
        if self._delivery is not None:
            self._delivery.close()

    def _step(self) -> float:
        now = time.monotonic()
        if self._finishing:
            return BUSY_S
        if now - self._counted_at >= COUNT_S:
            self._counted_at = now
            self._look(now)
        if self._delivery is not None and not self._delivery.ready:
            return BUSY_S
        if (wait_s := self._bridge.pace.until_pixels_s()) > 0:
            return wait_s
        if self._again() or (len(self._found) < self._count and self._fetch()):
            return 0.0
        self._finish_if_over(now)
        return BUSY_S if self._delivery and not self._delivery.idle else COUNT_S / 2

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
        delivery = self._delivery
        if delivery is None or len(delivery.done) >= len(self._found) or not delivery.idle:
            return False
        for key, coordinates in self._found.items():
            if not delivery.knows(key):
                return self._hand_on(coordinates)
        return False

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
            if self._delivery is None:
                self._delivery = self._announce(pixels, metadata)
                # Its pixels are fetched again once the daemon has room: the first frame only.
                return True
            self._delivery.submit(pixels, key, metadata, taken_ns)
        except InputError as error:
            log.warning("%s", error)
            if self._delivery is not None:
                self._delivery.fail(key, str(error))
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

    def _announce(self, pixels: Pixels, first: Mapping[str, Any]) -> Delivery:
        height, width = pixels.shape
        self._output.parent.mkdir(parents=True, exist_ok=True)
        open_ = Open(
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
        log.info("%s is in Micro-Manager's memory only: refocused into %s", self.name, self._output)
        return Delivery(self._endpoint, open_, most=MOST_OUT, remember=True)

    def _finish_if_over(self, now: float) -> None:
        delivery = self._delivery
        if delivery is None or not self._over_since or not delivery.idle:
            return
        quiet_s = now - max(self._over_since, self._grown_at)
        complete = len(delivery.done) >= self._count
        if quiet_s > (QUIET_S if complete else LATE_S):
            self._finishing = True
            delivery.finish(self._count)

    def _names_of_channels(self, summary: Any) -> list[str]:
        try:
            names = self._bridge.call(summary.get_channel_name_list)
            return [str(name) for name in self._bridge.items(names)]
        except (RefocusdError, AttributeError):
            return []


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "MDA"


def _free(path: Path) -> Path:
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}_{number}")
    return free.absolute()
