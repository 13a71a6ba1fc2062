"""Flow control, catch-up and recovery of a real daemon: the paths of frames under faults."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live import Upload, keys, opened, pump_until, quick_settings, read_all, running, source, stack
from ndstorage import NDTiffDataset
from numpy.typing import NDArray
from waiting import until

from refocusd.daemon.daemon import Daemon, daemon_status
from refocusd.daemon.output.dataset import OutputDataset
from refocusd.datasets.run_figures import run_figures
from refocusd.datasets.run_folder import RUN_FILE
from refocusd.ledger import Ledger, is_marked, ledger_path
from refocusd.transport import messages as wire
from refocusd.transport.client import Connection

SIDE = 64


class Raw:
    """A raw dataset that ndstorage writes frame by frame, as for pycromanager."""

    def __init__(self, folder: Path, frames: NDArray[np.uint16]) -> None:
        folder.mkdir()
        self.frames = frames
        self.dataset = NDTiffDataset(str(folder), name="raw", writable=True)
        self.dataset.initialize({})
        self.path = Path(self.dataset.path)
        self.written = 0

    def write(self, count: int) -> None:
        for number in range(self.written, self.written + count):
            self.dataset.put_image({"time": number}, self.frames[number], {"n": number})
            self.dataset._index_file.flush()
        self.written += count

    def submit(self, upload: Upload, number: int) -> bool:
        metadata = json.dumps({"n": number})
        key = f'{{"time":{number}}}'
        return upload.submit(self.frames[number], key, metadata, time.perf_counter_ns())


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[Raw]:
    written = Raw(tmp_path / "data", stack(50, SIDE))
    yield written
    written.dataset.finish()
    written.dataset.close()


def output_of(raw: Raw) -> Path:
    return raw.path.with_name(raw.path.name + "_refocused")


@contextmanager
def control(daemon: Daemon, role: wire.Role = "control") -> Iterator[Connection]:
    with Connection(daemon.endpoint, role, inline=True) as connection:
        connection.welcome(90.0)
        yield connection


def paused(connection: Connection, daemon: Daemon, value: bool) -> None:
    connection.send(wire.Pause(value))
    until(lambda: daemon_status(daemon.endpoint).paused is value)


def only(daemon: Daemon) -> wire.AcquisitionStatus:
    (about,) = daemon_status(daemon.endpoint).details
    return about


def all_there(raw: Raw, count: int) -> None:
    there = read_all(output_of(raw))
    assert len(there) == count
    for number in range(count):
        pixels, metadata = there[f'{{"time":{number}}}']
        np.testing.assert_array_equal(pixels, raw.frames[number])
        assert metadata["n"] == number
        assert metadata["refocusd"]["checksum"] == metadata["refocusd"]["raw_checksum"]


def test_live_stays_fresh_and_the_rest_is_caught_up_while_the_acquisition_goes_on(
    tmp_path: Path, raw: Raw
) -> None:
    settings = quick_settings(tmp_path, ring_mib=1, source_mib=1)
    with running(settings) as daemon, source(daemon) as connection, control(daemon) as control_peer:
        upload = opened(connection, tmp_path, raw=str(raw.path), output_="")
        outcomes: list[wire.Outcome] = []
        upload._on_outcome = outcomes.append
        paused(control_peer, daemon, True)
        raw.write(45)
        for number in range(45):
            # However slow the workers are, the source always has a slot for its next frame.
            pump_until(upload, lambda: upload.credit > 0)
            assert raw.submit(upload, number)
        until(lambda: only(daemon).deferred > 0)
        deferred = only(daemon).deferred
        assert only(daemon).queued == 45 - deferred
        paused(control_peer, daemon, False)
        # The acquisition is still open, and idle workers refocus the frames that were given up.
        pump_until(upload, lambda: len(outcomes) == 45)
        assert outcomes[0].axes == '{"time":44}', "the newest goes first"
        assert {outcome.axes for outcome in outcomes[-deferred:]} == {
            f'{{"time":{number}}}' for number in range(deferred)
        }, "the oldest were given up"
        assert only(daemon).state == "live"
        raw.write(1)
        assert raw.submit(upload, 45)
        upload.close(46)
        pump_until(upload, lambda: upload.closed)
    assert upload.closed is not None
    assert upload.closed.counts == wire.Counts(acquired=46, passed_through=46)
    all_there(raw, 46)
    assert not is_marked(settings.ledgers, upload.acquisition)


#: Time that the engine of `slow_engine` takes for a frame, s.
ENGINE_S = 0.15


@pytest.fixture
def slow_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make workers take `ENGINE_S` for each frame."""
    bent = Path(__file__).parents[1] / "faults" / "bad_worker"
    path = [str(bent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setenv("BAD_WORKER", f"late 1 {ENGINE_S}")


@pytest.mark.usefixtures("slow_engine")
def test_the_newest_frame_is_written_within_two_engine_times_whatever_is_queued(
    tmp_path: Path, raw: Raw
) -> None:
    backlog, frames = 15, 45
    with (
        running(quick_settings(tmp_path)) as daemon,
        source(daemon) as connection,
        control(daemon) as control_peer,
        control(daemon, "view") as view,
    ):
        upload = opened(connection, tmp_path, raw=str(raw.path), output_="")
        submitted, written = np.zeros(frames), np.full(frames, np.inf)
        upload._on_outcome = lambda outcome: written.__setitem__(
            json.loads(outcome.axes)["time"], time.monotonic()
        )
        shown: list[wire.Shown] = []

        def look() -> None:
            while (message := view.receive(0.0)) is not None:
                if isinstance(message, wire.Shown):
                    shown.append(message)
                    view.send(wire.Look(after=message.serial, max_side=64))

        view.send(wire.Look(after=0, max_side=64))
        raw.write(frames)
        paused(control_peer, daemon, True)
        for number in range(frames):
            if number == backlog:
                paused(control_peer, daemon, False)
            pump_until(upload, lambda: upload.credit > 0)
            submitted[number] = time.monotonic()
            assert raw.submit(upload, number)
            # After the backlog, frames come faster than the engine refocuses them.
            while number >= backlog and time.monotonic() < submitted[number] + 0.6 * ENGINE_S:
                upload.pump(0.005)
                look()
        pump_until(upload, lambda: np.isfinite(written).all())
        upload.close(frames)
        pump_until(upload, lambda: upload.closed)
        with Ledger(ledger_path(daemon.settings.ledgers, upload.acquisition)) as ledger:
            attempts = list(ledger.attempts(upload.acquisition))
    # Age of the newest picture: the delay until each frame or a newer one is shown.
    as_new = np.minimum.accumulate(written[::-1])[::-1]
    in_engine_times = (as_new - submitted)[backlog:] / ENGINE_S
    assert np.percentile(in_engine_times, 95) < 2.25
    # The live image never goes back to an older frame.
    times = [json.loads(message.axes)["time"] for message in shown if message.live]
    assert len(times) > 3
    assert times == sorted(times)
    counts = wire.Counts(acquired=frames, passed_through=frames)
    assert run_figures([counts], attempts).newest_ms[1] < 2.25e3 * ENGINE_S


def test_idle_catch_up_can_be_switched_off(tmp_path: Path, raw: Raw) -> None:
    with (
        running(quick_settings(tmp_path)) as daemon,
        source(daemon) as connection,
        control(daemon) as control_peer,
    ):
        control_peer.send(wire.CatchUp(on=False))
        upload = opened(connection, tmp_path, raw=str(raw.path), output_="")
        raw.write(5)
        connection.send(wire.Behind(upload.acquisition, 5, 5))
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline:
            upload.pump(0.2)
        assert only(daemon).counts == wire.Counts(acquired=5, pending=5)
        control_peer.send(wire.CatchUp(on=True))
        until(lambda: only(daemon).counts == wire.Counts(acquired=5, passed_through=5))
        upload.close(5)
        pump_until(upload, lambda: upload.closed)
    all_there(raw, 5)


def test_the_policy_complete_keeps_every_frame_in_order(tmp_path: Path, raw: Raw) -> None:
    settings = quick_settings(tmp_path, policy="complete", ring_mib=1)
    with running(settings) as daemon, source(daemon) as connection, control(daemon) as control_peer:
        upload = opened(connection, tmp_path, raw=str(raw.path), output_="")
        outcomes: list[wire.Outcome] = []
        upload._on_outcome = outcomes.append
        raw.write(40)
        paused(control_peer, daemon, True)
        number = 0
        while upload.credit:
            assert raw.submit(upload, number)
            number += 1
        assert 0 < number < 40
        while upload.pump(0.3):  # no frame is given up, so no slot comes back
            pass
        assert upload.credit == 0
        paused(control_peer, daemon, False)
        while number < 40:
            pump_until(upload, lambda: upload.credit > 0)
            assert raw.submit(upload, number)
            number += 1
        pump_until(upload, lambda: len(outcomes) == 40)
        assert only(daemon).deferred == 0
        upload.close(40)
        pump_until(upload, lambda: upload.closed)
    assert [outcome.axes for outcome in outcomes] == [f'{{"time":{n}}}' for n in range(40)]
    all_there(raw, 40)


def test_a_daemon_picks_up_what_an_earlier_one_left(tmp_path: Path, raw: Raw) -> None:
    settings = quick_settings(tmp_path, stop_timeout_s=0.3)
    raw.write(20)
    with running(settings) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path, raw=str(raw.path), output_="")
        for number in range(7):
            pump_until(upload, lambda: upload.credit > 0)
            assert raw.submit(upload, number)
        pump_until(upload, lambda: only(daemon).counts.passed_through == 7)
    assert is_marked(settings.ledgers, upload.acquisition)
    assert len(keys(output_of(raw))) == 7
    with running(settings) as daemon:
        until(lambda: not is_marked(settings.ledgers, upload.acquisition))
        assert only(daemon).counts == wire.Counts(acquired=20, passed_through=20)
    all_there(raw, 20)
    with running(settings) as daemon:  # nothing remains to be done
        assert daemon_status(daemon.endpoint).details == []


def test_what_was_begun_with_other_settings_is_not_mixed(tmp_path: Path, raw: Raw) -> None:
    raw.write(3)
    acquisition = str(uuid.uuid4())
    first = quick_settings(tmp_path, stop_timeout_s=0.3)
    with running(first) as daemon, source(daemon) as connection:
        upload = opened(
            connection, tmp_path, raw=str(raw.path), output_="", acquisition=acquisition
        )
        raw.submit(upload, 0)
        pump_until(upload, lambda: only(daemon).counts.passed_through == 1)
    other = quick_settings(tmp_path, pass_in_focus=False)
    with running(other) as daemon, source(daemon) as connection:
        assert daemon_status(daemon.endpoint).details == [], "another run is not picked up"
        upload = opened(
            connection, tmp_path, raw=str(raw.path), output_="", acquisition=acquisition
        )
        upload.close(3)
        pump_until(upload, lambda: upload.closed)
        second = Path(only(daemon).output)
    assert second != output_of(raw)
    assert len(keys(output_of(raw))) == 1
    assert len(keys(second)) == 3
    runs = {json.loads((place / RUN_FILE).read_text())["run"] for place in (output_of(raw), second)}
    assert len(runs) == 2


def test_a_source_that_comes_back_goes_on_where_it_was(tmp_path: Path, raw: Raw) -> None:
    raw.write(10)
    acquisition = str(uuid.uuid4())
    settings = quick_settings(tmp_path)
    same: dict[str, Any] = {"raw": str(raw.path), "output_": "", "acquisition": acquisition}
    with running(settings) as daemon:
        with source(daemon) as connection:
            upload = opened(connection, tmp_path, **same)
            for number in range(4):
                assert raw.submit(upload, number)
            pump_until(upload, lambda: only(daemon).counts.passed_through == 4)
        with source(daemon) as connection:  # a new link, before the loss of the old one is noticed
            upload = opened(connection, tmp_path, **same)
            assert not upload.refused
            for number in range(4, 10):
                assert raw.submit(upload, number)
            upload.close(10)
            pump_until(upload, lambda: upload.closed)
            assert upload.closed is not None
            assert upload.closed.counts == wire.Counts(acquired=10, passed_through=10)
        with source(daemon) as connection:  # with another picture size it is another acquisition
            upload = opened(connection, tmp_path, side=32, **same)
            upload.close(0)
    all_there(raw, 10)


def test_another_source_cannot_take_over_with_another_raw(tmp_path: Path, raw: Raw) -> None:
    acquisition = str(uuid.uuid4())
    raw.write(1)
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(
            connection, tmp_path, raw=str(raw.path), output_="", acquisition=acquisition
        )
        with source(daemon) as other:
            refused = opened(
                other, tmp_path, raw=str(tmp_path), output_="", acquisition=acquisition
            )
            assert "with another raw" in refused.refused
        raw.submit(upload, 0)
        upload.close(1)
        pump_until(upload, lambda: upload.closed)
    all_there(raw, 1)


def test_a_full_disk_pauses_and_goes_on_when_there_is_room(tmp_path: Path, raw: Raw) -> None:
    raw.write(12)
    settings = quick_settings(tmp_path)
    with running(settings) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path, raw=str(raw.path), output_="")
        for number in range(4):
            assert raw.submit(upload, number)
        pump_until(upload, lambda: only(daemon).counts.passed_through == 4)
        output = _output(daemon, upload)
        reserve, output.reserve_nbytes, output.checked_at = output.reserve_nbytes, 1 << 60, 0.0
        for number in range(4, 12):
            pump_until(upload, lambda: upload.credit > 0)
            assert raw.submit(upload, number)
        upload.close(12)
        until(lambda: any("is full: paused" in text for text in only(daemon).warnings))
        assert only(daemon).counts.passed_through == 4
        output.reserve_nbytes = reserve
        pump_until(upload, lambda: upload.closed)
    assert upload.closed is not None
    assert upload.closed.counts == wire.Counts(acquired=12, passed_through=12)
    all_there(raw, 12)


