"""Faults that a review of the live core found, which lost, doubled or delayed frames."""

from __future__ import annotations

import os
import queue
import shutil
import sqlite3
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from broker_model import Story
from core_rig import SIDE, Hand, Raw, only, open_of, paused, states_of
from live import keys, opened, pump_until, quick_settings, running, source, stack
from waiting import PATIENCE_S, until

from refocusd.config import Settings
from refocusd.daemon.acquisitions import unfinished
from refocusd.daemon.acquisitions.intake import MAX_PICKED_UP
from refocusd.daemon.daemon import Daemon, daemon_status
from refocusd.daemon.events import FrameNotWritten, LeftUnfinished
from refocusd.daemon.output.jobs import CloseOutput, RecordFrames
from refocusd.daemon.output.writer import Writer
from refocusd.ledger import is_marked, ledger_path, schema
from refocusd.transport import messages as wire


def left_unfinished(settings: Settings, tmp_path: Path, raw: Raw) -> str:
    """Save six frames, of which a daemon refocuses three and stops; returns the acquisition."""
    raw.write(0, 6)
    with running(settings) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path, raw=str(raw.path), output_="")
        for number in range(3):
            raw.submit(upload, number)
        pump_until(upload, lambda: only(daemon).counts.passed_through == 3)
    assert is_marked(settings.ledgers, upload.acquisition)
    return upload.acquisition


def all_refocused(daemon: Daemon, raw: Raw) -> None:
    """Wait for the end of the unfinished acquisition; assert that it has six frames."""
    until(lambda: only(daemon).state == "ended")
    assert only(daemon).counts == wire.Counts(acquired=6, passed_through=6)
    assert len(keys(raw.output)) == 6


def test_no_number_in_a_message_ends_the_daemon(tmp_path: Path, raw: Raw) -> None:
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path, raw=str(raw.path), output_="")
        for _ in range(3):
            connection.send(wire.Behind(upload.acquisition, (1 << 64) - 1, (1 << 64) - 1))
        until(lambda: upload.pump(0.1) and upload.refused)
        assert "frames" in upload.refused
        assert daemon_status(daemon.endpoint).workers == 1


def test_a_job_for_an_unknown_acquisition_does_not_end_the_writer(tmp_path: Path) -> None:
    heard: queue.Queue[Any] = queue.Queue()
    writer = Writer(quick_settings(tmp_path), None, heard)  # type: ignore[arg-type]
    try:
        writer.put(RecordFrames(str(uuid.uuid4()), ("{}",), "failed", "why", task=7))
        event = heard.get(timeout=PATIENCE_S)
        assert isinstance(event, FrameNotWritten)
        assert event.task == 7
        assert "has no output" in event.error
        writer.put(CloseOutput("another", None))
        assert heard.get(timeout=PATIENCE_S).acquisition == "another"
    finally:
        writer.stop(10.0)


def test_an_answer_after_its_acquisition_was_dropped_is_not_written(broker: Hand) -> None:
    story = broker.acquisition()
    for number in range(2):
        broker.send_frame(story, number)
    broker.writer.full.add(story.id)
    broker.answer(b"worker", broker.workers[b"worker"].pop(0).task, well=True)
    broker.write_all()
    assert broker.held(story).stalled
    broker.lifecycle.stop()
    assert not broker.acquisitions
    broker.write_all()
    for well in (True, False):
        for task in broker.workers[b"worker"]:
            broker.answer(b"worker", task.task, well=well)
    assert not broker.writer.jobs


def test_a_lost_source_is_compared_with_raw_even_if_the_daemon_stops_before(
    tmp_path: Path, raw: Raw
) -> None:
    settings = quick_settings(tmp_path, source_timeout_s=1.0)
    raw.write(0, 9)
    with running(settings) as daemon:
        with paused(daemon.endpoint):
            with source(daemon) as connection:
                upload = opened(connection, tmp_path, raw=str(raw.path), output_="")
                for number in range(4):
                    raw.submit(upload, number)
                until(lambda: only(daemon).queued == 4)
            until(lambda: only(daemon).state == "closing")
            daemon.request_stop()
            assert daemon.wait(90.0)
        assert daemon.unfinished == 1
    assert is_marked(settings.ledgers, upload.acquisition), "raw has five frames more"
    with running(settings):
        until(lambda: not is_marked(settings.ledgers, upload.acquisition))
    assert len(keys(raw.output)) == 9


