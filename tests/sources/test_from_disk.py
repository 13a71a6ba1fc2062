"""Frames are read from disks and shares that fail temporarily or permanently."""

from __future__ import annotations

import errno
import io
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live import quick_settings, running
from recordings_on_disk import frames, write_micromanager, write_ndtiff, write_tiff

from refocusd import backoff
from refocusd.daemon.daemon import Daemon
from refocusd.formats.dataset import Dataset
from refocusd.formats.ndtiff.reader import NDTiffReader
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.tiff import strict
from refocusd.formats.tiff.stacks import MicroManagerStacks
from refocusd.sources.from_disk import submit_frames
from refocusd.transport import messages as wire

COUNT = 6


class Disk:
    """A disk whose next reads fail."""

    def __init__(self, error: int = errno.EIO) -> None:
        self.error = error
        self.failures = 0
        self.failed = 0

    def open(self, path: Path) -> io.RawIOBase:
        disk = self

        class File(io.FileIO):
            def readinto(self, buffer: Any) -> int:
                if disk.failures:
                    disk.failures -= 1
                    disk.failed += 1
                    raise OSError(disk.error, os.strerror(disk.error))
                return super().readinto(buffer)

        return File(path)


def ndtiff(folder: Path, disk: Disk, _: pytest.MonkeyPatch) -> Dataset:
    planes = frames(COUNT)
    path = write_ndtiff(folder / "d", [({"time": n}, p, {}) for n, p in enumerate(planes)])
    return NDTiffReader(path, opener=disk.open)


def stacks(folder: Path, disk: Disk, _: pytest.MonkeyPatch) -> Dataset:
    places = [(0, 0, n, 0) for n in range(COUNT)]
    write_micromanager(folder / "s_MMStack_Pos0.ome.tif", frames(COUNT), places, {"Frames": COUNT})
    return MicroManagerStacks(folder, disk.open)


def tiff(folder: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setattr(strict, "open_shared", disk.open)
    return open_dataset(write_tiff(folder / "a.tif", frames(COUNT), metadata=None))


def submitted(daemon: Daemon, dataset: Dataset, output: Path) -> wire.Counts:
    """The daemon's counts after all frames were submitted."""
    form = dataset.first_format()
    open_ = wire.Open(
        acquisition=str(uuid.uuid4()),
        name="d",
        height=form.height,
        width=form.width,
        dtype=form.dtype_name,
        raw="",
        output=str(output),
        summary="{}",
    )
    keys = dataset.axes_keys()
    return submit_frames(
        dataset, keys, daemon.endpoint, open_, acquired=len(keys), live=False
    ).counts


@pytest.mark.parametrize("recorded", [ndtiff, stacks, tiff])
def test_a_frame_is_read_again_where_the_disk_fails_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: Callable[..., Dataset]
) -> None:
    monkeypatch.setattr(backoff, "RETRY_S", (0.01, 0.02, 0.04))
    disk = Disk()
    dataset = recorded(tmp_path, disk, monkeypatch)
    with running(quick_settings(tmp_path)) as daemon, dataset:
        dataset.close()
        disk.failures = 3
        counts = submitted(daemon, dataset, tmp_path / "out")
    assert disk.failed == 3
    assert counts == wire.Counts(acquired=COUNT, passed_through=COUNT)


def test_a_disk_that_fails_for_good_is_not_waited_for_with_every_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "RETRY_S", (0.01, 0.02, 0.04))
    disk = Disk()
    dataset = ndtiff(tmp_path, disk, monkeypatch)
    with running(quick_settings(tmp_path)) as daemon, dataset:
        disk.failures = 1_000
        counts = submitted(daemon, dataset, tmp_path / "out")
    assert counts == wire.Counts(acquired=COUNT, failed=COUNT)
    assert disk.failed == 4 + COUNT - 1


def test_what_will_not_pass_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "RETRY_S", (60.0,))
    disk = Disk(errno.EACCES)
    dataset = ndtiff(tmp_path, disk, monkeypatch)
    with running(quick_settings(tmp_path)) as daemon, dataset:
        disk.failures = 1
        counts = submitted(daemon, dataset, tmp_path / "out")
    assert counts == wire.Counts(acquired=COUNT, failed=1, passed_through=COUNT - 1)
