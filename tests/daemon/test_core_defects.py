"""What a review of the live core found: each of these failed once, and lost, doubled or held up frames."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import sqlite3
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broker_model import ENGINE, PlayedBroker, Story
from live import Upload, keys, opened, pump_until, quick_settings, running, source, stack
from ndstorage import NDTiffDataset
from waiting import PATIENCE_S, until

from refocusd.config import Settings
from refocusd.daemon.acquisitions.intake import MAX_PICKED_UP
from refocusd.daemon.acquisitions.state import Acquisition
from refocusd.daemon.daemon import Daemon, daemon_status
from refocusd.daemon.events import FrameNotWritten, LeftUnfinished
from refocusd.daemon.output.jobs import CloseOutput, RecordFrames
from refocusd.daemon.output.writer import Writer
from refocusd.daemon.workers.pool import WorkerPool
from refocusd.daemon.workers.processes import MAX_FAILED_STARTS, WorkerProcesses
from refocusd.errors import TransportError
from refocusd.frame import checksum
from refocusd.ledger import Ledger, is_marked, ledger_path
from refocusd.processes.daemon_process import DaemonProcess
from refocusd.sources.feed import Feed
from refocusd.transport import messages as wire
from refocusd.transport.client import Connection
from refocusd.transport.secure.keys import KeyStore, load_client_keys
from refocusd.transport.session import State

SIDE = 64
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot stop a process so")


class Raw:
    """A raw dataset that ndstorage writes, and its frames."""

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


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[Raw]:
    written = Raw(tmp_path / "data", 40)
    yield written
    written.dataset.finish()
    written.dataset.close()


def only(daemon: Daemon) -> wire.AcquisitionStatus:
    # What an earlier daemon left is looked for while this one works already.
    until(lambda: daemon_status(daemon.endpoint).details)
    (about,) = daemon_status(daemon.endpoint).details
    return about


@contextmanager
def paused(endpoint: str) -> Iterator[None]:
    """No frame goes to a worker inside."""
    with Connection(endpoint, "control", inline=True) as connection:
        connection.welcome(90.0)
        connection.send(wire.Pause(paused=True))
        until(lambda: daemon_status(endpoint).paused)
        yield
        # It may have been stopped inside.
        with suppress(TransportError):
            connection.send(wire.Pause(paused=False))
            until(lambda: not daemon_status(endpoint).paused)


@contextmanager
def stopped_worker(daemon: Daemon) -> Iterator[None]:
    """The daemon's worker answers nothing inside."""
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
        #: Outputs that the writer was asked to close.
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


@pytest.fixture
def broker() -> Iterator[Hand]:
    one = Hand()
    yield one
    one.ring.close()


# -- the broker's and the writer's threads outlive what they are told --------------------


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


# -- what is complete --------------------------------------------------------------------


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
    raw.write(0, 6)
    with running(settings) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path, raw=str(raw.path), output_="")
        for number in range(3):
            raw.submit(upload, number)
        pump_until(upload, lambda: only(daemon).counts.passed_through == 3)
    assert is_marked(settings.ledgers, upload.acquisition)
    shutil.rmtree(raw.output)
    with running(settings) as daemon:
        until(lambda: only(daemon).state == "ended")
        assert only(daemon).counts == wire.Counts(acquired=6, passed_through=6)
    assert len(keys(raw.output)) == 6
    assert not is_marked(settings.ledgers, upload.acquisition)


def test_what_the_ledger_could_not_take_is_put_right_by_the_next_daemon(
    tmp_path: Path, raw: Raw
) -> None:
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


# -- stopping ----------------------------------------------------------------------------


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


# -- who may do what ---------------------------------------------------------------------


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


def test_a_worker_with_another_model_cannot_come_before_ours(broker: Hand) -> None:
    pool = WorkerPool(broker.send, broker.ring, models="aaaa")
    other = wire.Engines("openvino", "f32", "CPU", "k", "m", "bbbb")
    with pytest.raises(TransportError, match="same --model"):
        pool.set_ready(b"w", wire.Ready(other, 1.0))
    assert pool.engine is None


# -- sources -----------------------------------------------------------------------------


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
        until(lambda: "say Hello first" in caplog.text)  # the new one does not know it
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
    # Raw has one frame, and raw decides what there is to do.
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
        with pytest.raises(UnicodeEncodeError):
            upload.submit(frame, '{"channel":"\ud800"}', "{}", 0)
        assert upload.credit == credit
        upload.close(0)
        pump_until(upload, lambda: upload.closed)


# -- workers -----------------------------------------------------------------------------


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
    """A daemon with workers on other hosts only, and how one of them connects."""
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
                    continue  # the link is cut in the middle of the frame
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
