"""The one thread that writes: refocused datasets and ledgers of all open acquisitions."""

from __future__ import annotations

import logging
import queue
import threading
import time

from refocusd.config import Settings
from refocusd.daemon import events
from refocusd.daemon.output.dataset import CHECK_DISK_S, OutputDataset
from refocusd.daemon.output.jobs import CloseOutput, Job, OpenOutput, RecordFrames, WriteFrame
from refocusd.daemon.output.preview import Preview
from refocusd.errors import DiskFullError, RefocusdError, TransportError
from refocusd.frame import Pixels, checksum
from refocusd.transport.messages import Open
from refocusd.transport.ring import SharedRing

__all__ = ["Writer"]

log = logging.getLogger(__name__)


class Writer:
    """Writes a frame, then records it, then tells the broker: in that order.

    Parameters
    ----------
    settings : Settings
    ring : SharedRing
        Holds the refocused pixels.
    event_queue : EventQueue
        Of the broker.

    Attributes
    ----------
    preview : Preview
        The newest frame, for views.
    """

    def __init__(
        self, settings: Settings, ring: SharedRing, event_queue: events.EventQueue
    ) -> None:
        self._settings = settings
        self._ring = ring
        self._events = event_queue
        # Frames are bounded by the ring's slots; this limit is a backstop for the rest.
        self._jobs: queue.Queue[Job | None] = queue.Queue(maxsize=100_000)
        self._outputs: dict[str, OutputDataset] = {}
        #: Acquisitions that are shown, and not written.
        self._shown_only: dict[str, Open] = {}
        #: Acquisitions whose disk is full.
        self._full: set[str] = set()
        self.preview = Preview()
        # A disk that never answers must not keep this process alive.
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, job: Job) -> None:
        """Have a job done after those before it; its answer is an event."""
        self._jobs.put(job)

    def stop(self, timeout_s: float) -> None:
        """Do the jobs so far, close everything, end the thread."""
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                log.error("the writer has not ended within %.0f s: a disk hangs", timeout_s)

    def _run(self) -> None:
        checked_at = time.monotonic()
        while True:
            if self._full and time.monotonic() - checked_at > CHECK_DISK_S:
                checked_at = time.monotonic()
                self._check_disks()
            try:
                job = self._jobs.get(timeout=CHECK_DISK_S if self._full else None)
            except queue.Empty:
                continue
            if job is None:
                break
            # Whatever is wrong with one job, the others are done.
            try:
                self._do(job)
            except Exception as error:
                log.exception("the writer could not do %s", type(job).__name__)
                self._report_error(job, f"{type(error).__name__}: {error}")
        for acquisition in list(self._outputs):
            try:
                self._close(acquisition, None)
            except Exception:
                log.exception("closing acquisition %s", acquisition)

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
                    error = self._close(job.acquisition, job.acquired)
                finally:
                    self._events.put(events.OutputClosed(job.acquisition, error))

    def _report_error(self, job: Job, error: str) -> None:
        """Answer a job that could not be done, so that nobody waits for it."""
        if isinstance(job, WriteFrame):
            self._events.put(events.FrameNotWritten(job.submit.acquisition, job.task, error))
        elif isinstance(job, RecordFrames) and job.task:
            self._events.put(events.FrameNotWritten(job.acquisition, job.task, error))
        elif isinstance(job, RecordFrames):
            self._events.put(events.FramesWritten(job.acquisition, 0, job.axes, None))

    # -- outputs ------------------------------------------------------------------------

    def _open(self, job: OpenOutput) -> None:
        key = job.open.acquisition
        if job.open.preview:
            self._shown_only[key] = job.open
            self._events.put(events.OutputOpened(key, ""))
            return
        try:
            output = OutputDataset.open(self._settings, job)
        except Exception as error:  # noqa: BLE001 (reported to the source; the others go on)
            known = isinstance(error, RefocusdError)
            reason = str(error) if known else f"{type(error).__name__}: {error}"
            self._events.put(events.OutputOpened(key, "", error=reason))
            return
        self._outputs[key] = output
        self._events.put(events.OutputOpened(key, str(output.sink.path), before=output.before))

    def _close(self, acquisition: str, acquired: int | None) -> str:
        self._shown_only.pop(acquisition, None)
        output = self._outputs.pop(acquisition, None)
        return output.close(acquired) if output else ""

    def _check_disks(self) -> None:
        for acquisition in list(self._full):
            output = self._outputs.get(acquisition)
            try:
                full = output is not None and output.is_full()
            except OSError as error:  # a disk that was taken away
                log.error("%s: %s", acquisition, error)
                continue
            if not full:
                self._full.discard(acquisition)
                self._events.put(events.DiskFull(acquisition, full=False))
                if output is not None:
                    log.info("there is room again: %s goes on", output.message.name)

    # -- frames -------------------------------------------------------------------------

    def _write(self, job: WriteFrame) -> None:
        submit = job.submit
        state, reason = job.outcome
        if message := self._shown_only.get(submit.acquisition):
            latency_ms = (time.perf_counter_ns() - submit.taken_ns) / 1e6
            written = events.FramesWritten(
                *(submit.acquisition, job.task, (submit.axes,), state, reason, None),
                latency_ms,
                job.facts,
            )
            self._show(message, job, written)
            self._events.put(written)
            return
        output = self._outputs[submit.acquisition]
        if submit.axes in output.sink:
            # Sent again after the first answer was lost: written once is enough.
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
                raise TransportError("the refocused pixels changed on their way (checksum)")
            output.write(pixels, job, state, reason)
        except DiskFullError as error:
            self._put_off(output, job, str(error))
            return
        except Exception as error:
            log.exception("frame %s of %s", submit.axes, output.message.name)
            state, reason = "failed", str(error) or type(error).__name__
        written = output.record_written(job, state, reason)
        self._events.put(written)
        if state != "failed":
            self._show(output.message, job, written)

    def _put_off(self, output: OutputDataset, job: WriteFrame, why: str) -> None:
        """The disk is full: raw has the frame, and it is caught up once there is room."""
        key = job.submit.acquisition
        if not output.message.raw:
            skipped = RecordFrames(
                key, (job.submit.axes,), "skipped", f"no raw: {why}", job.task, job.submit.live
            )
            self._events.put(output.record(skipped))
            return
        if key not in self._full:
            log.error("%s: %s is paused until there is room", why, output.message.name)
            output.full = True
            self._full.add(key)
            self._events.put(events.DiskFull(key, full=True))
        self._events.put(events.FrameNotWritten(key, job.task))

    def _record(self, job: RecordFrames) -> None:
        if job.acquisition in self._shown_only:
            written = events.FramesWritten(
                job.acquisition, job.task, job.axes, job.state, job.reason
            )
        else:
            written = self._outputs[job.acquisition].record(job)
        self._events.put(written)

    def _pixels(self, message: Open, offset: int) -> Pixels:
        shape = (message.height, message.width)
        return self._ring.view(offset, shape, message.dtype)  # type: ignore[return-value]

    def _show(self, message: Open, job: WriteFrame, written: events.FramesWritten) -> None:
        if not self.preview.due():
            return
        slot = job.submit.slot
        raw = self._pixels(message, slot.offset)
        refocused = self._pixels(message, slot.refocused_offset)
        self.preview.take(raw, refocused, message, job, written)
        self._events.put(events.PreviewTaken())
