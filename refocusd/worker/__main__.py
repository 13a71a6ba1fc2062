"""``python -m refocusd.worker``: started by the daemon, one process a device."""

from __future__ import annotations

import logging
import sys
import time

import msgspec

from refocusd import __version__
from refocusd.engines.choose import build_engine
from refocusd.errors import RefocusdError
from refocusd.transport.client import Connection
from refocusd.transport.messages import EngineInfo, Ready
from refocusd.worker.lifeline import end_with_parent
from refocusd.worker.order import WorkerOrder
from refocusd.worker.priority import yield_to_acquisition
from refocusd.worker.worker import serve

#: Frame size that is warmed before a worker says it is ready.
WARM_UP_SHAPE = (512, 512)
#: Over that of the daemon, which runs below the acquisition itself.
NICENESS = 5

log = logging.getLogger("refocusd.worker")


def main() -> int:
    """Build the engine, say ready, take tasks; exit status 0 unless something failed."""
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkerOrder)
    end_with_parent()
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s {order.identity} %(levelname)s %(message)s"
    )
    yield_to_acquisition(NICENESS)
    try:
        begun = time.perf_counter()
        engine = build_engine(order.backend, order.model, order.precision, order.threads)
        engine.warm_up(WARM_UP_SHAPE)
        seconds = time.perf_counter() - begun
        with Connection(
            order.endpoint,
            "worker",
            token=order.token,
            identity=order.identity,
            inline=order.inline,
            version=__version__,
        ) as connection:
            connection.welcome(timeout_s=10.0)
            about = engine.description
            info = EngineInfo(
                backend=about.backend,
                precision=about.precision,
                device=about.device,
                key=about.key,
                model_id=about.model_id,
                model_sha256=about.model_sha256,
            )
            connection.send(Ready(info, seconds))
            serve(connection, engine, pass_in_focus=order.pass_in_focus)
        engine.close()
    except RefocusdError as error:
        log.error("%s", error)
        return error.exit_status
    return 0


if __name__ == "__main__":
    # Signals of the terminal reach the daemon, which tells us when to stop.
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(main())
