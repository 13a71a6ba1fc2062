"""The hooks in real pycromanager acquisitions on a real MMCore."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_rig import only, paused
from finished import verify
from live import keys, quick_settings, read_all
from ndstorage import Dataset
from waiting import until

import refocusd
from refocusd.config import Settings
from refocusd.daemon.daemon import Daemon, daemon_status
from refocusd.demo.microscope import DemoMicroscope
from refocusd.errors import ConfigError
from refocusd.sources import feed_upload
from refocusd.transport import messages as wire

CHANNELS = ("DAPI", "Cy5")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(quick_settings(tmp_path)) as daemon:
        daemon.wait_ready()
        yield daemon


@pytest.fixture
def no_daemon() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"


def acquire(events: Iterable[dict[str, Any]], arguments: dict[str, Any]) -> Path:
    """Run one acquisition; returns the folder of its raw dataset."""
    from pycromanager import Acquisition

    with Acquisition(show_display=False, **arguments) as acquisition:
        acquisition.acquire(events)
        dataset = acquisition.get_dataset()
    return Path(getattr(dataset, "path", "") or "")


def refocused(raw: Path) -> Path:
    return raw.with_name(raw.name + "_refocused")


@pytest.mark.parametrize("kind", ["snapped", "sequenced"])
def test_every_acquired_frame_lies_refocused_beside_its_raw_one(
    demo_microscope: DemoMicroscope, daemon: Daemon, tmp_path: Path, kind: str
) -> None:
    make = getattr(demo_microscope, f"events_{kind}")
    events = make(3, [0.0, 8.0], CHANNELS)
    source = refocusd.Source(daemon.endpoint, expected=len(events))
    raw = acquire(events, source.hooks(str(tmp_path), kind))
    assert source.wait(90.0) == wire.Counts(acquired=12, passed_through=12)
    assert sorted(keys(raw)) == sorted(keys(refocused(raw)))
    before, after = Dataset(str(raw)), Dataset(str(refocused(raw)))
    try:
        assert {k: set(v) for k, v in before.axes.items()} == {
            k: set(v) for k, v in after.axes.items()
        }
        for event in events:
            np.testing.assert_array_equal(
                after.read_image(**event["axes"]), before.read_image(**event["axes"])
            )
            given = before.read_metadata(**event["axes"])
            kept = after.read_metadata(**event["axes"])
            # All of Micro-Manager's metadata stay; one object of ours is added.
            assert kept.pop("refocusd")["live"] is True
            assert kept == json.loads(json.dumps(given))
        assert after.summary_metadata["TiledImageStorage"] is False
    finally:
        before.close()
        after.close()


def test_your_own_hooks_run_as_before_and_what_they_discard_is_not_ours(
    demo_microscope: DemoMicroscope, daemon: Daemon, tmp_path: Path
) -> None:
    seen: list[Any] = []

    def process(image: Any, metadata: Any, event_queue: Any) -> Any:
        seen.append(("process", event_queue is not None))
        if metadata["Axes"]["time"] % 2:
            return None
        return image // 2, metadata

    def saved(axes: Any, dataset: Any) -> None:
        seen.append(("saved", dict(axes)))

    def notified(notification: Any) -> None:
        seen.append(("notified", notification.type))

    source = refocusd.Source(daemon.endpoint)
    arguments = source.hooks(
        str(tmp_path),
        "own",
        image_process_fn=process,
        image_saved_fn=saved,
        notification_callback_fn=notified,
    )
    raw = acquire(demo_microscope.events_snapped(4, [0.0]), arguments)
    assert source.wait(90.0) == wire.Counts(acquired=2, passed_through=2)
    kinds = [kind for kind, _ in seen]
    assert kinds.count("process") == 4
    assert kinds.count("saved") == 2
    assert kinds.count("notified") > 4
    for key, (pixels, _) in read_all(raw).items():
        np.testing.assert_array_equal(read_all(refocused(raw))[key][0], pixels)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_in_your_own_notification_hook_hides_no_end(
    demo_microscope: DemoMicroscope, daemon: Daemon, tmp_path: Path
) -> None:
    """Pycromanager tells nobody of anything after it."""

    def notified(notification: Any) -> None:
        raise ValueError("mine")

    source = refocusd.Source(daemon.endpoint)
    arguments = source.hooks(str(tmp_path), "own", notification_callback_fn=notified)
    acquire(demo_microscope.events_snapped(4, [0.0]), arguments)
    assert source.wait(90.0) == wire.Counts(acquired=4, passed_through=4)


def test_an_error_in_your_own_hook_is_yours_as_before(
    demo_microscope: DemoMicroscope, daemon: Daemon, tmp_path: Path
) -> None:
    def process(image: Any, metadata: Any) -> Any:
        raise ValueError("mine")

    source = refocusd.Source(daemon.endpoint)
    with pytest.raises(Exception, match="mine"):
        acquire(
            demo_microscope.events_snapped(2, [0.0]),
            source.hooks(str(tmp_path), "own", image_process_fn=process),
        )


def test_without_a_daemon_raw_is_saved_as_usual(
    demo_microscope: DemoMicroscope, no_daemon: str, tmp_path: Path, caplog: Any
) -> None:
    source = refocusd.Source(no_daemon)
    events = demo_microscope.events_sequenced(20, [0.0, 4.0])
    begun = time.monotonic()
    raw = acquire(events, source.hooks(str(tmp_path), "alone"))
    assert time.monotonic() - begun < 20
    assert source.wait(10.0) is None
    assert len(keys(raw)) == 40
    assert not refocused(raw).exists()
    assert "no refocusd daemon answers" in caplog.text


def test_a_daemon_that_dies_does_not_disturb_the_acquisition(
    demo_microscope: DemoMicroscope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is not restarted.
    monkeypatch.setattr(feed_upload, "RETURN_S", 2.0)
    command = [
        sys.executable,
        "-m",
        "refocusd",
        "run",
        "--no-view",
        "--announce",
        "--backend",
        "identity",
    ]
    command += ["--endpoint", "tcp://127.0.0.1:0", "--ledgers", str(tmp_path / "ledgers")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        endpoint = json.loads(process.stdout.readline())["endpoint"]

        def saved(axes: Any, dataset: Any) -> None:
            if axes["time"] == 10:
                process.kill()

        source = refocusd.Source(endpoint)
        events = demo_microscope.events_sequenced(60, [0.0])
        raw = acquire(events, source.hooks(str(tmp_path), "orphan", image_saved_fn=saved))
        assert source.wait(20.0) is None
    assert len(keys(raw)) == 60
    there = read_all(refocused(raw)) if refocused(raw).exists() else {}
    for key, (pixels, _) in there.items():
        np.testing.assert_array_equal(pixels, read_all(raw)[key][0])


def test_a_daemon_that_comes_late_catches_up_what_it_missed(
    demo_microscope: DemoMicroscope, no_daemon: str, tmp_path: Path
) -> None:
    source = refocusd.Source(no_daemon)
    settings = quick_settings(tmp_path, endpoint=no_daemon)
    daemon = Daemon(settings)

    def saved(axes: Any, dataset: Any) -> None:
        if axes["time"] == 20:
            daemon.__enter__()

    try:
        events = demo_microscope.events_sequenced(100, [0.0])
        raw = acquire(events, source.hooks(str(tmp_path), "late", image_saved_fn=saved))
        assert source.wait(90.0) == wire.Counts(acquired=100, passed_through=100)
    finally:
        daemon.__exit__(None, None, None)
    written = read_all(refocused(raw))
    assert {key for key, (_, md) in written.items() if not md["refocusd"]["live"]} >= {
        f'{{"channel":"DAPI","time":{n},"z":0}}' for n in range(10)
    }


@pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP is POSIX")
def test_what_could_not_be_done_live_is_caught_up_from_raw(
    demo_microscope: DemoMicroscope, tmp_path: Path
) -> None:
    # Room for two frames here and four in the ring, while the worker is suspended.
    settings: Settings = quick_settings(tmp_path, ring_mib=8)
    with Daemon(settings) as daemon:
        daemon.wait_ready()
        (worker,) = daemon.supervisor.pids().values()
        os.kill(worker, signal.SIGSTOP)
        try:
            source = refocusd.Source(daemon.endpoint, buffer_mib=1)
            events = demo_microscope.events_sequenced(40, [0.0])
            raw = acquire(events, source.hooks(str(tmp_path), "busy"))
        finally:
            os.kill(worker, signal.SIGCONT)
        assert source.wait(90.0) == wire.Counts(acquired=40, passed_through=40)
    written = read_all(refocused(raw))
    assert sum(not metadata["refocusd"]["live"] for _, metadata in written.values()) >= 20
    for key, (pixels, _) in read_all(raw).items():
        np.testing.assert_array_equal(written[key][0], pixels)


@pytest.mark.parametrize(
    ("directory", "name"),
    [(None, "ram"), (None, None), ("", "ram")],
    ids=["none", "no-name", "empty"],
)
def test_without_raw_on_disk_the_named_output_is_written(
    demo_microscope: DemoMicroscope,
    daemon: Daemon,
    tmp_path: Path,
    directory: str | None,
    name: str | None,
) -> None:
    source = refocusd.Source(daemon.endpoint, output=str(tmp_path / "live"))
    acquire(demo_microscope.events_snapped(3, [0.0]), source.hooks(directory, name))
    assert source.wait(90.0) == wire.Counts(acquired=3, passed_through=3)
    assert len(keys(tmp_path / "live")) == 3


@pytest.mark.parametrize("saved", [True, False], ids=["raw keeps the last", "no raw"])
def test_a_frame_that_is_taken_again_under_its_axes_is_accounted_for(
    demo_microscope: DemoMicroscope, daemon: Daemon, tmp_path: Path, caplog: Any, saved: bool
) -> None:
    from pycromanager import Acquisition

    source = refocusd.Source(daemon.endpoint, output="" if saved else str(tmp_path / "live"))
    arguments = source.hooks(str(tmp_path) if saved else None, "again")
    first, second, third = demo_microscope.events_snapped(3, [0.0])
    with Acquisition(show_display=False, **arguments) as acquisition:
        for event in (first, second, second, third):
            acquisition.acquire([event])
    counts = source.wait(90.0)
    assert counts is not None
    assert (counts.acquired, counts.pending, counts.failed) == (4, 0, 0)
    assert counts.passed_through == (3 if saved else 4)
    if saved:
        assert "give frames that are taken again an axis of their own" in caplog.text
    else:
        assert sum('"repeat":1' in key for key in keys(tmp_path / "live")) == 1


def test_a_frame_that_is_taken_again_holds_up_no_catch_up(
    demo_microscope: DemoMicroscope, daemon: Daemon, tmp_path: Path
) -> None:
    """Raw has another frame there than was refocused, and is the same recording still."""
    from pycromanager import Acquisition

    source = refocusd.Source(daemon.endpoint, buffer_mib=1)
    first, *rest = demo_microscope.events_snapped(20, [0.0])
    arguments = source.hooks(str(tmp_path), "again")
    with Acquisition(show_display=False, **arguments) as acquisition:
        acquisition.acquire([first])
        until(lambda: only(daemon).counts.passed_through == 1)
        with paused(daemon.endpoint):
            acquisition.acquire([first])
            for event in rest:
                acquisition.acquire([event]).await_image_saved(event["axes"], return_image=False)
    assert source.wait(90.0) == wire.Counts(acquired=21, passed_through=20, skipped=1)
    status, said = verify(tmp_path / "again_1", place=tmp_path)
    assert status == 0, said


def test_without_raw_and_output_you_are_warned_at_the_start(daemon: Daemon, caplog: Any) -> None:
    source = refocusd.Source(daemon.endpoint)
    source.hooks("", "nowhere", java=False)
    assert "keeps no raw data" in caplog.text
    assert source.wait(1.0) is None


def test_the_first_frame_may_come_long_after_the_hooks(
    demo_microscope: DemoMicroscope, tmp_path: Path
) -> None:
    with Daemon(quick_settings(tmp_path, source_timeout_s=2)) as daemon:
        daemon.wait_ready()
        source = refocusd.Source(daemon.endpoint)
        arguments = source.hooks(str(tmp_path), "late")
        time.sleep(4)  # longer than the daemon remembers a silent source
        acquire(demo_microscope.events_snapped(2, [0.0]), arguments)
        assert source.wait(90.0) == wire.Counts(acquired=2, passed_through=2)


def test_acquisitions_of_one_frame_are_not_missed_and_called_as_their_folders(
    demo_microscope: DemoMicroscope, daemon: Daemon, tmp_path: Path
) -> None:
    for _ in range(5):
        source = refocusd.Source(daemon.endpoint)
        arguments = source.hooks(str(tmp_path), "single")
        acquire(demo_microscope.events_snapped(1, [0.0]), arguments)
        assert source.wait(90.0) == wire.Counts(acquired=1, passed_through=1)
    names = [about.name for about in daemon_status(daemon.endpoint).details]
    assert names == [f"single_{number}" for number in range(1, 6)]


def test_a_source_serves_one_acquisition(daemon: Daemon) -> None:
    source = refocusd.Source(daemon.endpoint)
    source.hooks(None, "one", java=False)
    with pytest.raises(ConfigError, match="make another"):
        source.hooks(None, "two", java=False)


@pytest.mark.parametrize(
    ("image", "metadata"),
    [
        (np.zeros((64, 64), np.uint16), {}),
        (np.zeros((64, 64, 3), np.uint8), {"Axes": {"z": 0}}),
        (np.zeros((64, 64), np.float32), {"Axes": {"z": 0}}),
        (None, {"Axes": {"z": 0}}),
        (np.zeros((64, 64), np.uint16), {"Axes": {"z": 1.5}}),
    ],
    ids=["no-axes", "rgb", "float", "none", "odd-axis"],
)
def test_whatever_comes_the_hook_hands_it_on_and_never_raises(
    daemon: Daemon, tmp_path: Path, image: Any, metadata: Any
) -> None:
    hooks = refocusd.Source(daemon.endpoint).hooks(str(tmp_path), "odd", java=False)
    result = hooks["image_process_fn"](image, metadata)
    assert result[0] is image
    assert result[1] is metadata


SCRIPT = """
import sys, refocusd
from pycromanager import Acquisition
from refocusd.demo.microscope import DemoMicroscope
with DemoMicroscope() as microscope:
    events = microscope.events_sequenced(500, [0.0])
    saved = lambda axes, dataset: print(axes["time"], flush=True)
    hooks = refocusd.Source(sys.argv[1]).hooks(sys.argv[2], "killed", image_saved_fn=saved)
    with Acquisition(show_display=False, **hooks) as acquisition:
        acquisition.acquire(events)
"""


def test_a_killed_script_leaves_raw_readable_and_its_frames_refocused(tmp_path: Path) -> None:
    """The writer of pycromanager would leave no readable frame: the hook flushes its index."""
    with Daemon(quick_settings(tmp_path, source_timeout_s=3)) as daemon:
        daemon.wait_ready()
        kill_a_script(daemon, tmp_path)


def kill_a_script(daemon: Daemon, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, daemon.endpoint, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(40)]
        process.kill()
    assert len(told) == 40
    (raw,) = (p for p in tmp_path.glob("killed_*") if not p.name.endswith("_refocused"))
    assert len(keys(raw)) >= 40
    # The daemon loses the source, catches up what it had not received, and closes.
    deadline = time.monotonic() + 90
    while not (refocused(raw) / "refocusd-ledger.sqlite").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert set(keys(refocused(raw))) == set(keys(raw))
