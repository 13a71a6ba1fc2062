"""Faults of a followed dataset: other datasets continue, and every failed frame has a reason."""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import java_ndtiff
import numpy as np
import pytest
from followed import ended, following
from java_ndtiff import JavaNDTiff, JavaStack, frame_of
from live import keys, quick_settings, running
from test_follow import SIDE, axes, key, live_frames, put
from waiting import until

from refocusd.daemon.daemon import Daemon
from refocusd.datasets.dataset import acquisition_of
from refocusd.errors import InputError
from refocusd.files import remove_tree
from refocusd.formats.ndtiff.reader import GrowingNDTiff
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.tiff.stacks import MicroManagerStacks
from refocusd.ledger import Ledger
from refocusd.sources.folders.announcement import announcement
from refocusd.sources.folders.dataset import Following
from refocusd.sources.folders.growth import Growth
from refocusd.sources.folders.scanner import MAX_DEPTH, Scanner
from refocusd.transport import messages as wire


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(quick_settings(tmp_path)) as daemon:
        yield daemon


def reasons(tmp_path: Path) -> dict[str, str]:
    """Axes → reason of the frames that failed."""
    (path,) = (tmp_path / "ledgers").glob("*.sqlite")
    with Ledger(path, read_only=True) as ledger:
        return {a.axes: a.reason for a in ledger.attempts(path.stem) if a.state == "failed"}


def test_a_frame_of_another_shape_or_depth_fails_by_name_and_the_others_go_on(
    daemon: Daemon, tmp_path: Path
) -> None:
    """The camera's ROI and then its bit depth change during the run; one frame is RGB."""
    data = tmp_path / "data"
    with following(data, daemon.endpoint):
        dataset = JavaNDTiff(data / "run_1")
        put(dataset, 0, 1)
        until(lambda: live_frames(daemon, "run_1") == 2)
        put(dataset, 2, side=48)
        put(dataset, 3, dtype=np.uint8)
        rgb = np.full((SIDE, SIDE, 3), 7, np.uint8)
        dataset.put(axes(4), rgb, {"Axes": axes(4)})
        put(dataset, 5, 6)
        until(lambda: live_frames(daemon, "run_1") == 4)
        dataset.finish()
        counts = until(lambda: ended(daemon, "run_1"))
    assert counts == wire.Counts(acquired=7, passed_through=4, failed=3)
    why = reasons(tmp_path)
    assert set(why) == {key(2), key(3), key(4)}
    assert "48×48 uint16" in why[key(2)]
    assert "64×64 uint8" in why[key(3)]
    assert "RGB" in why[key(4)]


@pytest.mark.parametrize("cut", [1, SIDE * SIDE, 2 * SIDE * SIDE + 300])
def test_a_half_written_frame_is_waited_for(tmp_path: Path, cut: int) -> None:
    """Its index entry appears before its last bytes, as on a share that reorders writes."""
    dataset = JavaNDTiff(tmp_path / "run_1")
    put(dataset, 0)
    reader = GrowingNDTiff(tmp_path / "run_1")
    assert reader.refresh() == [key(0)]
    start = dataset._file.tell()  # type: ignore[union-attr]
    record = dataset.put_image(axes(1), frame_of(1, SIDE), {"Axes": axes(1)}, cut=cut)
    dataset.put_entry(*record)
    assert reader.refresh() == [key(1)]
    assert reader.is_whole(key(0))
    assert not reader.is_whole(key(1))
    with pytest.raises(InputError, match="not wholly"):
        reader.read(key(1))
    # The rest of it arrives.
    dataset._file.seek(start)  # type: ignore[union-attr]
    dataset._in_file -= 1
    dataset.put_image(axes(1), frame_of(1, SIDE), {"Axes": axes(1)})
    assert reader.is_whole(key(1))
    np.testing.assert_array_equal(reader.read(key(1)).pixels, frame_of(1, SIDE))
    reader.close()
    dataset.finish()


