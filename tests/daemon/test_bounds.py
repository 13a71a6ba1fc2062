"""No message of a peer and no hanging disk stalls the daemon or fills its memory."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from live import Upload, opened, pump_until, quick_settings, running, source, stack
from waiting import PATIENCE_S, until

from refocusd import backoff
from refocusd.daemon.acquisitions import catch_up, intake, unfinished
from refocusd.daemon.acquisitions.checks import MAX_TEXT_CHARS
from refocusd.daemon.acquisitions.intake import MAX_MISSED_CHARS
from refocusd.daemon.control import MAX_UNREAD
from refocusd.daemon.daemon import daemon_status
from refocusd.daemon.output import dataset
from refocusd.daemon.output.dataset import OutputDataset
from refocusd.datasets.run_folder import LEDGER_COPY
from refocusd.errors import OutputError
from refocusd.ledger import Ledger, ledger_path, mark_open, schema
from refocusd.transport import messages as wire
from refocusd.transport.client import Connection


@pytest.fixture
def hangs() -> Iterator[threading.Event]:
    """An event to hang on, which is set at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


# -- peers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["name", "output", "raw"])
def test_what_every_status_repeats_has_to_be_short(tmp_path: Path, field: str) -> None:
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        text = str(tmp_path / ("n" * MAX_TEXT_CHARS))
        changes: dict[str, Any] = {field + "_": text}
        upload = opened(connection, tmp_path / "out", **changes)
        assert f"the {field} of an acquisition has" in upload.refused
        assert not daemon_status(daemon.endpoint).details


@pytest.mark.parametrize(
    ("axes", "reason", "says"),
    [
        ("no axes", "why", "are not axes"),
        ('{"time": 0}', "why", "not in canonical form"),
        (f'{{"time":"{"n" * MAX_TEXT_CHARS}"}}', "why", "too large"),
        ('{"time":0}', "y" * (MAX_TEXT_CHARS + 1), "too long"),
    ],
    ids=["no JSON", "not canonical", "too large", "reason too long"],
)
def test_missed_frames_are_named_as_frames_are(
    tmp_path: Path, axes: str, reason: str, says: str
) -> None:
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out")
        connection.send(wire.Miss(upload.acquisition, [axes], "skipped", reason))
        pump_until(upload, lambda: upload.refused)
        assert says in upload.refused
        (about,) = daemon_status(daemon.endpoint).details
        assert about.counts == wire.Counts()


def test_missed_frames_that_the_writer_cannot_keep_up_with_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: threading.Event
) -> None:
    record = OutputDataset.record

    def slow(self: OutputDataset, job: Any) -> Any:
        hangs.wait(30)
        return record(self, job)

    monkeypatch.setattr(OutputDataset, "record", slow)
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out")
        name = "n" * (MAX_TEXT_CHARS - 100)
        sent = 0
        while not upload.refused:
            assert sent < 4 * MAX_MISSED_CHARS, "nothing bounds what is missed"
            axes = [f'{{"position":"{name}","time":{sent + n}}}' for n in range(1000)]
            connection.send(wire.Miss(upload.acquisition, axes, "skipped", "no raw"))
            sent += sum(map(len, axes))
            upload.pump(0.2)
        assert "too many missed frames" in upload.refused
        hangs.set()


def test_who_does_not_read_answers_about_the_state_gets_no_more(tmp_path: Path) -> None:
    """Thousands of them used to be kept in memory for that peer, with all that each repeats."""
    settings = quick_settings(
        tmp_path, workers=0, listen="tcp://127.0.0.2:0", keys=str(tmp_path / "keys")
    )
    with (
        running(settings) as daemon,
        Connection(daemon.endpoint, "control", inline=True) as connection,
    ):
        connection.welcome(PATIENCE_S)
        for _ in range(50):
            connection.send(wire.StatusRequest())
        connection.send(wire.Look(0))  # only for views; its refusal comes after all other answers
        heard: list[wire.Message] = []
        deadline = time.monotonic() + PATIENCE_S
        while not any(isinstance(message, wire.Refused) for message in heard):
            assert time.monotonic() < deadline
            if message := connection.receive(0.1):
                heard.append(message)
        assert sum(isinstance(message, wire.Status) for message in heard) == MAX_UNREAD
        connection.send(wire.StatusRequest(answered=MAX_UNREAD))
        until(lambda: isinstance(connection.receive(0.1), wire.Status))


