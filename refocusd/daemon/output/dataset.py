"""An open acquisition on disk: its refocused frames and its ledger."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec

from refocusd import __version__
from refocusd.config import Settings
from refocusd.daemon.events import FramesWritten
from refocusd.daemon.output.folder import choose_folder, write_run_file
from refocusd.daemon.output.jobs import OpenOutput, RecordFrames, WriteFrame
from refocusd.daemon.output.metadata import frame_metadata
from refocusd.datasets.run_folder import LEDGER_COPY, notes_of
from refocusd.errors import DiskFullError, InputError, LedgerError, RefocusdError
from refocusd.formats.disk_space import check_free_space, free_space_needed
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.open_sink import append_sink, create_sink
from refocusd.formats.sink import Sink
from refocusd.frame import FinalState, Pixels
from refocusd.ledger import (
    WRITTEN,
    Attempt,
    Ledger,
    ledger_path,
    mark_open,
    rebuild,
    restore_ledger,
    unmark,
)
from refocusd.transport.messages import Open

__all__ = ["OutputDataset"]

log = logging.getLogger(__name__)

#: How often the free disk space is checked, and the ledger copied beside the output.
CHECK_DISK_S = 1.0
COPY_LEDGER_S = 60.0


@dataclass(slots=True)
class OutputDataset:
    """Refocused frames and ledger of one acquisition; belongs to the writer's thread."""

    message: Open
    run: str
    sink: Sink
    ledger: Ledger
    reserve_nbytes: int
    ledgers: str
    #: Frames by final state that were there when it was opened.
    before: dict[FinalState, int] = field(default_factory=dict)
    #: Axes of frames whose latest attempt was not written: a later attempt replaces it.
    failed: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    #: The ledger could not be written once, so it is not complete.
    unrecorded: bool = False
    full: bool = False
    checked_at: float = 0.0
    copied_at: float = field(default_factory=time.monotonic)
    copying: threading.Thread | None = None

    # -- open and close -----------------------------------------------------------------

    @classmethod
    def open(cls, settings: Settings, job: OpenOutput) -> Self:
        """Create an acquisition's dataset, or go on with what exists of the same run.

        Raises
        ------
        InputError, LedgerError, OutputError
        """
        message, run = job.open, job.run
        summary = json.loads(message.summary or "{}")
        if not isinstance(summary, dict):
            raise InputError("the summary metadata of an acquisition is a JSON object")
        made = _made(settings, job)
        output, exists = choose_folder(settings, message, run)
        mark = msgspec.json.encode({**msgspec.structs.asdict(message), "run": run})
        mark_open(settings.ledgers, mark, message.acquisition)
        reserve_nbytes = settings.reserve_mib << 20
        frame_nbytes = message.height * message.width * (2 if message.dtype == "uint16" else 1)
        needed = 0 if exists else free_space_needed(frame_nbytes, message.expected)
        check_free_space(output, needed, reserve_nbytes)
        with ExitStack() as undo:
            if exists:
                sink = undo.enter_context(append_sink(output))
                copy = notes_of(output) / LEDGER_COPY
                for done in restore_ledger(settings.ledgers, message.acquisition, copy):
                    log.warning("%s", done)
            else:
                about = {**summary, "refocusd": made}
                sink = undo.enter_context(create_sink(settings.sink, output, about))
            write_run_file(output, made)
            ledger = undo.enter_context(Ledger(ledger_path(settings.ledgers, message.acquisition)))
            _begin(ledger, settings, job, output)
            dataset = cls(message, run, sink, ledger, reserve_nbytes, settings.ledgers)
            if exists:
                dataset._repair()
            dataset._load_states()
            undo.pop_all()
        return dataset

    def _repair(self) -> None:
        """Record frames that a killed writer had written, and not recorded yet."""
        with open_dataset(self.sink.path) as frames:
            known = self.ledger.final_states(self.run, self.message.acquisition)
            lost = [key for key in frames.axes_keys() if known.get(key, "failed") == "failed"]
            if lost:
                found = ((key, frames.read(key).metadata) for key in lost)
                rebuild(self.ledger, self.run, self.message.acquisition, found)

    def _load_states(self) -> None:
        """Frames with a final state; not those whose pixels a deleted folder or power cut took."""
        states = self.ledger.final_states(self.run, self.message.acquisition)
        self.failed = {key for key, state in states.items() if state == "failed"}
        self.skipped = {key for key, state in states.items() if state == "skipped"}
        unwritten = self.failed | self.skipped
        ended = {k: state for k, state in states.items() if k in unwritten or k in self.sink}
        self.before = dict(Counter(ended.values()))  # type: ignore[assignment]
        if gone := len(states) - len(ended):
            log.warning("%s: %d frames are in the ledger only", self.sink.path, gone)

    def close(self, acquired: int | None) -> str:
        """Close dataset and ledger.

        Parameters
        ----------
        acquired : int or None
            None for an acquisition that is not complete.

        Returns
        -------
        str
            Why the ledger is not complete; empty if it is.
        """
        if self.unrecorded and self.message.raw:
            acquired = None  # its mark stays, so that the next daemon puts the ledger right
        try:
            self.sink.close()
            if acquired is not None:
                self.ledger.close_acquisition(self.message.acquisition, acquired)
            if self.copying is not None:
                self.copying.join()
            _copy_ledger(self.ledger, self.sink.path)
            if acquired is not None or not self.message.raw:
                # Without raw there is nothing that a later daemon could do.
                unmark(self.ledgers, self.message.acquisition)
        except (RefocusdError, OSError):
            log.exception("closing %s", self.sink.path)
        finally:
            self.ledger.close()
        return "the ledger could not record every frame; see the log" if self.unrecorded else ""

    # -- frames -------------------------------------------------------------------------

    def is_full(self) -> bool:
        """Whether the disk's reserve is touched: what is left belongs to the raw data."""
        now = time.monotonic()
        if now - self.checked_at > CHECK_DISK_S:
            self.checked_at = now
            self.full = shutil.disk_usage(self.sink.path).free < self.reserve_nbytes
        return self.full

    def write(self, pixels: Pixels, job: WriteFrame, state: FinalState, reason: str) -> None:
        """Write a frame; `record_written` follows.

        Raises
        ------
        DiskFullError, OutputError
        """
        if self.is_full():
            free_mib = self.reserve_nbytes >> 20
            raise DiskFullError(f"less than {free_mib} MiB are free beside {self.sink.path}")
        metadata = frame_metadata(self.run, job, state, reason)
        self.sink.write(pixels, json.loads(job.submit.axes), metadata)

    def record_written(self, job: WriteFrame, state: FinalState, reason: str) -> FramesWritten:
        """Record what became of a frame that was to be written."""
        submit, facts = job.submit, job.facts
        latency_ms = (time.perf_counter_ns() - submit.taken_ns) / 1e6
        attempt = Attempt(
            run=self.run,
            acquisition=submit.acquisition,
            axes=submit.axes,
            state=state,
            reason=reason,
            live=submit.live,
            latency_ms=latency_ms,
            engine_ms=facts.engine_ms,
            facts=msgspec.to_builtins(facts),
            checksum=job.checksum if state in WRITTEN else None,
            raw_checksum=submit.checksum,
        )
        replaces = self._append([attempt])
        return FramesWritten(
            submit.acquisition, job.task, (submit.axes,), state, reason, replaces, latency_ms, facts
        )

    def record(self, job: RecordFrames) -> FramesWritten:
        """Record frames without pixels, except those that have been written already."""
        fresh = tuple(
            axes
            for axes in dict.fromkeys(job.axes)
            if axes not in self.sink and axes not in self.skipped
        )
        attempts = [
            Attempt(self.run, job.acquisition, axes, job.state, job.reason, job.live)
            for axes in fresh
        ]
        replaced = sum(axes in self.failed for axes in fresh)
        return FramesWritten(
            job.acquisition,
            job.task,
            fresh,
            job.state if fresh else None,
            job.reason,
            self._append(attempts),
            replaced=replaced,
            known=len(job.axes) - len(fresh),
        )

    def _append(self, attempts: list[Attempt]) -> FinalState | None:
        """Record attempts; returns the state of the earlier attempt that a single one replaces."""
        replaces: FinalState | None = None
        unwritten: tuple[tuple[FinalState, set[str]], ...]
        unwritten = (("failed", self.failed), ("skipped", self.skipped))
        for attempt in attempts:
            for state, known in unwritten:
                if attempt.axes in known:
                    replaces = state
                    known.discard(attempt.axes)
                if attempt.state == state:
                    known.add(attempt.axes)
        try:
            self.ledger.record(attempts)
        except RefocusdError:
            # The frame itself is on disk with its metadata; the ledger can be rebuilt from it.
            self.unrecorded = True
            log.exception("the ledger of %s", self.message.name)
        else:
            self._copy_now_and_then()
        return replaces

    def _copy_now_and_then(self) -> None:
        """Copy the ledger beside the output, in a thread: a long one takes seconds to copy."""
        now = time.monotonic()
        if now - self.copied_at > COPY_LEDGER_S and not (self.copying and self.copying.is_alive()):
            self.copied_at = now
            args = (self.ledger.path, self.sink.path)
            self.copying = threading.Thread(
                target=_copy_ledger_of, args=args, name="ledger-copy", daemon=True
            )
            self.copying.start()


