"""A real daemon follows growing datasets live, and every frame is refocused."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import java_ndtiff
import numpy as np
import pytest
from finished import raw_dataset, told, verify
from followed import ended, following, newest
from java_ndtiff import JavaNDTiff, JavaStack, frame_of
from live import keys, quick_settings, read_all, running
from waiting import PATIENCE_S, until

import refocusd
from refocusd.daemon.daemon import Daemon, daemon_status
from refocusd.demo.microscope import DemoMicroscope
from refocusd.formats.ndtiff.reader import GrowingNDTiff
from refocusd.sources.folders import growth
from refocusd.sources.folders.offers import command_for
from refocusd.transport import messages as wire

SIDE = 64


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(quick_settings(tmp_path)) as daemon:
        yield daemon


def live_frames(daemon: Daemon, name: str) -> int:
    """Number of frames of an acquisition that have a final state."""
    about = newest(daemon, name)
    return about.counts.passed_through + about.counts.refocused if about else 0


def writer(kind: str, folder: Path, frames: int, fps: float, *flags: str) -> subprocess.Popen[str]:
    """Start a process that writes a dataset and reports each frame on disk."""
    return subprocess.Popen(
        [
            sys.executable,
            str(java_ndtiff.__file__),
            kind,
            str(folder),
            str(frames),
            str(SIDE),
            str(fps),
            *flags,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def axes(n: int) -> dict[str, Any]:
    return {"time": n, "channel": "DAPI"}


def key(n: int) -> str:
    return f'{{"channel":"DAPI","time":{n}}}'


def put(dataset: JavaNDTiff, *numbers: int, dtype: Any = np.uint16, side: int = SIDE) -> None:
    for n in numbers:
        dataset.put(axes(n), frame_of(n, side, dtype), {"Axes": axes(n), "Exposure": n})


@pytest.mark.parametrize("per_file", [0, 7])
def test_every_frame_of_a_growing_java_dataset_is_done(
    daemon: Daemon, tmp_path: Path, per_file: int
) -> None:
    """It is written by another process, in one stack and in several."""
    data = tmp_path / "data"
    with following(data, daemon.endpoint):
        flags = ["--per-file", str(per_file), "--hold", "20"]
        with writer("ndtiff", data / "run_1", 30, 25.0, *flags) as process:
            # It is live: some frames are done while others have yet to be written.
            until(lambda: live_frames(daemon, "run_1") > 3)
            assert process.poll() is None
            process.communicate("\n", timeout=PATIENCE_S)
        assert process.returncode == 0
        counts = until(lambda: ended(daemon, "run_1"))
    assert counts == wire.Counts(acquired=30, passed_through=30)
    done = read_all(data / "run_1_refocused")
    assert set(done) == {key(n) for n in range(30)}
    for n in range(30):
        pixels, metadata = done[key(n)]
        np.testing.assert_array_equal(pixels, frame_of(n, SIDE))
        assert metadata["ElapsedTime-ms"] == 10 * n
    status, report = verify(data / "run_1", place=tmp_path)
    assert status == 0, report


def test_frames_that_are_taken_again_under_their_axes_are_accounted_for(
    daemon: Daemon, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first, the last and one between: raw keeps the later ones, and is the same recording still."""
    data = tmp_path / "data"
    with following(data, daemon.endpoint):
        dataset = JavaNDTiff(data / "run_1", "run")
        for number in range(4):
            put(dataset, number)
            until(lambda: live_frames(daemon, "run_1") == number + 1)  # noqa: B023
            for _ in range((1, 0, 2, 1)[number]):
                dataset.put(axes(number), frame_of(90 + number, SIDE), {"Axes": axes(number)})
        dataset.finish()
        counts = until(lambda: ended(daemon, "run_1"))
    assert counts == wire.Counts(acquired=8, passed_through=4, skipped=4)
    assert "replaced in raw by a later frame of the same axes" in caplog.text
    status, report = verify(data / "run_1", place=tmp_path)
    assert status == 0, report
    status, said = told("resume", data / "run_1", place=tmp_path)
    assert status == 0, said


def test_an_index_that_lags_behind_brings_no_replaced_frame_back(tmp_path: Path) -> None:
    java = JavaNDTiff(tmp_path / "run_1", "run")
    entries = [
        java.put_image(axes(number), frame_of(pixels, SIDE), {"Axes": axes(number)})
        for number, pixels in ((0, 0), (1, 1), (1, 2))
    ]
    with GrowingNDTiff(tmp_path / "run_1") as reader:
        assert reader.refresh() == [key(0), key(1)]
        assert reader.replaced() == [key(1)]
        for entry in entries:
            java.put_entry(*entry)
            assert reader.refresh() == reader.replaced() == []
            np.testing.assert_array_equal(reader.read(key(1)).pixels, frame_of(2, SIDE))
    java.abandon()


