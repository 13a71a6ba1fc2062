"""A real daemon with the attach process as `refocusd run` has it, beside the bridge's stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from live import quick_settings, running
from numpy.typing import NDArray
from waiting import until

from refocusd.daemon.daemon import Daemon, daemon_status
from refocusd.sources.attached.process import AttachProcess
from refocusd.transport import messages as wire
from refocusd.transport.client import Connection

__all__ = ["acquisitions", "attached", "frame", "look", "until"]


@contextmanager
def attached(tmp_path: Path, port: int, **settings: Any) -> Iterator[tuple[Daemon, AttachProcess]]:
    """Daemon and attach process; sources as in the settings."""
    values = {"bridge_port": port, "studio_output": str(tmp_path / "out"), **settings}
    with (
        running(quick_settings(tmp_path, **values)) as daemon,
        AttachProcess(daemon.endpoint, daemon.settings) as process,
    ):
        yield daemon, process


def acquisitions(daemon: Daemon, state: str = "") -> list[wire.AcquisitionStatus]:
    """Of the daemon, by state."""
    details = daemon_status(daemon.endpoint).details
    return [about for about in details if state in ("", about.state)]


def look(view: Connection, after: int = 0) -> tuple[wire.Shown, NDArray[Any]] | None:
    """The newest frame that a view is shown: raw above refocused; None if there is no later one."""
    view.send(wire.Look(after))
    received = view.receive_parts(1.0)
    if received is None:
        return None
    shown, part = received
    if not isinstance(shown, wire.Shown) or shown.serial <= after:
        return None  # the answer to an earlier question that we did not wait for
    assert part is not None
    pixels: NDArray[Any] = np.frombuffer(part, shown.dtype)
    height = -(-shown.height // shown.step)
    return shown, pixels.reshape(2, height, -1)


def frame(number: int, shape: tuple[int, int] = (48, 64)) -> NDArray[np.uint16]:
    """A frame that tells its number."""
    values = np.arange(shape[0] * shape[1], dtype=np.uint16).reshape(shape)
    return np.asarray(values + 7 * number, dtype=np.uint16)
