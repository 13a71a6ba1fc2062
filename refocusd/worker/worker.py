"""The loop of a worker: a task in, a refocused frame out."""

from __future__ import annotations

import logging
import time

import numpy as np

from refocusd.engines.engine import Engine
from refocusd.engines.verdict import flux_ratio, verdict
from refocusd.errors import RefocusdError, TransportError
from refocusd.frame import Pixels
from refocusd.quality import focus_score
from refocusd.transport.client import SILENCE_S, Connection
from refocusd.transport.messages import Failure, FrameFacts, Result, Stop, Task
from refocusd.transport.ring import checksum

__all__ = ["refocus_frame", "serve"]

log = logging.getLogger(__name__)


def serve(connection: Connection, engine: Engine, *, pass_in_focus: bool) -> None:
    """Take tasks until the daemon says `Stop` or is gone.

    Parameters
    ----------
    connection : Connection
        Of the role ``worker``, welcomed, after `Ready` was sent.
    engine : Engine
        Warmed up.
    pass_in_focus : bool
        See `refocus_frame`.
    """
    while True:
        received = connection.receive_parts(0.5)
        if received is None:
            if connection.silent_s > SILENCE_S:
                log.warning("the daemon has not been heard for %.0f s: worker ends", SILENCE_S)
                return
            continue
        message, part = received
        if isinstance(message, Stop):
            return
        if isinstance(message, Task):
            _do(connection, engine, message, part, pass_in_focus)


def _do(
    connection: Connection,
    engine: Engine,
    task: Task,
    part: memoryview | None,
    pass_in_focus: bool,
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
            out = np.empty(shape, task.dtype)
        else:
            raise TransportError(f"task {task.task} came without its pixels")
        if checksum(raw) != task.checksum:
            raise TransportError("the raw pixels changed on their way (checksum)")
        facts = refocus_frame(engine, raw, out, pass_in_focus=pass_in_focus)
    except RefocusdError as error:
        connection.send(Failure(task.task, str(error)))
    except Exception as error:
        log.exception("task %d", task.task)
        connection.send(Failure(task.task, f"{type(error).__name__}: {error}"))
    else:
        inline = out if connection.ring is None else None
        connection.send(Result(task.task, checksum(out), facts), inline)


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
