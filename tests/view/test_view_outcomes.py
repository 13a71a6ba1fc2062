"""The outcome of each frame as a stream: in order, resumable, with a count of missed ones."""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import opened, pump_until, quick_settings, running, source, stack
from view_process import ask, view_of
from view_setup import HOST
from view_standin import Scene, StandIn, scene_of_nuclei
from waiting import until

from refocusd.cli.main import main
from refocusd.errors import TransportError
from refocusd.transport import messages as wire
from refocusd.transport import outcome_log
from refocusd.transport.outcome_log import OutcomeLog
from refocusd.view.client import ApiClient, Event, outcomes
from refocusd.view.http import server


@pytest.fixture(scope="module")
def scene() -> Scene:
    return scene_of_nuclei()


@pytest.fixture
def daemon(scene: Scene) -> Iterator[StandIn]:
    with StandIn(scene, fps=1.0) as daemon:
        yield daemon


@pytest.fixture
def port(daemon: StandIn) -> Iterator[int]:
    with view_of(daemon.endpoint) as port:
        until(lambda: ask(port, "/health").status == 200, "ready")
        yield port


def outcome(
    number: int, verdict: str | None = "trusted", name: str = "cells_1"
) -> wire.FrameOutcome:
    about = 1.0, "id-1", name, json.dumps({"time": number}), "refocused", ""
    return wire.FrameOutcome(*about, verdict, ["odd light"], blur_px=4.5)  # type: ignore[arg-type]


def url_of(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def kept(port: int, **query: str) -> list[Event]:
    """The outcomes that the view holds now."""
    query = {"after": "oldest", "follow": "false", **query}
    return list(ApiClient(url_of(port)).events("outcomes", query))


def times(events: list[Event]) -> list[int]:
    return [event.data["axes"]["time"] for event in events if event.name == "outcome"]


# -- the log --------------------------------------------------------------------------------


def test_a_reader_that_is_too_slow_is_told_how_many_it_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outcome_log, "MAX_KEPT", 10)
    monkeypatch.setattr(outcome_log, "MAX_IN_ANSWER", 4)
    log, copy = OutcomeLog(), OutcomeLog()
    for number in range(25):
        log.add(outcome(number))
    answer = log.after(3)
    assert (answer.serial, answer.missed) == (19, 12)
    assert [each.axes for each in answer.outcomes] == [f'{{"time": {n}}}' for n in range(15, 19)]
    assert log.after(25).outcomes == log.after(99).outcomes == []
    copy.take_in(log.after(0))
    assert copy.serial == 19
    assert copy.after(0).missed == 15


def test_long_reasons_do_not_fill_the_memory() -> None:
    log = OutcomeLog()
    for number in range(2000):
        log.add(wire.FrameOutcome(1.0, "id", "n", str(number), "failed", "x" * 10_000))
    assert log.after(0).missed > 1500


# -- the stream -----------------------------------------------------------------------------


def test_every_frame_of_a_real_daemon_is_reported_with_its_verdict(tmp_path: Path) -> None:
    frames = stack(40)
    with (
        running(quick_settings(tmp_path)) as daemon,
        source(daemon) as connection,
        view_of(daemon.endpoint) as port,
    ):
        until(lambda: ask(port, "/health").status == 200, "ready")
        follow = outcomes(url_of(port), verdicts=())
        upload = opened(connection, tmp_path / "out")
        for number, frame in enumerate(frames):
            axes = f'{{"time":{number}}}'
            while not upload.submit(frame, axes, "{}", time.perf_counter_ns()):
                upload.pump(0.05)
        upload.close(len(frames))
        told = list(itertools.islice(follow, len(frames)))
        pump_until(upload, lambda: upload.closed is not None)
    assert sorted(each.axes["time"] for each in told) == list(range(40))
    assert {(each.state, each.verdict) for each in told} == {("passed_through", "passed_through")}
    assert {each.name for each in told} == {"test"}


