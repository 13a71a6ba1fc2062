"""Jobs: refocusd's own commands, run for users of the page instead of in a terminal."""

from __future__ import annotations

import logging
import secrets
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, Self

import msgspec

from refocusd.errors import InputError, OutputError
from refocusd.processes.child import Child
from refocusd.view.state.job_order import JobOrder, picture_of

log = logging.getLogger(__name__)

#: At most this many jobs wait for the running one, and this many that have ended are still shown.
MAX_QUEUED, MAX_ENDED = 4, 20
#: The last lines of a job's output that are kept, and the bytes of each line.
MAX_LINES, MAX_LINE_NBYTES = 200, 500
#: A longer line is read in parts.
MAX_TOLD_NBYTES = 1 << 20
#: A cancelled job is killed after this time; its command ends itself before.
KILL_S = 20.0
#: Time limit for reading the last output of a job that has ended.
READ_S = 2.0
#: Begins a line in which the command reports its progress or its result.
_TOLD = b"\x1e"


class Progress(msgspec.Struct, frozen=True):
    """Progress of a job; `total` is None while it is unknown."""

    what: str
    done: float
    total: float | None


class _Told(msgspec.Struct, frozen=True):
    """What the command reports among its output, see `refocusd.cli.job`."""

    progress: Progress | None = None
    result: dict[str, Any] | None = None


@dataclass
class Job:
    """One command, from the order to its end; times are in seconds since 1970."""

    order: JobOrder
    id: str = field(default_factory=lambda: secrets.token_hex(6))
    state: Literal["queued", "running", "ended", "cancelled"] = "queued"
    #: Exit status: 0 done, 1 done with problems, else not done.
    status: int | None = None
    queued_at: float = field(default_factory=time.time)
    started_at: float | None = None
    ended_at: float | None = None
    progress: Progress | None = None
    #: The command's figures, as its ``--json`` gives them.
    result: dict[str, Any] | None = None
    output: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_LINES))

    @property
    def reports(self) -> list[Path]:
        """Files that the page can show: the pages of ``report``, or the picture of a profile."""
        if self.order.command == "report":
            return [Path(name) for name in (self.result or {}).get("files", [])]
        calibration = self.order.calibration
        drawn = calibration is not None and calibration.draws and self.status == 0
        return [picture_of(self.order.file)] if drawn else []

    def summary(self) -> dict[str, Any]:
        """The job without its output and its figures."""
        shown = ("id", "state", "status", "queued_at", "started_at", "ended_at", "progress")
        about = {name: getattr(self, name) for name in shown}
        return {**msgspec.structs.asdict(self.order), **about, "reports": len(self.reports)}

    def details(self) -> dict[str, Any]:
        """The job with its output and its figures."""
        return {**self.summary(), "output": list(self.output), "result": self.result}


class Jobs:
    """Runs one job at a time, for as long as its `with` statement lasts; safe in any thread.

    Parameters
    ----------
    environment : mapping
        Environment variables of the commands: the settings of the daemon.
    on_change : callable
        Called after each change; must not wait.
    """

    def __init__(
        self, environment: Mapping[str, str], on_change: Callable[[], None] = lambda: None
    ) -> None:
        self._environment = environment
        self._on_change = on_change
        self._jobs: dict[str, Job] = {}
        self._child: Child | None = None
        self._killing: threading.Timer | None = None
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()
            known = list(self._jobs)
        for job_id in known:
            self.cancel(job_id)
        self._thread.join(KILL_S + 5.0)

    def start(self, order: JobOrder) -> Job:
        """Put a job at the end of the queue.

        Raises
        ------
        InputError
            As `JobOrder.arguments`, or if the job would move the microscope and there was no dry run.
        OutputError
            If too many jobs wait.
        """
        order.arguments()
        with self._changed:
            if order.moves and not any(
                job.order == order.dry_run and job.status == 0 for job in self._jobs.values()
            ):
                raise InputError(
                    "the microscope moves only after a dry run: start this job with dry_run, read its "
                    "output, and start it again"
                )
            if sum(job.state == "queued" for job in self._jobs.values()) >= MAX_QUEUED:
                raise OutputError(f"{MAX_QUEUED} jobs wait already: wait for one, or cancel one")
            job = Job(order)
            self._jobs[job.id] = job
            ended = [other.id for other in self._jobs.values() if other.ended_at is not None]
            for old in ended[:-MAX_ENDED]:
                del self._jobs[old]
            self._changed.notify()
        self._on_change()
        return job

    def get(self, job_id: str) -> Job | None:
        """A job by its id; None if it is not known (any more)."""
        with self._changed:
            return self._jobs.get(job_id)

    def summary(self) -> dict[str, Any]:
        """All known jobs, oldest first."""
        with self._changed:
            return {"jobs": [job.summary() for job in self._jobs.values()]}

    def cancel(self, job_id: str) -> None:
        """Interrupt a job that runs, or take it out of the queue; finished frames are kept."""
        with self._changed:
            job = self._jobs[job_id]
            if job.ended_at is not None:
                return
            if job.state == "queued":
                job.ended_at = time.time()
            elif job.state == "running" and self._child is not None:
                self._end(self._child)
            job.state = "cancelled"
        self._on_change()

    def _end(self, child: Child) -> None:
        child.ask_to_stop()
        self._killing = threading.Timer(KILL_S, child.process.kill)
        self._killing.daemon = True
        self._killing.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._next() is not None)
                job = self._next()
                if self._stopping or job is None:
                    return
                job.state, job.started_at = "running", time.time()
            self._on_change()
            try:
                status = self._run(job)
            except (OSError, InputError) as error:
                # A path has gone in the meantime, or the system cannot start another process.
                job.output.append(str(error))
                status = 2
            with self._changed:
                if job.state == "running":
                    job.state = "ended"
                job.status, job.ended_at = status, time.time()
            self._on_change()

    def _run(self, job: Job) -> int:
        child = Child(
            ["-m", "refocusd.cli.job", *job.order.arguments()],
            output=subprocess.PIPE,
            errors=subprocess.STDOUT,
            environment={**self._environment, "COLUMNS": "100"},
        )
        with self._changed:
            self._child = child
            if job.state == "cancelled":
                self._end(child)
        reader = threading.Thread(target=self._read, args=(job, child), daemon=True)
        reader.start()
        status = child.process.wait()
        with self._changed:
            self._child = None
            if self._killing is not None:
                self._killing.cancel()
        # Child processes of the command, which may hang, may still hold the pipe open.
        reader.join(READ_S)
        child.wait()
        return status

    def _next(self) -> Job | None:
        return next((job for job in self._jobs.values() if job.state == "queued"), None)

    def _read(self, job: Job, child: Child) -> None:
        assert child.process.stdout is not None
        pipe: IO[bytes] = child.process.stdout
        try:
            while line := pipe.readline(MAX_TOLD_NBYTES):
                self._take(job, line)
        except ValueError:  # the pipe was closed meanwhile
            return

    def _take(self, job: Job, line: bytes) -> None:
        if line.startswith(_TOLD):
            try:
                told = msgspec.json.decode(line[1:], type=_Told)
            except msgspec.MsgspecError:
                log.warning("a job sent a line that is not understood: %r", line[:100])
                return
            job.progress = told.progress or job.progress
            job.result = told.result or job.result
        else:
            job.output.append(line[:MAX_LINE_NBYTES].decode("utf-8", "replace").rstrip())
        self._on_change()
