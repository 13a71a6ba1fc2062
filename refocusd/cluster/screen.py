"""A screen on a cluster: the output store is created first, then each position is a job, and the ledger records them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import psutil

from refocusd.cluster.job import build_engines, engines_of, refocus_position
from refocusd.cluster.order import JobResult, PositionOrder
from refocusd.cluster.plate_blurs import plate_blurs
from refocusd.config import Settings
from refocusd.daemon.acquisitions.intake import trained_models
from refocusd.daemon.acquisitions.run_id import run_id
from refocusd.daemon.acquisitions.shared_blurs import kind_of
from refocusd.daemon.offline import announcement
from refocusd.daemon.output.dataset import OutputDataset
from refocusd.daemon.output.jobs import OpenOutput
from refocusd.datasets.dataset import Output, note_recording
from refocusd.errors import (
    DiskFullError,
    InputError,
    OutputError,
    RefocusdError,
    TransportError,
    WorkerError,
)
from refocusd.formats.dataset import Dataset
from refocusd.formats.ome_zarr.mirror.layout import list_path
from refocusd.formats.ome_zarr.mirror.writer import MirrorSink
from refocusd.formats.ome_zarr.store.reader import StoreReader
from refocusd.ledger import Attempt, note_output
from refocusd.profiles.applied import apply_profiles
from refocusd.profiles.catalogue import Catalogue, selection_id
from refocusd.profiles.microscope_metadata import first_of
from refocusd.transport.messages import KnownBlur
from refocusd.transport.records import UNFIT
from refocusd.worker.refocus import refocus_frame

if TYPE_CHECKING:
    from distributed import Client, Future


log = logging.getLogger(__name__)

#: How often a position is started again because its worker was lost or its list was locked.
MAX_ATTEMPTS = 10
#: Wait before the next attempt, in s, times the number of attempts: another job may still hold the list.
AGAIN_S = 1.0
#: Side of the part of a slide that a dry run measures, px.
SLIDE_PART_PX = 4096
#: How often to check whether there are workers, if no job ends.
LOOK_S = 30.0
#: What Dask raises if a worker, or the result that it held, is lost.
_LOST = frozenset({"KilledWorker", "CancelledError", "FutureCancelledError", "CommClosedError"})


@dataclass(frozen=True, slots=True)
class Plan:
    """What a screen will take, from frames measured on this computer.

    Parameters
    ----------
    jobs, frames : int
        Positions with frames to refocus, and these frames.
    frame_ms : float
        Time for one frame in one worker: the slower of two.
    nbytes : int
        Size of all raw pixels, uncompressed; the output has as many, and its pyramid.
    worker_nbytes : int
        Memory of a worker.
    """

    jobs: int
    frames: int
    frame_ms: float
    nbytes: int
    worker_nbytes: int

    def hours(self, workers: int) -> float:
        """Expected time with this number of workers, h; one position is refocused by one worker."""
        busy = min(workers, self.jobs) or 1
        return self.frames * self.frame_ms / busy / 3.6e6

    def as_json(self, workers: int) -> dict[str, Any]:
        """The plan as plain values."""
        return {
            "jobs": self.jobs,
            "frames": self.frames,
            "frame_ms": round(self.frame_ms, 3),
            "raw_gb": round(self.nbytes / 1e9, 3),
            "worker_gb": round(self.worker_nbytes / 1e9, 3),
            "workers": workers,
            "hours": round(self.hours(workers), 4),
        }


def plan_of(frames: Dataset, keys: Sequence[str], settings: Settings) -> Plan:
    """Measure two frames on this computer, and predict what all of them will take.

    Raises
    ------
    InputError
        If a frame cannot be read.
    """
    engines = engines_of(settings)
    keys = [key for key in keys if not frames.unfit(key)]
    times = []
    form = frames.first_format()
    # Part of a slide is enough.
    most = SLIDE_PART_PX if has_slides(frames) else max(form.height, form.width)
    height, width = min(most, form.height), min(most, form.width)
    for key in [*keys[:1], *keys[-1:]]:
        begun = time.perf_counter()
        pixels = frames.read_part(key, slice(0, height), slice(0, width))
        refocus_frame(
            engines.engines[""], pixels, np.empty_like(pixels), pass_in_focus=settings.pass_in_focus
        )
        parts = form.height * form.width / (height * width)
        times.append((time.perf_counter() - begun) * 1e3 * parts)
    return Plan(
        jobs=len(_by_position(keys)),
        frames=len(keys),
        frame_ms=max(times, default=0.0),
        nbytes=len(keys) * form.nbytes,
        worker_nbytes=psutil.Process().memory_info().rss + 4 * height * width * form.dtype.itemsize,
    )


def has_slides(frames: Dataset) -> bool:
    """Whether frames are too large for a daemon's ring, so that a job refocuses them in tiles."""
    first = next((key for key in frames.axes_keys() if not frames.unfit(key)), "")
    return bool(first) and frames.is_slide(first)


