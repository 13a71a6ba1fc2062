"""Workers, schedulers and commands that end in mid-work: nothing is lost, and nothing done twice."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import zarr
from cluster_jobs import order_for, prepared, process
from disks import fill, small_disk
from finished import snapshot, verify
from plates_on_disk import write_image, write_plate

from benchmarks.faults import cluster_kills
from benchmarks.faults.cluster_kills import under_fire
from refocusd.errors import OutputError
from refocusd.formats.ome_zarr.mirror.image import MirrorImage
from refocusd.formats.ome_zarr.mirror.layout import listed
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.open_sink import append_sink

pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

#: Dask leaves a few of them at the end of its processes.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.timeout(1800),
]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Dask's programs are killed by POSIX signals")
def test_ten_kills_of_workers_scheduler_and_command_lose_no_frame(tmp_path: Path) -> None:
    with mock.patch.object(cluster_kills, "VICTIMS", {"worker": 4, "scheduler": 1, "command": 1}):
        found = under_fire(tmp_path, kills=10, seed=11)
    assert found["kills"] == {"worker": 8, "scheduler": 1, "command": 1}
    kept = ("frames_lost", "frames_wrong", "frames_twice", "verify_status")
    assert {name: found[name] for name in kept} == dict.fromkeys(kept, 0)


@pytest.mark.slow
def test_a_worker_without_enough_memory_is_said_to_have_too_little(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "large.zarr"
    write_image(raw, axes="yx", levels=1)
    pixels = np.resize(np.arange(60_000, dtype=np.uint16), (12000, 12000))
    zarr.create_array(raw / "0", data=pixels, chunks=pixels.shape, overwrite=True)
    asked = ("--cluster", "local", "--max-jobs", 1, "--job-memory", "250MB")
    with mock.patch("refocusd.cluster.scheduler.ALLOWED_FAILURES", 0):
        assert process(raw, *asked, place=tmp_path) != 0
    assert "does not have enough memory for a frame" in capsys.readouterr().err


@pytest.mark.slow
def test_a_full_disk_is_said_to_be_full_and_the_plate_goes_on_once_there_is_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "plate.zarr"
    write_plate(raw, fields=[f"A/{n}/0" for n in range(1, 9)], levels=1)
    before = snapshot(raw)
    with small_disk(tmp_path / "disk", 16) as disk:
        out = disk / "plate_refocused.zarr"
        asked = (raw, "--cluster", "local", "--max-jobs", 2, "--output", disk)

        def frames_listed() -> int:
            return sum(place.read_bytes().count(b"\n") for _, place in listed(out))

        # Others fill the disk after it was looked at: room for the store, and for some of 96 frames.
        ballast = fill(disk, 0.5)
        with mock.patch("refocusd.daemon.output.dataset.check_free_space"):
            assert process(*asked, place=tmp_path) == 2
        said = capsys.readouterr().err
        assert "the disk is full" in said
        assert "run the same command again to continue" in said
        assert 0 < frames_listed() < 96
        ballast.unlink()
        assert process(*asked, place=tmp_path) == 0
        assert frames_listed() == 96
        status, told = verify(out, place=tmp_path)
    assert status == 0, told
    assert snapshot(raw) == before


def test_a_job_that_outlived_its_command_keeps_the_next_command_out(tmp_path: Path) -> None:
    raw, out = prepared(tmp_path)
    order = order_for(raw, out)
    with open_dataset(raw) as frames, append_sink(out) as sink:
        frame = frames.read(order.keys[0])
        with (
            MirrorImage(out, order.position),
            pytest.raises(OutputError, match="being written by another process"),
        ):
            sink.write(frame.pixels, dict(frame.axes), {})
        sink.write(frame.pixels, dict(frame.axes), {})
        assert order.keys[0] in sink
