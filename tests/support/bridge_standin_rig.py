"""A real daemon beside the bridge's stand-in, with the attach process that `refocusd run` starts.

`Rig` runs the sources in the test's own thread instead, which steps them while it waits: the
same code without starting a process.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyjavaz  # type: ignore[import-untyped]
from bridge_standin import Standin
from bridge_standin_microscope import Microscope
from live import quick_settings, running
from numpy.typing import NDArray
from waiting import PATIENCE_S, until

from refocusd.daemon.daemon import Daemon, daemon_status
from refocusd.sources.attached.process import AttachProcess
from refocusd.sources.folders.watcher import Follower
from refocusd.sources.micromanager.acquisitions import Studio
from refocusd.sources.micromanager.bridge import Bridge
from refocusd.sources.micromanager.save_roots import SaveRoots
from refocusd.transport import messages as wire
from refocusd.transport.client import Connection

__all__ = ["Rig", "acquisitions", "attached", "frame", "look", "until"]


@contextmanager
def attached(tmp_path: Path, port: int, **settings: Any) -> Iterator[tuple[Daemon, AttachProcess]]:
    """Run a daemon and its attach process; the settings select the sources."""
    values = {"bridge_port": port, "studio_output": str(tmp_path / "out"), **settings}
    with (
        running(quick_settings(tmp_path, **values)) as daemon,
        AttachProcess(daemon.endpoint, daemon.settings) as process,
    ):
        yield daemon, process


def acquisitions(daemon: Daemon, state: str = "") -> list[wire.AcquisitionStatus]:
    """The daemon's acquisitions, all or those in `state`."""
    details = daemon_status(daemon.endpoint, PATIENCE_S).details
    return [about for about in details if state in ("", about.state)]


def look(view: Connection, after: int = 0) -> tuple[wire.Shown, NDArray[Any]] | None:
    """The newest frame that a view is shown, raw above refocused; None if none is later."""
    view.send(wire.Look(after))
    received = view.receive_parts(1.0)
    if received is None:
        return None
    shown, part = received
    if not isinstance(shown, wire.Shown) or shown.serial <= after:
        return None  # the answer to an earlier request that we did not wait for
    assert part is not None
    pixels: NDArray[Any] = np.frombuffer(part, shown.dtype)
    height = -(-shown.height // shown.step)
    return shown, pixels.reshape(2, height, -1)


def frame(number: int, shape: tuple[int, int] = (48, 64)) -> NDArray[np.uint16]:
    """A frame whose pixels encode its number."""
    values = np.arange(shape[0] * shape[1], dtype=np.uint16).reshape(shape)
    return np.asarray(values + 7 * number, dtype=np.uint16)


class Rig:
    """The source *studio* connected to a stand-in and stepped by the test's thread.

    Parameters
    ----------
    daemon : Daemon
        May be shared with others.
    folder : Path
        Folder for its output.
    """

    def __init__(self, daemon: Daemon, folder: Path, **standin: Any) -> None:
        self.standin = Standin(**standin)
        self.out = folder / "out"
        self.roots: SaveRoots | None = None
        self.since_s = time.time()
        self._daemon = daemon
        self._folder = folder
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def microscope(self) -> Microscope:
        """The microscope of the stand-in."""
        return self.standin.microscope

    def __enter__(self) -> Self:
        # Java's objects are released by destructors, which must run in this thread.
        gc.disable()
        self.standin.start()
        self.attach()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self.detach()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        self.standin.stop()
        pyjavaz.server_terminated(self.standin.port)
        gc.enable()

    def attach(self) -> None:
        """Start as a new attach process does."""
        bridge = self._bridge = Bridge("127.0.0.1", self.standin.port)
        self.roots = SaveRoots(self._daemon.endpoint, self.since_s, [], self._start)
        self.studio = Studio(bridge, self._daemon.endpoint, self.out, self.roots, self.since_s)

    def detach(self) -> None:
        """Clean up as after a process that was stopped."""
        self.studio.close()
        del self.studio
        gc.collect()  # otherwise whatever follows the bridge would wait for it forever
        self._bridge.let_go()

    def wait(self, done: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
        """Step the source until `done` is true."""
        deadline = time.monotonic() + timeout_s
        while not (found := done()):
            assert time.monotonic() < deadline, f"no {what} in time"
            time.sleep(min(self.studio.step(), 0.02))
        return found

    def acquisitions(self, state: str = "") -> list[wire.AcquisitionStatus]:
        """The acquisitions of this rig, all or those in `state`, including the last ended ones."""
        found = acquisitions(self._daemon, state)
        return [about for about in found if Path(about.output).is_relative_to(self._folder)]

    def wait_ended(self, count: int, timeout_s: float = PATIENCE_S) -> list[wire.AcquisitionStatus]:
        """Wait until `count` acquisitions have ended, and return them."""
        self.wait(lambda: len(self.acquisitions("ended")) >= count, "end", timeout_s)
        return self.acquisitions("ended")

    def unseen(self, before: Sequence[str] = ()) -> list[str]:
        """The daemon's messages about acquisitions that nobody saw, except those in `before`."""
        said = daemon_status(self._daemon.endpoint, PATIENCE_S).unseen_last
        return [each for each in said if each not in before]

    def _start(self, follower: Follower, name: str) -> None:
        thread = threading.Thread(target=follower.run, args=(self._stop,), name=name)
        self._threads.append(thread)
        thread.start()
