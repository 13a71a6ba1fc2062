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
from typing import Any, Literal, Self

import msgspec

from refocusd import __version__
from refocusd.config import Settings
from refocusd.daemon.events import FramesWritten
from refocusd.daemon.output.folder import beginning, choose_folder, write_run_file
from refocusd.daemon.output.jobs import OpenOutput, RecordFrames, WriteFrame
from refocusd.daemon.output.metadata import attempt_of, frame_metadata
from refocusd.daemon.output.patience import answer_of
from refocusd.daemon.output.trust_maps import TrustMaps
from refocusd.datasets.identity import frame_names, noted
from refocusd.datasets.output_ledger import record_frames
from refocusd.datasets.run_folder import LEDGER_COPY, notes_of
from refocusd.errors import DiskFullError, InputError, LedgerError, OutputError, RefocusdError
from refocusd.formats.disk_space import check_free_space, free_space_needed
from refocusd.formats.open_sink import append_sink, create_sink
from refocusd.formats.sink import Sink
from refocusd.frame import FinalState, Pixels, counted
from refocusd.ledger import (
    WRITTEN,
    Attempt,
    Ledger,
    ledger_path,
    mark_open,
    note_output,
    restore_ledger,
    unmark,
)
from refocusd.transport.messages import Open

log = logging.getLogger(__name__)

#: Intervals at which free disk space is checked, and the ledger is copied into the output.
CHECK_DISK_S = 1.0
COPY_LEDGER_S = 60.0
#: Largest number of attempts that are kept while the ledger cannot record them; with more, it stays incomplete.
MOST_UNRECORDED = 10_000


