"""Commands in orders that nobody planned: nothing is lost, merged or overwritten, and advice leads on."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tifffile
from finished import blurred, command, environment, raw_dataset, refocusd, snapshot, told, verify
from live import keys, read_all, write_stack
from recordings_on_disk import write_ndtiff
from waiting import PATIENCE_S

from refocusd.datasets.dataset import note_recording
from refocusd.errors import OutputError
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.open_sink import SinkKind


def time_lapse(folder: Path, frames: int, seed: int = 0) -> Path:
    """One recording, as it was when it had so many frames."""
    shutil.rmtree(folder, ignore_errors=True)
    planes = blurred(12, seed=seed)[:frames]
    return write_ndtiff(folder, [({"time": n}, plane, {}) for n, plane in enumerate(planes)])


def image_files(folder: Path, frames: int = 3) -> Path:
    """A folder of images, one a frame."""
    folder.mkdir()
    for n, plane in enumerate(blurred(frames)):
        tifffile.imwrite(folder / f"img_t{n:03}.tif", plane)
    return folder


def test_an_output_elsewhere_is_found_by_its_raw_data(tmp_path: Path) -> None:
    """On another disk: nothing beside raw tells of it."""
    raw = time_lapse(tmp_path / "data" / "raw", 3)
    output = tmp_path / "disk" / "raw_refocused"
    assert refocusd("process", raw, "--output", output.parent, place=tmp_path).returncode == 0
    status, said = verify(raw, place=tmp_path)
    assert status == 0, said
    assert [run["output"] for run in said["runs"]] == [str(output)]
    time_lapse(raw, 5)
    done = refocusd("resume", raw, place=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(keys(output)) == 5
    # Where it is asked for once more, it is known where it is.
    assert f"{output}: nothing to do" in " ".join(
        refocusd("process", raw, place=tmp_path, COLUMNS="400").stdout.split()
    )
    assert not (raw.parent / "raw_refocused").exists()


def test_a_run_is_not_resumed_with_other_settings_than_it_was_begun_with(tmp_path: Path) -> None:
    raw = time_lapse(tmp_path / "raw", 2)
    assert refocusd("process", raw, place=tmp_path).returncode == 0
    output = tmp_path / "raw_refocused"
    time_lapse(raw, 4)
    before = snapshot(output)
    for flags in (
        ("--model", "live-nuclei"),
        ("--backend", "deconvolution"),
        ("--no-pass-in-focus",),
        ("--blur-px", "3"),
    ):
        status, said = told("resume", raw, *flags, place=tmp_path)
        assert status == 2, flags
        assert "leave that flag out" in said
        assert f"`refocusd process {raw}`" in said.replace("\n", " ")
    assert snapshot(output) == before
    # What is only configured is for new runs; flags that agree are none that differ.
    done = refocusd("resume", raw, "--backend", "identity", place=tmp_path, REFOCUSD_BLUR_PX="3")
    assert done.returncode == 0, done.stderr
    assert len(keys(output)) == 4


@pytest.mark.parametrize("sink", ["ndtiff", "ome-zarr"])
def test_what_was_refocused_is_not_refocused_again(tmp_path: Path, sink: SinkKind) -> None:
    raw = write_stack(tmp_path / "s.tif", blurred(3))
    flags = ("--sink", sink, "--backend", "deconvolution")
    assert refocusd("process", raw, *flags, place=tmp_path).returncode == 0
    output = tmp_path / "s_refocused"
    trust = output / ("trust" if sink == "ndtiff" else "refocusd/trust")
    assert len(open_dataset(trust)) == 3
    for path, what in ((output, "refocused frames"), (trust, "trust maps of refocused frames")):
        status, said = told("process", path, "--output", tmp_path / "twice", place=tmp_path)
        assert status == 2
        assert f"{path} holds" in said
        assert what in " ".join(said.split())
    assert not (tmp_path / "twice").exists()


def test_nothing_is_written_into_raw_data(tmp_path: Path) -> None:
    raw = image_files(tmp_path / "set")
    stack = tmp_path / "others" / "run_1_MMStack_Pos0.ome.tif"
    stack.parent.mkdir()
    shutil.copy(write_stack(tmp_path / "s.tif", blurred(2)), stack)
    one = tmp_path / "one.ome.tif"
    tifffile.imwrite(one, blurred(2), ome=True)
    assert refocusd("process", raw, one, place=tmp_path).returncode == 0
    output = tmp_path / "set_refocused"
    before = snapshot(tmp_path)
    for arguments in (
        ("export", output, "--output", raw / "all.ome.tif"),
        ("export", output, "--output", raw / "more" / "all.ome.tif"),
        ("export", output, "--output", stack.with_name("all.ome.tif")),
        ("export", raw, "--output", output / "all.ome.tif"),
        ("process", raw, "--output", raw),
        ("process", raw, "--output", raw / "inner"),
        ("process", raw, "--output", output),
        ("replay", raw, "--output", raw),
    ):
        status, said = told(*arguments, place=tmp_path)
        assert status == 2, arguments
        assert "lies within the dataset" in said.replace("\n", " ")
    assert snapshot(tmp_path) == before
    # A file that is raw data stays, whatever is asked for.
    taken = one.read_bytes()
    over = ("export", tmp_path / "one_refocused", "--output", one, "--overwrite")
    assert told(*over, place=tmp_path)[0] == 2
    assert one.read_bytes() == taken
    # Where many recordings lie, an export may lie as well.
    status, said = told("export", output, "--output", tmp_path / "all.ome.tif", place=tmp_path)
    assert status == 0, said


def test_recordings_of_one_name_and_several_kinds_are_told_apart(tmp_path: Path) -> None:
    planes = blurred(6)
    one = write_stack(tmp_path / "a.tif", planes[:3])
    two = write_ndtiff(tmp_path / "a", [({"z": n}, p, {}) for n, p in enumerate(planes[3:])])
    done = refocusd("process", one, two, "--output", "out", place=tmp_path, COLUMNS="400")
    assert done.returncode == 1
    assert f"holds refocused frames of another recording ({one})" in done.stderr
    output = tmp_path / "out" / "a_refocused"
    assert np.array_equal(next(iter(read_all(output).values()))[0], planes[0])
    assert verify(output, place=tmp_path)[0] == 0


@pytest.mark.parametrize("sink", ["ndtiff", "ome-zarr"])
def test_two_commands_at_once_make_one_output(tmp_path: Path, sink: SinkKind) -> None:
    raw = raw_dataset(tmp_path / "raw", 60, side=128)
    both = [
        subprocess.Popen(
            command("process", raw, "--sink", sink),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            cwd=tmp_path,
            env=environment(tmp_path, COLUMNS="400"),
        )
        for _ in range(2)
    ]
    ended = [(each.communicate(timeout=2 * PATIENCE_S)[1], each.returncode) for each in both]
    assert sorted(status for _, status in ended)[0] == 0, ended
    for said, status in ended:
        # One that comes when the other has ended has nothing to do.
        assert status == 0 or "wait until it has finished" in said, said
    status, report = verify(raw, place=tmp_path)
    assert status == 0, report
    assert len(report["runs"]) == 1
    assert sorted(p.name for p in tmp_path.iterdir() if "refocused" in p.name) == ["raw_refocused"]


def test_an_output_that_was_moved_away_meanwhile_is_asked_after(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="moved or deleted meanwhile"):
        note_recording(tmp_path / "cells_refocused", tmp_path / "cells.tif")
