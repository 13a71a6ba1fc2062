"""What all workers have in common: they build an engine, announce themselves, and process frames."""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from refocusd.config import EngineOptions
from refocusd.engines.choose import build_engine
from refocusd.engines.engine import Engine
from refocusd.transport.client import Connection
from refocusd.transport.messages import EngineInfo, Engines, Ready
from refocusd.worker.worker import serve

log = logging.getLogger(__name__)

#: Frame size for which the engine is warmed up before a worker reports that it is ready.
WARM_UP_SHAPE = (512, 512)
#: Time limit for the daemon's answer to `Hello`.
WELCOME_S = 10.0
#: Time for the last result to be sent when a worker ends.
LINGER_S = 1.0
#: Exit status of a worker that ran out of memory.
OUT_OF_MEMORY = 12


@dataclass(frozen=True, slots=True)
class Prepared:
    """Engines, and their description for the daemon.

    Parameters
    ----------
    engines : mapping of str to Engine
        By channel; "" stands for all other channels.  Channels with the same model share its engine.
    ready : Ready
    """

    engines: Mapping[str, Engine]
    ready: Ready

    def close(self) -> None:
        """Free the device."""
        for engine in {id(engine): engine for engine in self.engines.values()}.values():
            engine.close()


def prepare(models: Mapping[str, str], options: EngineOptions) -> Prepared:
    """Build the engines and warm them up.

    Parameters
    ----------
    models : mapping of str to str
        `refocusd.config.Settings.models`.
    options : EngineOptions

    Raises
    ------
    BundleError, EngineError
    """
    begun = time.perf_counter()
    built: dict[str, Engine] = {}
    for model in models.values():
        if model not in built:
            built[model] = build_engine(model, options)
            built[model].warm_up(WARM_UP_SHAPE)
    if options.backend != "identity":
        for name in ("scipy.fft", "scipy.ndimage"):
            importlib.import_module(name)  # otherwise, the first frame would wait for the import
    engines = {channel: built[model] for channel, model in models.items()}
    told = {
        channel: msgspec.convert(engine.description, EngineInfo, from_attributes=True)
        for channel, engine in engines.items()
    }
    channels = {name: info for name, info in told.items() if name}
    ready = Ready(
        Engines(**msgspec.structs.asdict(told[""]), channels=channels), time.perf_counter() - begun
    )
    return Prepared(engines, ready)


def hold_session(
    connection: Connection,
    prepared: Prepared,
    *,
    asked: threading.Event | None = None,
) -> Literal["stopped", "lost"]:
    """Serve the daemon from its welcome to the end of the link, and close the link.

    Parameters
    ----------
    connection : Connection
        A new connection of the role ``worker``.
    prepared : Prepared
    asked : threading.Event, optional
        Set when this process is asked to stop.

    Returns
    -------
    str
        See `refocusd.worker.worker.serve`.

    Raises
    ------
    TransportError
        If nobody answers, or this worker is refused.
    MemoryError, DeviceLostError
        See `refocusd.worker.worker.serve`; the link is closed as well.
    """
    with connection:
        welcome = connection.welcome(WELCOME_S, asked)
        connection.send(prepared.ready)
        log.info("ready for the daemon at %s", connection.endpoint)
        ended = serve(
            connection, prepared.engines, pass_in_focus=welcome.pass_in_focus, asked=asked
        )
        connection.close(LINGER_S if ended == "stopped" else 0.0)
    return ended