def test_a_stop_with_a_full_disk_leaves_the_rest_for_the_next_daemon(
    tmp_path: Path, raw: Raw
) -> None:
    raw.write(6)
    settings = quick_settings(tmp_path, stop_timeout_s=5.0)
    with running(settings) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path, raw=str(raw.path), output_="")
        _output(daemon, upload).reserve_nbytes = 1 << 60
        for number in range(6):
            assert raw.submit(upload, number)
        until(lambda: any("is full: paused" in text for text in only(daemon).warnings))
        begun = time.monotonic()
    assert time.monotonic() - begun < 5.0 + 20.0
    assert daemon.unfinished == 6
    with running(settings):
        until(lambda: not is_marked(settings.ledgers, upload.acquisition))
    all_there(raw, 6)


def test_a_view_sees_the_newest_frame_raw_and_refocused(tmp_path: Path, raw: Raw) -> None:
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path, raw=str(raw.path), output_="", side=SIDE)
        raw.write(2)
        with control(daemon, "view") as view:
            view.send(wire.Look(after=0, max_side=64))
            raw.submit(upload, 0)
            pump_until(upload, lambda: only(daemon).counts.passed_through == 1)
            assert isinstance(view.receive(5.0), wire.Shown)
            view.send(wire.Look(after=0, max_side=64))
            shown = view.receive_parts(5.0)
            assert shown is not None
            message, pixels = shown
            assert isinstance(message, wire.Shown)
            assert message.axes == '{"time":0}'
            assert pixels is not None
            both = np.frombuffer(pixels, np.uint16).reshape(2, SIDE, SIDE)
            np.testing.assert_array_equal(both[0], raw.frames[0])
            np.testing.assert_array_equal(both[1], raw.frames[0])
            view.send(wire.Look(after=message.serial, max_side=64))
            assert view.receive(0.3) is None, "nothing newer: no answer yet"
            view.send(wire.Stop())
            refused = view.receive(5.0)
            assert isinstance(refused, wire.Refused), "a view does not stop the daemon"
        upload.close(1)
        pump_until(upload, lambda: upload.closed)