def _made(settings: Settings, job: OpenOutput) -> dict[str, Any]:
    """What makes the frames: for the dataset's summary and the run file."""
    message, applied = job.open, job.applied
    return {
        "version": __version__,
        "run": job.run,
        "acquisition": message.acquisition,
        "name": message.name,
        "raw": message.raw,
        "recording": json.loads(message.recording or "{}"),
        "engine": msgspec.to_builtins(job.engine),
        "settings": {
            "model": settings.model,
            "channel_models": settings.channel_models,
            "pass_in_focus": settings.pass_in_focus,
            "untrusted": settings.untrusted,
            "channel_untrusted": settings.channel_untrusted,
        },
        "calibration": applied.id,
        "profiles": applied.selection.ids,
        "first": json.loads(message.first or "{}"),
        "warnings": list(applied.warnings),
    }


def _begin(ledger: Ledger, settings: Settings, job: OpenOutput, output: Path) -> None:
    message = job.open
    ledger.begin_run(
        job.run,
        version=__version__,
        engine=msgspec.json.encode(job.engine).decode(),
        settings=msgspec.json.encode(settings).decode(),
    )
    ledger.open_acquisition(
        message.acquisition,
        name=message.name,
        raw=message.raw,
        output=str(output),
        shape=(message.height, message.width),
        dtype=message.dtype,
    )


def _copy_ledger_of(path: Path, output: Path) -> None:
    try:
        with Ledger(path, read_only=True) as ledger:
            _copy_ledger(ledger, output)
    except LedgerError:
        log.exception("copying the ledger of %s", output)


def _copy_ledger(ledger: Ledger, output: Path) -> None:
    ledger.copy_to(notes_of(output) / LEDGER_COPY)