def test_a_picked_up_acquisition_whose_catch_up_is_lost_is_not_complete(broker: Hand) -> None:
    about = open_of(str(Path("raw").absolute()), "")
    story = Story(about, broker.new_peer("nobody"), raw=[f'{{"time":{n}}}' for n in range(9)])
    broker.stories[story.id] = story
    broker.peers[b""] = story.peer
    run = broker.held(broker.acquisition()).run
    broker.intake.left_unfinished(LeftUnfinished(about, run))
    broker.write_all()
    (reading,) = broker.readings
    broker.intake.open(reading.peer.identity, about, trusted=True)
    broker.submit(reading.peer, story, reading.pending.popleft(), live=False)
    broker.dispatch()
    broker.work()
    broker.intake.lost(reading.peer.identity)
    broker.write_all()
    assert broker.closed == [CloseOutput(story.id, None)]


def test_a_dataset_that_was_deleted_is_made_again(tmp_path: Path, raw: Raw) -> None:
    settings = quick_settings(tmp_path)
    acquisition = left_unfinished(settings, tmp_path, raw)
    shutil.rmtree(raw.output)
    with running(settings) as daemon:
        all_refocused(daemon, raw)
    assert not is_marked(settings.ledgers, acquisition)


@pytest.mark.parametrize("mounted_on", [".", "mount/share", "mount/share/data"])
def test_raw_data_on_a_share_that_is_mounted_late_are_remembered(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    mounted_on: str,
) -> None:
    """The daemon starts before the share, whose mount point is empty or does not exist yet."""
    if os.name == "nt":
        pytest.skip("Windows does not let a folder be moved while files in it are open")
    monkeypatch.setattr(unfinished, "AGAIN_S", 0.05)
    settings = quick_settings(tmp_path)
    data = tmp_path / "mount" / "share" / "data"
    data.parent.mkdir(parents=True)
    raw = Raw(data, 6)
    acquisition = left_unfinished(settings, tmp_path, raw)
    share = data.parent if mounted_on == "." else tmp_path / mounted_on
    share.rename(tmp_path / "elsewhere")
    if mounted_on != ".":
        share.mkdir()
    with running(settings) as daemon:
        until(lambda: "is not there: it is finished once that is back" in caplog.text)
        assert is_marked(settings.ledgers, acquisition)
        assert not daemon_status(daemon.endpoint).details
        if share.exists():
            assert not any(share.iterdir()), "nothing is written where the share will be"
            share.rmdir()
        (tmp_path / "elsewhere").rename(share)
        until(lambda: daemon_status(daemon.endpoint).details)
        all_refocused(daemon, raw)
    assert not is_marked(settings.ledgers, acquisition)
    assert caplog.text.count("it is finished once that is back") == 1
    raw.dataset.finish()
    raw.dataset.close()