def test_a_last_frame_that_is_never_completed_fails_by_name(daemon: Daemon, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with following(data, daemon.endpoint, quiet_s=1.0):
        dataset = JavaNDTiff(data / "run_1")
        put(dataset, 0)
        record = dataset.put_image(axes(1), frame_of(1, SIDE), {"Axes": axes(1)}, cut=5)
        dataset.put_entry(*record)
        dataset.abandon()
        counts = until(lambda: ended(daemon, "run_1"))
    assert counts == wire.Counts(acquired=2, passed_through=1, failed=1)
    assert reasons(tmp_path) == {key(1): "raw names it, but its writer never completed it"}


@pytest.mark.parametrize("finish", [True, False])
def test_a_dataset_is_finished_when_its_writer_says_so(tmp_path: Path, finish: bool) -> None:
    dataset = JavaNDTiff(tmp_path / "run_1", frames_per_file=2)
    summary = {**java_ndtiff.SUMMARY, "Frames": 5, "Slices": 1, "Channels": 1, "Positions": 1}
    stack = JavaStack(tmp_path / "run_2" / "a_MMStack_Pos0.ome.tif", summary, SIDE, 5)
    readers = (
        GrowingNDTiff(tmp_path / "run_1"),
        MicroManagerStacks(tmp_path / "run_2", growing=True),
    )
    for n in range(5):
        put(dataset, n)
        said = {"FrameIndex": n, "SliceIndex": 0, "ChannelIndex": 0, "PositionIndex": 0}
        stack.put((0, 0, n, 0), frame_of(n, SIDE), said)
        for reader in readers:
            assert reader.refresh() == [key(n)]
            assert not reader.finished
    for writer in (dataset, stack):
        (writer.finish if finish else writer.abandon)()
    for reader in readers:
        assert reader.refresh() == []
        assert reader.finished is finish
        assert reader.summary["z-step_um"] == 2.0
        reader.close()


def test_frames_are_found_by_their_directories_where_the_index_lags(tmp_path: Path) -> None:
    dataset = JavaNDTiff(tmp_path / "run_1", frames_per_file=2)
    records = [dataset.put_image(axes(n), frame_of(n, SIDE), {"Axes": axes(n)}) for n in range(4)]
    reader = open_dataset(tmp_path / "run_1", growing=True)
    assert reader.axes_keys() == [key(n) for n in range(4)]
    assert reader.unlisted() == set(reader.axes_keys())
    for record in records[:3]:
        dataset.put_entry(*record)
    assert reader.refresh() == []
    assert reader.unlisted() == {key(3)}
    np.testing.assert_array_equal(reader.read(key(3)).pixels, frame_of(3, SIDE))
    reader.close()
    dataset.abandon()


def test_image_stacks_without_axes_in_their_pages_are_named_by_the_index_map(
    tmp_path: Path,
) -> None:
    summary = {**java_ndtiff.SUMMARY, "Frames": 2, "Slices": 2, "Channels": 1, "Positions": 1}
    stack = JavaStack(tmp_path / "a_MMStack_Pos0.ome.tif", summary, SIDE, 4)
    for time_, z in ((0, 0), (0, 1), (1, 0)):
        stack.put((0, z, time_, 0), frame_of(2 * time_ + z, SIDE), {"Exposure": 5})
    reader = open_dataset(tmp_path, growing=True)
    named = [f'{{"channel":"DAPI","time":{t},"z":{z}}}' for t, z in ((0, 0), (0, 1), (1, 0))]
    assert reader.axes_keys() == named
    np.testing.assert_array_equal(reader.read(named[2]).pixels, frame_of(2, SIDE))
    # Half of a page, which the index map lists already.
    stack.put((0, 1, 1, 0), frame_of(3, SIDE), {"Exposure": 5}, cut=20)
    assert reader.refresh() == []
    reader.close()
    stack.abandon()


def test_a_deleted_dataset_is_let_go_and_others_are_followed(
    daemon: Daemon, tmp_path: Path, caplog: Any
) -> None:
    data = tmp_path / "data"
    caplog.set_level(logging.INFO, "refocusd.sources")
    with following(data, daemon.endpoint):
        dataset = JavaNDTiff(data / "run_1")
        put(dataset, 0, 1)
        until(lambda: live_frames(daemon, "run_1") == 2)
        dataset.abandon()
        until(
            lambda: remove_tree(data / "run_1")
        )  # a file that is being read is deleted a moment later
        counts = until(lambda: ended(daemon, "run_1"))
        assert counts.passed_through == 2
        other = JavaNDTiff(data / "run_2")
        put(other, 0)
        other.finish()
        assert until(lambda: ended(daemon, "run_2")) == wire.Counts(acquired=1, passed_through=1)
    assert "cannot be read" in caplog.text
    assert len(keys(data / "run_1_refocused")) == 2


def test_a_dataset_that_is_moved_while_it_grows_is_followed_where_it_is(
    daemon: Daemon, tmp_path: Path
) -> None:
    if os.name == "nt":
        pytest.skip("Windows does not let a folder be moved while files in it are open")
    data = tmp_path / "data"
    with following(data, daemon.endpoint):
        dataset = JavaNDTiff(data / "run_1")
        put(dataset, 0, 1)
        until(lambda: live_frames(daemon, "run_1") == 2)
        (data / "kept").mkdir()
        (data / "run_1").rename(data / "kept" / "moved_1")
        put(dataset, 2)
        dataset.finish()
        assert until(lambda: ended(daemon, "moved_1")).passed_through == 3
        until(lambda: ended(daemon, "run_1"))
    assert len(keys(data / "kept" / "moved_1_refocused")) == 3


def test_a_share_that_goes_away_and_returns_costs_no_frame(
    daemon: Daemon, tmp_path: Path, caplog: Any
) -> None:
    """The watched folder is a mount point whose contents vanish and come back."""
    if os.name == "nt":
        pytest.skip("Windows does not let a folder be moved while files in it are open")
    caplog.set_level(logging.INFO, "refocusd.sources")
    data = tmp_path / "mount" / "share" / "data"
    data.mkdir(parents=True)
    with following(data, daemon.endpoint):
        dataset = JavaNDTiff(data / "run_1")
        put(dataset, 0, 1)
        until(lambda: live_frames(daemon, "run_1") == 2)
        (tmp_path / "mount" / "share").rename(tmp_path / "elsewhere")
        until(lambda: "run_1 cannot be read" in caplog.text)
        put(dataset, 2, 3)
        (tmp_path / "elsewhere").rename(tmp_path / "mount" / "share")
        until(lambda: live_frames(daemon, "run_1") == 4)
        put(dataset, 4)
        dataset.finish()
        counts = until(lambda: ended(daemon, "run_1"))
    assert counts == wire.Counts(acquired=5, passed_through=5)
    # The scan of the watched folder may have been in it as well, and has its own message.
    assert len(re.findall(r"run_1 cannot be read .*: tried again", caplog.text)) == 1


def test_a_share_that_does_not_answer_is_away_and_not_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = JavaNDTiff(tmp_path / "run_1")
    put(dataset, 0)
    dataset.finish()
    stat = os.stat

    def silent(path: Any, **how: Any) -> os.stat_result:
        if str(path).startswith(str(tmp_path)):
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return stat(path, **how)

    with closing(GrowingNDTiff(tmp_path / "run_1")) as reader:
        growth = Growth(reader, poll_s=0.0, quiet_s=100.0, away_s=100.0)
        growth.away_since = time.monotonic() - 50.0
        monkeypatch.setattr(os, "stat", silent)
        assert growth.ending is None
        growth.away_since -= 100.0
        assert growth.ending == "gone"


class SlowFile(io.FileIO):
    """A file on a bad network: reads are short and slow, and every seventh fails."""

    reads = 0

    def readinto(self, buffer: Any, /) -> int:
        SlowFile.reads += 1
        if SlowFile.reads % 7 == 0:
            raise OSError(5, "the network path was not found")
        time.sleep(0.001)
        return super().readinto(memoryview(buffer)[:4000])


def test_over_a_slow_share_that_fails_now_and_then_every_frame_arrives_whole(
    daemon: Daemon, tmp_path: Path
) -> None:
    dataset = JavaNDTiff(tmp_path / "run_1")
    put(dataset, 0)
    reader = GrowingNDTiff(tmp_path / "run_1", lambda path: SlowFile(path, "r"))
    follow = Following(reader, daemon.endpoint, poll_s=0.02, quiet_s=30.0)
    stop = threading.Event()
    thread = threading.Thread(target=follow.run, args=(stop,))
    thread.start()
    try:
        for n in range(1, 6):
            put(dataset, n)
        dataset.finish()
        assert until(lambda: ended(daemon, "run_1")) == wire.Counts(acquired=6, passed_through=6)
    finally:
        stop.set()
        thread.join(100)
    assert SlowFile.reads > 7
    assert len(keys(tmp_path / "run_1_refocused")) == 6


def test_without_a_daemon_a_dataset_is_followed_once_there_is_one(
    tmp_path: Path, caplog: Any
) -> None:
    settings = quick_settings(tmp_path)
    with running(settings) as first:
        endpoint = first.endpoint
    data = tmp_path / "data"
    with following(data, endpoint, quiet_s=60.0):
        dataset = JavaNDTiff(data / "run_1")
        put(dataset, 0, 1)
        until(lambda: "once a daemon is there" in caplog.text)
        with running(quick_settings(tmp_path, endpoint=endpoint)) as daemon:
            until(lambda: live_frames(daemon, "run_1") == 2)
            dataset.finish()
            assert until(lambda: ended(daemon, "run_1")).passed_through == 2


def test_links_that_lead_in_a_circle_and_deep_folders_are_bounded(tmp_path: Path) -> None:
    data, other = tmp_path / "data", tmp_path / "other"
    (data / "a").mkdir(parents=True)
    other.mkdir()
    JavaNDTiff(other / "linked_1").abandon()
    try:
        (data / "a" / "up").symlink_to(data, target_is_directory=True)
        (data / "a" / "self").symlink_to(data / "a" / "self", target_is_directory=True)
        (data / "a" / "there").symlink_to(other, target_is_directory=True)
        (other / "back").symlink_to(data, target_is_directory=True)
    except OSError:
        pytest.skip("links cannot be made here")
    if not (data / "a" / "there").is_symlink():
        pytest.skip("Wine makes no links, and does not say so")
    deep = data.joinpath(*(["d"] * (MAX_DEPTH + 1)))
    JavaNDTiff(deep / "deep_1").abandon()
    found = Scanner(data).scan()
    assert [one.path for one in found] == [data / "a" / "there" / "linked_1"]


def test_ours_are_never_found(tmp_path: Path) -> None:
    for name in ("run_1", "run_1_refocused", "run_1_refocused_0a1b2c3d", "x_refocused.ome.zarr"):
        JavaNDTiff(tmp_path / name).abandon()
    JavaNDTiff(tmp_path / "named_elsewhere").abandon()
    (tmp_path / "named_elsewhere" / "refocusd.json").write_text("{}", encoding="utf-8")
    assert [one.path.name for one in Scanner(tmp_path).scan()] == ["run_1"]


def test_an_unreadable_folder_is_named_once_and_the_others_are_seen(
    tmp_path: Path, caplog: Any, monkeypatch: Any
) -> None:
    JavaNDTiff(tmp_path / "open" / "run_1").abandon()
    (tmp_path / "closed").mkdir()
    listed = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    # Tests may run as root, who can read every folder.
    monkeypatch.setattr(os, "scandir", scandir)
    scanner = Scanner(tmp_path)
    assert [one.path.name for one in scanner.scan()] == ["run_1"]
    assert scanner.scan() == []
    assert caplog.text.count("closed cannot be read") == 1


def test_a_scan_of_a_thousand_datasets_is_cheap(tmp_path: Path, monkeypatch: Any) -> None:
    """The second scan lists no folder again, and checks a bounded number of datasets."""
    from refocusd.sources.folders import scanner as follow_scan

    for n in range(1000):
        folder = tmp_path / f"day_{n % 10}" / f"run_{n}"
        folder.mkdir(parents=True)
        (folder / "NDTiff.index").write_bytes(b"")
    monkeypatch.setattr(follow_scan, "RESTLESS_S", 0.0)
    scanner = Scanner(tmp_path)
    assert len(scanner.scan()) == 1000
    listings: list[Path] = []
    listed = os.scandir

    def scandir(path: Any) -> Any:
        listings.append(Path(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert scanner.scan() == []
    assert 0 < len(listings) <= follow_scan.MAX_PULSES
    # Each is checked in turn, so that a change is found.
    (tmp_path / "day_3" / "run_3" / "NDTiff.index").write_bytes(b"changed")
    for _ in range(1000 // follow_scan.MAX_PULSES + 1):
        if found := scanner.scan():
            break
    assert [one.path.name for one in found] == ["run_3"]


def test_damaged_files_are_refused_or_empty_and_never_hang(tmp_path: Path) -> None:
    """A TIFF directory that leads back to itself, and meaningless bytes."""
    dataset = JavaNDTiff(tmp_path / "run_1")
    put(dataset, 0, 1)
    pointer = dataset._pointer_at
    dataset.abandon()
    (stack,) = (tmp_path / "run_1").glob("*.tif")
    with stack.open("rb+") as file:
        file.seek(pointer)
        file.write(struct.pack("<I", 44))
    (tmp_path / "run_1" / "NDTiff.index").write_bytes(b"")
    reader = open_dataset(tmp_path / "run_1", growing=True)
    assert set(reader.axes_keys()) == {key(0), key(1)}
    reader.close()
    rng = np.random.default_rng(0)
    for n in range(20):
        stack.write_bytes(stack.read_bytes()[:32] if n % 2 else b"II*\0" + rng.bytes(3000))
        reader = open_dataset(tmp_path / "run_1", growing=True)
        assert reader.axes_keys() == []
        reader.close()
    with pytest.raises(InputError, match="holds no NDTiff dataset"):
        open_dataset(tmp_path, growing=True)


def test_process_and_follow_give_a_dataset_the_same_acquisition(tmp_path: Path) -> None:
    dataset = JavaNDTiff(tmp_path / "run_1")
    put(dataset, 0, 1)
    dataset.finish()
    reader = open_dataset(tmp_path / "run_1", growing=True)
    with open_dataset(tmp_path / "run_1") as frames:
        assert acquisition_of(frames, (), tmp_path) == announcement(reader, key(0)).acquisition
    reader.close()