def test_a_reader_goes_on_where_it_was(daemon: StandIn, port: int) -> None:
    for number in range(6):
        daemon.outcomes.add(outcome(number))
    until(lambda: len(kept(port)) == 6, "outcomes")
    first = kept(port)
    assert times(first) == [0, 1, 2, 3, 4, 5]
    assert times(kept(port, after=first[3].id)) == [4, 5]
    # After a restart of the view, no outcome is left out.
    assert times(kept(port, after="another-view-3")) == [0, 1, 2, 3, 4, 5]


def test_frames_are_chosen_by_verdict_and_acquisition(daemon: StandIn, port: int) -> None:
    for number, verdict in enumerate(("trusted", "untrusted", "doubtful", None)):
        daemon.outcomes.add(outcome(number, verdict))
    daemon.outcomes.add(outcome(9, "untrusted", "others_1"))
    until(lambda: len(kept(port)) == 5, "outcomes")
    assert times(kept(port, verdict="untrusted,none")) == [1, 3, 9]
    assert times(kept(port, verdict="untrusted", acquisition="cells_1")) == [1]
    [event] = kept(port, acquisition="others_1")
    assert event.data["blur_px"] == 4.5
    with pytest.raises(TransportError, match="verdict 'good' does not exist"):
        kept(port, verdict="good")


def test_a_restarted_daemon_is_followed_from_its_beginning(daemon: StandIn, port: int) -> None:
    for number in range(3):
        daemon.outcomes.add(outcome(number))
    until(lambda: len(kept(port)) == 3, "outcomes")
    follow = outcomes(url_of(port), verdicts=())
    daemon.outcomes = OutcomeLog()
    daemon.outcomes.add(outcome(7))
    daemon.status_changes = {"pid": 4711}
    daemon._known.clear()  # like a new daemon, which asks for the peer's identity
    assert next(follow).axes == {"time": 7}


def test_a_stream_outlives_the_time_that_a_request_may_take(
    daemon: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "REQUEST_S", 0.3)
    with view_of(daemon.endpoint) as port:
        begun = time.monotonic()
        events = ApiClient(url_of(port)).events("events", heartbeat=True)
        for _ in itertools.takewhile(lambda _: time.monotonic() - begun < 1.0, events):
            pass
        assert next(events)


def test_who_does_not_read_misses_outcomes_and_holds_up_nobody(daemon: StandIn, port: int) -> None:
    request = b"GET /api/v1/outcomes HTTP/1.1\r\n" + HOST + b"\r\n"
    with socket.create_connection(("127.0.0.1", port), 10) as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.sendall(request)
        assert b"200 OK" in lazy.recv(15)
        follow = outcomes(url_of(port), verdicts=())
        for number in range(3000):
            daemon.outcomes.add(outcome(number, name="n" * 1000))
        told = [each.axes["time"] for each in itertools.islice(follow, 3000)]
    assert told == list(range(3000))


def test_a_script_is_told_that_the_view_has_ended(daemon: StandIn) -> None:
    with view_of(daemon.endpoint) as port:
        until(lambda: ask(port, "/health").status == 200, "ready")
        follow = outcomes(url_of(port))
    with pytest.raises(TransportError, match=r"ended|gone"):
        next(follow)


def test_ctl_prints_a_line_for_each_frame(
    daemon: StandIn, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, verdict in enumerate(("trusted", "untrusted", "doubtful")):
        daemon.outcomes.add(outcome(number, verdict))
    until(lambda: len(kept(port)) == 3, "outcomes")
    words = ["ctl", "outcomes", "--url", url_of(port), "--verdict", "untrusted,doubtful"]
    assert main(words) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["data"]["axes"] for line in lines] == [{"time": 1}, {"time": 2}]
    assert main([*words, "--after", lines[0]["id"]]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line)["data"]["verdict"] == "doubtful"