@dataclass(slots=True)
class OutputDataset:
    """Refocused frames and ledger of one acquisition; belongs to the thread that writes it."""

    message: Open
    run: str
    sink: Sink
    ledger: Ledger
    reserve_nbytes: int
    ledgers: str
    trust_maps: TrustMaps
    #: Number of frames by final state when it was opened.
    before: dict[FinalState, int] = field(default_factory=dict)
    #: Attempts that the ledger could not record; they are recorded together with the next one.
    unrecorded: list[Attempt] = field(default_factory=list)
    #: Whether there were too many of these to keep.
    incomplete: bool = False
    full: bool = False
    checked_at: float = 0.0
    copied_at: float = field(default_factory=time.monotonic)
    copying: threading.Thread | None = None

    # -- open and close -----------------------------------------------------------------

    @classmethod
    def open(cls, settings: Settings, job: OpenOutput) -> Self:
        """Create an acquisition's dataset, or continue an existing one of the same run.

        Raises
        ------
        InputError
            If the announcement cannot be used.
        LedgerError
            If the ledger cannot be opened or restored.
        OutputError
            If the output cannot be written, or holds frames of another recording with this name.
        """
        message = job.open
        summary = json.loads(message.summary or "{}")
        if not isinstance(summary, dict):
            raise InputError("the summary metadata of an acquisition is a JSON object")
        with beginning(settings, message.acquisition):
            return cls._open(settings, job, summary)

    @classmethod
    def _open(cls, settings: Settings, job: OpenOutput, summary: dict[str, Any]) -> Self:
        message, run = job.open, job.run
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
            ledger = undo.enter_context(Ledger(ledger_path(settings.ledgers, message.acquisition)))
            _refuse_another(ledger, message, output)
            if not exists:
                about = {**summary, "refocusd": made}
                sink = undo.enter_context(create_sink(settings.sink, output, about))
            write_run_file(output, made)
            for name in frame_names(noted(made["recording"])):
                note_output(settings.ledgers, name, output)
            if message.raw:
                raw = Path(message.raw)
                answer_of(lambda: note_output(settings.ledgers, raw, output), None)
            _begin(ledger, settings, job, output)
            maps = TrustMaps(
                output, sink.summary, (message.height, message.width), enabled=settings.trust_map
            )
            dataset = cls(message, run, sink, ledger, reserve_nbytes, settings.ledgers, maps)
            if exists:
                dataset.repair()
                dataset._count_before()
            undo.pop_all()
        return dataset

    def repair(self) -> None:
        """Record frames that a killed writer had written but not recorded yet."""
        record_frames(self.ledger, self.sink.path, self.run, self.message.acquisition)

    def _state_of(self, axes: str) -> str | None:
        """State of a frame after the latest attempt; looked up one by one, because a run may have millions."""
        for attempt in reversed(self.unrecorded):
            if attempt.axes == axes:
                return attempt.state
        return self.ledger.state_of(self.run, self.message.acquisition, axes)

    def _count_before(self) -> None:
        """Count the frames with a final state, except written ones that the dataset has lost.

        They are lost if its folder was deleted, or the power failed.
        """
        ended: Counter[FinalState] = Counter()
        gone = 0
        for fate in self.ledger.fates(self.run, self.message.acquisition):
            if fate.state in WRITTEN and fate.axes not in self.sink:
                gone += 1
            else:
                ended[fate.state] += 1  # type: ignore[index]
        self.before = dict(ended)
        if gone:
            log.warning("%s: in the ledger only: %s", self.sink.path, counted(gone))

    def close(self, acquired: int | None) -> str:
        """Close dataset and ledger.

        Parameters
        ----------
        acquired : int or None
            Number of acquired frames; None for an acquisition that is not complete.

        Returns
        -------
        str
            Why the ledger is not complete; empty if it is.
        """
        if self.unrecorded:
            self._append([])
        incomplete = bool(self.unrecorded) or self.incomplete
        if incomplete and self.message.raw:
            acquired = None  # its mark stays, so that the next daemon completes the ledger
        self.trust_maps.take_in()
        self.trust_maps.close()
        try:
            self.sink.close()
            if acquired is not None:
                self.ledger.close_acquisition(self.message.acquisition, acquired)
            if self.copying is not None:
                self.copying.join()
            _copy_ledger(self.ledger, self.sink.path)
            if acquired is not None or not self.message.raw:
                # Without raw data, a later daemon could do nothing more.
                unmark(self.ledgers, self.message.acquisition)
        except (RefocusdError, OSError) as error:
            log.error("%s was not closed in full: %s", self.sink.path, error)
        finally:
            self.ledger.close()
        return "the ledger could not record every frame; see the log" if incomplete else ""

    # -- frames -------------------------------------------------------------------------

    def is_full(self) -> bool:
        """Whether free space is below the reserve, which is kept for the raw data."""
        now = time.monotonic()
        if now - self.checked_at > CHECK_DISK_S:
            self.checked_at = now
            self.full = shutil.disk_usage(self.sink.path).free < self.reserve_nbytes
        return self.full

    def write(self, pixels: Pixels, job: WriteFrame, state: FinalState, reason: str) -> None:
        """Write a frame; the caller then calls `record_written`.

        Raises
        ------
        DiskFullError
            If free space is below the reserve, or the disk is full.
        OutputError
            If the frame cannot be written.
        """
        if self.is_full():
            free_mib = self.reserve_nbytes >> 20
            raise DiskFullError(f"less than {free_mib} MiB are free beside {self.sink.path}")
        metadata = frame_metadata(self.run, job, state, reason)
        self.sink.write(pixels, json.loads(job.submit.axes), metadata)

    def record_written(self, job: WriteFrame, state: FinalState, reason: str) -> FramesWritten:
        """Record the outcome of a frame that was to be written."""
        attempt = attempt_of(self.run, job, state, reason)
        replaces = self._earlier(attempt.axes)
        self._append([attempt])
        return FramesWritten(
            attempt.acquisition,
            job.task,
            (attempt.axes,),
            state,
            reason,
            replaces,
            attempt.latency_ms or 0.0,
            job.facts,
        )

    def record(self, job: RecordFrames) -> FramesWritten:
        """Record frames without pixels, except those that are written or skipped already."""
        earlier = {
            axes: self._earlier(axes) for axes in dict.fromkeys(job.axes) if axes not in self.sink
        }
        fresh = tuple(axes for axes, state in earlier.items() if state != "skipped")
        attempts = [
            Attempt(self.run, job.acquisition, axes, job.state, job.reason, job.live)
            for axes in fresh
        ]
        self._append(attempts)
        replaced = sum(earlier[axes] == "failed" for axes in fresh)
        return FramesWritten(
            job.acquisition,
            job.task,
            fresh,
            job.state if fresh else None,
            job.reason,
            "failed" if replaced else None,
            replaced=replaced,
            known=len(job.axes) - len(fresh),
        )

    def record_attempts(self, attempts: list[Attempt]) -> None:
        """Record attempts of other processes."""
        self._append(attempts)

    def _earlier(self, axes: str) -> Literal["failed", "skipped"] | None:
        """State of the earlier attempt at a frame that a later one replaces."""
        try:
            state = self._state_of(axes)
        except LedgerError:  # recording will fail as well, and report the error
            return None
        return state if state in ("failed", "skipped") else None  # type: ignore[return-value]

    def _append(self, attempts: list[Attempt]) -> None:
        """Record attempts, and earlier ones that could not be recorded."""
        waiting = [*self.unrecorded, *attempts]
        try:
            self.ledger.record(waiting)
        except RefocusdError as error:
            # The frame itself is on disk with its metadata; the ledger can be rebuilt from it.
            if not self.unrecorded:
                log.error("%s; what follows is recorded once it can be", error)
            self.unrecorded = waiting[:MOST_UNRECORDED]
            self.incomplete = self.incomplete or len(waiting) > MOST_UNRECORDED
        else:
            self.unrecorded = []
            self._copy_now_and_then()

    def _copy_now_and_then(self) -> None:
        """Copy the ledger into the output, in a thread, because copying a long one takes seconds.

        The copy is a single step of SQLite's backup: it reads a snapshot of the write-ahead log, so it
        does not block the writer.  With several steps, each recorded frame would restart it.
        """
        now = time.monotonic()
        if now - self.copied_at > COPY_LEDGER_S and not (self.copying and self.copying.is_alive()):
            self.copied_at = now
            args = (self.ledger.path, self.sink.path)
            self.copying = threading.Thread(
                target=_copy_ledger_of, args=args, name="ledger-copy", daemon=True
            )
            self.copying.start()


def _made(settings: Settings, job: OpenOutput) -> dict[str, Any]:
    """Describe what makes the frames, for the dataset's summary and the run file."""
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
            "blur_px": settings.blur_px,
            "psf": settings.psf and str(Path(settings.psf).absolute()),
            "defocus_um": settings.defocus_um,
            "na": settings.na,
        },
        "calibration": applied.id,
        "profiles": applied.selection.ids,
        "first": json.loads(message.first or "{}"),
        "warnings": list(applied.warnings),
    }


def _refuse_another(ledger: Ledger, message: Open, output: Path) -> None:
    """Refuse a recording that has taken the place of the one that was refocused into this output.

    Sources check this in the output and its copy of the ledger, which may not be complete yet.

    Raises
    ------
    OutputError
        If a frame of the recording differs from the one that the ledger records.
    """
    recording = noted(json.loads(message.recording or "{}"))
    for axes, mark in recording.frames.items():
        before = ledger.raw_checksum_of(message.acquisition, axes)
        if before is not None and f"{before:016x}" != mark.checksum:
            raise OutputError(
                f"{output} was refocused from another recording than {message.raw or message.name} is "
                f"now (frame {axes} is another one): name another --output, or move {output} away"
            )


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
