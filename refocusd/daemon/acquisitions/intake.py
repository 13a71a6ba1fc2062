"""Receives what sources and catch-ups send: acquisitions, frames, missed frames, and their end."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from dataclasses import dataclass, field

import msgspec
import numpy as np

from refocusd.config import WITHOUT_MODEL, Settings
from refocusd.daemon.acquisitions.checks import (
    channel_of,
    check_frame,
    check_miss,
    check_open,
    check_same,
    untrusted_of,
)
from refocusd.daemon.acquisitions.lifecycle import Lifecycle
from refocusd.daemon.acquisitions.saved_frames import SavedFrames
from refocusd.daemon.acquisitions.state import Acquisition, Lane, State
from refocusd.daemon.events import CatchUpFailed, LeftUnfinished, SavedFrameRead
from refocusd.daemon.output.jobs import RecordFrames
from refocusd.errors import InputError, RefocusdError, TransportError
from refocusd.models.bundle import load_bundle
from refocusd.profiles.applied import apply_profiles
from refocusd.profiles.catalogue import Catalogue
from refocusd.profiles.conformity import Trained
from refocusd.profiles.microscope_metadata import identity_metadata
from refocusd.transport import messages as wire
from refocusd.transport.ring import SharedRing

log = logging.getLogger(__name__)

#: Largest number of earlier daemons' acquisitions that are open at once.
MAX_PICKED_UP = 8
#: Largest size of the axes of missed frames that wait for the writer, in characters.  Missed frames need no
#: slot, which would limit their number; usual sources have far fewer.
MAX_MISSED_CHARS = 32 << 20
#: Largest number of acquisitions that are open at once, and of the characters of their metadata.
MAX_OPEN = 256
MAX_ANNOUNCED_CHARS = 64 << 20
#: Largest number of acquisitions that are counted although no frame of them could be read.
MAX_UNSEEN = 10_000

NO_RAW = "no raw data on disk: what live cannot do is skipped"


@dataclass
class Intake:
    """Receives acquisitions and frames from sources, and from our own catch-ups.

    Parameters
    ----------
    ring : SharedRing
    lifecycle : Lifecycle
    saved_frames : SavedFrames
    """

    ring: SharedRing
    lifecycle: Lifecycle
    saved_frames: SavedFrames
    #: Acquisitions of earlier daemons that are not picked up yet.
    _unfinished: deque[LeftUnfinished] = field(default_factory=deque)
    #: What the models were trained for, by channel.
    _trained: dict[str, Trained] = field(default_factory=dict)
    _said_no_raw: bool = False

    def __post_init__(self) -> None:
        self._catalogue = Catalogue(self.lifecycle.settings.calibrations)
        self._trained = trained_models(self.lifecycle.settings)

    def receive(
        self, identity: bytes, message: wire.Message, part: memoryview | None, *, trusted: bool
    ) -> None:
        """Process a message of a source, or of a trusted catch-up.

        Raises
        ------
        TransportError
            If it cannot be processed, with the reason.
        """
        match message:
            case wire.Open():
                self.open(identity, message, trusted=trusted)
            case wire.Submit():
                self.submit(identity, message, part)
            case wire.GiveBack():
                _, lane = self.lifecycle.acquisitions.of_peer(identity, message.acquisition)
                self.lifecycle.scheduler.given_back(lane, message.slots)
            case wire.Miss():
                self.miss(identity, message)
            case wire.Behind():
                self.behind(identity, message)
            case wire.Close():
                self.close(identity, message)
            case wire.Unseen():
                self.unseen(message)
            case _:
                raise TransportError(f"a source does not send {type(message).__name__}")

    # -- acquisitions -----------------------------------------------------------------------

    def open(self, identity: bytes, message: wire.Open, *, trusted: bool) -> None:
        """Open an acquisition that a source announces, or let a trusted catch-up join one."""
        if self.lifecycle.stopping:
            raise TransportError("the daemon is stopping")
        known = self.lifecycle.acquisitions.get(message.acquisition)
        try:
            if trusted:
                self._join_catch_up(known, identity)
            elif known is not None:
                self._return(known, identity, message)
            else:
                self._announce(identity, message)
        except InputError as error:
            self.lifecycle.send(identity, wire.Refused(str(error), message.acquisition), None)

    def _announce(self, identity: bytes, message: wire.Open) -> None:
        check_open(message)
        acquisition = Acquisition.announced(message, identity)
        held = self.lifecycle.acquisitions
        metadata = held.announced_chars + acquisition.announced_chars
        if len(held) >= MAX_OPEN or metadata > MAX_ANNOUNCED_CHARS:
            raise InputError(
                f"{len(held)} acquisitions with {held.announced_chars / 2**20:.0f} MiB of metadata are "
                "open already: close some, or restart the programs that left them open"
            )
        if not self.lifecycle.scheduler.fits(acquisition):
            raise InputError(
                f"a frame of {acquisition.frame_nbytes / 2**20:.1f} MiB, before and after, does "
                f"not fit into the ring of {self.lifecycle.settings.ring_mib} MiB; set a larger ring_mib "
                "(and source_mib)"
            )
        self._calibrate(acquisition)
        if not (message.raw or message.preview):
            acquisition.warnings.append(NO_RAW)
            # A warning only once, because one at every acquisition would hide new ones.
            log.log(
                logging.INFO if self._said_no_raw else logging.WARNING,
                "%s: %s",
                message.name,
                NO_RAW,
            )
            self._said_no_raw = True
        self.lifecycle.begin(acquisition)

    def _join_catch_up(self, acquisition: Acquisition | None, identity: bytes) -> None:
        if acquisition is None or not acquisition.state.catching_up or acquisition.catch_up:
            # A catch-up that was presumed to have failed must not take the place of the source.
            raise InputError("this catch-up is too late")
        acquisition.catch_up = Lane(identity, live=False)
        self.lifecycle.report_opened(acquisition, acquisition.catch_up)

    def _return(self, acquisition: Acquisition, identity: bytes, message: wire.Open) -> None:
        """Let a source continue that lost its link, or whose daemon was restarted."""
        check_same(acquisition.open, message)
        if acquisition.state is State.CLOSING:
            refused = wire.Refused("being closed; try again", acquisition.id, again=True)
            self.lifecycle.send(identity, refused, None)
            return
        log.info("the source of %s is back", acquisition.open.name)
        self.lifecycle.scheduler.reclaim(acquisition.live)
        acquisition.source_returned(identity)
        if acquisition.state.opened:
            self.lifecycle.report_opened(acquisition, acquisition.live)

    def left_unfinished(self, event: LeftUnfinished) -> None:
        """Queue an acquisition that an earlier daemon left, to be finished from its raw dataset."""
        self._unfinished.append(event)
        self.pick_up()

    def pick_up(self) -> None:
        """Pick up a few unfinished acquisitions at a time, because each needs files, a thread and slots."""
        while self._unfinished and self.lifecycle.acquisitions.picked_up < MAX_PICKED_UP:
            event = self._unfinished.popleft()
            try:
                self._pick_up(event.message, event.run)
            except RefocusdError as error:
                log.warning("%s was left unfinished: %s", event.message.name, error)

    def _pick_up(self, message: wire.Open, run: str) -> None:
        if message.acquisition in self.lifecycle.acquisitions or self.lifecycle.stopping:
            return
        if message.profiles is None:
            # It was left by a version without calibration profiles.
            message = msgspec.structs.replace(message, profiles=[])
        acquisition = Acquisition.left_unfinished(message)
        self._calibrate(acquisition)
        if run != self.lifecycle.run_of(acquisition):
            raise InputError(
                f"another model or other settings began it (run {run}); finish it with "
                "`refocusd resume`"
            )
        if not self.lifecycle.scheduler.fits(acquisition):
            raise InputError(
                f"its frames do not fit into the ring of {self.lifecycle.settings.ring_mib} MiB; start the "
                "daemon with a larger ring_mib (and source_mib)"
            )
        log.info("picking up %s, which an earlier daemon left unfinished", message.name)
        self.lifecycle.begin(acquisition)

    def _calibrate(self, acquisition: Acquisition) -> None:
        """Find the profiles that apply to an acquisition, and keep their ids with its announcement.

        Raises
        ------
        InputError
            If it was started with profiles that no longer exist, or its announcement is damaged.
        """
        message = acquisition.open
        try:
            metadata = msgspec.json.decode(message.first or "{}", type=dict[str, object])
        except (msgspec.MsgspecError, ValueError) as error:
            raise InputError(f"the metadata of the first frame are damaged: {error}") from error
        first = identity_metadata(metadata)
        itself = self.lifecycle.settings.self_calibrate and message.profiles is None
        applied = apply_profiles(
            self._catalogue,
            first,
            acquisition.shape,
            named=message.profiles,
            trained=self._trained,
            learned=self._catalogue.learned_lately(first) if itself else (),
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

    # -- frames -----------------------------------------------------------------------------

    def submit(self, identity: bytes, message: wire.Submit, part: memoryview | None) -> None:
        """Queue a frame whose pixels are in a slot, or are `part`, or are read from raw into a slot."""
        acquisition, lane = self.lifecycle.acquisitions.of_peer(identity, message.acquisition)
        if message.slot in lane.taken:
            # The slot was recalled long ago, and may belong to another frame now; if the source has written
            # over that one, the checksum shows it.
            refused = wire.Refused(
                f"slot {message.slot} was neither used nor given back: it was reclaimed",
                acquisition.id,
                again=True,
            )
            self.lifecycle.send(identity, refused, None)
            return
        if message.slot not in lane.granted:
            raise TransportError(f"slot {message.slot} is not yours to fill")
        check_frame(message)
        if message.saved and not (lane.live and acquisition.reads_raw):
            raise TransportError(f"frame {message.axes} is not on a disk that the daemon can read")
        if part is not None:
            self._fill(message, part)
        lane.spend(message.slot)
        if message.saved is None:
            self._queue(acquisition, lane, message)
        else:
            lane.in_flight += 1
            self.saved_frames.read(acquisition.open, message)

    def saved_frame_read(self, acquisition: Acquisition, event: SavedFrameRead) -> None:
        """Queue a frame that was read from raw; one that is not there yet is left to the catch-up."""
        lane, message = acquisition.live, event.frame
        lane.in_flight -= 1
        hangs = f"{acquisition.open.raw} does not answer: its frames are left to the catch-up"
        if event.hangs and hangs not in acquisition.warnings:
            acquisition.warnings.append(hangs)
            log.warning("%s: %s", acquisition.open.name, hangs)
        elif not event.hangs and hangs in acquisition.warnings:
            acquisition.warnings.remove(hangs)
            log.info("%s answers again", acquisition.open.raw)
        if event.error:
            log.info("frame %s is caught up later: %s", message.axes, event.error)
            acquisition.behind += 1
            acquisition.deferred += 1
            self.lifecycle.scheduler.recycle(acquisition, lane, message.slot)
        else:
            self._queue(acquisition, lane, message)
        self.lifecycle.settle(acquisition)

    def _queue(self, acquisition: Acquisition, lane: Lane, message: wire.Submit) -> None:
        acquisition.note_plane(message.axes)
        if message.live:
            self.lifecycle.last_live = time.monotonic()
            self.lifecycle.statistics.raw_nbytes += message.slot.nbytes
            # A frame that is sent twice counts once; one that the catch-up has submitted is not counted yet.
            acquisition.submitted += not acquisition.active.get(message.axes, False)
        if message.axes in acquisition.active:
            self.lifecycle.scheduler.recycle(acquisition, lane, message.slot)
            return
        channel, rule = channel_of(message, self.lifecycle.settings)
        task = self.lifecycle.acquisitions.begin_task(acquisition, lane, message, channel)
        if rule:
            # The frame keeps its slot until it is recorded, so that the ring limits how many frames wait.
            lane.in_flight += 1
            axes, live = (message.axes,), message.live
            self.lifecycle.writer.put(
                RecordFrames(acquisition.id, axes, "skipped", rule, task.number, live)
            )
            return
        task.untrusted = untrusted_of(message, self.lifecycle.settings)
        if oldest := self.lifecycle.scheduler.put(acquisition, task):
            self.lifecycle.give_up(acquisition, oldest)

    def _fill(self, message: wire.Submit, part: memoryview) -> None:
        slot = message.slot
        if part.nbytes != slot.nbytes:
            raise TransportError(f"{part.nbytes} bytes of pixels for a frame of {slot.nbytes}")
        view = self.ring.view(slot.offset, (1, slot.nbytes), "uint8")
        view[0] = np.frombuffer(part, np.uint8)

    def behind(self, identity: bytes, message: wire.Behind) -> None:
        """Count frames that the source itself leaves to the catch-up."""
        acquisition, _ = self.lifecycle.acquisitions.of_peer(identity, message.acquisition)
        acquisition.acquired = max(acquisition.acquired, message.acquired)
        if acquisition.open.raw:
            acquisition.behind += message.frames
            acquisition.deferred += message.frames

    def miss(self, identity: bytes, message: wire.Miss) -> None:
        """Record the reason for frames that will not come."""
        acquisition, lane = self.lifecycle.acquisitions.of_peer(identity, message.acquisition)
        if not acquisition.state.opened:
            raise TransportError(
                "frames can be reported as missed only while their acquisition is open"
            )
        check_miss(message)
        if self.lifecycle.acquisitions.missed_chars > MAX_MISSED_CHARS:
            raise TransportError("too many missed frames at once: wait until these are recorded")
        acquisition.missed += len(message.axes) if lane.live else 0
        axes, state, reason = tuple(message.axes), message.state, message.reason
        acquisition.recording(axes)
        self.lifecycle.writer.put(RecordFrames(acquisition.id, axes, state, reason, live=lane.live))

    def close(self, identity: bytes, message: wire.Close) -> None:
        """Close the lane of a peer that sends no more frames."""
        acquisition, lane = self.lifecycle.acquisitions.of_peer(identity, message.acquisition)
        acquisition.closed_by(lane, message.acquired)
        self.lifecycle.close_lane(acquisition, lane)

    def unseen(self, message: wire.Unseen) -> None:
        """Count and log, once, an acquisition that ran although no frame of it could be read."""
        unseen = self.lifecycle.statistics.unseen
        if message.acquisition not in unseen and len(unseen) < MAX_UNSEEN:
            unseen[message.acquisition] = message.says
            log.warning("%s", message.says)

    def lost(self, identity: bytes) -> None:
        """Close the acquisitions of a source that has disappeared; fail those of a catch-up."""
        for acquisition in self.lifecycle.acquisitions:
            if lane := acquisition.lane_of(identity):
                if not lane.live:
                    hangs = f"reading {acquisition.open.raw} takes too long: its disk hangs"
                    self.lifecycle.catch_up_failed(
                        acquisition, CatchUpFailed(acquisition.id, hangs)
                    )
                    continue
                log.warning("the source of %s is gone", acquisition.open.name)
                if not acquisition.open.raw:
                    acquisition.incomplete = "its source is gone, and there is no raw data"
                self.lifecycle.close_lane(acquisition, lane)


def trained_models(settings: Settings) -> dict[str, Trained]:
    """What the models of the settings were trained for, by channel.

    Raises
    ------
    BundleError
        If a model's bundle cannot be loaded.
    """
    if settings.backend in WITHOUT_MODEL:
        return {}
    return {
        channel: Trained(name, load_bundle(name).trained)
        for channel, name in settings.models.items()
    }
