"""Refocuses one position of a screen, in a worker of a cluster."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import msgspec
import numpy as np

from refocusd.cluster.order import JobResult, PositionOrder
from refocusd.cluster.slide import refocus_slide
from refocusd.cluster.tiles_done import TilesDone
from refocusd.config import Settings
from refocusd.daemon.acquisitions.blur.known import blur_by_microscope
from refocusd.daemon.acquisitions.blur.shared import kind_of, surer
from refocusd.daemon.acquisitions.checks import channel_of, untrusted_of
from refocusd.daemon.output.jobs import WriteFrame
from refocusd.daemon.output.metadata import attempt_of, frame_metadata
from refocusd.daemon.output.trust_maps import TrustMaps
from refocusd.daemon.workers.pool import stream_of
from refocusd.errors import DeviceLostError, DiskFullError, InputError, RefocusdError
from refocusd.formats.dataset import Dataset, checksum_by_strips
from refocusd.formats.ome_zarr.mirror.image import MirrorImage
from refocusd.formats.ome_zarr.store.groups import is_store
from refocusd.formats.ome_zarr.store.reader import StoreReader
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import Axes, Frame, Metadata, Pixels, checksum
from refocusd.imaging.trust_map import trust_shape
from refocusd.ledger import WRITTEN, Attempt
from refocusd.profiles.applied import Applied
from refocusd.profiles.catalogue import Catalogue
from refocusd.profiles.hot_pixels import HotPixels
from refocusd.transport.messages import Submit
from refocusd.transport.records import UNFIT
from refocusd.transport.ring import Slot
from refocusd.worker.blurs import Blurs, known_blur
from refocusd.worker.refocus import Calibrated, refocus_frame
from refocusd.worker.session import Prepared, prepare

#: Larger frames, in bytes, are read, refocused and written one after another: memory may not hold two more.
AHEAD_NBYTES = 32 << 20
#: glibc returns freed memory above this size to the system; the parameters of its `mallopt`.
KEPT_NBYTES = 64 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3

_lock = threading.Lock()
_engines: dict[bytes, Prepared] = {}


def refocus_position(order: bytes) -> bytes:
    """Refocus the frames of one position that are not in the output yet.

    A job may be killed at any moment and run again: frames that the output lists are not refocused twice.

    Parameters
    ----------
    order : bytes
        A packed `PositionOrder`.

    Returns
    -------
    bytes
        A packed `JobResult`.

    Raises
    ------
    RefocusdError
        If the raw store cannot be read, the output cannot be written, or no engine can be built.
    MemoryError
        If a frame needs more memory than is available.
    """
    told = PositionOrder.unpack(order)
    prepared = engines_of(told.settings)
    with ExitStack() as stack:
        path = Path(told.raw)
        store = is_store(path)
        raw = stack.enter_context(
            StoreReader(path, only=told.position) if store else open_dataset(path)
        )
        image = stack.enter_context(MirrorImage(Path(told.output), told.position))
        form = raw.first_format()
        microscope = msgspec.json.decode(told.first or "{}", type=dict[str, object])
        catalogue = Catalogue(told.settings.calibrations)
        selection = catalogue.named(told.profiles, microscope, (form.height, form.width))
        maps = TrustMaps.of_position(
            Path(told.output),
            told.position,
            raw.summary,
            (form.height, form.width),
            enabled=told.settings.trust_map,
        )
        stack.enter_context(closing(maps))
        keys = [key for key in told.keys if key not in image.keys]
        summary = json.dumps(raw.summary, default=str)
        position = _Position(told, raw, summary, image, prepared, Applied(selection), maps)
        return JobResult(position.attempts(keys), len(told.keys) - len(keys)).pack()


def build_engines(settings: bytes) -> None:
    """Build the engines for packed settings; if this fails, the jobs report the error."""
    with suppress(RefocusdError, MemoryError):
        engines_of(msgspec.msgpack.decode(settings, type=Settings))


def engines_of(settings: Settings) -> Prepared:
    """The engines of this process for these settings, built when they are first needed.

    Raises
    ------
    BundleError, EngineError
    """
    # Engines are not built again if only settings change that they do not depend on.
    name = msgspec.msgpack.encode((settings.models, settings.engine_options))
    with _lock:
        if name not in _engines:
            choose_device()
            keep_memory()
            _engines[name] = prepare(settings.models, settings.engine_options)
        return _engines[name]


def choose_device() -> None:
    """Choose one of several graphics cards by the number of this worker in a local cluster."""
    with suppress(ImportError, ValueError, TypeError):
        from distributed import get_worker

        number = int(get_worker().name)  # the names of other clusters' workers are not numbers
        if (cards := _cards()) > 1:
            os.environ.setdefault("CUDA_VISIBLE_DEVICES", str(number % cards))


def keep_memory() -> None:
    """Keep the memory of freed arrays for the next ones, as glibc does by default.

    Dask makes its workers return all of it to the system at once (``MALLOC_TRIM_THRESHOLD_``), which is
    useful for large results.  Here, each frame needs the same arrays again: at 696 x 520 px, returning
    them cost 18 000 page faults and 40 ms per frame.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_MMAP_THRESHOLD, KEPT_NBYTES // 2)
            mallopt(_TRIM_THRESHOLD, KEPT_NBYTES)


