"""A follower of a folder, and the daemon's status of what it followed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from waiting import PATIENCE_S

from refocusd.daemon.daemon import Daemon, daemon_status
from refocusd.sources.folders.watcher import Follower
from refocusd.transport import messages as wire


@contextmanager
def following(folder: Path, endpoint: str, **options: Any) -> Iterator[Follower]:
    """Run a follower of a folder until the block ends."""
    folder.mkdir(exist_ok=True)
    options = {"poll_s": 0.02, "quiet_s": 3.0, **options}
    follower = Follower(folder, endpoint, **options)
    stop = threading.Event()
    thread = threading.Thread(target=follower.run, args=(stop,))
    thread.start()
    try:
        yield follower
    finally:
        stop.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def newest(daemon: Daemon, name: str) -> wire.AcquisitionStatus | None:
    """The daemon's latest status of an acquisition; one that was reopened is listed twice."""
    about = daemon_status(daemon.endpoint, timeout_s=PATIENCE_S).details
    return next((a for a in reversed(about) if a.name == name), None)


def ended(daemon: Daemon, name: str) -> wire.Counts | None:
    """Counts of an acquisition that the daemon has closed."""
    about = newest(daemon, name)
    return about.counts if about and about.state == "ended" else None
