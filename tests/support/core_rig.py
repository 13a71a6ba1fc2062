"""Helpers around a daemon's core: growing raw data, stopped workers, a broker driven by hand."""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from broker_model import ENGINE, PlayedBroker, Story
from live import Upload, pump_until, stack
from ndstorage import NDTiffDataset
from waiting import PATIENCE_S, until

from refocusd.config import Settings
from refocusd.daemon.acquisitions.state import Acquisition
from refocusd.daemon.daemon import Daemon, daemon_status
from refocusd.daemon.output.jobs import CloseOutput
from refocusd.errors import TransportError
from refocusd.ledger import Ledger, ledger_path
from refocusd.transport import messages as wire
from refocusd.transport.client import Connection

SIDE = 64
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot stop a process so")


class Raw:
    """A raw dataset written by ndstorage, and its frames."""

    def __init__(self, folder: Path, count: int) -> None:
        folder.mkdir()
        self.frames = stack(count, SIDE)
        self.dataset = NDTiffDataset(str(folder), name="raw", writable=True)
        self.dataset.initialize({})
        self.path = Path(self.dataset.path)
        self.output = self.path.with_name(self.path.name + "_refocused")

    def write(self, first: int, after: int) -> None:
        for number in range(first, after):
            self.dataset.put_image({"time": number}, self.frames[number], {"n": number})
            self.dataset._index_file.flush()

    def submit(self, upload: Upload, number: int) -> None:
        pump_until(upload, lambda: upload.credit > 0)
        now = time.perf_counter_ns()
        assert upload.submit(self.frames[number], f'{{"time":{number}}}', "{}", now)


def only(daemon: Daemon) -> wire.AcquisitionStatus:
    # The daemon already works while it looks for what an earlier one left.
    until(lambda: daemon_status(daemon.endpoint, PATIENCE_S).details)
    (about,) = daemon_status(daemon.endpoint, PATIENCE_S).details
    return about


@contextmanager
def paused(endpoint: str) -> Iterator[None]:
    """Send no frame to a worker inside the block."""
    with Connection(endpoint, "control", inline=True) as connection:
        connection.welcome(90.0)
        connection.send(wire.Pause(paused=True))
        until(lambda: daemon_status(endpoint, PATIENCE_S).paused)
        yield
        # It may have been stopped inside the block.
        with suppress(TransportError):
            connection.send(wire.Pause(paused=False))
            until(lambda: not daemon_status(endpoint).paused)


@contextmanager
def stopped_worker(daemon: Daemon) -> Iterator[None]:
    """Suspend the daemon's worker inside the block."""
    (pid,) = daemon.supervisor.pids().values()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def open_of(raw: str, output: str, side: int = SIDE) -> wire.Open:
    return wire.Open(str(uuid.uuid4()), "test", side, side, "uint16", raw, output, "{}")


def states_of(settings: Settings, acquisition: str) -> dict[str, tuple[str, str]]:
    with Ledger(ledger_path(settings.ledgers, acquisition), read_only=True) as ledger:
        return {
            attempt.axes: (attempt.state, attempt.reason)
            for attempt in ledger.attempts(acquisition)
        }


class Hand(PlayedBroker):
    """The real state, driven by hand."""

    def __init__(self, policy: str = "complete") -> None:
        self.set_up(policy)
        #: Outputs that the writer has been asked to close.
        self.closed: list[CloseOutput] = []
        self.workers[b"worker"] = []
        self.pool.join(b"worker", pid=1, inline=False)
        self.pool.set_ready(b"worker", wire.Ready(ENGINE, 0.1))
        self.lifecycle.engine_ready(ENGINE)

    def acquisition(self, *, has_raw: bool = True, side: int = 64) -> Story:
        folder = str(Path("folder").absolute())
        story = Story(
            open_of(folder if has_raw else "", folder + "_out", side), self.new_peer("source")
        )
        self.stories[story.id] = story
        self.intake.open(story.peer.identity, story.open, trusted=False)
        self.write_all()
        return story

    def held(self, story: Story) -> Acquisition:
        found = self.acquisitions.get(story.id)
        assert found is not None
        return found

    def write_all(self) -> None:
        while self.writer.jobs:
            if isinstance(job := self.writer.jobs[0], CloseOutput):
                self.closed.append(job)
            for event in self.writer.answer({k: bool(s.open.raw) for k, s in self.stories.items()}):
                self.tell(event)
        self.dispatch()

    def send_frame(self, story: Story, number: int) -> None:
        axes = f'{{"time":{number}}}'
        story.went_by.append(axes)
        story.raw = list(story.went_by)
        self.submit(story.peer, story, axes, live=True)
        self.dispatch()

    def work(self) -> None:
        while self.workers[b"worker"]:
            self.answer(b"worker", self.workers[b"worker"].pop(0).task, well=True)
            self.write_all()
