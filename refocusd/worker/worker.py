"""The loop of a worker: a task in, a refocused frame out."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import zmq

from refocusd.engines.engine import Engine
from refocusd.engines.verdict import flux_ratio, verdict
from refocusd.errors import DeviceLostError, RefocusdError, TransportError
from refocusd.frame import Pixels, checksum
from refocusd.imaging.optics import Optics
from refocusd.imaging.quality import focus_score
from refocusd.profiles.hot_pixels import HotPixels
from refocusd.transport.client import SILENCE_S, Connection
from refocusd.transport.messages import (
    MAX_CALIBRATIONS,
    Calibration,
    Failure,
    FocusOptics,
    FrameFacts,
    Refused,
    Result,
    Stop,
    Task,
)

if TYPE_CHECKING:
    from refocusd.imaging.defocus import DefocusEstimate

__all__ = ["Calibrated", "refocus_frame", "serve"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What applies to a frame of its calibration profile: the profile's id, and its hot pixels."""

    profile: str
    hot_pixels: HotPixels


def serve(
    connection: Connection,
    engines: Mapping[str, Engine],
    *,
    pass_in_focus: bool,
    asked: threading.Event | None = None,
) -> Literal["stopped", "lost"]:
    """Take tasks until somebody says to stop, or the daemon is gone.

    Parameters
    ----------
    connection : Connection
        Of the role ``worker``, welcomed, after `Ready` was sent.
    engines : mapping of str to Engine
        By channel, "" for all that are not named; warmed up.
    pass_in_focus : bool
        See `refocus_frame`.
    asked : threading.Event, optional
        Ends it between two frames.

    Returns
    -------
    str
        ``stopped`` if the daemon said `Stop` or `asked` was set; ``lost`` if the link was
        cut, or the daemon is silent.

    Raises
    ------
    TransportError
        If the daemon refuses this worker, or does not know it any more.
    MemoryError, DeviceLostError
        If a frame takes more memory than there is, or the graphics card is gone: what is
        left of the process is in no known state, so another has to take its place.
    """
    lent = _Lent()
    calibrations = _Calibrations()
    while asked is None or not asked.is_set():
        received = connection.receive_parts(0.5)
        if received is None:
            if connection.lost:
                log.warning("%s", connection.lost)
                return "lost"
            if connection.silent_s > SILENCE_S:
                log.warning("the daemon has not been heard for %.0f s", SILENCE_S)
                return "lost"
            continue
        message, part = received
        if isinstance(message, Stop):
            return "stopped"
        if isinstance(message, Refused):
            raise TransportError(f"the daemon refuses this worker: {message.reason}")
        if isinstance(message, Calibration):
            calibrations.add(message)
        elif isinstance(message, Task):
            _do(connection, engines, message, part, pass_in_focus, lent, calibrations)
    return "stopped"


class _Lent:
    """Memory for refocused frames that leave through the socket, used again when they have left.

    A fresh 8 MiB costs more in page faults than a copy would.
    """

    def __init__(self) -> None:
        self._buffers: list[tuple[Pixels, zmq.MessageTracker]] = []

    def take(self, shape: tuple[int, int], dtype: str) -> Pixels:
        """Memory for one frame, its content undefined."""
        for index, (pixels, tracker) in enumerate(self._buffers):
            if tracker.done:
                del self._buffers[index]
                if pixels.shape == shape and pixels.dtype.name == dtype:
                    return pixels
                break
        return np.empty(shape, dtype)

    def give(self, pixels: Pixels, tracker: zmq.MessageTracker) -> None:
        """Note what was sent; the oldest is left to the socket."""
        self._buffers = [*self._buffers[-3:], (pixels, tracker)]


class _Calibrations:
    """What the daemon told of calibration profiles, the last few of them."""

    def __init__(self) -> None:
        self._told: dict[str, Calibrated] = {}

    def add(self, message: Calibration) -> None:
        """Keep one; the oldest goes."""
        if len(self._told) >= MAX_CALIBRATIONS:
            del self._told[next(iter(self._told))]
        hot = HotPixels(message.hot_pixels, (message.height, message.width))
        self._told[message.key] = Calibrated(message.profile, hot)

    def of(self, task: Task) -> Calibrated | None:
        """What a task needs; None where no profile applies.

        Raises
        ------
        TransportError
            If the daemon did not tell it.
        """
        if not task.calibration:
            return None
        found = self._told.get(task.calibration)
        if found is None or found.hot_pixels.shape != (task.height, task.width):
            raise TransportError(f"the daemon did not tell what calibration {task.calibration} is")
        return found


