"""``python -m refocusd.worker``: the daemon starts one such process per device."""

from __future__ import annotations

import logging
import sys

from refocusd import __version__
from refocusd.errors import RefocusdError
from refocusd.processes.background_log import log_to_stderr
from refocusd.processes.lifeline import end_with_parent
from refocusd.processes.order import read_order
from refocusd.processes.priority import yield_to_acquisition
from refocusd.processes.signals import leave_signals_to_parent
from refocusd.transport.client import Connection
from refocusd.worker.order import WorkerOrder
from refocusd.worker.session import OUT_OF_MEMORY, hold_session, prepare

#: Higher than the daemon's, which is itself higher than the acquisition's.
NICENESS = 5

log = logging.getLogger("refocusd.worker")


def main() -> int:
    """Build the engine, report that it is ready, and process tasks; the exit status is 0 unless something failed."""
    order = read_order(WorkerOrder)
    end_with_parent()
    log_to_stderr(order.identity)
    yield_to_acquisition(NICENESS)
    try:
        prepared = prepare(order.models, order.options)
        connection = Connection(
            order.endpoint,
            "worker",
            token=order.token,
            identity=order.identity,
            inline=order.inline,
            version=__version__,
        )
        hold_session(connection, prepared)
        prepared.close()
    except RefocusdError as error:
        log.error("%s", error)
        return error.exit_status
    except MemoryError:
        log.error("out of memory: this worker ends, another takes its place")
        return OUT_OF_MEMORY
    return 0


if __name__ == "__main__":
    leave_signals_to_parent()
    sys.exit(main())
