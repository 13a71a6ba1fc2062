"""One thread that owns the disk: sinks and ledgers of all open acquisitions."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from refocusd import __version__
from refocusd.config import Settings
from refocusd.daemon.mailbox import Finished, Mailbox, SinkOpened, Written
from refocusd.errors import OutputError, RefocusdError, TransportError
from refocusd.ledger import Attempt, Ledger
from refocusd.sinks.ndtiff import NDTiffSink
from refocusd.sinks.sink import Sink
from refocusd.sinks.space import check_free_space, free_space_needed
from refocusd.transport.messages import EngineInfo, FinalState, FrameFacts, Open, Submit
from refocusd.transport.ring import SharedRing, checksum

__all__ = ["LEDGER_COPY", "RUN_FILE", "Writer", "output_of"]

log = logging.getLogger(__name__)

#: Beside the refocused frames: the ledger's copy, and what made them.
LEDGER_COPY = "refocusd-ledger.sqlite"
RUN_FILE = "refocusd.json"


def output_of(open_: Open) -> Path:
    """Where an acquisition's refocused dataset goes: ``<raw>_refocused`` unless named."""
    if open_.output:
        return Path(open_.output)
    raw = Path(open_.raw)
    return raw.with_name(raw.name + "_refocused")


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


@dataclass(frozen=True, slots=True)
class _RecordOnly:
    task: int
    acquisition: str
    axes: str
    state: FinalState
    reason: str
    live: bool


@dataclass(frozen=True, slots=True)
class _CloseSink:
    acquisition: str
    acquired: int