def _do(
    connection: Connection,
    engines: Mapping[str, Engine],
    task: Task,
    part: memoryview | None,
    pass_in_focus: bool,
    lent: _Lent,
    calibrations: _Calibrations,
) -> None:
    shape = (task.height, task.width)
    raw: Pixels
    out: Pixels
    try:
        if connection.ring is not None:
            raw = connection.ring.view(task.slot.offset, shape, task.dtype)  # type: ignore[assignment]
            out = connection.ring.view(task.slot.refocused_offset, shape, task.dtype)  # type: ignore[assignment]
        elif part is not None and part.nbytes == task.slot.nbytes:
            raw = np.frombuffer(part, task.dtype).reshape(shape)
            out = lent.take(shape, task.dtype)
        else:
            raise TransportError(f"task {task.task} came without its pixels")
        if checksum(raw) != task.checksum:
            raise TransportError("the raw pixels changed on their way (checksum)")
        if (engine := engines.get(task.channel)) is None:
            raise TransportError(f"this worker has no model of its own for channel {task.channel}")
        facts = refocus_frame(
            engine,
            raw,
            out,
            pass_in_focus=pass_in_focus,
            focus=task.focus,
            calibrated=calibrations.of(task),
        )
    except (MemoryError, DeviceLostError):
        raise
    except RefocusdError as error:
        connection.send(Failure(task.task, str(error)))
    except Exception as error:
        log.exception("task %d", task.task)
        connection.send(Failure(task.task, f"{type(error).__name__}: {error}"))
    else:
        result = Result(task.task, checksum(out), facts)
        if connection.ring is not None:
            connection.send(result)
        elif tracker := connection.lend(result, out):
            lent.give(out, tracker)


def refocus_frame(
    engine: Engine,
    raw: Pixels,
    out: Pixels,
    *,
    pass_in_focus: bool = True,
    focus: FocusOptics | None = None,
    calibrated: Calibrated | None = None,
) -> FrameFacts:
    """Refocus one frame and say what happened to it.

    Parameters
    ----------
    engine : Engine
    raw : ndarray of uint8 or uint16, shape (height, width)
    out : ndarray, same shape and dtype
        Filled with the refocused frame; with the raw one if that is in focus
        already and `pass_in_focus` is set.
    focus : FocusOptics, optional
        Estimate the defocus as well, by these optics.
    calibrated : Calibrated, optional
        Its hot pixels are replaced in what the engine sees, and so in the percentiles that
        the frame is normalised by.  The camera's offset is no lower bound of these: networks
        are trained on frames whose darkest percent lies below it, by their noise.

    Returns
    -------
    FrameFacts
    """
    begun = time.perf_counter()
    profile = calibrated.profile if calibrated else None
    seen = raw
    if calibrated and calibrated.hot_pixels and engine.description.backend != "identity":
        seen = calibrated.hot_pixels.repaired(raw)
    refocused = engine.refocus(seen, out)
    if engine.description.backend == "identity":
        return _path_alone(refocused.engine_ms, begun, profile)
    # A hot pixel is the sharpest thing in a frame: it must not pass for focus.
    focus_before, focus_after = focus_score(seen), focus_score(out)
    # Before a frame in focus takes the place of what the network made of it.
    defocus = _defocus(seen, out, focus) if focus is not None else None
    said = verdict(focus_before, focus_after) if pass_in_focus else "refocused"
    if said == "in focus":
        np.copyto(out, raw)
    return FrameFacts(
        offset=refocused.counts.offset,
        scale=refocused.counts.scale,
        engine_ms=refocused.engine_ms,
        worker_ms=(time.perf_counter() - begun) * 1e3,
        focus_before=focus_before,
        focus_after=focus_before if said == "in focus" else focus_after,
        flux_ratio=1.0 if said == "in focus" else flux_ratio(seen, out, refocused.counts.offset),
        clipped=0 if said == "in focus" else refocused.clipped,
        verdict=said,
        defocus_um=defocus.distance_um if defocus else None,
        defocus_uncertainty_um=defocus.uncertainty_um if defocus else None,
        defocus_confidence=defocus.confidence if defocus else 0.0,
        calibration=profile,
        blur_px=refocused.blur.sigma_px if refocused.blur else None,
        blur_uncertainty=refocused.blur.uncertainty if refocused.blur else None,
        blur_source=refocused.blur.source if refocused.blur else None,
    )


def _path_alone(engine_ms: float, begun: float, profile: str | None) -> FrameFacts:
    """What is said where only the path is measured: nothing of the picture."""
    worker_ms = (time.perf_counter() - begun) * 1e3
    return FrameFacts(
        0.0, 1.0, engine_ms, worker_ms, 0.0, 0.0, 1.0, 0, "in focus", calibration=profile
    )


def _defocus(raw: Pixels, out: Pixels, about: FocusOptics) -> DefocusEstimate | None:
    """The defocus, where the frame tells it.  An estimate is a help, and never costs a frame."""
    # SciPy's transforms, which only this needs.
    from refocusd.imaging.defocus import estimate_defocus

    try:
        optics = Optics(
            about.na,
            about.wavelength_um,
            about.refractive_index,
            about.pixel_um,
            about.spherical_waves,
            about.apodisation,
        )
        estimate = estimate_defocus(raw, out, optics, measured=about.measured)
    except (RefocusdError, ArithmeticError, ValueError) as error:
        log.warning("no estimate of the defocus: %s", error)
        return None
    return estimate if estimate.confidence > 0 else None
