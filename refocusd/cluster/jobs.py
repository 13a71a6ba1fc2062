"""The jobs of a screen, each of which is started again if its worker is lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from refocusd.cluster.job import refocus_position
from refocusd.cluster.order import JobResult, PositionOrder
from refocusd.daemon.output.dataset import OutputDataset
from refocusd.errors import (
    DiskFullError,
    RefocusdError,
    TransportError,
    WorkerError,
)
from refocusd.formats.ome_zarr.mirror.layout import list_path

if TYPE_CHECKING:
    from distributed import Client, Future


log = logging.getLogger(__name__)

#: Number of attempts at a position whose worker is lost or whose list is locked, without progress.
MAX_ATTEMPTS = 10
#: Wait before the next attempt, in s per attempt so far: another job may still hold the list.
AGAIN_S = 1.0
#: Interval of the checks whether there are workers, in s, while no job ends.
LOOK_S = 30.0
#: What Dask raises if a worker, or the result that it held, is lost.
_LOST = frozenset({"KilledWorker", "CancelledError", "FutureCancelledError", "CommClosedError"})


class Jobs:
    """The jobs of one screen, each of which is started again if its worker is lost.

    Parameters
    ----------
    client : distributed.Client or None
    dataset : OutputDataset
        Its ledger records the attempts.
    on_frames : callable
        See `Cluster.refocus`.

    Attributes
    ----------
    rows_lost : bool
        Whether frames may be written that the ledger does not have.
    """

    def __init__(
        self, client: Client | None, dataset: OutputDataset, on_frames: Callable[[int], None]
    ) -> None:
        self.rows_lost = False
        self._client: Any = client
        self._dataset = dataset
        self._on_frames = on_frames
        self._running: dict[Future, _Job] = {}
        #: Jobs that have ended for any reason, including those that were lost with their scheduler.
        self._ended: SimpleQueue[Future] = SimpleQueue()
        self._given_up: list[RefocusdError] = []
        #: Whether it was reported that there is no worker.
        self._alone = False

    def all(self, orders: Sequence[PositionOrder]) -> None:
        """Run all jobs; `check` reports those that were given up.

        Raises
        ------
        DiskFullError
            If the disk is full, so that no other job would succeed either.
        TransportError
            If the scheduler was lost and did not come back.
        """
        for order in orders:
            self._submit(order, 1)
        while self._running:
            future = self._next()
            if future is None:
                continue
            job = self._running.pop(future)
            outcome = self._outcome(future)
            future.release()
            if isinstance(outcome, JobResult):
                self.take(outcome)
                continue
            self.rows_lost = True
            if isinstance(outcome, DiskFullError):
                self._client.cancel(list(self._running))
                raise DiskFullError(
                    f"{outcome}; run the same command again to continue"
                ) from outcome
            # A long position may lose many workers, as long as each of them makes progress.
            got_on = _listed_nbytes(job.order) > job.listed_nbytes
            attempt = 1 if got_on else job.attempt
            if attempt >= MAX_ATTEMPTS or not _may_pass(outcome):
                self._given_up.append(_said(job.order, attempt, outcome))
                continue
            log.warning("%s: started again (%s)", job.order.position, _named(outcome))
            time.sleep(AGAIN_S * attempt)
            self._submit(job.order, attempt + 1)

    def _submit(self, order: PositionOrder, attempt: int) -> None:
        try:
            # Not pure, because the same order is another attempt if it is submitted again.
            future = self._client.submit(
                refocus_position,
                order.pack(),
                pure=False,
                key=f"{order.position or 'image'}-{time.time_ns():x}",
            )
        except Exception as error:
            if self._client.status == "closed":
                raise TransportError(
                    "the Dask scheduler is gone and did not come back; what was written is kept: run "
                    "the same command again to continue"
                ) from error
            raise
        self._running[future] = _Job(order, attempt, _listed_nbytes(order))
        future.add_done_callback(self._ended.put)

    def _next(self) -> Future | None:
        """A job that has ended; None if none has ended for a while."""
        with suppress(Empty):
            return self._ended.get(timeout=LOOK_S)
        if not self._client.scheduler_info()["workers"] and not self._alone:
            log.warning("there are no workers: jobs wait for one (are they still in the queue?)")
            self._alone = True
        return None

    def _outcome(self, future: Future) -> JobResult | BaseException | None:
        """What a job returned or raised; None if it was cancelled."""
        if future.status == "finished":
            try:
                return JobResult.unpack(future.result())
            except Exception as error:  # noqa: BLE001 (the worker that held it is lost)
                return error
        found: BaseException | None = future.exception() if future.status == "error" else None
        if type(found).__name__ == "KilledWorker" and self._was_too_large(found):
            return MemoryError()
        return found

    def _was_too_large(self, killed: Any) -> bool:
        """Whether Dask ended a job's last worker because it exceeded its memory limit."""
        events = self._client.get_events("worker-restart-memory") or ()
        return killed.last_worker.address in {event["worker"] for _, event in events}

    def check(self) -> None:
        """Report the positions that were given up.

        Raises
        ------
        RefocusdError
            If there is one; the error of the position if it is the only one.
        """
        if len(self._given_up) == 1:
            raise self._given_up[0]
        if self._given_up:
            raise WorkerError(f"{len(self._given_up)} positions were given up: {self._given_up[0]}")

    def take(self, result: JobResult) -> None:
        """Record the result of a job."""
        self._dataset.record_attempts(result.attempts)
        self.rows_lost |= result.found > 0
        self._on_frames(len(result.attempts) + result.found)


@dataclass(frozen=True, slots=True)
class _Job:
    """A submitted order: the `attempt`-th since its position last made progress."""

    order: PositionOrder
    attempt: int
    #: Length of its list of frames when it was submitted.
    listed_nbytes: int


def _listed_nbytes(order: PositionOrder) -> int:
    """Length of the list of frames of a position."""
    try:
        return list_path(Path(order.output), order.position).stat().st_size
    except FileNotFoundError:
        return 0


def _may_pass(error: BaseException | None) -> bool:
    """Whether another attempt may succeed: a worker was lost, or a list is locked."""
    if error is None or type(error).__name__ in _LOST:
        return True
    return isinstance(error, RefocusdError) and "is being written by another process" in str(error)


def _said(order: PositionOrder, tries: int, error: BaseException | None) -> RefocusdError:
    where = f"position {order.position} of {order.raw}" if order.position else order.raw
    if isinstance(error, RefocusdError):
        return error
    if isinstance(error, MemoryError):
        return WorkerError(
            f"{where}: a worker does not have enough memory for a frame; give jobs more with --job-memory"
        )
    if _may_pass(error):
        return WorkerError(
            f"{where}: its worker was lost {tries} times in a row before it wrote a frame (killed, "
            "preempted, or out of memory); what was written is kept: run the same command again to "
            "continue, with more --job-memory if memory was short"
        )
    return WorkerError(f"{where}: {type(error).__name__}: {error}")


def _named(error: BaseException | None) -> str:
    return "its worker was lost" if error is None else f"{type(error).__name__}: {error}"
