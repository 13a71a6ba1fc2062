"""The live camera and snaps: the newest frame is shown in the view and written nowhere.

In live mode, the core is asked for its newest frame at most 30 times a second, and less often if
the camera is slower; of a frame that was seen before (same `ImageNumber`), only the tags are
fetched.  Micro-Manager is asked whether live mode is on, because the core also streams while a
script acquires a sequence.  A snap does not pass through the core's buffer: it is fetched from the
Snap/Live window, which is checked once a second.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from refocusd import __version__
from refocusd.errors import InputError, TransportError
from refocusd.frame import Pixels, canonical_axes
from refocusd.profiles.microscope_metadata import first_of
from refocusd.sources.micromanager.bridge import Bridge
from refocusd.sources.micromanager.values import image_of
from refocusd.sources.once import Once
from refocusd.transport.messages import Open
from refocusd.transport.session import Session, State

log = logging.getLogger(__name__)

#: Limits for the interval of asking for the newest frame.
FASTEST_S, SLOWEST_S = 1 / 30, 0.25
#: Interval of asking whether live mode is on, and for a new snap, while nothing happens.
LOOK_S, SNAP_S = 0.5, 1.0
#: After this many requests without a new frame, live mode may be over.
STILL = 3
#: After this time without a new frame, the preview at the daemon is closed.
IDLE_S = 10.0
#: Most frames at the daemon at a time: one in the worker and the next; the view shows only the latest.
MOST_OUT = 2
BUSY_S = 0.005


class Live:
    """Shows what the camera sees; for the bridge's thread only.

    Parameters
    ----------
    bridge : Bridge
    endpoint : str
        Address of the daemon.
    acquiring : callable
        Returns whether an acquisition runs: its frames are not those of the live camera.
    """

    def __init__(self, bridge: Bridge, endpoint: str, acquiring: Callable[[], bool]) -> None:
        self._bridge = bridge
        self._endpoint = endpoint
        self._acquiring = acquiring
        self._live = bridge.call(bridge.studio.live)
        self._streaming = False
        self._looked_at = self._snapped_at = -SNAP_S
        self._next_at = 0.0
        self._period_s = FASTEST_S
        self._still = 0
        self._seen: tuple[Any, Any] | None = None
        self._snap_seen: tuple[Any, ...] | None = None
        self._snap_identity: int | None = None
        #: The current preview: frames of one size and type.
        self._session: Session | None = None
        self._open: Open | None = None
        self._shown_at = 0.0
        self._number = 0
        self._warn = Once(log)
        self._rest_until = 0.0

    def step(self) -> float:
        """Do what can be done now; return the seconds until there may be more.

        Raises
        ------
        TransportError
            If the bridge does not answer as it should: Micro-Manager was restarted.
        """
        now = time.monotonic()
        if self._session is not None:
            self._listen(self._session)
            if self._session.refused:
                self._warn(f"the daemon does not show the live camera: {self._session.refused}")
                self._rest_until = now + IDLE_S
            if self._session.over or now - self._shown_at > IDLE_S:
                self.close()
        if now < self._rest_until:
            return LOOK_S
        if self._acquiring():
            self._streaming = False
            self.close()
            return LOOK_S
        if not self._streaming and now - self._looked_at >= LOOK_S:
            self._looked_at = now
            self._streaming = bool(self._bridge.call(self._live.is_live_mode_on))
            if self._streaming:
                self._period_s, self._still = FASTEST_S, 0
                log.info("live mode is on")
        if self._streaming:
            return self._stream(now)
        if now - self._snapped_at >= SNAP_S and self._has_room:
            self._snapped_at = now
            self._snap()
        waits_for_daemon = self._session is not None and self._session.in_flight
        return BUSY_S if waits_for_daemon else LOOK_S / 2

    def close(self) -> None:
        """End the current preview."""
        if self._session is not None:
            if self._session.opened:
                self._session.close(0)
            self._session.hang_up()
            self._session = self._open = None

    def _listen(self, session: Session, timeout_s: float = 0.0) -> None:
        session.pump(timeout_s)
        # The same preview is announced again to a restarted daemon.
        if session.state is State.READY and self._open is not None:
            session.announce(self._open)

    @property
    def _has_room(self) -> bool:
        """Whether a frame could be submitted; True without a preview."""
        return self._session is None or self._session.has_room(MOST_OUT)

    def _stream(self, now: float) -> float:
        if not self._has_room:
            return BUSY_S
        wait_s = max(self._next_at - now, self._bridge.pace.until_pixels_s())
        if wait_s > 0:
            return wait_s
        self._next_at = now + self._period_s
        new = self._newest()
        if new:
            self._still = 0
            self._period_s = max(FASTEST_S, self._period_s * 0.7)
        else:
            self._still += 1
            self._period_s = min(SLOWEST_S, self._period_s * 1.5)
            if self._still >= STILL:
                self._still = 0
                self._streaming = bool(self._bridge.call(self._live.is_live_mode_on))
                self._looked_at = now
                if not self._streaming:
                    log.info("live mode is off")
        return self._period_s

    def _newest(self) -> bool:
        """Fetch and show the core's newest frame; False if it is not new."""
        bridge = self._bridge
        try:
            tagged = bridge.call(bridge.core.get_last_tagged_image)
        except TransportError:
            return False  # the buffer is empty: live mode has just begun, or ended
        tags = dict(bridge.field(tagged, "tags") or {}) if tagged is not None else {}
        seen = (tags.get("ImageNumber"), tags.get("ElapsedTime-ms"))
        if not tags or seen == self._seen:
            return False
        self._seen = seen
        flat = bridge.field(tagged, "pix")
        bridge.pace.pixels(int(getattr(flat, "nbytes", 0)))
        self._show("live", flat, tags.get("Width"), tags.get("Height"), tags)
        return True

    def _snap(self) -> None:
        """Fetch and show the image in the Snap/Live window, if it is new."""
        bridge = self._bridge
        display = bridge.call(self._live.get_display)
        provider = bridge.call(display.get_data_provider) if display is not None else None
        image = bridge.call(provider.get_any_image) if provider is not None else None
        if image is None:
            return
        if hasattr(image, "hash_code"):
            # The same Java object is the same image; comparing metadata would take five calls.
            identity = bridge.call(image.hash_code)
            if identity == self._snap_identity:
                return
            self._snap_identity = identity
        tags = bridge.properties(bridge.call(image.get_metadata))
        number = str(tags.get("ImageNumber"))
        seen = (number, tags.get("UUID"), tags.get("ReceivedTime"), tags.get("ElapsedTimeMs"))
        if seen == self._snap_seen:
            return
        self._snap_seen = seen
        # When live mode ends, its last frame stays in the window.
        if self._seen is not None and number == str(self._seen[0]):
            self._seen = None
            return
        flat = bridge.call(image.get_raw_pixels)
        bridge.pace.pixels(int(getattr(flat, "nbytes", 0)))
        width, height = bridge.call(image.get_width), bridge.call(image.get_height)
        self._show("snap", flat, width, height, tags)

    def _show(self, name: str, flat: Any, width: Any, height: Any, tags: Mapping[str, Any]) -> None:
        taken_ns = time.perf_counter_ns()
        try:
            pixels = image_of(flat, width, height, f"the {name} image")
        except InputError as error:
            self._warn(str(error))
            return
        self._shown_at = time.monotonic()
        if self._session is None or not _same(self._open, name, pixels):
            self.close()
            self._open = _announcement(name, pixels, tags)
            self._session = Session(self._endpoint, version=__version__)
            self._greet(self._session)
        self._number += 1
        axes = {"time": self._number}
        if self._has_room:
            metadata = {**tags, "Axes": axes}
            self._session.submit(pixels, canonical_axes(axes), metadata, taken_ns)

    def _greet(self, session: Session) -> None:
        """Wait a moment for the daemon, because no other frame may follow a snap."""
        until = time.monotonic() + 1.0
        while not (session.has_room(MOST_OUT) or session.over) and time.monotonic() < until:
            self._listen(session, BUSY_S)
            self._bridge.beat()


def _announcement(name: str, pixels: Pixels, tags: Mapping[str, Any]) -> Open:
    height, width = pixels.shape
    return Open(
        acquisition=str(uuid.uuid4()),
        name=name,
        height=height,
        width=width,
        dtype="uint8" if pixels.dtype.name == "uint8" else "uint16",
        raw="",
        output="",
        summary="{}",
        report=True,
        preview=True,
        first=first_of(tags),
    )


def _same(open_: Open | None, name: str, pixels: Pixels) -> bool:
    """Whether an image belongs to the current preview; live mode and snaps have different ones."""
    if open_ is None or open_.name != name:
        return False
    return (open_.height, open_.width) == pixels.shape and open_.dtype == pixels.dtype.name
