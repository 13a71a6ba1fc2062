"""The thread that writes one acquisition: its refocused dataset and its ledger."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from pathlib import Path

from refocusd.backoff import persistently
from refocusd.config import Settings
from refocusd.daemon import events
from refocusd.daemon.output.dataset import CHECK_DISK_S, OutputDataset
from refocusd.daemon.output.jobs import CloseOutput, Job, OpenOutput, RecordFrames, WriteFrame
from refocusd.daemon.output.patience import answer_of
from refocusd.daemon.output.preview import Preview
from refocusd.errors import DiskFullError, RefocusdError, TransportError
from refocusd.formats.ndtiff.index import INDEX_NAME
from refocusd.frame import Pixels, checksum
from refocusd.transport.messages import Open
from refocusd.transport.ring import SharedRing

log = logging.getLogger(__name__)


class AcquisitionWriter:
    """Writes each frame, then records it, and then tells the broker.

    Parameters
    ----------
    acquisition : str
    settings : Settings
    ring : SharedRing
        Holds the refocused pixels.
    event_queue : EventQueue
        The broker's events.
    preview : Preview
        Receives the newest frame.

    Attributes
    ----------
    output : OutputDataset or None
        None while it is not open.
    """

    def __init__(
        self,
        acquisition: str,
        settings: Settings,
        ring: SharedRing,
        event_queue: events.EventQueue,
        preview: Preview,
    ) -> None:
        self.acquisition = acquisition
        self.output: OutputDataset | None = None
        self._settings = settings
        self._ring = ring
        self._events = event_queue
        self._preview = preview
        # The ring's slots bound the number of frames; this limit is a backstop for other jobs.
        self._jobs: queue.Queue[Job | None] = queue.Queue(maxsize=100_000)
        #: The announcement of a preview, which is shown but not written.
        self._shown_only: Open | None = None
        #: Whether its disk is full.
        self._full = False
        #: Kinds of errors that were logged.
        self._complained: set[str] = set()
        # A disk that never answers must not keep this process alive.
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Start the thread; it ends with `CloseOutput`, or `end`."""
        self._thread.start()

    def put(self, job: Job) -> None:
        """Queue a job; its answer is an event."""
        self._jobs.put(job)

    def end(self) -> None:
        """Let the thread end after the jobs so far, and close the output."""
        self._jobs.put(None)

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end; False if it still runs."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        checked_at = time.monotonic()
        over = False
        while not over:
            if self._full and time.monotonic() - checked_at > CHECK_DISK_S:
                checked_at = time.monotonic()
                self._check_disk()
            try:
                job = self._jobs.get(timeout=CHECK_DISK_S if self._full else None)
            except queue.Empty:
                continue
            if job is None:
                break
            over = isinstance(job, CloseOutput)
            # An error in one job must not affect the others.
            try:
                self._do(job)
            except Exception as error:
                log.exception("the writer could not carry out %s", type(job).__name__)
                self._report_error(job, f"{type(error).__name__}: {error}")
        try:
            self._close(None)
        except Exception:
            log.exception("closing acquisition %s", self.acquisition)

    def _do(self, job: Job) -> None:
        match job:
            case OpenOutput():
                self._open(job)
            case WriteFrame():
                self._write(job)
            case RecordFrames():
                self._record(job)
            case CloseOutput():
                error = "its output could not be closed; see the log"
                try:
                    error = self._close(job.acquired)
                finally:
                    self._events.put(events.OutputClosed(job.acquisition, error))

    def _report_error(self, job: Job, error: str) -> None:
        """Answer a job that failed, so that nobody waits for it."""
        if isinstance(job, WriteFrame):
            self._events.put(events.FrameNotWritten(job.submit.acquisition, job.task, error))
        elif isinstance(job, RecordFrames) and job.task:
            self._events.put(events.FrameNotWritten(job.acquisition, job.task, error))
        elif isinstance(job, RecordFrames):
            self._events.put(events.FramesWritten(job.acquisition, 0, job.axes, None))

    # -- output -------------------------------------------------------------------------

    def _open(self, job: OpenOutput) -> None:
        if job.open.preview:
            self._shown_only = job.open
            self._events.put(events.OutputOpened(self.acquisition, ""))
            return
        try:
            self.output = output = OutputDataset.open(self._settings, job)
        except Exception as error:  # noqa: BLE001 (reported to the source; the others go on)
            known = isinstance(error, RefocusdError)
            reason = str(error) if known else f"{type(error).__name__}: {error}"
            self._events.put(events.OutputOpened(self.acquisition, "", error=reason))
            return
        path, raw = str(output.sink.path), job.open.raw
        index = Path(raw) / INDEX_NAME
        reads_raw = bool(raw) and answer_of(lambda: os.access(index, os.R_OK), otherwise=False)
        before = output.before
        self._events.put(
            events.OutputOpened(self.acquisition, path, reads_raw=reads_raw, before=before)
        )

    def _close(self, acquired: int | None) -> str:
        output, self.output = self.output, None
        return output.close(acquired) if output else ""

    def _opened(self) -> OutputDataset:
        assert self.output is not None, f"acquisition {self.acquisition} has no output"
        return self.output

    def _check_disk(self) -> None:
        output = self.output
        try:
            full = output is not None and output.is_full()
        except OSError as error:  # the disk was removed
            log.error("%s: %s", self.acquisition, error)
            return
        if not full:
            self._full = False
            self._events.put(events.DiskFull(self.acquisition, full=False))
            if output is not None:
                log.info("there is room again: %s goes on", output.message.name)

    # -- frames -------------------------------------------------------------------------

    def _write(self, job: WriteFrame) -> None:
        submit = job.submit
        state, reason = job.outcome
        if message := self._shown_only:
            latency_ms = (time.perf_counter_ns() - submit.taken_ns) / 1e6
            written = events.FramesWritten(
                *(submit.acquisition, job.task, (submit.axes,), state, reason, None),
                latency_ms,
                job.facts,
            )
            self._show(message, job, written)
            self._events.put(written)
            return
        output = self._opened()
        if submit.axes in output.sink:
            # The frame was written, but the answer was lost, and the frame was sent again.
            self._events.put(
                events.FramesWritten(submit.acquisition, job.task, (submit.axes,), None)
            )
            return
        if state == "skipped":
            self._events.put(output.record_written(job, state, reason))
            return
        try:
            pixels = self._pixels(output.message, submit.slot.refocused_offset)
            if checksum(pixels) != job.checksum:
                raise TransportError("the refocused pixels changed in transit (checksum)")
            persistently(lambda: output.write(pixels, job, state, reason))
        except DiskFullError as error:
            self._put_off(output, job, str(error))
            return
        except Exception as error:  # noqa: BLE001 (any error fails this frame only, and the next is written)
            self._complain(submit.axes, output.message.name, error)
            state, reason = "failed", str(error) or type(error).__name__
        written = output.record_written(job, state, reason)
        self._events.put(written)
        if state != "failed":
            self._show(output.message, job, written)
            output.trust_maps.write(job)

    def _complain(self, axes: str, name: str, error: Exception) -> None:
        """Log why a frame is not written; once per cause, because thousands may fail for one cause."""
        cause = f"{type(error).__name__}: {getattr(error.__cause__, 'strerror', None) or ''}"
        if cause in self._complained:
            return
        self._complained.add(cause)
        known = isinstance(error, RefocusdError)
        log.error(
            "frame %s of %s: %s (further ones that fail like this are not logged)",
            *(axes, name, error),
            exc_info=None if known else error,
        )

    def _put_off(self, output: OutputDataset, job: WriteFrame, why: str) -> None:
        """Leave a frame to the catch-up because the disk is full, or skip it if there is no raw."""
        key = job.submit.acquisition
        if not output.message.raw:
            skipped = RecordFrames(
                key, (job.submit.axes,), "skipped", f"no raw: {why}", job.task, job.submit.live
            )
            self._events.put(output.record(skipped))
            return
        if not self._full:
            log.error("%s: %s is paused until there is room", why, output.message.name)
            output.full = self._full = True
            self._events.put(events.DiskFull(key, full=True))
        self._events.put(events.FrameNotWritten(key, job.task))

    def _record(self, job: RecordFrames) -> None:
        if self._shown_only:
            written = events.FramesWritten(
                job.acquisition, job.task, job.axes, job.state, job.reason
            )
        else:
            written = self._opened().record(job)
        self._events.put(written)

    def _pixels(self, message: Open, offset: int) -> Pixels:
        shape = (message.height, message.width)
        return self._ring.view(offset, shape, message.dtype)  # type: ignore[return-value]

    def _show(self, message: Open, job: WriteFrame, written: events.FramesWritten) -> None:
        if not self._preview.due(live=job.in_live_image):
            return
        slot = job.submit.slot
        raw = self._pixels(message, slot.offset)
        refocused = self._pixels(message, slot.refocused_offset)
        self._preview.take(raw, refocused, message, job, written)
        self._events.put(events.PreviewTaken())
