"""One thread that owns the disk: sinks and ledgers of all open acquisitions."""

from __future__ import annotations

import json
import logging
import queue
import shutil
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from refocusd import __version__
from refocusd.config import Settings
from refocusd.daemon.mailbox import Finished, Mailbox, SinkOpened, Written
from refocusd.errors import InputError, OutputError, RefocusdError, TransportError
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
#: How often the free disk space is looked at, and the ledger copied beside the output.
LOOK_AT_DISK_S = 1.0
COPY_LEDGER_S = 60.0


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
    axes: tuple[str, ...]
    state: FinalState
    reason: str
    live: bool


@dataclass(frozen=True, slots=True)
class _CloseSink:
    acquisition: str
    acquired: int | None


@dataclass(slots=True)
class _Place:
    """An open acquisition on disk."""

    open: Open
    run: str
    engine: EngineInfo
    sink: Sink
    ledger: Ledger
    #: Frames whose latest attempt failed: a later one replaces it in the counts.
    failed: set[str] = field(default_factory=set)
    looked_at: float = 0.0
    copied_at: float = field(default_factory=time.monotonic)
    full: bool = False


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
        while (order := self._orders.get()) is not None:
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
        try:
            output = output_of(open_)
            with ExitStack() as undo:
                self._places[open_.acquisition] = self._place(order, output, undo)
                undo.pop_all()
        except Exception as error:  # noqa: BLE001 (told to the source; the others go on)
            known = isinstance(error, RefocusdError)
            reason = str(error) if known else f"{type(error).__name__}: {error}"
            self._mailbox.put(SinkOpened(open_.acquisition, "", error=reason))
            return
        self._mailbox.put(SinkOpened(open_.acquisition, str(output)))

    def _place(self, order: _OpenSink, output: Path, undo: ExitStack) -> _Place:
        open_ = order.open
        frame_nbytes = open_.height * open_.width * (2 if open_.dtype == "uint16" else 1)
        check_free_space(
            output,
            free_space_needed(frame_nbytes, open_.expected),
            self._settings.reserve_mib << 20,
        )
        summary = json.loads(open_.summary or "{}")
        if not isinstance(summary, dict):
            raise InputError("the summary metadata of an acquisition is a JSON object")
        made_by = {
            "version": __version__,
            "run": order.run,
            "acquisition": open_.acquisition,
            "raw": open_.raw,
            "engine": msgspec.to_builtins(order.engine),
        }
        ledger = undo.enter_context(
            Ledger(Path(self._settings.ledgers) / f"{open_.acquisition}.sqlite")
        )
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
        sink = undo.enter_context(NDTiffSink.create(output, {**summary, "refocusd": made_by}))
        (output / RUN_FILE).write_text(json.dumps(made_by, indent=1), encoding="utf-8")
        return _Place(open_, order.run, order.engine, sink, ledger)

    def _write(self, order: _WriteFrame) -> None:
        submit, facts = order.submit, order.facts
        place = self._places[submit.acquisition]
        if submit.axes in place.sink:
            # Retried after its first answer had got lost: written once is enough.
            self._mailbox.put(Written(order.task, submit.acquisition, (submit.axes,), None))
            return
        state: FinalState = "refocused" if facts.verdict == "refocused" else "passed_through"
        reason = "" if state == "refocused" else "already in focus"
        if place.engine.backend == "identity":
            reason = "identity engine"
        try:
            if self._is_full(place):
                state = "skipped"
                reason = f"disk reserve: less than {self._settings.reserve_mib} MiB left"
            else:
                self._write_pixels(place, order, state)
        except Exception as error:
            log.exception("frame %s of %s", submit.axes, place.open.name)
            state, reason = "failed", str(error) or type(error).__name__
        attempt = Attempt(
            run=place.run,
            acquisition=submit.acquisition,
            axes=submit.axes,
            state=state,
            reason=reason,
            live=submit.live,
            latency_ms=(time.perf_counter_ns() - submit.taken_ns) / 1e6,
            engine_ms=facts.engine_ms,
            facts=msgspec.to_builtins(facts),
        )
        replaces = self._append(place, [attempt])
        self._mailbox.put(
            Written(order.task, submit.acquisition, (submit.axes,), state, reason, replaces)
        )

    def _is_full(self, place: _Place) -> bool:
        """Whether the disk's reserve is touched: what is left belongs to the raw data."""
        now = time.monotonic()
        if now - place.looked_at > LOOK_AT_DISK_S:
            place.looked_at = now
            free = shutil.disk_usage(place.sink.path).free
            full = free < self._settings.reserve_mib << 20
            if full and not place.full:
                log.error(
                    "less than %d MiB are free beside %s: frames are skipped until there is room",
                    self._settings.reserve_mib,
                    place.sink.path,
                )
            place.full = full
        return place.full

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
            **_rounded(order.facts),
        }
        place.sink.write(pixels, json.loads(submit.axes), metadata)  # type: ignore[arg-type]

    def _record(self, order: _RecordOnly) -> None:
        place = self._places[order.acquisition]
        attempts = [
            Attempt(place.run, order.acquisition, axes, order.state, order.reason, order.live)
            for axes in order.axes
        ]
        replaces = self._append(place, attempts)
        self._mailbox.put(
            Written(order.task, order.acquisition, order.axes, order.state, order.reason, replaces)
        )

    def _append(self, place: _Place, attempts: list[Attempt]) -> FinalState | None:
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
            now = time.monotonic()
            if now - place.copied_at > COPY_LEDGER_S:
                place.copied_at = now
                place.ledger.copy_to(place.sink.path / LEDGER_COPY)
        except RefocusdError:
            # The frame itself is on disk with its metadata; the ledger can be rebuilt from it.
            log.exception("the ledger of %s", place.open.name)
        return replaces

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
