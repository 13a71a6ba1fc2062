"""``python -m refocusd.sources.attached``: the attached sources' process, started by ``refocusd run``."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from pathlib import Path
from typing import Protocol

from refocusd.processes.background_log import log_to_stderr
from refocusd.processes.lifeline import watch_stdin
from refocusd.processes.order import read_order
from refocusd.processes.priority import yield_to_acquisition
from refocusd.processes.signals import leave_signals_to_parent
from refocusd.sources.attached.order import AGAIN, AttachOrder

#: A lower priority than the acquisition's.
NICENESS = 5
#: Interval of checking whether the bridge still answers.
LOOK_S = 0.5
#: Time limit for all threads together to close their acquisitions at the daemon.
END_S = 5.0
FAILED = 1

log = logging.getLogger("refocusd.sources.attached")


class Attached(Protocol):
    """An attached source: finds its work by itself, and never raises."""

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set."""


def main() -> int:
    """Run the sources of the order on standard input until the input ends; return the exit status."""
    order = read_order(AttachOrder)
    stop = threading.Event()
    watch_stdin(stop.set)
    log_to_stderr(order.name)
    yield_to_acquisition(NICENESS)
    threads: list[threading.Thread] = []

    def host(source: Attached, name: str) -> None:
        thread = threading.Thread(target=source.run, args=(stop,), name=name, daemon=True)
        threads[:] = [other for other in threads if other.is_alive()]
        threads.append(thread)
        thread.start()

    for folder in order.follow:
        from refocusd.sources.folders.watcher import Follower

        log.info("source follow: %s", folder)
        follower = Follower(
            Path(folder).expanduser(),
            order.endpoint,
            since_s=order.since_s,
            unfinished=order.unfinished,
        )
        host(follower, f"follow {folder}")
    if order.studio == "off" and not order.live:
        stop.wait()
        status = 0
    else:
        from refocusd.sources.micromanager.source import BridgeSource

        # Destructors release Java's objects, and must run in the bridge's thread.
        gc.disable()
        source = BridgeSource(order, host)
        host(source, "bridge")
        while not (stop.is_set() or source.over):
            source.look_after()
            stop.wait(LOOK_S)
        status = 0 if stop.is_set() else FAILED if source.failed else AGAIN
        if source.over:
            log.info("detached: %s", source.over)
    stop.set()
    deadline = time.monotonic() + END_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return status


if __name__ == "__main__":
    leave_signals_to_parent()
    status = main()
    logging.shutdown()
    # Exits without the exit handlers of pyjavaz, which wait for a Micro-Manager that may be gone.
    os._exit(status)
