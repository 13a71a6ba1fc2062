"""One thread that owns the disk: sinks and ledgers of all open acquisitions."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import msgspec

from refocusd import __version__
from refocusd.config import Settings
from refocusd.daemon.mailbox import (
    DiskFull,
    Finished,
    GivenUp,
    Mailbox,
    PreviewTaken,
    SinkOpened,
    Written,
)
from refocusd.daemon.place import LOOK_AT_DISK_S, Place
from refocusd.daemon.preview import Preview
from refocusd.errors import DiskFullError, OutputError, RefocusdError, TransportError
from refocusd.frame import Pixels
from refocusd.ledger import Attempt
from refocusd.transport.messages import EngineInfo, FinalState, FrameFacts, Open, Submit
from refocusd.transport.ring import SharedRing, checksum

__all__ = ["Writer"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _OpenSink:
    open: Open
    run: str
    engine: EngineInfo


@dataclass(frozen=True, slots=True)
class _WriteFrame:
    task: int
    submit: Submit
    checksum: int
    facts: FrameFacts
    engine: EngineInfo


@dataclass(frozen=True, slots=True)
class _RecordOnly:
    task: int
    acquisition: str
    axes: tuple[str, ...]
    state: FinalState
    reason: str
    live: bool


@dataclass(frozen=True, slots=True)
class _CloseSink:
    acquisition: str
    acquired: int | None


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
        self._orders: queue.Queue[_OpenSink | _WriteFrame | _RecordOnly | _CloseSink | None] = (
            queue.Queue(maxsize=100_000)
        )
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

    def open(self, open_: Open, run: str, engine: EngineInfo) -> None:
        """Make room for an acquisition; answered by `SinkOpened`."""
        self._orders.put(_OpenSink(open_, run, engine))

    def write(
        self, task: int, submit: Submit, checksum_: int, facts: FrameFacts, engine: EngineInfo
    ) -> None:
        """Write the refocused half of the frame's slot; answered by `Written` or `GivenUp`."""
        self._orders.put(_WriteFrame(task, submit, checksum_, facts, engine))

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
        self._orders.put(_RecordOnly(task, acquisition, axes, state, reason, live))

    def finish(self, acquisition: str, acquired: int | None) -> None:
        """Close an acquisition's sink and ledger; answered by `Finished`.

        `acquired` is None for an acquisition that is not complete.
        """
        self._orders.put(_CloseSink(acquisition, acquired))

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
            if isinstance(order, _OpenSink):
                self._open(order)
            elif isinstance(order, _WriteFrame):
                self._write(order)
            elif isinstance(order, _RecordOnly):
                self._record(order)
            else:
                self._close(order.acquisition, order.acquired)
                self._mailbox.put(Finished(order.acquisition))
        for acquisition in list(self._places):
            self._close(acquisition, None)

    def _open(self, order: _OpenSink) -> None:
        open_ = order.open
        if open_.preview:
            self._previews[open_.acquisition] = open_
            self._mailbox.put(SinkOpened(open_.acquisition, ""))
            return
        try:
            with ExitStack() as undo:
                place = Place.make(self._settings, open_, order.run, order.engine, undo)
                undo.pop_all()
        except Exception as error:  # noqa: BLE001 (told to the source; the others go on)
            known = isinstance(error, RefocusdError)
            reason = str(error) if known else f"{type(error).__name__}: {error}"
            self._mailbox.put(SinkOpened(open_.acquisition, "", error=reason))
            return
        self._places[open_.acquisition] = place
        output = str(place.sink.path)
        self._mailbox.put(SinkOpened(open_.acquisition, output, before=place.before))

    def _write(self, order: _WriteFrame) -> None:
        submit, facts = order.submit, order.facts
        if preview := self._previews.get(submit.acquisition):
            self._only_show(preview, order)
            return
        place = self._places[submit.acquisition]
        if submit.axes in place.sink:
            # Retried after its first answer had got lost: written once is enough.
            self._mailbox.put(Written(order.task, submit.acquisition, (submit.axes,), None))
            return
        state, reason = _state_of(order)
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

    def _only_show(self, open_: Open, order: _WriteFrame) -> None:
        """A frame of a preview: for those who watch, not for the disk."""
        submit = order.submit
        state, reason = _state_of(order)
        latency_ms = (time.perf_counter_ns() - submit.taken_ns) / 1e6
        if self.preview.due():
            self._show(open_, order, state, latency_ms)
        axes, facts = (submit.axes,), order.facts
        self._mailbox.put(
            Written(order.task, submit.acquisition, axes, state, reason, None, latency_ms, facts)
        )

    def _put_off(self, place: Place, order: _WriteFrame, why: str) -> None:
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
            if place is None or not place.is_full():
                self._full.discard(acquisition)
                self._mailbox.put(DiskFull(acquisition, full=False))
                if place is not None:
                    log.info("there is room again: %s goes on", place.open.name)

    def _write_pixels(
        self, place: Place, order: _WriteFrame, state: FinalState, reason: str
    ) -> None:
        submit, engine = order.submit, order.engine
        pixels = self._pixels(place.open, submit.slot.refocused_offset)
        if checksum(pixels) != order.checksum:
            raise TransportError("the refocused pixels changed on their way (checksum)")
        metadata = _metadata(submit.metadata)
        metadata["refocusd"] = {
            "version": __version__,
            "run": place.run,
            "model": engine.model_id,
            "model_sha256": engine.model_sha256,
            "engine": engine.key,
            "precision": engine.precision,
            "state": state,
            "reason": reason,
            "live": submit.live,
            "latency_ms": round((time.perf_counter_ns() - submit.taken_ns) / 1e6, 3),
            "calibration": None,  # no profile: the documented defaults apply
            "checksum": order.checksum,
            "raw_checksum": submit.checksum,
            **_rounded(order.facts),
        }
        place.sink.write(pixels, json.loads(submit.axes), metadata)

    def _pixels(self, open_: Open, offset: int) -> Pixels:
        shape = (open_.height, open_.width)
        return self._ring.view(offset, shape, open_.dtype)  # type: ignore[return-value]

    def _show(self, open_: Open, order: _WriteFrame, state: FinalState, latency_ms: float) -> None:
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

    def _record(self, order: _RecordOnly) -> None:
        if order.acquisition in self._previews:
            self._mailbox.put(
                Written(order.task, order.acquisition, order.axes, order.state, order.reason)
            )
            return
        place = self._places[order.acquisition]
        attempts = [
            Attempt(place.run, order.acquisition, axes, order.state, order.reason, order.live)
            for axes in order.axes
        ]
        replaces = self._append(place, attempts)
        self._mailbox.put(
            Written(order.task, order.acquisition, order.axes, order.state, order.reason, replaces)
        )

    def _append(self, place: Place, attempts: list[Attempt]) -> FinalState | None:
        """Record attempts; the state of the earlier attempt that a single one replaces."""
        replaces: FinalState | None = None
        for attempt in attempts:
            if attempt.axes in place.failed:
                replaces = "failed"
            if attempt.state == "failed":
                place.failed.add(attempt.axes)
            else:
                place.failed.discard(attempt.axes)
        try:
            place.ledger.record(attempts)
            place.copy_ledger()
        except RefocusdError:
            # The frame itself is on disk with its metadata; the ledger can be rebuilt from it.
            log.exception("the ledger of %s", place.open.name)
        return replaces

    def _close(self, acquisition: str, acquired: int | None) -> None:
        self._previews.pop(acquisition, None)
        if place := self._places.pop(acquisition, None):
            place.close(acquired)


def _state_of(order: _WriteFrame) -> tuple[FinalState, str]:
    """The final state of a frame that a worker has done, and why."""
    refocused = order.facts.verdict == "refocused"
    if order.engine.backend == "identity":
        return "refocused" if refocused else "passed_through", "identity engine"
    return ("refocused", "") if refocused else ("passed_through", "already in focus")


def _rounded(facts: FrameFacts) -> dict[str, Any]:
    """The facts as plain values, floats to six significant digits."""
    return {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in msgspec.structs.asdict(facts).items()
    }


def _metadata(text: str) -> dict[str, Any]:
    try:
        metadata = json.loads(text or "{}")
    except ValueError as error:
        raise OutputError(f"the frame's metadata is not JSON: {error}") from error
    return metadata if isinstance(metadata, dict) else {"metadata": metadata}