def _cards() -> int:
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


@dataclass(frozen=True, slots=True)
class _Made:
    """A refocused frame that is not written yet."""

    job: WriteFrame
    axes: Axes
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class _Position:
    """The frames of one position, and everything that refocusing them needs."""

    told: PositionOrder
    raw: Dataset
    summary: str
    image: MirrorImage
    prepared: Prepared
    applied: Applied
    maps: TrustMaps
    blurs: Blurs = field(default_factory=Blurs)

    def attempts(self, keys: Sequence[str]) -> list[Attempt]:
        """Refocus frames; the next one is read and the last one written at the same time.

        Raises
        ------
        DiskFullError, DeviceLostError, MemoryError
            If the next frame would fail too.
        """
        if not keys or self.raw.first_format().nbytes > AHEAD_NBYTES:
            return [self._write(self._attempt(key, self._read(key))) for key in keys]
        writing: list[Future[Attempt]] = []
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            reading = reader.submit(self._read, keys[0])
            for key, following in zip_longest(keys, keys[1:]):
                frame = reading.result()
                if following:
                    reading = reader.submit(self._read, following)
                made = self._attempt(key, frame)
                if writing:
                    writing[-1].result()  # one at a time, and no further frame after a full disk
                writing.append(writer.submit(self._write, made))
        return [each.result() for each in writing]

    def _read(self, key: str) -> Frame | Attempt | None:
        """A frame, or why it cannot be used; None if it does not fit into memory."""
        try:
            return None if self.raw.is_slide(key) else self.raw.read(key)
        except (InputError, OSError) as error:
            return self._unwritten(key, "failed", f"{UNFIT}: {error}")

    def _attempt(self, key: str, frame: Frame | Attempt | None) -> _Made | Attempt:
        """Refocus one frame.

        Raises
        ------
        DeviceLostError, MemoryError
        """
        if isinstance(frame, Attempt):
            return frame
        if frame is None:
            return self._attempt_slide(key)
        told, prepared = self.told, self.prepared
        begun = time.perf_counter_ns()
        submit = self._submit(key, frame.metadata, checksum(frame.pixels), begun)
        metadata = submit.metadata
        channel, skipped = channel_of(submit, told.settings)
        if skipped:
            return self._unwritten(key, "skipped", skipped)
        out = np.empty_like(frame.pixels)
        trust = np.empty(trust_shape(out.shape), np.uint8)
        profile = self.applied.of_frame(key, metadata, frame.pixels.shape)
        by_microscope = blur_by_microscope(told.settings, self.applied, self.summary, key, metadata)
        known = surer(by_microscope, told.blurs.get(kind_of(key)))
        try:
            facts = refocus_frame(
                prepared.engines[channel],
                frame.pixels,
                out,
                pass_in_focus=told.settings.pass_in_focus,
                untrusted=untrusted_of(submit, told.settings),
                stream=self.blurs.of(stream_of(told.acquisition, key), known_blur(known)),
                calibrated=None
                if profile is None
                else Calibrated(profile.profile, HotPixels(profile.hot_pixels, out.shape)),
                trust=trust,
            )
        except DeviceLostError:
            raise
        except RefocusdError as error:
            return self._unwritten(key, "failed", str(error))
        engine = prepared.ready.engine.of_channel(channel)
        judged = trust.tobytes() if engine.backend != "identity" else b""
        job = WriteFrame(0, submit, checksum(out), facts, engine, None, judged)
        return _Made(job, frame.axes, out)

    def _write(self, made: _Made | Attempt) -> Attempt:
        """Write one frame, and return its attempt.

        Raises
        ------
        DiskFullError
        """
        if isinstance(made, Attempt):
            return made
        job = made.job
        state, reason = job.outcome
        if state in WRITTEN:
            metadata = frame_metadata(self.told.run, job, state, reason)
            try:
                self.image.write(made.pixels, dict(made.axes), metadata)
            except DiskFullError:
                raise
            except RefocusdError as error:
                return self._unwritten(job.submit.axes, "failed", str(error))
            self.maps.write(job)
        return attempt_of(self.told.run, job, state, reason)

    def _attempt_slide(self, key: str) -> Attempt:
        """Do what `_attempt` and `_write` do, for a frame that does not fit into memory."""
        told, raw, image, prepared = self.told, self.raw, self.image, self.prepared
        begun = time.perf_counter_ns()
        form, axes = raw.format_of(key), json.loads(key)

        def read(rows: slice, columns: slice) -> Pixels:
            return raw.read_part(key, rows, columns)

        def write(pixels: Pixels, rows: slice, columns: slice) -> None:
            image.write_part(pixels, axes, rows, columns)

        try:
            before = checksum_by_strips(form, read)
            submit = self._submit(key, raw.metadata(key), before, begun)
            channel, skipped = channel_of(submit, told.settings)
            if skipped:
                return self._unwritten(key, "skipped", skipped)
            settings = msgspec.structs.replace(
                told.settings, untrusted=untrusted_of(submit, told.settings)
            )
            engine = prepared.ready.engine.of_channel(channel)
            done = TilesDone(image.unfinished(axes), before)
            facts = refocus_slide(
                prepared.engines[channel], form, image.file_shape, read, write, settings, done
            )
            after = before
            if facts.written != "nothing":
                after = checksum_by_strips(form, lambda *part: image.read_part(axes, *part))
            job = WriteFrame(0, submit, after, facts, engine, None)
            state, reason = job.outcome
            if state in WRITTEN:
                image.finish(axes, frame_metadata(told.run, job, state, reason))
            done.remove()
        except (DiskFullError, DeviceLostError):
            raise
        except RefocusdError as error:
            return self._unwritten(key, "failed", str(error))
        return attempt_of(told.run, job, state, reason)

    def _submit(self, key: str, metadata: Metadata, before: int, begun_ns: int) -> Submit:
        """The frame as a source would have submitted it to a daemon; no slot holds its pixels."""
        text = json.dumps(dict(metadata), default=str)
        slot = Slot(0, self.raw.format_of(key).nbytes)
        return Submit(self.told.acquisition, key, slot, before, text, begun_ns, live=False)

    def _unwritten(self, key: str, state: str, reason: str) -> Attempt:
        told = self.told
        return Attempt(told.run, told.acquisition, key, state, reason, live=False)
