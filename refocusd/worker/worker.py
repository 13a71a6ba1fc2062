"""The loop of a worker: it receives tasks and returns refocused frames."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Literal

import numpy as np
import zmq

from refocusd.engines.engine import Engine
from refocusd.errors import DeviceLostError, RefocusdError, TransportError
from refocusd.frame import Pixels, checksum
from refocusd.imaging.trust_map import trust_shape
from refocusd.profiles.hot_pixels import HotPixels
from refocusd.transport.client import SILENCE_S, Connection
from refocusd.transport.messages import (
    MAX_CALIBRATIONS,
    Calibration,
    Failure,
    Refused,
    Result,
    Stop,
    Task,
)
from refocusd.worker.blurs import Blurs, known_blur
from refocusd.worker.refocus import Calibrated, refocus_frame

log = logging.getLogger(__name__)


def serve(
    connection: Connection,
    engines: Mapping[str, Engine],
    *,
    pass_in_focus: bool,
    asked: threading.Event | None = None,
) -> Literal["stopped", "lost"]:
    """Process tasks until the worker is asked to stop or the daemon is gone.

    Parameters
    ----------
    connection : Connection
        A connection of the role ``worker`` that was welcomed, and over which `Ready` was sent.
    engines : mapping of str to Engine
        The engine of each channel, "" for all that are not named; warmed up.
    pass_in_focus : bool
        See `refocus_frame`.
    asked : threading.Event, optional
        Ends the loop between two frames.

    Returns
    -------
    str
        ``stopped`` if the daemon sent `Stop` or `asked` was set; ``lost`` if the link was
        cut, or the daemon is silent.

    Raises
    ------
    TransportError
        If the daemon refuses this worker, or does not know it any more.
    MemoryError, DeviceLostError
        If a frame needs more memory than is available, or the graphics card was lost.  The state of
        the process is then unknown, so that another one must replace it.
    """
    lent = _Lent()
    calibrations = _Calibrations()
    blurs = Blurs()
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
            _do(connection, engines, message, part, pass_in_focus, lent, calibrations, blurs)
    return "stopped"


class _Lent:
    """Memory for refocused frames that are sent through the socket; it is reused once they have been sent.

    Page faults in newly allocated memory cost more than a copy of the frame (at 8 MiB) would.
    """

    def __init__(self) -> None:
        self._buffers: list[tuple[Pixels, zmq.MessageTracker]] = []

    def take(self, shape: tuple[int, int], dtype: str) -> Pixels:
        """Memory for one frame; its content is undefined."""
        for index, (pixels, tracker) in enumerate(self._buffers):
            if tracker.done:
                del self._buffers[index]
                if pixels.shape == shape and pixels.dtype.name == dtype:
                    return pixels
                break
        return np.empty(shape, dtype)

    def give(self, pixels: Pixels, tracker: zmq.MessageTracker) -> None:
        """Keep memory that is being sent, of the last four frames; older memory is left to the socket."""
        self._buffers = [*self._buffers[-3:], (pixels, tracker)]


class _Calibrations:
    """The calibration profiles that the daemon sent most recently."""

    def __init__(self) -> None:
        self._told: dict[str, Calibrated] = {}

    def add(self, message: Calibration) -> None:
        """Keep one; the oldest is forgotten."""
        if len(self._told) >= MAX_CALIBRATIONS:
            del self._told[next(iter(self._told))]
        hot = HotPixels(message.hot_pixels, (message.height, message.width))
        self._told[message.key] = Calibrated(message.profile, hot)

    def of(self, task: Task) -> Calibrated | None:
        """The profile of a task; None if none applies.

        Raises
        ------
        TransportError
            If the daemon did not send it.
        """
        if not task.calibration:
            return None
        found = self._told.get(task.calibration)
        if found is None or found.hot_pixels.shape != (task.height, task.width):
            raise TransportError(f"the daemon did not send calibration {task.calibration}")
        return found


def _do(
    connection: Connection,
    engines: Mapping[str, Engine],
    task: Task,
    part: memoryview | None,
    pass_in_focus: bool,
    lent: _Lent,
    calibrations: _Calibrations,
    blurs: Blurs,
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
            raise TransportError("the raw pixels changed in transit (checksum)")
        if (engine := engines.get(task.channel)) is None:
            raise TransportError(f"this worker has no model of its own for channel {task.channel}")
        trust = np.empty(trust_shape(shape), np.uint8)
        facts = refocus_frame(
            engine,
            raw,
            out,
            pass_in_focus=pass_in_focus,
            untrusted=task.untrusted,
            focus=task.focus,
            calibrated=calibrations.of(task),
            stream=blurs.of(task.stream, known_blur(task.blur)),
            trust=trust,
        )
    except (MemoryError, DeviceLostError):
        raise
    except RefocusdError as error:
        connection.send(Failure(task.task, str(error)))
    except Exception as error:
        log.exception("task %d", task.task)
        connection.send(Failure(task.task, f"{type(error).__name__}: {error}"))
    else:
        judged = engine.description.backend != "identity"
        result = Result(task.task, checksum(out), facts, trust.tobytes() if judged else b"")
        if connection.ring is not None:
            connection.send(result)
        elif tracker := connection.lend(result, out):
            lent.give(out, tracker)
