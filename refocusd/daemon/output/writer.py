"""One thread that owns the disk: sinks and ledgers of all open acquisitions."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from contextlib import ExitStack

import msgspec

from refocusd.config import Settings
from refocusd.daemon.events import (
    DiskFull,
    Finished,
    GivenUp,
    Mailbox,
    PreviewTaken,
    SinkOpened,
    Written,
)
from refocusd.daemon.output.dataset import LOOK_AT_DISK_S, Place
from refocusd.daemon.output.jobs import (
    CloseSink,
    NoteProfiles,
    OpenSink,
    Order,
    RecordOnly,
    WriteFrame,
    frame_metadata,
    state_of,
)
from refocusd.daemon.output.preview import Preview
from refocusd.errors import DiskFullError, RefocusdError, TransportError
from refocusd.frame import FinalState, Pixels, checksum
from refocusd.ledger import Attempt
from refocusd.profiles.applied import Applied
from refocusd.transport.messages import EngineInfo, Engines, FocusAdvice, FrameFacts, Open, Submit
from refocusd.transport.ring import SharedRing

__all__ = ["Writer"]

log = logging.getLogger(__name__)


class Writer:
    """Writes frames, then records them, then tells the broker: in that order.

    Parameters
    ----------
    settings : Settings
    ring : SharedRing
        Where the refocused pixels are.
    mailbox : Mailbox
        Of the broker.
    """

    def __init__(self, settings: Settings, ring: SharedRing, mailbox: Mailbox) -> None:
        self._settings = settings
        self._ring = ring
        self._mailbox = mailbox
        # Bounded by the ring's slots in practice; the limit is a backstop.
        self._orders: queue.Queue[Order | None] = queue.Queue(maxsize=100_000)
        #: Of acquisitions that are about to be opened.
        self._applied: dict[str, Applied] = {}
        self._places: dict[str, Place] = {}
        #: Acquisitions that are shown and written nowhere.
        self._previews: dict[str, Open] = {}
        #: Acquisitions whose disk is full.
        self._full: set[str] = set()
        #: The newest frame, for those who watch.
        self.preview = Preview()
        self._thread = threading.Thread(target=self._run, name="writer")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def open(self, open_: Open, run: str, engine: Engines) -> None:
        """Make room for an acquisition; answered by `SinkOpened`."""
        self._orders.put(OpenSink(open_, run, engine))

    def note_calibration(self, acquisition: str, applied: Applied) -> None:
        """Have the profiles of an acquisition noted beside its frames; said before `open`."""
        self._orders.put(NoteProfiles(acquisition, applied))

    def write(
        self,
        task: int,
        submit: Submit,
        checksum_: int,
        facts: FrameFacts,
        engine: EngineInfo,
        focus: FocusAdvice | None = None,
    ) -> None:
        """Write the refocused half of the frame's slot; answered by `Written` or `GivenUp`."""
        self._orders.put(WriteFrame(task, submit, checksum_, facts, engine, focus))

    def record(
        self,
        acquisition: str,
        axes: tuple[str, ...],
        state: FinalState,
        reason: str,
        *,
        task: int = 0,
        live: bool = True,
    ) -> None:
        """Record frames that have no pixels to write; answered by one `Written`."""
        self._orders.put(RecordOnly(task, acquisition, axes, state, reason, live))

    def finish(self, acquisition: str, acquired: int | None) -> None:
        """Close an acquisition's sink and ledger; answered by `Finished`.

        `acquired` is None for an acquisition that is not complete.
        """
        self._orders.put(CloseSink(acquisition, acquired))

    def stop(self, timeout_s: float) -> None:
        """Do what was ordered, close everything, end the thread."""
        if self._thread.is_alive():
            self._orders.put(None)
            self._thread.join(timeout_s)

    def _run(self) -> None:
        looked_at = time.monotonic()
        while True:
            if self._full and time.monotonic() - looked_at > LOOK_AT_DISK_S:
                looked_at = time.monotonic()
                self._look_for_room()
            try:
                order = self._orders.get(timeout=LOOK_AT_DISK_S if self._full else None)
            except queue.Empty:
                continue
            if order is None:
                break
            # Whatever is wrong with one order, the others are done: each answers by itself.
            try:
                self._do(order)
            except Exception as error:
                log.exception("the writer could not do %s", type(order).__name__)
                self._answer_failed(order, f"{type(error).__name__}: {error}")
        for acquisition in list(self._places):
            try:
                self._close(acquisition, None)
            except Exception:
                log.exception("closing acquisition %s", acquisition)

    def _do(self, order: Order) -> None:
        if isinstance(order, OpenSink):
            self._open(order)
        elif isinstance(order, NoteProfiles):
            self._applied[order.acquisition] = order.applied
        elif isinstance(order, WriteFrame):
            self._write(order)
        elif isinstance(order, RecordOnly):
            self._record(order)
        else:
            try:
                self._close(order.acquisition, order.acquired)
            finally:
                self._mailbox.put(Finished(order.acquisition))

    def _answer_failed(self, order: Order, error: str) -> None:
        """Nobody shall wait for an answer for ever."""
        if isinstance(order, WriteFrame):
            self._mailbox.put(GivenUp(order.task, order.submit.acquisition, error))
        elif isinstance(order, RecordOnly) and order.task:
            self._mailbox.put(GivenUp(order.task, order.acquisition, error))
        elif isinstance(order, RecordOnly):
            self._mailbox.put(Written(0, order.acquisition, order.axes, None))

    def _open(self, order: OpenSink) -> None:
        open_ = order.open
        applied = self._applied.pop(open_.acquisition, None)
        if open_.preview:
            self._previews[open_.acquisition] = open_
            self._mailbox.put(SinkOpened(open_.acquisition, ""))
            return
        try:
            with ExitStack() as undo:
                place = Place.make(self._settings, open_, order.run, order.engine, undo, applied)
                undo.pop_all()
        except Exception as error:  # noqa: BLE001 (told to the source; the others go on)
            known = isinstance(error, RefocusdError)
            reason = str(error) if known else f"{type(error).__name__}: {error}"
            self._mailbox.put(SinkOpened(open_.acquisition, "", error=reason))
            return
        self._places[open_.acquisition] = place
        output = str(place.sink.path)
        self._mailbox.put(SinkOpened(open_.acquisition, output, before=place.before))

    def _write(self, order: WriteFrame) -> None:
        submit, facts = order.submit, order.facts
        if preview := self._previews.get(submit.acquisition):
            self._only_show(preview, order)
            return
        place = self._places[submit.acquisition]
        if submit.axes in place.sink:
            # Retried after its first answer had got lost: written once is enough.
            self._mailbox.put(Written(order.task, submit.acquisition, (submit.axes,), None))
            return
        state, reason = state_of(order)
        try:
            if place.is_full():
                raise DiskFullError(  # the raw data needs what is left
                    f"less than {self._settings.reserve_mib} MiB are free beside {place.sink.path}"
                )
            self._write_pixels(place, order, state, reason)
        except DiskFullError as error:
            self._put_off(place, order, str(error))
            return
        except Exception as error:
            log.exception("frame %s of %s", submit.axes, place.open.name)
            state, reason = "failed", str(error) or type(error).__name__
        latency_ms = (time.perf_counter_ns() - submit.taken_ns) / 1e6
        attempt = Attempt(
            run=place.run,
            acquisition=submit.acquisition,
            axes=submit.axes,
            state=state,
            reason=reason,
            live=submit.live,
            latency_ms=latency_ms,
            engine_ms=facts.engine_ms,
            facts=msgspec.to_builtins(facts),
            checksum=order.checksum if state != "failed" else None,
            raw_checksum=submit.checksum,
        )
        replaces = self._append(place, [attempt])
        self._mailbox.put(
            Written(
                order.task,
                submit.acquisition,
                (submit.axes,),
                state,
                reason,
                replaces,
                latency_ms,
                facts,
            )
        )
        if state != "failed" and self.preview.due():
            self._show(place.open, order, state, latency_ms)

    def _only_show(self, open_: Open, order: WriteFrame) -> None:
        """A frame of a preview: for those who watch, not for the disk."""
        submit = order.submit
        state, reason = state_of(order)
        latency_ms = (time.perf_counter_ns() - submit.taken_ns) / 1e6
        if self.preview.due():
            self._show(open_, order, state, latency_ms)
        axes, facts = (submit.axes,), order.facts
        self._mailbox.put(
            Written(order.task, submit.acquisition, axes, state, reason, None, latency_ms, facts)
        )

    def _put_off(self, place: Place, order: WriteFrame, why: str) -> None:
        """The disk is full: raw has the frame, and it is caught up once there is room."""
        submit = order.submit
        if not place.open.raw:
            attempt = Attempt(
                place.run, submit.acquisition, submit.axes, "skipped", f"no raw: {why}", submit.live
            )
            replaces = self._append(place, [attempt])
            axes = (submit.axes,)
            self._mailbox.put(
                Written(order.task, submit.acquisition, axes, "skipped", attempt.reason, replaces)
            )
            return
        if submit.acquisition not in self._full:
            log.error("%s: %s is paused until there is room", why, place.open.name)
            place.full = True
            self._full.add(submit.acquisition)
            self._mailbox.put(DiskFull(submit.acquisition, full=True))
        self._mailbox.put(GivenUp(order.task, submit.acquisition))

    def _look_for_room(self) -> None:
        for acquisition in list(self._full):
            place = self._places.get(acquisition)
            try:
                full = place is not None and place.is_full()
            except OSError as error:  # a disk that was taken away
                log.error("%s: %s", acquisition, error)
                continue
            if not full:
                self._full.discard(acquisition)
                self._mailbox.put(DiskFull(acquisition, full=False))
                if place is not None:
                    log.info("there is room again: %s goes on", place.open.name)

    def _write_pixels(
        self, place: Place, order: WriteFrame, state: FinalState, reason: str
    ) -> None:
        submit = order.submit
        pixels = self._pixels(place.open, submit.slot.refocused_offset)
        if checksum(pixels) != order.checksum:
            raise TransportError("the refocused pixels changed on their way (checksum)")
        metadata = frame_metadata(place.run, order, state, reason)
        place.sink.write(pixels, json.loads(submit.axes), metadata)

    def _pixels(self, open_: Open, offset: int) -> Pixels:
        shape = (open_.height, open_.width)
        return self._ring.view(offset, shape, open_.dtype)  # type: ignore[return-value]

    def _show(self, open_: Open, order: WriteFrame, state: FinalState, latency_ms: float) -> None:
        slot = order.submit.slot
        self.preview.take(
            self._pixels(open_, slot.offset),
            self._pixels(open_, slot.refocused_offset),
            open_,
            order.submit,
            state,
            order.facts,
            latency_ms,
        )
        self._mailbox.put(PreviewTaken())

    def _record(self, order: RecordOnly) -> None:
        if order.acquisition in self._previews:
            self._mailbox.put(
                Written(order.task, order.acquisition, order.axes, order.state, order.reason)
            )
            return
        place = self._places[order.acquisition]
        # Named again after its first answer had got lost: what is done, stays done.
        fresh = tuple(
            axes
            for axes in dict.fromkeys(order.axes)
            if axes not in place.sink and axes not in place.skipped
        )
        attempts = [
            Attempt(place.run, order.acquisition, axes, order.state, order.reason, order.live)
            for axes in fresh
        ]
        replaced = sum(axes in place.failed for axes in fresh)
        replaces = self._append(place, attempts)
        self._mailbox.put(
            Written(
                order.task,
                order.acquisition,
                fresh,
                order.state if fresh else None,
                order.reason,
                replaces,
                replaced=replaced,
                known=len(order.axes) - len(fresh),
            )
        )

    def _append(self, place: Place, attempts: list[Attempt]) -> FinalState | None:
        """Record attempts; the state of the earlier attempt that a single one replaces."""
        replaces: FinalState | None = None
        for attempt in attempts:
            unwritten: tuple[tuple[FinalState, set[str]], ...]
            unwritten = (("failed", place.failed), ("skipped", place.skipped))
            for state, known in unwritten:
                if attempt.axes in known:
                    replaces = state
                    known.discard(attempt.axes)
                if attempt.state == state:
                    known.add(attempt.axes)
        try:
            place.ledger.record(attempts)
        except RefocusdError:
            # The frame itself is on disk with its metadata; the ledger can be rebuilt from it.
            place.unrecorded = True
            log.exception("the ledger of %s", place.open.name)
            return replaces
        try:
            place.copy_ledger()
        except RefocusdError:
            log.exception("the copy of the ledger of %s", place.open.name)
        return replaces

    def _close(self, acquisition: str, acquired: int | None) -> None:
        self._previews.pop(acquisition, None)
        if place := self._places.pop(acquisition, None):
            # What the ledger lacks, the next daemon puts right: the mark stays.
            off = place.unrecorded and bool(place.open.raw)
            place.close(None if off else acquired)
