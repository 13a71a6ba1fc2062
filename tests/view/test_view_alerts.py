"""Alerts: each problem is posted once, as JSON, and nothing waits for the receiver."""

from __future__ import annotations

import time

import msgspec
import pytest
from waiting import until
from webhook import receiver

from refocusd.errors import ConfigError
from refocusd.transport import messages as wire
from refocusd.view.http.options import ViewOptions
from refocusd.view.state import alerts
from refocusd.view.state.alerts import Alerts

pytestmark = pytest.mark.fast


def acquisition(name: str, state: str, *warnings: str, pending: int = 0) -> wire.AcquisitionStatus:
    return wire.AcquisitionStatus(
        id=name,
        name=name,
        raw="",
        output="",
        run="",
        state=state,  # type: ignore[arg-type]
        height=64,
        width=64,
        dtype="uint16",
        counts=wire.Counts(acquired=5, pending=pending),
        queued=0,
        deferred=0,
        warnings=list(warnings),
    )


def status(*details: wire.AcquisitionStatus, workers: int = 1) -> wire.Status:
    return wire.Status(
        version="1",
        pid=1,
        workers=workers,
        engine=None,
        acquisitions={},
        stopping=False,
        details=list(details),
    )


def test_each_trouble_is_posted_once() -> None:
    full = "the disk of /out is full: paused until there is room"
    with receiver() as (url, received), Alerts(url) as told:
        told.note(status(acquisition("old", "ended", pending=1)))
        for _ in range(3):
            told.note(
                status(
                    acquisition("old", "ended", pending=1),
                    acquisition("whole", "ended"),
                    acquisition("broken", "ended", pending=2),
                    acquisition("running", "live", full, pending=3),
                )
            )
        until(lambda: len(received) >= 2, "alerts")
    assert [(alert["event"], alert["acquisition"]) for alert in received] == [
        ("acquisition incomplete", "broken"),
        ("disk full", "running"),
    ]
    assert received[0]["text"] == "broken is incomplete: 0 frames failed, 2 pending"
    assert received[0]["counts"]["pending"] == 2


def test_acquisitions_that_ran_unseen_are_posted_once() -> None:
    def unseen(*said: str) -> wire.Status:
        return msgspec.structs.replace(status(), unseen=len(said), unseen_last=list(said))

    with receiver() as (url, received), Alerts(url) as told:
        for said in (["old"], ["old"], ["old", "a1 is not refocused"], ["a1 is not refocused"]):
            told.note(unseen(*said))
        until(lambda: received, "alerts")
    assert [(alert["event"], alert["text"]) for alert in received] == [
        ("acquisition not seen", "a1 is not refocused")
    ]


def test_a_daemon_without_workers_is_told_again_after_it_had_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(alerts, "NO_WORKER_S", -1.0)
    with receiver() as (url, received), Alerts(url) as told:
        for workers in (0, 0, 1, 0):
            told.note(status(workers=workers))
        until(lambda: len(received) == 2, "alerts")
    assert {alert["event"] for alert in received} == {"no worker"}


def outcome(number: int, verdict: str | None) -> wire.FrameOutcome:
    about = time.time() + 1, "id-1", "cells_1", f'{{"time":{number}}}', "refocused", ""
    return wire.FrameOutcome(*about, verdict, ["the light has changed"])  # type: ignore[arg-type]


def test_many_untrusted_frames_of_an_acquisition_are_reported_once() -> None:
    with receiver() as (url, received), Alerts(url, 0.2) as told:
        told.note_outcomes([outcome(n, None) for n in range(30)])
        told.note_outcomes([outcome(n, "trusted") for n in range(16)])
        told.note_outcomes([outcome(n, "untrusted") for n in range(4)])
        assert told._waiting.empty()
        assert not received
        told.note_outcomes([outcome(n, "untrusted") for n in range(4, 30)])
        until(lambda: len(received) >= 1, "alerts")
    [alert] = received
    assert (alert["event"], alert["acquisition"]) == ("frames not trusted", "id-1")
    assert alert["text"] == (
        "cells_1: 5 of the last 21 frames are not trusted, such as "
        '{"time":4} (the light has changed)'
    )


def test_outcomes_from_before_its_start_are_not_reported() -> None:
    with Alerts("http://127.0.0.1:9/", 0.2) as told:
        told._begun += 60
        told.note_outcomes([outcome(n, "untrusted") for n in range(30)])
        assert told._waiting.empty()


def test_a_receiver_that_is_gone_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with Alerts("http://127.0.0.1:9/") as told:
        told.note(status())
        told.note(status(acquisition("broken", "ended", pending=2)))
    assert "did not reach http://127.0.0.1:9/" in caplog.text


def test_without_a_url_nothing_is_sent() -> None:
    with Alerts("") as told:
        told.note(status(acquisition("broken", "ended", pending=2)))
    assert told._waiting.empty()


def test_a_webhook_that_is_no_url_is_refused() -> None:
    with pytest.raises(ConfigError, match="must begin with http"):
        ViewOptions("tcp://127.0.0.1:1", webhook="ftp://x")