@pytest.mark.parametrize(
    "message",
    [
        wire.Close("0" * 36, 1),
        wire.StatusRequest(),
        wire.Ping(),
        wire.Pause(paused=False),
        wire.CatchUp(on=True),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_peer_that_floods_the_daemon_is_dropped_with_one_line_and_others_are_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, message: wire.Message
) -> None:
    with (
        running(quick_settings(tmp_path)) as daemon,
        source(daemon) as connection,
        Connection(daemon.endpoint, "control", inline=True) as flood,
    ):
        flood.welcome(PATIENCE_S)
        upload = opened(connection, tmp_path / "out")

        def dropped() -> bool:
            for _ in range(500):
                flood.send(message)  # and never reads an answer
            return "not listened to any more" in caplog.text

        until(dropped)
        for number, frame in enumerate(stack(4)):
            pump_until(upload, lambda: upload.credit > 0)
            upload.submit(frame, f'{{"time":{number}}}', "{}", time.perf_counter_ns())
        upload.close(4)
        pump_until(upload, lambda: upload.closed)
        assert daemon_status(daemon.endpoint).workers == 1
    assert upload.closed is not None
    assert upload.closed.counts == wire.Counts(acquired=4, passed_through=4)
    assert caplog.text.count("not listened to any more") == 1
    assert "(1 such since the start)" in caplog.text


def test_a_worker_starts_although_others_took_the_names_of_workers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(quick_settings(tmp_path)) as daemon:
        (worker,) = daemon_status(daemon.endpoint).crew
        name, _, start = worker.identity.rpartition(".")
        guesses = (f"worker-0.{int(start) + 1}", f"worker-0.{start}")
        with (
            Connection(daemon.endpoint, "source", identity=guesses[0]),
            Connection(daemon.endpoint, "control", identity=guesses[1]),
        ):
            until(lambda: caplog.text.count("are this daemon's own") >= 1)
            psutil.Process(worker.pid).kill()
            until(
                lambda: (
                    [w.identity for w in daemon_status(daemon.endpoint).crew if w.engine]
                    == [f"{name}.{int(start) + 1}"]
                )
            )


def test_announcements_are_bounded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MAX_ANNOUNCED_CHARS", 3000)
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        summary = '{"text":"' + "n" * 2000 + '"}'
        opened(connection, tmp_path / "first", summary=summary)
        refused = opened(connection, tmp_path / "second", summary=summary)
        assert "acquisitions with 0 MiB of metadata are open already" in refused.refused


def test_frames_that_are_skipped_wait_for_the_writer_in_slots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: threading.Event
) -> None:
    """The ring limits how many frames of a skipped channel wait to be recorded."""
    record = OutputDataset.record
    asked: list[int] = []

    def slow(self: OutputDataset, job: Any) -> Any:
        asked.append(job.task)
        hangs.wait(30)
        return record(self, job)

    monkeypatch.setattr(OutputDataset, "record", slow)
    settings = quick_settings(tmp_path, skip_channels=["DAPI"])
    with running(settings) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out")
        had, sent = upload.credit, 0
        frame = stack(1)[0]
        while upload.credit:
            upload.submit(frame, f'{{"channel":"DAPI","time":{sent}}}', "{}", 0)
            sent += 1
            upload.pump(0.0)
            assert sent <= had, "slots came back before anything was recorded"
        hangs.set()
        upload.close(sent)
        pump_until(upload, lambda: upload.closed)
    assert upload.closed is not None
    assert upload.closed.counts == wire.Counts(acquired=sent, skipped=sent)
    assert all(asked)


# -- disks ---------------------------------------------------------------------------------