@pytest.mark.parametrize("kind", ["ndtiff", "stack"])
def test_of_a_killed_writer_all_that_is_on_disk_is_done(
    daemon: Daemon, tmp_path: Path, kind: str
) -> None:
    data = tmp_path / "data"
    with following(data, daemon.endpoint, quiet_s=1.5):
        with writer(kind, data / "run_1", 12, 40.0, "--no-finish") as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line == "11\n":
                    break
            process.kill()
        counts = until(lambda: ended(daemon, "run_1"))
    assert counts == wire.Counts(acquired=12, passed_through=12)
    assert len(keys(data / "run_1_refocused")) == 12


def test_every_frame_of_a_growing_image_stack_is_done(daemon: Daemon, tmp_path: Path) -> None:
    """Two positions with a file each; the finished recording has the same frames."""
    data = tmp_path / "data"
    summary = {**java_ndtiff.SUMMARY, "Frames": 5, "Slices": 1, "Channels": 1, "Positions": 2}
    with following(data, daemon.endpoint):
        stacks = [
            JavaStack(data / "run_1" / f"run_MMStack_Pos{p}.ome.tif", summary, SIDE, 5)
            for p in range(2)
        ]
        for n in range(5):
            for p, stack in enumerate(stacks):
                said = {"FrameIndex": n, "SliceIndex": 0, "ChannelIndex": 0, "PositionIndex": p}
                stack.put((0, 0, n, p), frame_of(10 * p + n, SIDE), said)
            until(lambda n=n: live_frames(daemon, "run_1") == 2 * (n + 1))  # type: ignore[misc]
        for stack in stacks:
            stack.finish()
        counts = until(lambda: ended(daemon, "run_1"))
    assert counts == wire.Counts(acquired=10, passed_through=10)
    done = read_all(data / "run_1_refocused")
    for p in range(2):
        for n in range(5):
            pixels, metadata = done[f'{{"channel":"DAPI","position":{p},"time":{n}}}']
            np.testing.assert_array_equal(pixels, frame_of(10 * p + n, SIDE))
            assert metadata["FileName"] == f"run_MMStack_Pos{p}.ome.tif"
    status, report = verify(data / "run_1", place=tmp_path)
    assert status == 0, report


def test_a_pycromanager_acquisition_without_our_hook_is_followed(
    demo_microscope: DemoMicroscope, daemon: Daemon, tmp_path: Path
) -> None:
    """Its writer keeps the index in memory: the frames are found by their directories."""
    from pycromanager import Acquisition

    data = tmp_path / "data"
    events = demo_microscope.events_snapped(4, [0.0, 8.0])
    with following(data, daemon.endpoint):
        with Acquisition(directory=str(data), name="plain", show_display=False) as acquisition:
            acquisition.acquire(events[:4])
            raw = Path(until(lambda: acquisition.get_dataset().path))
            until(lambda: live_frames(daemon, raw.name) == 4)
            acquisition.acquire(events[4:])
        counts = until(lambda: ended(daemon, raw.name))
    assert counts == wire.Counts(acquired=8, passed_through=8)
    before, after = read_all(raw), read_all(raw.with_name(raw.name + "_refocused"))
    assert set(before) == set(after)
    for name, (pixels, metadata) in before.items():
        np.testing.assert_array_equal(after[name][0], pixels)
        kept = {k: v for k, v in after[name][1].items() if k != "refocusd"}
        assert kept == metadata


def test_a_hooked_acquisition_is_left_to_its_hook(
    demo_microscope: DemoMicroscope, daemon: Daemon, tmp_path: Path, caplog: Any
) -> None:
    from pycromanager import Acquisition

    data = tmp_path / "data"
    events = demo_microscope.events_snapped(6, [0.0])
    caplog.set_level(logging.INFO, "refocusd")
    with following(data, daemon.endpoint):
        source = refocusd.Source(daemon.endpoint)
        with Acquisition(**source.hooks(str(data), "hooked"), show_display=False) as acquisition:
            acquisition.acquire(events[:3])
            until(lambda: "another source" in caplog.text)
            acquisition.acquire(events[3:])
        assert source.wait(90.0) == wire.Counts(acquired=6, passed_through=6)
        until(lambda: not any(t.name.startswith("follow-") for t in threading.enumerate()))
    assert len(daemon_status(daemon.endpoint, timeout_s=PATIENCE_S).details) == 1