class Cluster:
    """Workers of a cluster: to `refocusd process` what `OwnDaemon` is without one.

    Parameters
    ----------
    client : distributed.Client or None
        None for this process alone, one position after another.
    """

    def __init__(self, client: Client | None) -> None:
        self._client = client
        self._settings = Settings()
        #: Builds the engine of each worker that is present.
        self._warming: list[Future] = []

    def start(self, settings: Settings) -> None:
        """Build an engine in this process: the record of the frames names the engine that makes them.

        Raises
        ------
        BundleError, EngineError
        """
        self._settings = settings
        if self._client is not None:
            # At the same time as ours, so that the first jobs find them built.
            packed = msgspec.msgpack.encode(settings)
            self._warming = [
                self._client.submit(build_engines, packed, workers=[worker], pure=False)
                for worker in self._client.nthreads()
            ]
        engines_of(settings)

    def run_of(self, profiles: Sequence[str]) -> str:
        """Id of the run that these calibration profiles make."""
        engine = engines_of(self._settings).ready.engine
        return run_id(engine, self._settings, selection_id(profiles))

    def refocus(
        self,
        frames: Dataset,
        keys: Sequence[str],
        output: Output,
        on_frames: Callable[[int], None] = lambda _: None,
    ) -> tuple[Path, float]:
        """Refocus frames of a store, and record them; see `OwnDaemon.refocus`.

        Every worker must see the raw store and the output under the same paths.

        Raises
        ------
        InputError, LedgerError, OutputError
            If the store cannot be created or written.
        WorkerError
            If a position was given up.
        """
        begun = time.perf_counter()
        with self.opened(frames, keys, output) as (dataset, orders):
            run = _Run(self._client, dataset, on_frames)
            if self._client is None:
                for order in orders:
                    run.take(JobResult.unpack(refocus_position(order.pack())))
            else:
                run.all(orders)
            if run.rows_lost:
                # They were lost with the jobs that were killed; the metadata of the frames contain them.
                dataset.repair()
            run.check()
        return dataset.sink.path, time.perf_counter() - begun

    @contextmanager
    def opened(
        self, frames: Dataset, keys: Sequence[str], output: Output
    ) -> Iterator[tuple[OutputDataset, list[PositionOrder]]]:
        """Open the output, with room for these frames, and list what each job is to do.

        Raises
        ------
        InputError, LedgerError, OutputError
            As `refocus`.
        """
        if not (isinstance(frames, StoreReader) or has_slides(frames)):
            raise InputError(
                f"{frames.path} is no OME-Zarr, whose positions several workers can write at once: "
                "refocus it without --cluster, or convert it"
            )
        dataset = OutputDataset.open(self._settings, self._open_output(frames, output))
        acquired: int | None = None
        try:
            if not frames.catch_up_from:
                note_recording(dataset.sink.path, frames.path)
                note_output(self._settings.ledgers, frames.path, dataset.sink.path)
            fit = [key for key in keys if not frames.unfit(key)]
            if unfit := set(keys).difference(fit):
                dataset.record_attempts([_unfit_attempt(frames, key, output) for key in unfit])
            orders = _orders(
                frames, fit, output, self._settings, dataset.sink.path, self._blurs_of(frames)
            )
            if not isinstance(dataset.sink, MirrorSink):
                raise OutputError(
                    f"{dataset.sink.path} was not begun as an OME-Zarr with a place for each frame, and "
                    "cannot be continued so: name another --output"
                )
            for order in orders:
                dataset.sink.make_room(json.loads(order.keys[-1]))
            yield dataset, orders
            acquired = len(frames)
        finally:
            dataset.close(acquired)

    def _blurs_of(self, frames: Dataset) -> dict[str, KnownBlur]:
        return {} if has_slides(frames) else plate_blurs(frames, engines_of(self._settings).engines)

    def _open_output(self, frames: Dataset, output: Output) -> OpenOutput:
        form = frames.first_format()
        applied = apply_profiles(
            Catalogue(self._settings.calibrations),
            json.loads(first_of(output.first)),
            (form.height, form.width),
            named=list(output.profiles),
            trained=trained_models(self._settings),
        )
        engine = engines_of(self._settings).ready.engine
        return OpenOutput(announcement(frames, output, len(frames)), output.run, engine, applied)


