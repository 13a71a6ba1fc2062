"""One position of a screen, refocused by a worker of a cluster."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import msgspec
import numpy as np

from refocusd.cluster.order import JobResult, PositionOrder
from refocusd.cluster.plate_blurs import surer
from refocusd.cluster.slide import refocus_slide
from refocusd.cluster.tiles_done import TilesDone
from refocusd.config import Settings
from refocusd.daemon.acquisitions.checks import channel_of, untrusted_of
from refocusd.daemon.acquisitions.known_blurs import blur_by_microscope
from refocusd.daemon.output.jobs import WriteFrame
from refocusd.daemon.output.metadata import frame_metadata
from refocusd.daemon.output.trust_maps import TrustMaps
from refocusd.daemon.workers.pool import stream_of
from refocusd.errors import DeviceLostError, DiskFullError, InputError, OutputError, RefocusdError
from refocusd.formats.dataset import Dataset
from refocusd.formats.ome_zarr.groups import is_store
from refocusd.formats.ome_zarr.mirror_image import MirrorImage
from refocusd.formats.ome_zarr.store_reader import StoreReader
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.strips import checksum_by_strips
from refocusd.frame import FinalState, Pixels, checksum
from refocusd.imaging.trust_map import trust_shape
from refocusd.ledger import WRITTEN, Attempt
from refocusd.profiles.applied import Applied
from refocusd.profiles.catalogue import Catalogue
from refocusd.profiles.hot_pixels import HotPixels
from refocusd.transport.messages import EngineInfo, Submit
from refocusd.transport.ring import Slot
from refocusd.worker.blurs import Blurs, known_blur
from refocusd.worker.refocus import Calibrated, refocus_frame
from refocusd.worker.session import Prepared, prepare

_lock = threading.Lock()
_engines: dict[bytes, Prepared] = {}


def refocus_position(order: bytes) -> bytes:
    """Refocus the frames of one position that are not in the output yet.

    It may be killed at any moment and run again: what is listed is not done twice.

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
        If the raw store cannot be read, the output not be written, or no engine be built.
    MemoryError
    """
    told = PositionOrder.unpack(order)
    prepared = engines_of(told.settings)
    attempts: list[Attempt] = []
    found = 0
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
        applied = Applied(selection)
        blurs = Blurs()
        maps = TrustMaps.of_position(
            Path(told.output),
            told.position,
            raw.summary,
            (form.height, form.width),
            enabled=told.settings.trust_map,
        )
        stack.enter_context(closing(maps))
        for key in told.keys:
            if key in image.keys:
                found += 1
            else:
                attempts.append(_attempt(told, key, raw, image, prepared, applied, blurs, maps))
    return JobResult(attempts, found).pack()


def build_engines(settings: bytes) -> None:
    """Have the engines for packed settings ready; what is wrong with them is said by the jobs."""
    with suppress(RefocusdError, MemoryError):
        engines_of(msgspec.msgpack.decode(settings, type=Settings))


def engines_of(settings: Settings) -> Prepared:
    """The engines of this process for these settings, built when they are first needed.

    Raises
    ------
    BundleError, EngineError
    """
    # What engines do not depend on would only build them again.
    name = msgspec.msgpack.encode((settings.models, settings.engine_options))
    with _lock:
        if name not in _engines:
            choose_device()
            _engines[name] = prepare(settings.models, settings.engine_options)
        return _engines[name]


def choose_device() -> None:
    """Take one graphics card of several, by the number of this worker of a local cluster."""
    with suppress(ImportError, ValueError, TypeError):
        from distributed import get_worker

        number = int(get_worker().name)  # a name where it is no number of a local cluster
        if (cards := _cards()) > 1:
            os.environ.setdefault("CUDA_VISIBLE_DEVICES", str(number % cards))


def _cards() -> int:
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


def _attempt(
    told: PositionOrder,
    key: str,
    raw: Dataset,
    image: MirrorImage,
    prepared: Prepared,
    applied: Applied,
    blurs: Blurs,
    maps: TrustMaps,
) -> Attempt:
    """Refocus one frame, write it, and say what became of it.

    Raises
    ------
    DiskFullError, DeviceLostError, MemoryError
        The next frame would fare no better.
    """
    begun = time.perf_counter_ns()
    if raw.is_slide(key):
        return _attempt_slide(told, key, raw, image, prepared)
    try:
        frame = raw.read(key)
    except (InputError, OSError) as error:
        return _unwritten(told, key, "failed", f"raw cannot be used: {error}")
    metadata = json.dumps(dict(frame.metadata), default=str)
    before = checksum(frame.pixels)
    slot = Slot(0, frame.pixels.nbytes)
    submit = Submit(told.acquisition, key, slot, before, metadata, begun, live=False)
    channel, skipped = channel_of(submit, told.settings)
    if skipped:
        return _unwritten(told, key, "skipped", skipped)
    out = np.empty_like(frame.pixels)
    trust = np.empty(trust_shape(out.shape), np.uint8)
    profile = applied.of_frame(key, metadata, frame.pixels.shape)
    known = surer(blur_by_microscope(told.settings, applied, "", key, metadata), told.blurs, key)
    try:
        facts = refocus_frame(
            prepared.engines[channel],
            frame.pixels,
            out,
            pass_in_focus=told.settings.pass_in_focus,
            untrusted=untrusted_of(submit, told.settings),
            stream=blurs.of(stream_of(told.acquisition, key), known_blur(known)),
            calibrated=None
            if profile is None
            else Calibrated(profile.profile, HotPixels(profile.hot_pixels, frame.pixels.shape)),
            trust=trust,
        )
        engine: EngineInfo = prepared.ready.engine.channels.get(channel) or prepared.ready.engine
        judged = trust.tobytes() if engine.backend != "identity" else b""
        job = WriteFrame(0, submit, checksum(out), facts, engine, None, judged)
        state, reason = job.outcome
        if state in WRITTEN:
            image.write(out, dict(frame.axes), frame_metadata(told.run, job, state, reason))
            maps.write(job)
    except (DiskFullError, DeviceLostError):
        raise
    except (RefocusdError, OutputError) as error:
        return _unwritten(told, key, "failed", str(error))
    return _done(told, job, state, reason)


def _attempt_slide(
    told: PositionOrder, key: str, raw: Dataset, image: MirrorImage, prepared: Prepared
) -> Attempt:
    """As `_attempt`, of a frame that does not fit into memory."""
    begun = time.perf_counter_ns()
    form, axes = raw.format_of(key), json.loads(key)

    def read(rows: slice, columns: slice) -> Pixels:
        return raw.read_part(key, rows, columns)

    def write(pixels: Pixels, rows: slice, columns: slice) -> None:
        image.write_part(pixels, axes, rows, columns)

    try:
        metadata = raw.metadata(key)
        before = checksum_by_strips(form, read)
        submit = Submit(
            told.acquisition,
            key,
            Slot(0, form.nbytes),
            before,
            json.dumps(metadata, default=str),
            begun,
            live=False,
        )
        channel, skipped = channel_of(submit, told.settings)
        if skipped:
            return _unwritten(told, key, "skipped", skipped)
        settings = msgspec.structs.replace(
            told.settings, untrusted=untrusted_of(submit, told.settings)
        )
        engine: EngineInfo = prepared.ready.engine.channels.get(channel) or prepared.ready.engine
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
        return _unwritten(told, key, "failed", str(error))
    return _done(told, job, state, reason)


def _done(told: PositionOrder, job: WriteFrame, state: FinalState, reason: str) -> Attempt:
    submit, facts = job.submit, job.facts
    return Attempt(
        told.run,
        told.acquisition,
        submit.axes,
        state,
        reason,
        live=False,
        latency_ms=(time.perf_counter_ns() - submit.taken_ns) / 1e6,
        engine_ms=facts.engine_ms,
        facts=msgspec.to_builtins(facts),
        checksum=job.checksum if state in WRITTEN else None,
        raw_checksum=submit.checksum,
    )


def _unwritten(told: PositionOrder, key: str, state: str, reason: str) -> Attempt:
    return Attempt(told.run, told.acquisition, key, state, reason, live=False)
