"""Frames of a hooked acquisition when a daemon restarts, dies or misses them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from core_rig import SIDE, Raw, only, states_of
from live import opened, pump_until, quick_settings, running, source, stack
from waiting import until

from refocusd.daemon.daemon import daemon_status
from refocusd.errors import InputError
from refocusd.processes.daemon_process import DaemonProcess
from refocusd.sources.feed import Feed
from refocusd.transport import messages as wire
from refocusd.transport.client import Connection


def feed_to(endpoint: str, raw: Raw | None, output: str = "") -> Feed:
    feed = Feed(endpoint, output=output, expected=0, buffer_nbytes=1 << 24)
    feed.begin("test", has_raw=raw is not None)
    until(lambda: feed._state.listening)
    return feed


def take(feed: Feed, frame: Any, number: int) -> None:
    feed.take(frame, {"Axes": {"time": number}}, time.perf_counter_ns())


def free_endpoint(tmp_path: Path) -> str:
    with running(quick_settings(tmp_path)) as daemon:
        return daemon.endpoint


def test_a_daemon_that_is_restarted_before_the_first_frame_is_found_again(
    tmp_path: Path, raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    settings = quick_settings(tmp_path)
    with running(settings) as daemon:
        feed = feed_to(daemon.endpoint, raw)
        again = quick_settings(tmp_path, endpoint=daemon.endpoint)
    with running(again):
        until(lambda: "say Hello first" in caplog.text)  # the new daemon does not know it
        for number in range(3):
            take(feed, raw.frames[number], number)
            raw.write(number, number + 1)
            feed.saved(raw.dataset, {"time": number})
        feed.end()
        counts = feed.wait(90.0)
    assert counts == wire.Counts(acquired=3, passed_through=3)


def test_a_frame_that_never_comes_to_disk_does_not_hold_up_the_end(
    tmp_path: Path, raw: Raw
) -> None:
    settings = quick_settings(tmp_path, policy="complete")
    with running(settings) as daemon:
        feed = feed_to(daemon.endpoint, raw)
        take(feed, raw.frames[0], 0)
        raw.write(0, 1)
        feed.saved(raw.dataset, {"time": 0})
        with feed._changed:
            feed._state.awaited.add('{"time":1}')
            feed._state.taken += 1
        feed.end()
        counts = feed.wait(90.0)
    # Raw has one frame, and raw determines what is pending.
    assert counts == wire.Counts(acquired=1, passed_through=1)


def test_frames_without_raw_that_die_with_the_daemon_are_named(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, endpoint=free_endpoint(tmp_path))
    frames = stack(5, SIDE)
    flags = ["--backend", "identity", "--endpoint", settings.endpoint]
    flags += ["--ledgers", settings.ledgers, "--ring-mib", "64"]
    with DaemonProcess(flags, tmp_path / "log") as first:
        feed = feed_to(first.endpoint, None, str(tmp_path / "out"))
        take(feed, frames[0], 0)
        until(lambda: any(c.final for c in daemon_status(first.endpoint).acquisitions.values()))
        with Connection(first.endpoint, "control", inline=True) as connection:
            connection.welcome(90.0)
            connection.send(wire.Pause(paused=True))
            until(lambda: daemon_status(first.endpoint).paused)
        for number in (1, 2, 3):
            take(feed, frames[number], number)
        until(lambda: daemon_status(first.endpoint).details[0].queued == 3)
        first.process.kill()
        first.process.wait()
    with running(settings) as daemon:
        until(lambda: daemon_status(daemon.endpoint).details)
        take(feed, frames[4], 4)
        feed.end()
        counts = feed.wait(90.0)
        acquisition = only(daemon).id
    assert counts == wire.Counts(acquired=5, passed_through=2, skipped=3)
    states = states_of(settings, acquisition)
    assert [states[f'{{"time":{n}}}'][0] for n in range(5)] == [
        "passed_through",
        *["skipped"] * 3,
        "passed_through",
    ]


def test_a_frame_that_cannot_be_sent_costs_no_slot(tmp_path: Path) -> None:
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out")
        frame, credit = stack(1, SIDE)[0], upload.credit
        with pytest.raises(InputError, match="not written in UTF-8"):
            upload.submit(frame, '{"channel":"\ud800"}', "{}", 0)
        assert upload.credit == credit
        upload.close(0)
        pump_until(upload, lambda: upload.closed)