def test_a_finished_dataset_is_offered_with_its_command_and_not_taken(
    daemon: Daemon, tmp_path: Path, caplog: Any
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    dataset = JavaNDTiff(data / "day 1" / "old_1")
    put(dataset, 0, 1)
    dataset.finish()
    raw_dataset(data / "done_1", frames=3)
    (data / "done_1_refocused").mkdir()
    (data / "done_1_refocused" / "refocusd.json").write_text(
        json.dumps({"acquisition": "00000000-0000-4000-8000-000000000001"}), encoding="utf-8"
    )
    caplog.set_level(logging.INFO, "refocusd.sources")
    command = command_for(data / "day 1" / "old_1")
    assert command.startswith("refocusd process ")
    assert "old_1" in command
    with following(data, daemon.endpoint, recent_s=0.0):
        until(lambda: command in caplog.text)
        # A dataset that appears now is followed; the others are left alone.
        fresh = JavaNDTiff(data / "new_1")
        put(fresh, 0)
        fresh.finish()
        until(lambda: ended(daemon, "new_1"))
    assert caplog.text.count("was never refocused") == 1
    assert [a.name for a in daemon_status(daemon.endpoint, timeout_s=PATIENCE_S).details] == [
        "new_1"
    ]
    assert not (data / "day 1" / "old_1_refocused").exists()


def test_an_offered_dataset_that_grows_after_all_is_followed(
    daemon: Daemon, tmp_path: Path, caplog: Any
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    dataset = JavaNDTiff(data / "slow_1")
    put(dataset, 0, 1)
    caplog.set_level(logging.INFO, "refocusd.sources")
    with following(data, daemon.endpoint, recent_s=0.0):
        until(lambda: "was never refocused" in caplog.text)
        put(dataset, 2)
        until(lambda: f"following {data / 'slow_1'}" in caplog.text)
        dataset.finish()
        assert until(lambda: ended(daemon, "slow_1")) == wire.Counts(acquired=3, passed_through=3)


def test_a_dataset_that_rests_is_closed_and_goes_on_as_the_same_acquisition(
    daemon: Daemon, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with following(data, daemon.endpoint, quiet_s=0.7):
        dataset = JavaNDTiff(data / "slow_1")
        put(dataset, 0, 1)
        until(lambda: ended(daemon, "slow_1") == wire.Counts(acquired=2, passed_through=2))
        put(dataset, 2, 3)
        until(lambda: ended(daemon, "slow_1") == wire.Counts(acquired=4, passed_through=4))
    dataset.finish()
    assert len(keys(data / "slow_1_refocused")) == 4
    ids = {a.id for a in daemon_status(daemon.endpoint, timeout_s=PATIENCE_S).details}
    assert len(ids) == 1


def test_a_restarted_refocusd_goes_on_with_the_same_acquisition(tmp_path: Path) -> None:
    data = tmp_path / "data"
    settings = quick_settings(tmp_path)
    with running(settings) as daemon, following(data, daemon.endpoint):
        dataset = JavaNDTiff(data / "run_1")
        put(dataset, *range(4))
        until(lambda: live_frames(daemon, "run_1") == 4)
    said = (data / "run_1_refocused" / "refocusd.json").read_text(encoding="utf-8")
    with running(settings) as daemon, following(data, daemon.endpoint):
        put(dataset, *range(4, 8))
        until(lambda: live_frames(daemon, "run_1") == 8)
        dataset.finish()
        assert until(lambda: ended(daemon, "run_1")) == wire.Counts(acquired=8, passed_through=8)
    assert (data / "run_1_refocused" / "refocusd.json").read_text(encoding="utf-8") == said
    assert sorted(keys(data / "run_1_refocused")) == sorted(key(n) for n in range(8))


def test_a_dataset_that_was_finished_before_anybody_looked_is_done(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has not grown since the first look, but must not count as done for that reason."""
    monkeypatch.setattr(growth, "SETTLE_S", -1.0)
    dataset = JavaNDTiff(tmp_path / "data" / "run_1")
    put(dataset, 0, 1)
    dataset.finish()
    with following(tmp_path / "data", daemon.endpoint, since_s=0.0):
        counts = until(lambda: ended(daemon, "run_1"))
    assert (counts.acquired, counts.passed_through) == (2, 2)