@dataclass(frozen=True, slots=True)
class _Job:
    """A submitted order: the `attempt`-th since its position last made progress."""

    order: PositionOrder
    attempt: int
    #: Length of its list of frames when it was submitted.
    listed_nbytes: int


class _Run:
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
        Some frames may be written that the ledger does not have.
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
        #: It was reported that there is no worker.
        self._alone = False

    def all(self, orders: Sequence[PositionOrder]) -> None:
        """Run all jobs; `check` reports those that were given up.

        Raises
        ------
        DiskFullError
            No other job would succeed either.
        TransportError
            If the scheduler was lost, and did not come back.
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
                raise DiskFullError(f"{outcome}; the same command goes on from there") from outcome
            # A long position may lose many workers, as long as each of them makes progress.
            got_on = _listed_nbytes(job.order) > job.listed_nbytes
            attempt = 1 if got_on else job.attempt
            if attempt >= MAX_ATTEMPTS or not _may_pass(outcome):
                self._given_up.append(_said(job.order, attempt, outcome))
                continue
            log.warning("%s: begun again (%s)", job.order.position, _named(outcome))
            time.sleep(AGAIN_S * attempt)
            self._submit(job.order, attempt + 1)

    def _submit(self, order: PositionOrder, attempt: int) -> None:
        try:
            # Not pure: the same order again is another attempt.
            future = self._client.submit(
                refocus_position,
                order.pack(),
                pure=False,
                key=f"{order.position or 'image'}-{time.time_ns():x}",
            )
        except Exception as error:
            if self._client.status == "closed":
                raise TransportError(
                    "the Dask scheduler is gone and did not come back; what was written stays: the "
                    "same command goes on from there"
                ) from error
            raise
        self._running[future] = _Job(order, attempt, _listed_nbytes(order))
        future.add_done_callback(self._ended.put)

    def _next(self) -> Future | None:
        """A job that has ended; None if none has ended for a while."""
        with suppress(Empty):
            return self._ended.get(timeout=LOOK_S)
        if not self._client.scheduler_info()["workers"] and not self._alone:
            log.warning("no worker is there: jobs wait for one (in the queue?)")
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
        """Whether Dask ended a job's last worker because it took more than its memory."""
        events = self._client.get_events("worker-restart-memory") or ()
        return killed.last_worker.address in {event["worker"] for _, event in events}

    def check(self) -> None:
        """Report the positions that were given up.

        Raises
        ------
        RefocusdError
        """
        if len(self._given_up) == 1:
            raise self._given_up[0]
        if self._given_up:
            raise WorkerError(f"{len(self._given_up)} positions were given up: {self._given_up[0]}")

    def take(self, result: JobResult) -> None:
        """Record what a job did."""
        self._dataset.record_attempts(result.attempts)
        self.rows_lost |= result.found > 0
        self._on_frames(len(result.attempts) + result.found)


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
            f"{where}: a worker has not enough memory for a frame; give jobs more with --job-memory"
        )
    if _may_pass(error):
        return WorkerError(
            f"{where}: its worker was lost {tries} times in a row without a frame (killed, preempted, "
            "or out of memory); what was written stays: the same command goes on from there, with "
            "more --job-memory if that was it"
        )
    return WorkerError(f"{where}: {type(error).__name__}: {error}")


def _named(error: BaseException | None) -> str:
    return "its worker was lost" if error is None else f"{type(error).__name__}: {error}"


def _by_position(keys: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(str(json.loads(key).get("position", "")), []).append(key)
    return found


def _unfit_attempt(frames: Dataset, key: str, output: Output) -> Attempt:
    why = f"{UNFIT}: frame {key} of {frames.path} {frames.unfit(key)}"
    return Attempt(output.run, output.acquisition, key, "failed", why, live=False)


def _orders(
    frames: Dataset,
    keys: Sequence[str],
    output: Output,
    settings: Settings,
    place: Path,
    blurs: Mapping[str, KnownBlur],
) -> list[PositionOrder]:
    # The longest first, so that all workers are busy until the end.
    positions = sorted(_by_position(keys).items(), key=lambda each: -len(each[1]))
    return [
        PositionOrder(
            raw=str(frames.path),
            output=str(place),
            position=position,
            keys=own,
            acquisition=output.acquisition,
            run=output.run,
            settings=settings,
            first=first_of(output.first),
            profiles=list(output.profiles),
            blurs={kind: blurs[kind] for kind in sorted({*map(kind_of, own)} & blurs.keys())},
        )
        for position, own in positions
    ]