def test_a_share_that_hangs_at_the_start_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: threading.Event
) -> None:
    """Raw data of an earlier acquisition may be on a share that does not answer."""

    def marked(_: str) -> Iterator[Any]:
        hangs.wait(30)
        return iter(())

    monkeypatch.setattr(unfinished, "marked", marked)
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out")
        upload.submit(stack(1)[0], '{"time":0}', "{}", time.perf_counter_ns())
        upload.close(1)
        pump_until(upload, lambda: upload.closed)
    assert not hangs.is_set(), "the daemon ended although the share still hangs"
    assert upload.closed is not None
    assert upload.closed.counts == wire.Counts(acquired=1, passed_through=1)


def test_raw_data_on_a_share_that_hangs_hide_no_other_unfinished_acquisition(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hangs: threading.Event,
) -> None:
    (tmp_path / "here").mkdir()
    for name in ("hangs", "here"):
        about = wire.Open(str(uuid.uuid4()), name, 64, 64, "uint16", str(tmp_path / name), "", "{}")
        mark = {**msgspec.to_builtins(about), "run": "r"}
        mark_open(tmp_path, msgspec.json.encode(mark), about.acquisition)
    standing = unfinished._standing

    def asked(message: wire.Open) -> str:
        if message.name == "hangs":
            hangs.wait(30)
        return standing(message)

    monkeypatch.setattr(unfinished, "_standing", asked)
    assert [each.name for each, _ in unfinished.left_unfinished(str(tmp_path))] == ["here"]
    assert "hangs) does not answer" in caplog.text
    assert len(list((tmp_path / "open").glob("*.json"))) == 2, "both may be finished later"


def test_an_output_that_hangs_does_not_keep_the_daemon_from_ending(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hangs: threading.Event,
) -> None:
    def never(*_: object) -> OutputDataset:
        hangs.wait(60)
        raise OSError("the share is back")

    monkeypatch.setattr(OutputDataset, "open", never)
    settings = quick_settings(tmp_path, stop_timeout_s=0.5)
    with running(settings) as daemon, source(daemon) as connection:
        upload = Upload(
            connection,
            wire.Open(str(uuid.uuid4()), "n", 64, 64, "uint16", "", str(tmp_path / "out"), "{}"),
        )
        pump_until(upload, lambda: daemon_status(daemon.endpoint).details)
    assert not hangs.is_set()
    assert daemon.unfinished == 1
    assert "a disk hangs" in caplog.text


def test_an_output_that_hangs_holds_up_no_other_acquisition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: threading.Event
) -> None:
    open_output = OutputDataset.open

    def opens(settings: Any, job: Any) -> OutputDataset:
        if job.open.name == "on a share":
            hangs.wait(60)
        return open_output(settings, job)

    monkeypatch.setattr(OutputDataset, "open", opens)
    settings = quick_settings(tmp_path, stop_timeout_s=2.0)
    with running(settings) as daemon, source(daemon) as connection, source(daemon) as other:
        Upload(
            other,
            wire.Open(
                *(str(uuid.uuid4()), "on a share", 64, 64, "uint16", "", str(tmp_path / "share")),
                "{}",
            ),
        )
        until(lambda: daemon_status(daemon.endpoint).details)
        upload = opened(connection, tmp_path / "out")
        upload.submit(stack(1)[0], '{"time":0}', "{}", time.perf_counter_ns())
        upload.close(1)
        pump_until(upload, lambda: upload.closed)
        assert not hangs.is_set()
    assert upload.closed is not None
    assert upload.closed.counts == wire.Counts(acquired=1, passed_through=1)


@pytest.mark.parametrize(
    ("error", "attempts"),
    [(errno.EIO, 3), (errno.ESTALE, 3), (errno.EACCES, 1)],
    ids=["a cable", "a share", "no right"],
)
def test_a_frame_is_written_again_where_the_error_may_pass(
    monkeypatch: pytest.MonkeyPatch, error: int, attempts: int
) -> None:
    monkeypatch.setattr(backoff, "RETRY_S", (0.0, 0.0, 0.0))
    tried: list[int] = []

    def write() -> None:
        tried.append(1)
        if len(tried) < 3:
            raise OutputError("the disk refuses") from OSError(error, os.strerror(error))

    with nullcontext() if attempts == 3 else pytest.raises(OutputError):
        backoff.persistently(write)
    assert len(tried) == attempts