def test_an_acquisition_whose_raw_data_were_deleted_is_forgotten(
    tmp_path: Path, raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    settings = quick_settings(tmp_path)
    acquisition = left_unfinished(settings, tmp_path, raw)
    shutil.rmtree(raw.path)
    with running(settings):
        until(lambda: not is_marked(settings.ledgers, acquisition))
    assert "is not there any more" in caplog.text


def test_what_the_ledger_could_not_take_is_put_right_by_the_next_daemon(
    tmp_path: Path, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_MS", 500)
    settings = quick_settings(tmp_path)
    raw.write(0, 2)
    with running(settings) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path, raw=str(raw.path), output_="")
        raw.submit(upload, 0)
        pump_until(upload, lambda: only(daemon).counts.passed_through == 1)
        ledger = sqlite3.connect(ledger_path(settings.ledgers, upload.acquisition))
        with closing(ledger):
            ledger.execute("BEGIN IMMEDIATE")  # longer than the writer waits for it
            raw.submit(upload, 1)
            pump_until(upload, lambda: only(daemon).counts.passed_through == 2)
            upload.close(2)
            pump_until(upload, lambda: upload.closed)
    assert list(states_of(settings, upload.acquisition)) == ['{"time":0}']
    with running(settings):
        until(lambda: not is_marked(settings.ledgers, upload.acquisition))
    assert len(states_of(settings, upload.acquisition)) == 2
    assert len(keys(raw.output)) == 2


def test_many_unfinished_acquisitions_are_picked_up_a_few_at_a_time(
    tmp_path: Path, raw: Raw
) -> None:
    settings = quick_settings(tmp_path)
    raw.write(0, 2)
    with running(settings) as daemon, source(daemon) as connection:
        uploads = [
            opened(connection, tmp_path, raw=str(raw.path), output_=str(tmp_path / f"out{n}"))
            for n in range(MAX_PICKED_UP + 4)
        ]
    assert all(is_marked(settings.ledgers, upload.acquisition) for upload in uploads)
    most = 0
    with running(settings) as daemon:
        while any(is_marked(settings.ledgers, upload.acquisition) for upload in uploads):
            details = daemon_status(daemon.endpoint).details
            most = max(most, sum(about.state != "ended" for about in details))
    assert 0 < most <= MAX_PICKED_UP
    for number in range(len(uploads)):
        assert len(keys(tmp_path / f"out{number}")) == 2


def test_a_frame_that_is_written_cannot_be_missed(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path)
    with running(settings) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out")
        frame = stack(1, SIDE)[0]
        upload.submit(frame, '{"time":0}', "{}", time.perf_counter_ns())
        pump_until(upload, lambda: only(daemon).counts.passed_through == 1)
        upload.miss(['{"time":0}', '{"time":1}'], "skipped", "no raw")
        upload.miss(['{"time":1}'], "skipped", "no raw")
        upload.close(2)
        pump_until(upload, lambda: upload.closed)
    assert upload.closed is not None
    assert upload.closed.counts == wire.Counts(acquired=2, passed_through=1, skipped=1)
    states = states_of(settings, upload.acquisition)
    assert states['{"time":0}'][0] == "passed_through"


def test_a_late_catch_up_does_not_take_the_place_of_the_source(broker: Hand) -> None:
    story = broker.acquisition()
    late = broker.new_peer("catch-up")
    broker.intake.open(late.identity, story.open, trusted=True)
    assert late.refused
    assert broker.held(story).live.peer == story.peer.identity
    stranger = broker.new_peer("catch-up")
    broker.intake.open(stranger.identity, open_of(story.open.raw, ""), trusted=True)
    assert stranger.refused
    assert len(broker.acquisitions) == 1


def test_what_does_not_fit_the_ring_any_more_is_not_picked_up(broker: Hand) -> None:
    fits = broker.held(broker.acquisition())
    large = open_of(str(Path("raw").absolute()), "", side=2048)
    broker.intake.left_unfinished(LeftUnfinished(large, fits.run))
    assert list(broker.acquisitions) == [fits]


def test_the_last_slot_goes_round(broker: Hand) -> None:
    first = broker.acquisition(has_raw=False, side=512)
    second = broker.acquisition(has_raw=False, side=512)
    assert (len(first.peer.slots), len(second.peer.slots)) == (1, 0)
    for round_ in range(2):
        broker.send_frame(first, round_)
        broker.work()
        assert (len(first.peer.slots), len(second.peer.slots)) == (0, 1)
        broker.send_frame(second, round_)
        broker.work()
        assert (len(first.peer.slots), len(second.peer.slots)) == (1, 0)


def test_a_slot_that_somebody_overwrites_costs_no_frame_that_raw_has(
    tmp_path: Path, raw: Raw
) -> None:
    raw.write(0, 2)
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path, raw=str(raw.path), output_="")
        with paused(daemon.endpoint):
            slot = upload._slots[0]
            raw.submit(upload, 0)
            raw.submit(upload, 1)
            until(lambda: only(daemon).queued == 2)
            assert connection.ring is not None
            connection.ring.view(slot.offset, (SIDE, SIDE), "uint16")[0] = 0
        upload.close(2)
        pump_until(upload, lambda: upload.closed)
    assert upload.closed is not None
    assert upload.closed.counts == wire.Counts(acquired=2, passed_through=2)
