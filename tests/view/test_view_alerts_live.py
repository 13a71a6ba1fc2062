"""Alerts of a view beside a real daemon, and web servers that misbehave."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from live import Upload, opened, pump_until, quick_settings, running, source, stack
from numpy.typing import NDArray
from recordings_on_disk import write_ndtiff
from scipy.ndimage import gaussian_filter
from view_process import ask, view_of
from waiting import until
from webhook import receiver

from refocusd.daemon.daemon import Daemon
from refocusd.view.state import alerts


def of(received: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [alert for alert in received if alert["event"] == event]


def clipped() -> NDArray[np.uint16]:
    """Smooth spots that are largely clipped at the camera's maximum."""
    lit = np.random.default_rng(1).random((128, 128)) < 0.01
    spots = gaussian_filter(lit.astype(float), 3.0)
    return np.asarray(200 + 65000 * np.minimum(3 * spots / spots.max(), 1), np.uint16)


def acquire(daemon: Daemon, output: Path, frames: Any, acquired: int = 0, **about: Any) -> Upload:
    """Submit frames without raw data, and state that `acquired` were taken."""
    with source(daemon) as connection:
        upload = opened(connection, output, **about)
        for number, pixels in enumerate(frames):
            pump_until(upload, lambda: upload.credit)
            upload.submit(pixels, f'{{"time":{number}}}', "{}", time.perf_counter_ns())
        upload.close(acquired or len(frames))
        pump_until(upload, lambda: upload.closed)
    return upload


@contextmanager
def watched(daemon: Daemon, url: str, **options: Any) -> Iterator[int]:
    """Run a view with a webhook until it has seen the daemon; yields its port."""
    with view_of(daemon.endpoint, webhook=url, **options) as port:
        until(lambda: ask(port, "/health").status == 200, "the view")
        yield port


def test_an_acquisition_that_ends_incomplete_is_posted(tmp_path: Path) -> None:
    with (
        receiver() as (url, received),
        running(quick_settings(tmp_path)) as daemon,
        watched(daemon, url),
    ):
        acquire(daemon, tmp_path / "whole", stack(3), name="whole")
        upload = acquire(daemon, tmp_path / "cut", stack(3), acquired=5, name="cut")
        until(lambda: of(received, "acquisition incomplete"), "the alert")
    [alert] = received
    assert alert["acquisition"] == upload.acquisition
    assert alert["text"] == "cut is incomplete: 0 frames failed, 2 pending"
    assert alert["counts"] == {"acquired": 5, "passed_through": 3, "pending": 2} | dict.fromkeys(
        ("refocused", "skipped", "failed"), 0
    )


def test_a_disk_that_is_nearly_full_is_posted(tmp_path: Path) -> None:
    raw = write_ndtiff(
        tmp_path / "cells_1", [({"time": n}, pixels, {}) for n, pixels in enumerate(stack(3))], {}
    )
    with (
        receiver() as (url, received),
        running(quick_settings(tmp_path, stop_timeout_s=2.0)) as daemon,
        watched(daemon, url),
        source(daemon) as connection,
    ):
        upload = opened(connection, tmp_path, raw=str(raw), output_="", name="cells_1")
        output = daemon._writer._writers[upload.acquisition].output
        assert output is not None
        output.reserve_nbytes, output.checked_at = 1 << 60, 0.0  # more than any disk has
        upload.submit(stack(1)[0], '{"time":0}', "{}", time.perf_counter_ns())
        until(lambda: (upload.pump(0.1), of(received, "disk full"))[1], "the alert")
    assert "is full: paused until there is room" in received[0]["text"]


def test_workers_that_are_lost_for_good_are_posted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "NO_WORKER_S", 1.0)
    with (
        receiver() as (url, received),
        running(quick_settings(tmp_path)) as daemon,
        watched(daemon, url),
    ):

        def told_of_killed() -> list[dict[str, Any]]:
            """Kill every worker, as if memory, a driver or a card were gone; returns the alerts."""
            for pid in daemon.supervisor.pids().values():
                with contextlib.suppress(psutil.NoSuchProcess):
                    psutil.Process(pid).kill()
            return of(received, "no worker")

        until(told_of_killed, "the alert")
    assert "no worker has been ready" in received[0]["text"]


def test_a_share_of_frames_that_are_not_trusted_is_posted(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, backend="deconvolution")
    with (
        receiver() as (url, received),
        running(settings) as daemon,
        watched(daemon, url, webhook_untrusted=0.2),
    ):
        acquire(daemon, tmp_path / "out", [clipped()] * 25, name="clipped", side=128)
        until(lambda: of(received, "frames not trusted"), "the alert")
    assert received[0]["text"].startswith("clipped: ")
    assert "% of the pixels are clipped" in received[0]["text"]


@contextmanager
def server_that(behaves: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """Run a server that handles every connection by `behaves`; yields its URL."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)

        def serve() -> None:
            while not over.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.recv(1)
                    behaves(connection, over)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        finally:
            over.set()
            thread.join()


def hangs(_connection: socket.socket, over: threading.Event) -> None:
    over.wait()


def fails(connection: socket.socket, _over: threading.Event) -> None:
    connection.sendall(b"HTTP/1.0 500 Internal Server Error\r\n\r\n")


def speaks_something_else(connection: socket.socket, _over: threading.Event) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")


def hangs_up(_connection: socket.socket, _over: threading.Event) -> None:
    """Close the connection without an answer."""


@pytest.mark.parametrize("behaves", [hangs, fails, speaks_something_else, hangs_up, None])
def test_a_web_server_that_takes_alerts_badly_disturbs_nobody(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    behaves: Callable[[socket.socket, threading.Event], None] | None,
) -> None:
    monkeypatch.setattr(alerts, "SEND_S", 2.0)
    monkeypatch.setattr(alerts, "MAX_WAITING", 2)
    with (
        server_that(behaves or hangs) as url,
        running(quick_settings(tmp_path)) as daemon,
    ):
        url = url if behaves is not None else "http://127.0.0.1:9/"
        begun = time.monotonic()
        with watched(daemon, url) as port:
            for number in range(5):
                acquire(daemon, tmp_path / str(number), stack(3), acquired=4, name=f"cut {number}")
                assert ask(port, "/health").status == 200
            until(lambda: "did not reach" in caplog.text, "a line in the log")
            acquired_s = time.monotonic() - begun
        assert time.monotonic() - begun - acquired_s < 10.0
        counts = [each.passed_through for each in daemon.counts().values()]
    assert counts == [3] * 5


def test_alerts_go_on_after_one_that_could_not_be_posted() -> None:
    answers = iter([speaks_something_else, fails])
    taken: list[str] = []

    def behaves(connection: socket.socket, over: threading.Event) -> None:
        taken.append("one")
        next(answers, hangs_up)(connection, over)

    with server_that(behaves) as url:
        for _ in range(3):
            alerts.post(url, alerts.alert_of("test", f"{uuid.uuid4()}"))
    assert len(taken) == 3