def test_raw_data_that_hangs_does_not_keep_the_daemon_from_ending(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hangs: threading.Event,
) -> None:
    monkeypatch.setattr(catch_up, "_open_raw", lambda _: hangs.wait(2 * PATIENCE_S))
    monkeypatch.setattr("refocusd.daemon.daemon.CATCH_UP_END_S", 0.2)
    (tmp_path / "raw").mkdir()
    with running(quick_settings(tmp_path, stop_timeout_s=PATIENCE_S)) as daemon:
        with source(daemon) as connection:
            upload = opened(connection, tmp_path, raw=str(tmp_path / "raw"), output_="")
            upload.close(3)
            pump_until(
                upload, lambda: daemon_status(daemon.endpoint).details[0].state == "catching up"
            )
        asked = time.monotonic()
    assert time.monotonic() - asked < PATIENCE_S / 2, (
        "nothing of a catch-up that hangs is waited for"
    )
    assert daemon.unfinished
    assert "a catch-up has not ended" in caplog.text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a pipe")
def test_a_pipe_in_the_place_of_raw_is_an_error_and_waited_for_by_nobody(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    os.mkfifo(raw / "NDTiff.index")
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path, raw=str(raw), output_="")
        upload.close(3)
        pump_until(upload, lambda: upload.closed)
        (about,) = daemon_status(daemon.endpoint).details
    assert any("pipe" in text for text in about.warnings), about.warnings
    assert daemon.unfinished


@pytest.mark.parametrize("until_the_end", [False, True])
def test_a_ledger_that_cannot_record_a_frame_takes_it_later_or_the_acquisition_is_incomplete(
    tmp_path: Path, until_the_end: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_MS", 500)
    settings = quick_settings(tmp_path)
    with running(settings) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out")
        path = ledger_path(settings.ledgers, upload.acquisition)
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")  # longer than the writer waits for it
            upload.submit(stack(1)[0], '{"time":0}', "{}", time.perf_counter_ns())
            pump_until(
                upload,
                lambda: daemon_status(daemon.endpoint).details[0].counts.passed_through == 1,
            )
            if not until_the_end:
                other.rollback()
            upload.close(1)
            pump_until(upload, lambda: upload.closed)
        (about,) = daemon_status(daemon.endpoint).details
    with Ledger(path, read_only=True) as ledger:
        states = [attempt.state for attempt in ledger.attempts(upload.acquisition)]
    incomplete = any("ledger could not record every frame" in text for text in about.warnings)
    assert (incomplete, daemon.unfinished, states) == (
        (True, 1, []) if until_the_end else (False, 0, ["passed_through"])
    ), "`refocusd run` ends with an error where a frame was not recorded"


def test_the_ledger_is_copied_beside_the_output_while_frames_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: threading.Event
) -> None:
    """A long ledger takes seconds to copy; a separate thread does it, so no frame waits."""
    copy_to = Ledger.copy_to
    copying = threading.Event()

    def slow(self: Ledger, path: Path) -> None:
        copying.set()
        hangs.wait(30)
        copy_to(self, path)

    monkeypatch.setattr(dataset, "COPY_LEDGER_S", 0.0)
    monkeypatch.setattr(Ledger, "copy_to", slow)
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out")
        for number, frame in enumerate(stack(3)):
            upload.submit(frame, f'{{"time":{number}}}', "{}", time.perf_counter_ns())
        pump_until(
            upload, lambda: daemon_status(daemon.endpoint).details[0].counts.passed_through == 3
        )
        assert copying.wait(10)
        hangs.set()
        upload.close(3)
        pump_until(upload, lambda: upload.closed)
    with Ledger(tmp_path / "out" / LEDGER_COPY, read_only=True) as ledger:
        assert len(ledger) == 3
