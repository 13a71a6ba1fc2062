"""The daemon with real sockets, a real worker process and real files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from ledgers import final_states
from live import (
    NOBODY,
    Upload,
    keys,
    opened,
    pump_until,
    quick_settings,
    read_all,
    running,
    source,
    stack,
    write_stack,
)
from waiting import PATIENCE_S

from refocusd.daemon.daemon import Daemon, daemon_status, stop_daemon
from refocusd.daemon.output.dataset import OutputDataset
from refocusd.datasets.run_folder import LEDGER_COPY, RUN_FILE
from refocusd.demo.specimen import Specimen
from refocusd.formats.open_dataset import open_dataset
from refocusd.ledger import Ledger
from refocusd.sources.replay import replay
from refocusd.transport import messages as wire
from refocusd.transport.client import Connection


def test_every_frame_of_a_recording_is_written_and_accounted_for(tmp_path: Path) -> None:
    frames = stack(40)
    path = write_stack(tmp_path / "cells.tif", frames)
    output = tmp_path / "cells_refocused"
    with running(quick_settings(tmp_path)) as daemon, open_dataset(path) as recording:
        counts = replay(recording, daemon.endpoint, output, times_s=None)
    assert counts == wire.Counts(acquired=40, passed_through=40)
    written = read_all(output)
    assert len(written) == 40
    for z, frame in enumerate(frames):
        pixels, metadata = written[f'{{"z":{z}}}']
        np.testing.assert_array_equal(pixels, frame)
        assert metadata["refocusd"]["state"] == "passed_through"
        assert metadata["refocusd"]["latency_ms"] > 0
    with Ledger(output / LEDGER_COPY, read_only=True) as ledger:
        (acquisition,) = ledger.acquisitions()
        run = json.loads((output / RUN_FILE).read_text())["run"]
        assert set(final_states(ledger, run, acquisition)) == set(written)
    assert daemon.unfinished == 0


def test_deconvolution_runs_without_a_model_and_tells_each_frames_blur(tmp_path: Path) -> None:
    blurred = Specimen().frame("DAPI", 16.0, 10.0, np.random.default_rng(0))[:256, :256]
    settings = quick_settings(tmp_path, backend="deconvolution", model="no such model")
    with running(settings) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out", side=256)
        frame = np.ascontiguousarray(blurred)
        assert upload.submit(frame, '{"z":0}', "{}", time.perf_counter_ns())
        upload.close(1)
        pump_until(upload, lambda: upload.closed)
    assert upload.closed is not None
    assert upload.closed.counts == wire.Counts(acquired=1, refocused=1)
    pixels, metadata = read_all(tmp_path / "out")['{"z":0}']
    assert pixels.std() > frame.std()
    facts = metadata["refocusd"]
    assert facts["blur_px"] > 2
    assert 0 < facts["blur_uncertainty"] < 1
    assert facts["blur_source"] == "frame"
    cells, about = read_all(tmp_path / "out" / "trust")['{"z":0}']
    assert cells.shape == (16, 16)
    assert cells.max() <= 100
    assert about["refocusd"]["verdict"] == facts["verdict"]


@pytest.mark.parametrize("worker_inline", [False, True], ids=["worker-ring", "worker-socket"])
@pytest.mark.parametrize("source_inline", [False, True], ids=["source-ring", "source-socket"])
def test_pixels_arrive_whichever_way_they_travel(
    tmp_path: Path, source_inline: bool, worker_inline: bool
) -> None:
    frame = stack(1)[0]
    with (
        running(quick_settings(tmp_path, inline=worker_inline)) as daemon,
        source(daemon, inline=source_inline) as connection,
    ):
        upload = opened(connection, tmp_path / "out")
        assert upload.submit(frame, '{"z":0}', '{"Camera":"c"}', time.perf_counter_ns())
        upload.close(1)
        pump_until(upload, lambda: upload.closed)
    pixels, metadata = read_all(tmp_path / "out")['{"z":0}']
    np.testing.assert_array_equal(pixels, frame)
    assert metadata["Camera"] == "c"


def test_a_killed_worker_loses_no_frame(tmp_path: Path) -> None:
    frames = stack(200, side=256)
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out", side=256)
        killed = 0
        for number, frame in enumerate(frames):
            pump_until(upload, lambda: upload.credit > 0)
            upload.submit(frame, f'{{"time":{number}}}', "{}", time.perf_counter_ns())
            if number in (50, 120):
                for pid in daemon.supervisor.pids().values():
                    os.kill(pid, 9 if sys.platform != "win32" else 15)
                    killed += 1
        upload.close(len(frames))
        pump_until(upload, lambda: upload.closed)
    assert killed == 2
    assert upload.closed is not None
    assert upload.closed.counts == wire.Counts(acquired=200, passed_through=200)
    written = read_all(tmp_path / "out")
    assert all((written[f'{{"time":{n}}}'][0] == frame).all() for n, frame in enumerate(frames))


@pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP is POSIX")
def test_a_hung_worker_is_replaced_and_its_frames_are_done(tmp_path: Path) -> None:
    import signal

    settings = quick_settings(tmp_path, task_timeout_s=1.0)
    with running(settings) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out")
        (pid,) = daemon.supervisor.pids().values()
        os.kill(pid, signal.SIGSTOP)
        for number, frame in enumerate(stack(5)):
            assert upload.submit(frame, f'{{"time":{number}}}', "{}", time.perf_counter_ns())
        upload.close(5)
        pump_until(upload, lambda: upload.closed)
        assert pid not in daemon.supervisor.pids().values()
    assert len(keys(tmp_path / "out")) == 5


def test_a_frame_sent_twice_is_written_once(tmp_path: Path) -> None:
    frame = stack(1)[0]
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out")
        for _ in range(3):
            upload.submit(frame, '{"z":0}', "{}", time.perf_counter_ns())
        upload.close(1)
        pump_until(upload, lambda: upload.closed)
    assert keys(tmp_path / "out") == ['{"z":0}']
    assert upload.closed is not None
    assert upload.closed.counts == wire.Counts(acquired=1, passed_through=1)
    assert daemon.unfinished == 0


def test_two_acquisitions_at_once_share_the_daemon(tmp_path: Path) -> None:
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as one, source(daemon) as two:
        uploads = [opened(one, tmp_path / "one"), opened(two, tmp_path / "two", side=128)]
        for number in range(30):
            for upload, side in zip(uploads, (64, 128), strict=True):
                pump_until(upload, partial(bool_of, upload, "credit"))
                frame = stack(1, side=side, seed=number)[0]
                upload.submit(frame, f'{{"time":{number}}}', "{}", time.perf_counter_ns())
        for upload in uploads:
            upload.close(30)
        for upload in uploads:
            pump_until(upload, partial(bool_of, upload, "closed"))
    assert len(keys(tmp_path / "one")) == len(keys(tmp_path / "two")) == 30


def bool_of(upload: Upload, name: str) -> bool:
    return bool(getattr(upload, name))


def arrived(daemon: Daemon) -> int:
    """Number of frames that the daemon has received."""
    return sum(counts.acquired for counts in daemon_status(daemon.endpoint).acquisitions.values())


def test_a_stop_writes_what_was_submitted(tmp_path: Path) -> None:
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out")
        for number, frame in enumerate(stack(8)):
            upload.submit(frame, f'{{"time":{number}}}', "{}", time.perf_counter_ns())
        # The stop comes over another connection, so wait until the frames have arrived.
        pump_until(upload, lambda: arrived(daemon) == 8)
        stop_daemon(daemon.endpoint)
        assert daemon.wait(90.0)
    assert len(keys(tmp_path / "out")) == 8


def test_a_stop_in_mid_acquisition_is_not_taken_for_its_end(tmp_path: Path) -> None:
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out")
        upload.submit(stack(1)[0], '{"time":0}', "{}", time.perf_counter_ns())
        pump_until(upload, lambda: upload.credit == 0 or upload.pump(0.1))
        stop_daemon(daemon.endpoint)
        assert daemon.wait(90.0)
    assert daemon.unfinished >= 1
    with Ledger(tmp_path / "out" / LEDGER_COPY, read_only=True) as ledger:
        closed = ledger._db.execute("SELECT closed FROM acquisition").fetchone()
    assert closed == (None,)


def test_raw_that_is_gone_leaves_its_frames_pending_not_forgotten(tmp_path: Path) -> None:
    raw = tmp_path / "gone"
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out", raw=str(raw))
        for number, frame in enumerate(stack(3)):
            upload.submit(frame, f'{{"time":{number}}}', "{}", time.perf_counter_ns())
        upload.close(8)
        pump_until(upload, lambda: upload.closed)
    assert upload.closed is not None
    assert upload.closed.counts == wire.Counts(acquired=8, passed_through=3, pending=5)
    assert daemon.unfinished == 5


def test_frames_that_the_source_misses_without_raw_are_skipped_by_name(tmp_path: Path) -> None:
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        outcomes: list[wire.Outcome] = []
        upload = opened(connection, tmp_path / "out")
        upload._on_outcome = outcomes.append
        upload.miss([f'{{"time":{n}}}' for n in range(2500)], "skipped", "no raw")
        upload.close(2500)
        pump_until(upload, lambda: upload.closed)
    assert upload.closed is not None
    assert upload.closed.counts == wire.Counts(acquired=2500, skipped=2500)
    assert {(o.state, o.reason) for o in outcomes} == {("skipped", "no raw")}


def test_a_source_and_a_worker_that_are_idle_for_long_are_kept(tmp_path: Path) -> None:
    """Both send only heartbeats for longer than silence is tolerated."""
    path = write_stack(tmp_path / "slow.tif", stack(2))
    settings = quick_settings(tmp_path, source_timeout_s=3)
    with running(settings) as daemon, open_dataset(path) as recording:
        workers = daemon.supervisor.pids()
        counts = replay(recording, daemon.endpoint, tmp_path / "out", times_s=[0.0, 6.5])
        assert daemon.supervisor.pids() == workers
    assert counts == wire.Counts(acquired=2, passed_through=2)


def test_an_array_may_be_used_again_as_soon_as_it_is_submitted(tmp_path: Path) -> None:
    with running(quick_settings(tmp_path)) as daemon, source(daemon, inline=True) as connection:
        upload = opened(connection, tmp_path / "out", side=512)
        array = np.empty((512, 512), np.uint16)
        for number in range(40):
            pump_until(upload, lambda: upload.credit > 0)
            array[:] = number
            upload.submit(array, f'{{"time":{number}}}', "{}", time.perf_counter_ns())
        upload.close(40)
        pump_until(upload, lambda: upload.closed)
    written = read_all(tmp_path / "out")
    assert all((written[f'{{"time":{number}}}'][0] == number).all() for number in range(40))


def test_an_acquisition_that_finds_the_ring_taken_gets_slots_later(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, ring_mib=1)
    with running(settings) as daemon, source(daemon) as one, source(daemon) as two:
        first = opened(one, tmp_path / "one", side=256)
        second = Upload(
            two,
            wire.Open(NOBODY, "two", 512, 512, "uint16", "", str(tmp_path / "two"), "{}"),
        )
        pump_until(second, lambda: second.opened)
        assert second.credit == 0
        first.close(0)
        pump_until(second, lambda: second.credit)
        second.submit(stack(1, side=512)[0], '{"z":0}', "{}", time.perf_counter_ns())
        second.close(1)
        pump_until(second, lambda: second.closed)
    assert len(keys(tmp_path / "two")) == 1


@pytest.mark.parametrize(
    "changes", [{"summary": "[]"}, {"summary": "{"}, {"output_": f"{os.devnull}/out"}]
)
def test_an_acquisition_that_cannot_be_opened_does_not_hurt_the_next(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        assert opened(connection, tmp_path / "bad", **changes).refused
        upload = opened(connection, tmp_path / "good")
        upload.submit(stack(1)[0], '{"z":0}', "{}", time.perf_counter_ns())
        upload.close(1)
        pump_until(upload, lambda: upload.closed)
    assert not (tmp_path / "bad").exists()
    assert len(keys(tmp_path / "good")) == 1


def test_a_full_disk_without_raw_skips_frames_by_name(tmp_path: Path) -> None:
    """The remaining space on the disk belongs to the raw data."""
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out")
        outcomes: list[wire.Outcome] = []
        upload._on_outcome = outcomes.append
        _output(daemon, upload).reserve_nbytes = 1 << 60
        upload.submit(stack(1)[0], '{"z":0}', "{}", time.perf_counter_ns())
        upload.close(1)
        pump_until(upload, lambda: upload.closed)
    assert outcomes[0].state == "skipped"
    assert outcomes[0].reason.startswith("no raw: less than")


def test_the_status_tells_engine_workers_and_counts(tmp_path: Path) -> None:
    with running(quick_settings(tmp_path)) as daemon:
        status = daemon_status(daemon.endpoint)
    assert status.workers == 1
    assert status.pid == os.getpid()
    assert status.engine is not None
    assert status.engine.backend == "identity"


# -- processes ---------------------------------------------------------------------------


def test_workers_end_with_a_killed_daemon(tmp_path: Path) -> None:
    script = (
        "import sys, msgspec\n"
        "from refocusd.config import Settings\n"
        "from refocusd.daemon.daemon import Daemon\n"
        "with Daemon(msgspec.json.decode(sys.argv[1], type=Settings)) as daemon:\n"
        "    daemon.wait_ready()\n"
        "    print(*daemon.supervisor.pids().values(), flush=True)\n"
        "    sys.stdin.read()\n"
    )
    import msgspec

    settings = msgspec.json.encode(quick_settings(tmp_path)).decode()
    process = subprocess.Popen(
        [sys.executable, "-c", script, settings], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        process.kill()
        process.wait()
        assert ends(worker)


def ends(pid: int, timeout_s: float = PATIENCE_S) -> bool:
    """Whether a process that is not our child ends in time (a zombie counts as ended)."""
    import psutil

    try:
        process = psutil.Process(pid)
        deadline = time.monotonic() + timeout_s
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
    except psutil.NoSuchProcess:
        pass
    return True


def test_what_a_killed_daemon_had_written_is_readable(tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-m", "refocusd", "run", "--no-view", "--announce", "--with-parent"]
    command += ["--endpoint", "tcp://127.0.0.1:0", "--backend", "identity"]
    command += ["--ledgers", str(tmp_path / "ledgers")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        endpoint = json.loads(process.stdout.readline())["endpoint"]
        done: list[wire.Outcome] = []
        with Connection(endpoint, "source") as connection:
            connection.welcome(90.0)
            upload = opened(connection, output)
            upload._on_outcome = done.append
            frames = stack(60)
            for number, frame in enumerate(frames):
                pump_until(upload, lambda: upload.credit > 0)
                upload.submit(frame, f'{{"time":{number}}}', "{}", time.perf_counter_ns())
            pump_until(upload, lambda: len(done) >= 20)
            process.kill()
            process.wait()
    written = read_all(output)
    assert {outcome.axes for outcome in done} <= set(written)
    for key, (pixels, metadata) in written.items():
        np.testing.assert_array_equal(pixels, frames[json.loads(key)["time"]])
        assert metadata["refocusd"]["run"]
    with tifffile.TiffFile(output / "NDTiffStack.tif") as tiff:
        assert len(tiff.pages) >= len(written)


def _output(daemon: Daemon, upload: Upload) -> OutputDataset:
    output = daemon._writer._writers[upload.acquisition].output
    assert output is not None
    return output
