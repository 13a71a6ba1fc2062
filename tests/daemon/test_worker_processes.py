"""Worker processes that do not start, have another model, or are on another host."""

from __future__ import annotations

import queue
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broker_model import ENGINE
from core_rig import SIDE, Hand, open_of
from live import Upload, pump_until, quick_settings, source, stack
from waiting import PATIENCE_S, until

from refocusd.daemon.daemon import Daemon
from refocusd.daemon.workers.pool import WorkerPool
from refocusd.daemon.workers.processes import MAX_FAILED_STARTS, WorkerProcesses
from refocusd.errors import TransportError
from refocusd.frame import checksum
from refocusd.transport import messages as wire
from refocusd.transport.client import Connection
from refocusd.transport.secure.keys import KeyStore, load_client_keys


def test_a_worker_with_another_model_cannot_come_before_ours(broker: Hand) -> None:
    pool = WorkerPool(broker.send, broker.ring, models="aaaa")
    other = wire.Engines("openvino", "f32", "CPU", "k", "m", "bbbb")
    with pytest.raises(TransportError, match="same --model"):
        pool.set_ready(b"w", wire.Ready(other, 1.0))
    assert pool.engine is None


@contextmanager
def supervisor(tmp_path: Path) -> Iterator[tuple[WorkerProcesses, queue.Queue[Any]]]:
    heard: queue.Queue[Any] = queue.Queue()
    one = WorkerProcesses(quick_settings(tmp_path), "tcp://127.0.0.1:9", "t", heard)  # type: ignore[arg-type]
    one.start()
    try:
        yield one, heard
    finally:
        one.stop()


def test_a_worker_that_cannot_be_started_for_a_while_is_started_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as gone:
        gone.setattr(sys, "executable", str(tmp_path / "gone"))
        with supervisor(tmp_path) as (one, _):
            until(lambda: "cannot be started" in caplog.text)
            gone.undo()
            until(one.pids)


def test_workers_that_could_start_once_are_not_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (false := shutil.which("false")) is None:
        pytest.skip("no command that fails at once")
    monkeypatch.setattr(sys, "executable", false)
    with supervisor(tmp_path) as (one, heard):
        one._proved = True
        for _ in range(MAX_FAILED_STARTS + 1):
            assert type(heard.get(timeout=PATIENCE_S)).__name__ == "WorkerGone"


@pytest.fixture
def far(tmp_path: Path) -> Iterator[tuple[Daemon, Callable[[], Connection]]]:
    """A daemon with only remote workers, and a function that connects one."""
    settings = quick_settings(
        tmp_path,
        workers=0,
        listen="tcp://127.0.0.1:0",
        keys=str(tmp_path / "keys"),
        pass_in_focus=False,
    )
    with Daemon(settings) as daemon:
        store = KeyStore(settings.keys)
        store.new("gpu", tmp_path / "gpu.key")
        client = load_client_keys(tmp_path / "gpu.key")

        def connect() -> Connection:
            return Connection(daemon.remote_endpoint, "worker", inline=True, keys=client)

        yield daemon, connect


def test_a_worker_elsewhere_learns_the_rule_of_the_run_and_nothing_of_our_memory(
    far: tuple[Daemon, Callable[[], Connection]],
) -> None:
    _, connect = far
    with connect() as worker:
        welcome = worker.welcome(90.0)
        assert not welcome.pass_in_focus
        assert (welcome.ring.pid, welcome.ring.nbytes, welcome.ring.tag) == (0, 0, "")


def test_lost_links_are_no_proof_against_a_frame(
    tmp_path: Path, far: tuple[Daemon, Callable[[], Connection]]
) -> None:
    daemon, connect = far
    frame = stack(1, SIDE)[0]
    with source(daemon) as connection:
        upload = Upload(connection, open_of("", str(tmp_path / "out")))
        for cut in range(4):
            with connect() as worker:
                worker.welcome(90.0)
                worker.send(wire.Ready(ENGINE, 0.1))
                if cut == 0:
                    pump_until(upload, lambda: upload.credit > 0)
                    upload.submit(frame, '{"time":0}', "{}", time.perf_counter_ns())
                task, part = next_task(worker)
                if cut < 3:
                    continue  # the link is cut in the middle of a frame
                assert part is not None
                pixels = np.frombuffer(part, np.uint16).reshape(SIDE, SIDE)
                facts = wire.FrameFacts(0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0, "trusted")
                worker.send(wire.Result(task.task, checksum(pixels), facts), pixels)
                upload.close(1)
                pump_until(upload, lambda: upload.closed)
    assert upload.closed is not None
    assert upload.closed.counts == wire.Counts(acquired=1, refocused=1)


def next_task(worker: Connection) -> tuple[wire.Task, memoryview | None]:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        received = worker.receive_parts(0.5)
        if received and isinstance(received[0], wire.Task):
            return received[0], received[1]
    raise AssertionError("no task came in time")