def test_the_status_tells_workers_stages_and_states(tmp_path: Path, raw: Raw) -> None:
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path, raw=str(raw.path), output_="")
        raw.write(3)
        for number in range(3):
            raw.submit(upload, number)
        pump_until(upload, lambda: only(daemon).counts.passed_through == 3)
        status = daemon_status(daemon.endpoint)
        assert [worker.frames for worker in status.crew] == [3]
        assert status.frames == {"passed_through: identity engine": 3}
        assert sum(status.stages["total"].counts) == 3
        assert status.raw_nbytes == 3 * SIDE * SIDE * 2
        assert 0 < status.ring_free < status.ring_nbytes
        upload.close(3)
        pump_until(upload, lambda: upload.closed)
        assert only(daemon).state == "ended"


def test_channels_that_a_rule_names_are_skipped_by_name(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, skip_channels=["BF"])
    with running(settings) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out")
        outcomes: list[wire.Outcome] = []
        upload._on_outcome = outcomes.append
        frame = stack(1, SIDE)[0]
        for axes, metadata in (
            ({"channel": "BF", "time": 0}, {}),
            ({"channel": "DAPI", "time": 0}, {}),
            ({"channel": 0, "time": 1}, {"Channel": "BF"}),
        ):
            key = json.dumps(axes, sort_keys=True, separators=(",", ":"))
            pump_until(upload, lambda: upload.credit > 0)
            assert upload.submit(frame, key, json.dumps(metadata), time.perf_counter_ns())
        upload.close(3)
        pump_until(upload, lambda: upload.closed)
    assert upload.closed is not None
    assert upload.closed.counts == wire.Counts(acquired=3, passed_through=1, skipped=2)
    assert keys(tmp_path / "out") == ['{"channel":"DAPI","time":0}']
    skipped = {outcome.reason for outcome in outcomes if outcome.state == "skipped"}
    assert skipped == {"channel BF is not refocused (skip_channels)"}


def _output(daemon: Daemon, upload: Upload) -> OutputDataset:
    output = daemon._writer._writers[upload.acquisition].output
    assert output is not None
    return output
