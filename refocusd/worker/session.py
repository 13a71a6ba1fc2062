"""What every worker does, whoever started it: build an engine, introduce itself, take frames."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import Literal

from refocusd.config import EngineOptions
from refocusd.engines.choose import build_engine
from refocusd.engines.engine import Engine
from refocusd.transport.client import Connection
from refocusd.transport.messages import EngineInfo, Ready
from refocusd.worker.worker import serve

__all__ = ["OUT_OF_MEMORY", "WELCOME_S", "Prepared", "hold_session", "prepare"]

log = logging.getLogger(__name__)

#: Frame size that is warmed before a worker says it is ready.
WARM_UP_SHAPE = (512, 512)
#: For the daemon's answer to `Hello`.
WELCOME_S = 10.0
#: For the last result to leave when a worker ends.
LINGER_S = 1.0
#: Exit status of a worker that ran out of memory.
OUT_OF_MEMORY = 12


@dataclass(frozen=True, slots=True)
class Prepared:
    """An engine, and what the daemon is told of it."""

    engine: Engine
    ready: Ready


def prepare(model: str, options: EngineOptions) -> Prepared:
    """Build an engine and warm it up.

    Parameters
    ----------
    model : str
        As in `refocusd.config.Settings`.
    options : EngineOptions

    Raises
    ------
    BundleError, EngineError
    """
    begun = time.perf_counter()
    engine = build_engine(model, options)
    engine.warm_up(WARM_UP_SHAPE)
    about = engine.description
    info = EngineInfo(
        backend=about.backend,
        precision=about.precision,
        device=about.device,
        key=about.key,
        model_id=about.model_id,
        model_sha256=about.model_sha256,
    )
    return Prepared(engine, Ready(info, time.perf_counter() - begun))


def hold_session(
    connection: Connection,
    prepared: Prepared,
    *,
    asked: threading.Event | None = None,
) -> Literal["stopped", "lost"]:
    """From the daemon's welcome to the end of the link, which is closed then.

    Parameters
    ----------
    connection : Connection
        Of the role ``worker``, new.
    prepared : Prepared
    asked
        See `refocusd.worker.worker.serve`.

    Returns
    -------
    str
        As `refocusd.worker.worker.serve` does.

    Raises
    ------
    TransportError
        If nobody answers, or this worker is refused.
    MemoryError
        See there; the link is closed as well.
    """
    with connection:
        welcome = connection.welcome(WELCOME_S, asked)
        connection.send(prepared.ready)
        log.info("ready for the daemon at %s", connection.endpoint)
        ended = serve(connection, prepared.engine, pass_in_focus=welcome.pass_in_focus, asked=asked)
        connection.close(LINGER_S if ended == "stopped" else 0.0)
    return ended
