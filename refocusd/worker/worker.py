"""The loop of a worker: a task in, a refocused frame out."""

from __future__ import annotations

import logging
import threading
import time
from typing import Literal

import numpy as np
import zmq

from refocusd.engines.engine import Engine
from refocusd.engines.verdict import flux_ratio, verdict
from refocusd.errors import RefocusdError, TransportError
from refocusd.frame import Pixels
from refocusd.quality import focus_score
from refocusd.transport.client import SILENCE_S, Connection
from refocusd.transport.messages import Failure, FrameFacts, Refused, Result, Stop, Task
from refocusd.transport.ring import checksum

__all__ = ["refocus_frame", "serve"]

log = logging.getLogger(__name__)


def serve(
    connection: Connection,
    engine: Engine,
    *,
    pass_in_focus: bool,
    asked: threading.Event | None = None,
) -> Literal["stopped", "lost"]:
    """Take tasks until somebody says to stop, or the daemon is gone.

    Parameters
    ----------
    connection : Connection
        Of the role ``worker``, welcomed, after `Ready` was sent.
    engine : Engine
        Warmed up.
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
    MemoryError
        If a frame takes more memory than there is: what is left of the process is in no
        known state, so another has to take its place.
    """
    lent = _Lent()
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
        if isinstance(message, Task):
            _do(connection, engine, message, part, pass_in_focus, lent)
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


def _do(
    connection: Connection,
    engine: Engine,
    task: Task,
    part: memoryview | None,
    pass_in_focus: bool,
    lent: _Lent,
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
        facts = refocus_frame(engine, raw, out, pass_in_focus=pass_in_focus)
    except MemoryError:
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
    engine: Engine, raw: Pixels, out: Pixels, *, pass_in_focus: bool = True
) -> FrameFacts:
    """Refocus one frame and say what happened to it.

    Parameters
    ----------
    engine : Engine
    raw : ndarray of uint8 or uint16, shape (height, width)
    out : ndarray, same shape and dtype
        Filled with the refocused frame; with the raw one if that is in focus
        already and `pass_in_focus` is set.

    Returns
    -------
    FrameFacts
    """
    begun = time.perf_counter()
    refocused = engine.refocus(raw, out)
    if engine.description.backend == "identity":
        # Measures the path alone: nothing is said of the picture.
        worker_ms = (time.perf_counter() - begun) * 1e3
        return FrameFacts(0.0, 1.0, refocused.engine_ms, worker_ms, 0.0, 0.0, 1.0, 0, "in focus")
    focus_before, focus_after = focus_score(raw), focus_score(out)
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
        flux_ratio=1.0 if said == "in focus" else flux_ratio(raw, out, refocused.counts.offset),
        clipped=0 if said == "in focus" else refocused.clipped,
        verdict=said,
    )
