"""While raw data are read here, their owner may append to them, rename and delete them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imagecodecs
import java_ndtiff
import psutil
import pytest
import tifffile
from finished import raw_dataset
from java_ndtiff import JavaNDTiff, JavaStack, frame_of
from live import quick_settings, running
from recordings_on_disk import frames

from refocusd.files import open_shared
from refocusd.formats.open_dataset import open_dataset
from refocusd.sources.folders.announcement import announcement
from refocusd.sources.from_disk import submit_all
from refocusd.transport.session import Session, State

SIDE = 64
FRAMES = 3


def growing_ndtiff(folder: Path) -> Path:
    writer = JavaNDTiff(folder)
    for n in range(FRAMES):
        writer.put({"time": n}, frame_of(n, SIDE), {"Axes": {"time": n}})
    writer.abandon()
    return folder


def growing_stack(folder: Path) -> Path:
    summary = {**java_ndtiff.SUMMARY, "Slices": 1, "Channels": 1, "Positions": 1, "Frames": FRAMES}
    writer = JavaStack(folder / "run_MMStack_Pos0.ome.tif", summary, SIDE, FRAMES)
    for n in range(FRAMES):
        writer.put((0, 0, n, 0), frame_of(n, SIDE), {"FrameIndex": n, "ChannelIndex": 0})
    writer.abandon()
    return folder


def tiffs(folder: Path) -> Path:
    folder.mkdir()
    for n, plane in enumerate(frames(FRAMES)):
        tifffile.imwrite(folder / f"t{n}.tif", plane)
    return folder


def pngs(folder: Path) -> Path:
    folder.mkdir()
    for n, plane in enumerate(frames(FRAMES)):
        (folder / f"t{n}.png").write_bytes(imagecodecs.png_encode(plane))
    return folder


KINDS: dict[str, tuple[Callable[[Path], Path], bool]] = {
    "growing ndtiff": (growing_ndtiff, True),
    "growing stack": (growing_stack, True),
    "finished ndtiff": (raw_dataset, False),
    "tiffs": (tiffs, False),
    "pngs": (pngs, False),
}


class Opened:
    """Records the files that Python opens in a folder, by `open` and the like, and by `os.open`.

    `open_shared` calls `os.open` for each file, so the two lists must be the same.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.by_open: Counter[str] = Counter()
        self.by_os: Counter[str] = Counter()
        # An audit hook stays as long as the process.
        sys.addaudithook(self._note)

    @contextmanager
    def within(self, folder: Path) -> Iterator[None]:
        self.by_open.clear()
        self.by_os.clear()
        self.folder = folder
        try:
            yield
        finally:
            self.folder = None

    def _note(self, event: str, told: tuple[Any, ...]) -> None:
        if self.folder is None or event != "open" or not isinstance(told[0], str | Path):
            return
        if Path(told[0]).is_relative_to(self.folder):
            (self.by_os if told[1] is None else self.by_open)[str(told[0])] += 1


@pytest.fixture(scope="module")
def opened() -> Opened:
    return Opened()


@pytest.mark.skipif(sys.platform == "win32", reason="`os.open` cannot share there")
@pytest.mark.parametrize("kind", KINDS)
def test_every_raw_file_is_opened_by_the_function_that_shares_it(
    kind: str, tmp_path: Path, opened: Opened
) -> None:
    make, growing = KINDS[kind]
    path = make(tmp_path / "raw")
    with opened.within(path), open_dataset(path, growing=growing) as dataset:
        dataset.refresh()
        assert len(dataset.axes_keys()) >= FRAMES
        for key in dataset.axes_keys():
            assert dict(dataset.read(key).metadata) is not None
    assert opened.by_open == opened.by_os
    assert opened.by_open.total() >= 1


@pytest.mark.parametrize("kind", KINDS)
def test_raw_that_is_being_read_can_be_renamed_and_deleted(kind: str, tmp_path: Path) -> None:
    make, growing = KINDS[kind]
    path = make(tmp_path / "raw")
    with open_dataset(path, growing=growing) as dataset:
        dataset.refresh()
        for key in dataset.axes_keys():
            assert dataset.read(key).pixels.size
        for file in list(path.iterdir()):
            file.rename(file.with_suffix(".moved"))
            file.with_suffix(".moved").unlink()


def test_an_open_file_can_be_appended_to_renamed_and_deleted(tmp_path: Path) -> None:
    path, moved = tmp_path / "raw µ.tif", tmp_path / "moved.tif"
    path.write_bytes(b"first")
    with open_shared(path) as file:
        with path.open("ab") as writer:
            writer.write(b" second")
        path.rename(moved)
        assert file.readall() == b"first second"
        moved.unlink()
    assert not moved.exists()


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as told:
        open_shared(tmp_path / "none.tif")
    assert told.value.filename == str(tmp_path / "none.tif")
    with pytest.raises((IsADirectoryError, PermissionError)):
        open_shared(tmp_path)


def test_raw_is_closed_while_its_frames_wait_for_the_daemon(tmp_path: Path) -> None:
    """On Windows, a folder cannot be renamed while a file in it is open, however it was opened."""
    raw = raw_dataset(tmp_path / "raw", frames=24, side=400)
    process, waits = psutil.Process(), 0
    held: list[Any] = []
    with (
        # There is room for one frame at a time.
        running(quick_settings(tmp_path, ring_mib=1)) as daemon,
        open_dataset(raw) as dataset,
        Session(daemon.endpoint) as session,
    ):
        session.until(lambda: session.state is State.READY)
        session.announce(announcement(dataset, dataset.axes_keys()[0]))
        session.until(lambda: session.opened)

        def look() -> bool:
            nonlocal waits
            if not session.credit:
                waits += 1
                held.extend(f for f in process.open_files() if Path(f.path).parent == raw)
            return False

        submit_all(session, dataset, dataset.axes_keys(), live=False, stopped=look)
        session.close(24)
        session.until(lambda: session.closed)
    assert waits
    assert held == []
