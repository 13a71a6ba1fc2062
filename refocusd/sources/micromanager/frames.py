"""Frames of an acquisition that Micro-Manager keeps in memory, through its data provider.

There is no raw dataset to catch up from, but Micro-Manager keeps the images as long as their
window is open.  They are fetched as fast as the bridge and the daemon allow, and again if the
daemon was restarted in between.  The id of an acquisition and the place of its output follow from
what Micro-Manager says about it, so that another process continues where this one stopped.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from refocusd import __version__
from refocusd.errors import InputError, RefocusdError, TransportError
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import Pixels, canonical_axes
from refocusd.profiles.microscope_metadata import first_of
from refocusd.sources.micromanager.bridge import Bridge
from refocusd.sources.micromanager.coordinates import GrowingBox
from refocusd.sources.micromanager.values import image_of
from refocusd.sources.micromanager.viewers import Window
from refocusd.sources.output_folder import output_folder
from refocusd.transport.messages import Open, Outcome
from refocusd.transport.session import Session, State

log = logging.getLogger(__name__)

_NAMESPACE = uuid.UUID("0c2f9f4e-7c1b-4d0e-8a57-0d3c5a7f9b21")
#: Interval of asking for the number of images.
COUNT_S = 0.2
#: Interval of listening to the daemon while it is busy; no call is made.
BUSY_S = 0.005
#: Most frames at the daemon at a time.
MOST_OUT = 8
#: After this many failed calls in a row, the window counts as closed.
GIVE_UP = 5
#: Time to wait for images that were counted but cannot be fetched, and for further ones of an
#: acquisition that was stopped without being frozen.
LATE_S = 5.0
KEEP_OPEN = "keep windows open until refocusd is done, or let Micro-Manager save"


class FramesInMemory:
    """Fetches one acquisition from Micro-Manager's memory, and submits it to the daemon.

    Parameters
    ----------
    bridge : Bridge
    window : Window
        The window that shows it.
    endpoint : str
        Address of the daemon.
    output : Path
        Folder in which the refocused dataset is made.

    Attributes
    ----------
    name : str
        Name of the acquisition.
    window : Window
        The window without its Java object.
    done : bool
        Whether every image has its final state, or cannot be fetched.
    lost : str
        Why the acquisition was never announced to the daemon, and has no output; empty if it was.

    Raises
    ------
    TransportError
        If its window was closed.
    """

    def __init__(self, bridge: Bridge, window: Window, endpoint: str, output: Path) -> None:
        self.name = window.name
        self.window = replace(window, provider=None)
        self.done = False
        self.lost = ""
        self._bridge = bridge
        self._provider: Any = window.provider
        self._data: Any = bridge.call(bridge.studio.data)
        summary = bridge.call(window.provider.get_summary_metadata)
        self._summary = dict(bridge.properties(summary))
        self._channels = self._names_of_channels(summary)
        self._acquisition, self._output = place_of(window, output)
        self._box = GrowingBox()
        self._sizes: tuple[int, int, int] | None = None
        self._frozen = False
        self._count = 0
        self._counted_at = -COUNT_S
        self._changed_at = time.monotonic()
        self._closed_window = False
        self._found: dict[str, dict[str, int]] = {}
        self._failures = 0
        self._misses = 0
        self._session = Session(endpoint, version=__version__, on_outcome=self._note)
        #: The announcement, once there is an image.
        self._open: Open | None = None
        #: Number of frames that were reported to the daemon.
        self._told = 0
        #: Axes of the frames that have a final state.
        self._final = _written(self._output)

    @property
    def told(self) -> bool:
        """Whether it was announced to the daemon."""
        return self._open is not None

    @property
    def refused(self) -> str:
        """Why the daemon refuses it; empty if it does not."""
        return self._session.refused

    def step(self, *, running: bool) -> float:
        """Do what can be done now; return the seconds until there may be more.

        Parameters
        ----------
        running : bool
            Whether Micro-Manager is still acquiring, so that more images may come.

        Raises
        ------
        TransportError
            If the bridge refuses several calls in a row.
        """
        session = self._session
        if self._open is not None:
            session.pump()
            # The same acquisition is announced again to a restarted daemon.
            if session.state is State.READY:
                session.announce(self._open)
                self._told = 0
            if session.over:
                self.done = True
                return 0.0
        try:
            wait_s = self._step(running=running)
        except TransportError as error:
            self._failures += 1
            if self._failures >= GIVE_UP:
                raise
            log.warning("%s: %s", self.name, error)
            return COUNT_S
        self._failures = 0
        return wait_s

    def keep_alive(self) -> None:
        """Keep the session alive: the daemon gives up a source that is silent for too long."""
        self._session.pump()

    def close(self) -> None:
        """Stop where it stands, and release Java's objects."""
        if self._session.state is State.OPEN:
            self._session.close(self._count)
        self._session.hang_up()
        # Self and the session refer to each other, so Java's objects would wait for the collector.
        self._provider = self._data = None

    def _step(self, *, running: bool) -> float:
        now = time.monotonic()
        session = self._session
        if session.state is State.CLOSING:
            return BUSY_S
        if now - self._counted_at >= COUNT_S:
            self._counted_at = now
            self._look(now)
        if self._open is not None and not session.has_room(MOST_OUT):
            self._changed_at = now  # the daemon is waited for, not Micro-Manager
            return BUSY_S
        if (wait_s := self._bridge.pace.until_pixels_s()) > 0:
            return wait_s
        if not self._closed_window and (self._again() or self._fetch()):
            return 0.0
        if session.in_flight:
            self._changed_at = now
            return BUSY_S
        return 0.0 if self._finish_if_over(now, running=running) else COUNT_S / 2

    def _look(self, now: float) -> None:
        """Find out how many images there are, and how long the axes are."""
        bridge, provider = self._bridge, self._provider
        # Asked first, because the count after an acquisition was frozen is final.
        self._frozen = self._frozen or bool(bridge.call(provider.is_frozen))
        count = int(bridge.call(provider.get_num_images))
        self._closed_window = count < self._count
        if count > self._count:
            axes = [str(axis) for axis in bridge.items(bridge.call(provider.get_axes))]
            self._box.grow({axis: int(bridge.call(provider.get_next_index, axis)) for axis in axes})
            self._count = count
            self._changed_at = now
            self._misses = 0
        if self._session.state is State.OPEN and self._count:
            # Images that are not submitted yet are pending.
            self._session.leave(self._count - self._told, self._count)
            self._told = self._count

    def _again(self) -> bool:
        """Fetch a frame again that was lost with a daemon; False if there is none."""
        if self._open is None or self._session.in_flight:
            return False
        missing = next((at for key, at in self._found.items() if key not in self._final), None)
        return missing is not None and self._hand_on(missing)

    def _fetch(self) -> bool:
        """Fetch one new image; False if none can be found yet."""
        # At most one round through all coordinates after each change of the number of images.
        while len(self._found) < self._count and self._misses < len(self._box):
            coordinates = self._box.next()
            assert coordinates is not None
            if self._hand_on(coordinates):
                return True
            self._misses += 1
            self._box.put_back(coordinates)
        return False

    def _hand_on(self, coordinates: dict[str, int]) -> bool:
        bridge = self._bridge
        key = canonical_axes(coordinates)
        if key in self._final:  # an earlier process had it refocused
            self._found[key] = coordinates
            return True
        text = ",".join(f"{axis}={value}" for axis, value in coordinates.items())
        where = bridge.call(self._data.create_coords, text)
        image = bridge.call(self._provider.get_image, where)
        if image is None:
            return False
        self._changed_at = time.monotonic()
        self._found[key] = coordinates
        taken_ns = time.perf_counter_ns()
        metadata = dict(bridge.properties(bridge.call(image.get_metadata)))
        metadata["Axes"] = coordinates
        if (channel := coordinates.get("channel", -1)) in range(len(self._channels)):
            metadata.setdefault("Channel", self._channels[channel])
        try:
            pixels = self._pixels(image, f"image {text} of {self.name}")
            if self._open is None:
                self._open = self._announcement(pixels, metadata)
                # Only this first frame is fetched again, once the daemon has room.
                return True
            self._session.submit(pixels, key, metadata, taken_ns)
        except InputError as error:
            log.warning("%s", error)
            if self._open is not None:
                self._session.miss([key], "failed", str(error))
                self._final.add(key)
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
            acquisition=self._acquisition,
            name=self.name,
            height=height,
            width=width,
            dtype="uint8" if pixels.dtype.name == "uint8" else "uint16",
            raw="",
            output=str(self._output),
            summary=json.dumps(self._summary, default=str),
            expected=self._count if self._frozen else 0,
            report=True,
            first=first_of(first),
        )

    def _finish_if_over(self, now: float, *, running: bool) -> bool:
        """Close the acquisition if no more images can come; False if they may."""
        left = self._count - len(self._final & self._found.keys())
        quiet = now - self._changed_at > LATE_S and not (running and not self._frozen)
        if not (self._closed_window or quiet or (self._frozen and self._count and not left)):
            return False
        why = "its window was closed" if self._closed_window else "they cannot be fetched"
        if self._open is None:
            self.done = True
            # If nothing is left, an earlier process had all of it refocused.
            self.lost = why if left or not self._count else ""
            return True
        if left:
            log.warning(
                "%s: %d images of Micro-Manager's memory are not refocused: %s; %s",
                self.name,
                left,
                why,
                KEEP_OPEN,
            )
        self._session.close(self._count)
        return True

    def _note(self, outcome: Outcome) -> None:
        self._final.add(outcome.axes)

    def _names_of_channels(self, summary: Any) -> list[str]:
        try:
            names = self._bridge.call(summary.get_channel_name_list)
            return [str(name) for name in self._bridge.items(names)]
        except (RefocusdError, AttributeError):
            return []


def id_of(window: Window) -> str:
    """Id of the acquisition in a window."""
    return str(uuid.uuid5(_NAMESPACE, window.key))


def place_of(window: Window, folder: Path) -> tuple[str, Path]:
    """Id of the acquisition in a window, and its output in `folder`, which may exist already."""
    acquisition = id_of(window)
    return acquisition, output_folder(folder, window.name, window.started_s, acquisition)


def _written(output: Path) -> set[str]:
    """Axes of the frames that an earlier process had refocused; empty if there are none."""
    try:
        with closing(open_dataset(output)) as dataset:
            return set(dataset.axes_keys())
    except InputError:
        return set()