@dataclass(slots=True)
class _Place:
    """An open acquisition on disk."""

    open: Open
    run: str
    engine: EngineInfo
    sink: Sink
    ledger: Ledger


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
        self._places: dict[str, _Place] = {}
        self._thread = threading.Thread(target=self._run, name="writer")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def open(self, open_: Open, run: str, engine: EngineInfo) -> None:
        """Make room for an acquisition; answered by `SinkOpened`."""
        self._orders.put(_OpenSink(open_, run, engine))

    def write(self, task: int, submit: Submit, checksum_: int, facts: FrameFacts) -> None:
        """Write the refocused half of the frame's slot; answered by `Written`."""
        self._orders.put(_WriteFrame(task, submit, checksum_, facts))

    def record(
        self, task: int, acquisition: str, axes: str, state: FinalState, reason: str, *, live: bool
    ) -> None:
        """Record a frame that has no pixels to write; answered by `Written`."""
        self._orders.put(_RecordOnly(task, acquisition, axes, state, reason, live))

    def finish(self, acquisition: str, acquired: int) -> None:
        """Close an acquisition's sink and ledger; answered by `Finished`."""
        self._orders.put(_CloseSink(acquisition, acquired))

    def stop(self, timeout_s: float) -> None:
        """Do what was ordered, close everything, end the thread."""
        if self._thread.is_alive():
            self._orders.put(None)
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while (order := self._orders.get()) is not None:
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
        output = output_of(open_)
        ledger: Ledger | None = None
        try:
            frame_nbytes = open_.height * open_.width * (2 if open_.dtype == "uint16" else 1)
            check_free_space(
                output,
                free_space_needed(frame_nbytes, open_.expected),
                self._settings.reserve_mib << 20,
            )
            ledger = Ledger(Path(self._settings.ledgers) / f"{open_.acquisition}.sqlite")
            summary: dict[str, Any] = json.loads(open_.summary or "{}")
            summary["refocusd"] = {
                "version": __version__,
                "run": order.run,
                "acquisition": open_.acquisition,
                "raw": open_.raw,
                "engine": msgspec.to_builtins(order.engine),
            }
            sink = NDTiffSink.create(output, summary)
            ledger.begin_run(
                order.run,
                version=__version__,
                engine=msgspec.json.encode(order.engine).decode(),
                settings=msgspec.json.encode(self._settings).decode(),
            )
            ledger.open_acquisition(
                open_.acquisition,
                name=open_.name,
                raw=open_.raw,
                output=str(output),
                shape=(open_.height, open_.width),
                dtype=open_.dtype,
            )
            (output / RUN_FILE).write_text(
                json.dumps(summary["refocusd"], indent=1), encoding="utf-8"
            )
        except (RefocusdError, OSError, ValueError) as error:
            if ledger is not None:
                ledger.close()
            self._mailbox.put(SinkOpened(open_.acquisition, str(output), error=str(error)))
            return
        self._places[open_.acquisition] = _Place(open_, order.run, order.engine, sink, ledger)
        self._mailbox.put(SinkOpened(open_.acquisition, str(output)))

    def _write(self, order: _WriteFrame) -> None:
        submit, facts = order.submit, order.facts
        place = self._places[submit.acquisition]
        if submit.axes in place.sink:
            # Retried after its first answer had got lost: written once is enough.
            self._mailbox.put(Written(order.task, submit.acquisition, submit.axes, None))
            return
        state: FinalState = "refocused" if facts.verdict == "refocused" else "passed_through"
        reason = "" if state == "refocused" else "already in focus"
        if place.engine.backend == "identity":
            reason = "identity engine"
        try:
            self._write_pixels(place, order, state)
        except RefocusdError as error:
            log.error("frame %s of %s: %s", submit.axes, place.open.name, error)
            state, reason = "failed", str(error)
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
        )
        self._append(place, attempt)
        self._mailbox.put(Written(order.task, submit.acquisition, submit.axes, state, reason))

    def _write_pixels(self, place: _Place, order: _WriteFrame, state: FinalState) -> None:
        submit, open_ = order.submit, place.open
        shape = (open_.height, open_.width)
        pixels = self._ring.view(submit.slot.refocused_offset, shape, open_.dtype)
        if checksum(pixels) != order.checksum:
            raise TransportError("the refocused pixels changed on their way (checksum)")
        metadata = _metadata(submit.metadata)
        metadata["refocusd"] = {
            "version": __version__,
            "run": place.run,
            "model": place.engine.model_id,
            "model_sha256": place.engine.model_sha256,
            "engine": place.engine.key,
            "precision": place.engine.precision,
            "state": state,
            "live": submit.live,
            "latency_ms": round((time.perf_counter_ns() - submit.taken_ns) / 1e6, 3),
            "calibration": None,  # no profile: the documented defaults apply
            **asdict_rounded(order.facts),
        }
        place.sink.write(pixels, json.loads(submit.axes), metadata)  # type: ignore[arg-type]

    def _record(self, order: _RecordOnly) -> None:
        place = self._places[order.acquisition]
        attempt = Attempt(
            run=place.run,
            acquisition=order.acquisition,
            axes=order.axes,
            state=order.state,
            reason=order.reason,
            live=order.live,
        )
        self._append(place, attempt)
        self._mailbox.put(
            Written(order.task, order.acquisition, order.axes, order.state, order.reason)
        )

    def _append(self, place: _Place, attempt: Attempt) -> None:
        try:
            place.ledger.record([attempt])
        except RefocusdError:
            # The frame itself is on disk with its metadata; the ledger can be rebuilt from it.
            log.exception("frame %s of %s is not in the ledger", attempt.axes, place.open.name)

    def _close(self, acquisition: str, acquired: int | None) -> None:
        place = self._places.pop(acquisition, None)
        if place is None:
            return
        try:
            place.sink.close()
            if acquired is not None:
                place.ledger.close_acquisition(acquisition, acquired)
            place.ledger.copy_to(place.sink.path / LEDGER_COPY)
        except (RefocusdError, OSError):
            log.exception("closing %s", place.sink.path)
        finally:
            place.ledger.close()


def asdict_rounded(facts: FrameFacts) -> dict[str, Any]:
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
