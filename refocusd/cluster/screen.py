"""A screen on a cluster: the output store is created first, then each position is a job, and the ledger records them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from refocusd.cluster.job import build_engines, engines_of, refocus_position
from refocusd.cluster.jobs import Jobs
from refocusd.cluster.order import JobResult, PositionOrder
from refocusd.cluster.plan import by_position, has_slides
from refocusd.cluster.plate_blurs import plate_blurs
from refocusd.config import Settings
from refocusd.daemon.acquisitions.blur.shared import kind_of
from refocusd.daemon.acquisitions.intake import trained_models
from refocusd.daemon.acquisitions.run_id import run_id
from refocusd.daemon.offline import announcement
from refocusd.daemon.output.dataset import OutputDataset
from refocusd.daemon.output.jobs import OpenOutput
from refocusd.datasets.output import Output, note_recording
from refocusd.errors import InputError, OutputError
from refocusd.formats.dataset import Dataset
from refocusd.formats.ome_zarr.mirror.writer import MirrorSink
from refocusd.formats.ome_zarr.store.reader import StoreReader
from refocusd.ledger import Attempt, note_output
from refocusd.profiles.applied import apply_profiles
from refocusd.profiles.catalogue import Catalogue, selection_id
from refocusd.profiles.microscope_metadata import first_of
from refocusd.transport.messages import KnownBlur
from refocusd.transport.records import UNFIT

if TYPE_CHECKING:
    from distributed import Client, Future


class Cluster:
    """Workers of a cluster, which `refocusd process` uses in place of `OwnDaemon`.

    Parameters
    ----------
    client : distributed.Client or None
        None refocuses in this process, one position after another.
    """

    def __init__(self, client: Client | None) -> None:
        self._client = client
        self._settings = Settings()
        #: Builds the engine of each worker that is present.
        self._warming: list[Future] = []

    def start(self, settings: Settings) -> None:
        """Build an engine in this process too, because the frames' records name the engine that made them.

        Raises
        ------
        BundleError, EngineError
        """
        self._settings = settings
        if self._client is not None:
            # At the same time as the engine of this process, so that they are ready for the first jobs.
            packed = msgspec.msgpack.encode(settings)
            self._warming = [
                self._client.submit(build_engines, packed, workers=[worker], pure=False)
                for worker in self._client.nthreads()
            ]
        engines_of(settings)

    def run_of(self, profiles: Sequence[str]) -> str:
        """Id of the run with these calibration profiles."""
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
            jobs = Jobs(self._client, dataset, on_frames)
            # Frames that cannot be refocused are in no order: they have their state.
            on_frames(len(keys) - sum(len(order.keys) for order in orders))
            if self._client is None:
                for order in orders:
                    jobs.take(JobResult.unpack(refocus_position(order.pack())))
            else:
                jobs.all(orders)
            if jobs.rows_lost:
                # Rows were lost with jobs that were killed; the metadata of the frames contain them.
                dataset.repair()
            jobs.check()
        return dataset.sink.path, time.perf_counter() - begun

    @contextmanager
    def opened(
        self, frames: Dataset, keys: Sequence[str], output: Output
    ) -> Iterator[tuple[OutputDataset, list[PositionOrder]]]:
        """Open the output, with room for these frames, and yield it with the orders of the jobs.

        Raises
        ------
        InputError, LedgerError, OutputError
            As `refocus`.
        """
        if not (isinstance(frames, StoreReader) or has_slides(frames)):
            raise InputError(
                f"{frames.path} is not an OME-Zarr store, whose positions several workers can write at "
                "once: refocus it without --cluster, or convert it"
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
                    f"{dataset.sink.path} was not created as an OME-Zarr store with a place for each frame, "
                    "so this command cannot continue it: name another --output"
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
    positions = sorted(by_position(keys).items(), key=lambda each: -len(each[1]))
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
