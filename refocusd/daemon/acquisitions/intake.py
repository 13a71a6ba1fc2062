"""What sources say: acquisitions are opened, frames handed in, missed, closed."""

from __future__ import annotations

import itertools
import json
import logging
import time

import msgspec
import numpy as np

from refocusd.config import Settings
from refocusd.daemon.acquisitions.checks import channels_of, check_frame, check_open, check_same
from refocusd.daemon.acquisitions.lifecycle import Course
from refocusd.daemon.acquisitions.state import Acquisition, Lane, Task
from refocusd.daemon.output.writer import Writer
from refocusd.daemon.workers.pool import Send
from refocusd.errors import InputError, TransportError
from refocusd.models.bundle import load_bundle
from refocusd.profiles.applied import apply_profiles
from refocusd.profiles.catalogue import Catalogue
from refocusd.profiles.conformity import Trained
from refocusd.profiles.microscope_metadata import identity_metadata
from refocusd.transport import messages as wire
from refocusd.transport.ring import SharedRing

__all__ = ["Desk"]

log = logging.getLogger(__name__)


class Desk:
    """Takes in what sources, and our own catch-ups, hand over.

    Parameters
    ----------
    settings : Settings
    ring : SharedRing
    writer : Writer
    send : callable
        Sends a message to a peer.
    course : Course
        The open acquisitions, and what happens to their frames.
    """

    def __init__(
        self, settings: Settings, ring: SharedRing, writer: Writer, send: Send, course: Course
    ) -> None:
        self._settings = settings
        self._ring = ring
        self._writer = writer
        self._send = send
        self._course = course
        self._catalogue = Catalogue(settings.calibrations)
        #: What the models were trained for, by channel.
        self._trained: dict[str, Trained] = {}
        if settings.backend != "identity":
            self._trained = {
                channel: Trained(name, load_bundle(name).trained)
                for channel, name in settings.models.items()
            }
        self._open = course.open
        self._queues = course.queues
        self._numbers = itertools.count(1)

    def open(self, identity: bytes, message: wire.Open, *, trusted: bool) -> None:
        """A source announces an acquisition; a trusted one may be our own catch-up of it."""
        known = self._open.get(message.acquisition)
        try:
            if trusted:
                if known is None or not known.catching or known.catch_up is not None:
                    # One that was taken for failed: it must not pass for the source.
                    raise InputError("this catch-up comes too late")
                self._join_catch_up(known, identity)
                return
            if known is not None:
                self._take_over(known, identity, message)
                return
            check_open(message)
            acquisition = Acquisition(message, identity, Lane(identity, live=True))
            if not self._queues.fits(acquisition):
                raise InputError(
                    f"a frame of {acquisition.frame_nbytes / 2**20:.1f} MiB, before and after, does "
                    f"not fit into the ring of {self._settings.ring_mib} MiB; set a larger ring_mib "
                    "(and source_mib)"
                )
            self._calibrate(acquisition)
        except InputError as error:
            self._send(identity, wire.Refused(str(error), message.acquisition), None)
            return
        self._enter(acquisition)

    def pick_up(self, message: wire.Open, run: str) -> None:
        """An acquisition that an earlier daemon left: finish it from its raw dataset."""
        if message.acquisition in self._open or self._course.stopping:
            return
        if message.profiles is None:
            # Of a refocusd that knew no profiles.
            message = msgspec.structs.replace(message, profiles=[])
        acquisition = Acquisition(message, b"", Lane(b"", live=True, closed=True))
        try:
            self._calibrate(acquisition)
        except InputError as error:
            log.warning("%s was left unfinished: %s", message.name, error)
            return
        if run != self._course.run_of(acquisition):
            log.warning(
                "%s was left unfinished by another model or other settings (run %s): finish it with "
                "`refocusd resume`",
                message.name,
                run,
            )
            return
        if not self._queues.fits(acquisition):
            log.warning(
                "%s was left unfinished, and its frames do not fit into the ring of %d MiB: start "
                "the daemon with a larger ring_mib (and source_mib)",
                message.name,
                self._settings.ring_mib,
            )
            return
        log.info("picking up %s, which an earlier daemon left unfinished", message.name)
        self._enter(acquisition)

    def _calibrate(self, acquisition: Acquisition) -> None:
        """Find the profiles that apply to it, and keep their ids with its announcement.

        Raises
        ------
        InputError
            If it was begun with profiles that are not there any more, or its announcement is
            damaged.
        """
        message = acquisition.open
        try:
            told = msgspec.json.decode(message.first or "{}", type=dict[str, object])
        except (msgspec.MsgspecError, ValueError) as error:
            raise InputError(f"the metadata of the first frame are damaged: {error}") from error
        first = identity_metadata(told)
        applied = apply_profiles(
            self._catalogue,
            first,
            (message.height, message.width),
            named=message.profiles,
            trained=self._trained,
        )
        acquisition.applied = applied
        acquisition.open = msgspec.structs.replace(
            message, first=json.dumps(first), profiles=applied.selection.ids
        )
        acquisition.warnings += applied.warnings
        for warning in applied.warnings:
            log.warning("%s: %s", message.name, warning)
        for note in applied.notes:
            log.info("%s: %s", message.name, note)

    def _enter(self, acquisition: Acquisition) -> None:
        about = acquisition.open
        if not (about.raw or about.preview) and acquisition.source:
            acquisition.warnings.append("no raw data on disk: what live cannot do is skipped")
            log.warning("%s: %s", acquisition.open.name, acquisition.warnings[-1])
        self._course.enter(acquisition)

    def _join_catch_up(self, acquisition: Acquisition, identity: bytes) -> None:
        acquisition.catch_up = Lane(identity, live=False)
        self._course.tell_opened(acquisition, identity)
        self._queues.grant(acquisition, acquisition.catch_up)

    def _take_over(self, acquisition: Acquisition, identity: bytes, message: wire.Open) -> None:
        """The source lost its link, or the daemon was restarted: it goes on where it was."""
        check_same(acquisition.open, message)
        if acquisition.finishing:
            refused = wire.Refused("being closed; try again", acquisition.id, again=True)
            self._send(identity, refused, None)
            return
        log.info("the source of %s is back", acquisition.open.name)
        lane = acquisition.live
        self._queues.take_back_granted(lane)
        lane.peer = acquisition.source = identity
        lane.closed = False
        acquisition.caught_up = acquisition.told_end = False
        acquisition.incomplete = ""
        if acquisition.opened:
            self._course.tell_opened(acquisition, identity)
            self._queues.grant(acquisition, lane)

    def submit(self, identity: bytes, message: wire.Submit, part: memoryview | None) -> None:
        """A frame lies in a slot: queue it."""
        acquisition, lane = self._of(identity, message.acquisition)
        if message.slot not in lane.granted:
            raise TransportError(f"slot {message.slot} is not yours to fill")
        check_frame(message)
        if part is not None:
            if part.nbytes != message.slot.nbytes:
                raise TransportError(
                    f"{part.nbytes} bytes of pixels for a frame of {message.slot.nbytes}"
                )
            view = self._ring.view(message.slot.offset, (1, message.slot.nbytes), "uint8")
            view[0] = np.frombuffer(part, np.uint8)
        lane.granted.remove(message.slot)
        if message.live:
            self._course.last_live = time.monotonic()
            self._course.statistics.raw_nbytes += message.slot.nbytes
            # Sent twice it is still one frame; where the catch-up has it, it is not counted yet.
            acquisition.submitted += not acquisition.active.get(message.axes, False)
        if message.axes in acquisition.active:
            self._queues.recycle(acquisition, lane, message.slot)
            return
        channel, rule = self._of_channel(message)
        if rule:
            acquisition.records += 1
            axes = (message.axes,)
            self._writer.record(acquisition.id, axes, "skipped", rule, live=message.live)
            self._queues.recycle(acquisition, lane, message.slot)
            return
        task = Task(next(self._numbers), acquisition.id, message, lane, channel)
        self._course.tasks[task.number] = task
        acquisition.active[message.axes] = message.live
        if oldest := self._queues.put(acquisition, task):
            self._course.give_up(acquisition, oldest)

    def _of_channel(self, message: wire.Submit) -> tuple[str, str]:
        """A frame's channel, if it has a model of its own, and the rule by which it is skipped."""
        settings = self._settings
        if not (settings.skip_channels or settings.channel_models):
            return "", ""
        named = channels_of(message)
        skipped = next((name for name in named if name in settings.skip_channels), "")
        if skipped:
            return "", f"channel {skipped} is not refocused (skip_channels)"
        return next((name for name in named if name in settings.models), ""), ""

    def behind(self, identity: bytes, message: wire.Behind) -> None:
        """Frames that the source itself leaves to the catch-up."""
        acquisition, _ = self._of(identity, message.acquisition)
        if acquisition.open.raw:
            acquisition.behind += message.frames
            acquisition.deferred += message.frames
            acquisition.acquired = max(acquisition.acquired, message.acquired)

    def miss(self, identity: bytes, message: wire.Miss) -> None:
        """Frames will not come: the ledger says why."""
        acquisition, lane = self._of(identity, message.acquisition)
        if not acquisition.opened:
            raise TransportError("an acquisition must be open before frames of it are missed")
        axes = tuple(message.axes)
        acquisition.missed += len(axes) if lane.live else 0
        acquisition.records += 1
        self._writer.record(acquisition.id, axes, message.state, message.reason, live=lane.live)

    def close(self, identity: bytes, message: wire.Close) -> None:
        """No more frames come from this peer."""
        acquisition, lane = self._of(identity, message.acquisition)
        acquisition.acquired = max(acquisition.acquired, message.acquired)
        # A catch-up that began before the last frame does not know the end.
        acquisition.told_end |= lane.live or acquisition.caught_up
        if acquisition.closing and acquisition.caught_up and not lane.live:
            # Raw has been counted: what live counted, frames sent twice included, is superseded.
            acquisition.acquired = message.acquired
            acquisition.submitted = acquisition.missed = 0
        self._course.close_lane(acquisition, lane)

    def lost(self, identity: bytes) -> None:
        """A source is gone without a word: its acquisitions are closed for it."""
        for acquisition in list(self._open.values()):
            lane = acquisition.lane_of(identity)
            if lane is None:
                continue
            log.warning("the source of %s is gone", acquisition.open.name)
            if not acquisition.open.raw:
                acquisition.incomplete = "its source is gone, and there is no raw data"
            self._course.close_lane(acquisition, lane)

    def _of(self, identity: bytes, key: str) -> tuple[Acquisition, Lane]:
        acquisition = self._open.get(key)
        lane = acquisition.lane_of(identity) if acquisition else None
        if acquisition is None or lane is None:
            raise TransportError(f"acquisition {key} is not open for this peer (any more)")
        return acquisition, lane
