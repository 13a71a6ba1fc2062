"""What a daemon does when asked to stop, and what it leaves to the next one."""

from __future__ import annotations

import time
from pathlib import Path

from core_rig import POSIX, SIDE, Hand, Raw, only, states_of, stopped_worker
from live import opened, pump_until, quick_settings, running, source, stack
from waiting import until

from refocusd.daemon.daemon import daemon_status
from refocusd.daemon.output.jobs import CloseOutput
from refocusd.transport import messages as wire
from refocusd.transport.session import State


def test_a_stop_does_not_wait_for_a_whole_catch_up(broker: Hand) -> None:
    story = broker.acquisition()
    story.raw = [f'{{"time":{n}}}' for n in range(40)]
    broker.intake.close(story.peer.identity, wire.Close(story.id, 40))
    (reading,) = broker.readings
    broker.intake.open(reading.peer.identity, story.open, trusted=True)
    while reading.peer.slots:
        broker.submit(reading.peer, story, reading.pending.popleft(), live=False)
    broker.dispatch()
    broker.lifecycle.stop()
    broker.work()
    assert reading.pending
    broker.write_all()
    assert broker.closed == [CloseOutput(story.id, None)]


def test_a_disk_that_fills_during_a_stop_does_not_hold_it_up(broker: Hand) -> None:
    story = broker.acquisition()
    for number in range(4):
        broker.send_frame(story, number)
    broker.lifecycle.stop()
    broker.writer.full.add(story.id)
    broker.work()
    assert not broker.acquisitions


@POSIX
def test_what_a_stopping_daemon_does_not_take_is_for_the_next_one(tmp_path: Path, raw: Raw) -> None:
    settings = quick_settings(tmp_path, stop_timeout_s=40.0)
    raw.write(0, 3)
    with running(settings) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path, raw=str(raw.path), output_="")
        with stopped_worker(daemon):
            raw.submit(upload, 0)
            daemon.request_stop()
            until(lambda: daemon_status(daemon.endpoint).stopping)
            raw.submit(upload, 1)
            pump_until(upload, lambda: upload.state is State.LOST)
        assert not upload.over, "a source must come back to the next daemon"


@POSIX
def test_frames_without_raw_that_a_stop_leaves_are_named(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, stop_timeout_s=0.3)
    frames = stack(3, SIDE)
    with running(settings) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out")
        with stopped_worker(daemon):
            for number, frame in enumerate(frames):
                upload.submit(frame, f'{{"time":{number}}}', "{}", time.perf_counter_ns())
            until(lambda: only(daemon).counts.pending == 3)
            daemon.request_stop()
            assert daemon.wait(90.0)
    states = states_of(settings, upload.acquisition)
    assert states == dict.fromkeys(
        (f'{{"time":{n}}}' for n in range(3)), ("skipped", "no raw: the daemon stopped")
    )
