"""Commands in unplanned orders: nothing is lost, merged or overwritten, and the advice helps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from finished import (
    blurred,
    command,
    environment,
    ledger_of,
    raw_dataset,
    refocusd,
    snapshot,
    told,
    verify,
)
from followed import ended, following
from live import keys, quick_settings, read_all, running, write_stack
from recordings_on_disk import write_ndtiff
from waiting import PATIENCE_S, until

from refocusd.datasets.output import note_recording
from refocusd.datasets.run_folder import LEDGER_COPY
from refocusd.errors import OutputError
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.open_sink import SinkKind, append_sink
from refocusd.ledger import Ledger


def time_lapse(folder: Path, frames: int, seed: int = 0) -> Path:
    """One recording in its state with `frames` frames."""
    shutil.rmtree(folder, ignore_errors=True)
    planes = blurred(12, seed=seed)[:frames]
    return write_ndtiff(folder, [({"time": n}, plane, {}) for n, plane in enumerate(planes)])


def image_files(folder: Path, frames: int = 3) -> Path:
    """A folder with one image file per frame."""
    folder.mkdir()
    for n, plane in enumerate(blurred(frames)):
        tifffile.imwrite(folder / f"img_t{n:03}.tif", plane)
    return folder


def test_an_output_elsewhere_is_found_by_its_raw_data(tmp_path: Path) -> None:
    """It is on another disk: nothing beside raw refers to it."""
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
    # Requested again with the same place, it is found there.
    assert f"{output}: nothing to do" in " ".join(
        refocusd("process", raw, place=tmp_path, COLUMNS="400").stdout.split()
    )
    assert not (raw.parent / "raw_refocused").exists()


def test_every_output_of_a_recording_is_found_wherever_it_lies(tmp_path: Path) -> None:
    raw = time_lapse(tmp_path / "data" / "raw", 3)
    stack = write_stack(tmp_path / "data" / "s.tif", blurred(3))
    one, two = (tmp_path / folder / "raw_refocused" for folder in ("one", "two"))
    for folder in ("one", "two"):
        done = refocusd("process", raw, stack, "--output", folder, place=tmp_path)
        assert done.returncode == 0, done.stderr
    for recording in (raw, stack):
        outputs = [tmp_path / folder / f"{recording.stem}_refocused" for folder in ("one", "two")]
        status, said = verify(recording, place=tmp_path)
        assert status == 0, said
        assert [run["output"] for run in said["runs"]] == [str(output) for output in outputs]
        assert told("report", recording, "--json", tmp_path / "r.json", place=tmp_path)[0] == 0
        files = json.loads((tmp_path / "r.json").read_text())["files"]
        assert [Path(file).parent for file in files] == outputs
    # Moved, it is the same; a copy, or a recording that begins alike, may have its own outputs.
    shutil.copytree(raw, tmp_path / "copy")
    assert verify(tmp_path / "copy", place=tmp_path)[1]["runs"] == []
    moved = raw.rename(tmp_path / "run")
    status, said = verify(moved, place=tmp_path)
    assert status == 0, said
    assert [run["output"] for run in said["runs"]] == [str(o) for o in (one, two)]
    moved.rename(raw)
    planes = [blurred(12)[0], blurred(2, seed=9)[1]]
    alike = write_ndtiff(tmp_path / "alike", [({"time": n}, p, {}) for n, p in enumerate(planes)])
    assert verify(alike, place=tmp_path)[1]["runs"] == []
    # A deleted output is no fault; another recording's output in its place is not mistaken for it.
    shutil.rmtree(one)
    other = time_lapse(tmp_path / "other" / "raw", 3, seed=5)
    assert refocusd("process", other, "--output", "one", place=tmp_path).returncode == 0
    time_lapse(raw, 5)
    done = refocusd("resume", raw, place=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (len(keys(one)), len(keys(two))) == (3, 5)
    assert [run["output"] for run in verify(raw, place=tmp_path)[1]["runs"]] == [str(two)]


def test_resume_of_an_output_whose_raw_data_are_gone_says_so(tmp_path: Path) -> None:
    raw = time_lapse(tmp_path / "raw", 4)
    output = tmp_path / "raw_refocused"
    assert refocusd("process", raw, place=tmp_path).returncode == 0
    away = raw.rename(tmp_path / "moved")
    status, said = told("resume", output, "--json", tmp_path / "r.json", place=tmp_path)
    assert status == 0, said
    done = json.loads((tmp_path / "r.json").read_text())["datasets"][0]["said"]
    assert f"every frame has its final state; its raw data are no longer at {raw}" in done
    # As an interrupted command leaves it: the number of frames is not known.
    with Ledger(ledger_of(tmp_path)) as ledger:
        ledger._write("UPDATE acquisition SET closed = NULL, acquired = NULL", ())
    (output / LEDGER_COPY).unlink()
    status, said = told("resume", output, place=tmp_path)
    assert status == 2
    assert f"its raw data are missing at {raw}" in said.replace("\n", " ")
    away.rename(raw)
    assert told("resume", output, place=tmp_path)[0] == 0


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
    # Settings from a file apply to new runs only; flags that agree with the run are accepted.
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
    # A raw file stays, whatever is requested.
    taken = one.read_bytes()
    over = ("export", tmp_path / "one_refocused", "--output", one, "--overwrite")
    assert told(*over, place=tmp_path)[0] == 2
    assert one.read_bytes() == taken
    # An export may be written beside many recordings.
    status, said = told("export", output, "--output", tmp_path / "all.ome.tif", place=tmp_path)
    assert status == 0, said


def test_an_export_does_not_become_a_part_of_what_others_recorded(tmp_path: Path) -> None:
    raw = time_lapse(tmp_path / "raw", 2)
    frames = image_files(tmp_path / "frames")
    named = tmp_path / "named"
    named.mkdir()
    for n in range(2):
        write_stack(named / f"cells_xy{n}.tif", blurred(3))
    before = snapshot(tmp_path)
    for folder in (frames, named):
        for name in ("all.ome.tif", "img_t009.ome.tif"):
            status, said = told("export", raw, "--output", folder / name, place=tmp_path)
            assert status == 2
            assert f"lies within the dataset {folder}" in said.replace("\n", " ")
    assert snapshot(tmp_path) == before
    # Exports may be beside stacks that are separate recordings.
    (tmp_path / "stacks").mkdir()
    for name in ("control", "treated"):
        write_stack(tmp_path / "stacks" / f"{name}.tif", blurred(2))
    for name in ("one.ome.tif", "two.ome.tif"):
        target = tmp_path / "stacks" / name
        assert told("export", raw, "--output", target, place=tmp_path)[0] == 0


def outputs_below(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.rglob("refocusd.json"))


def test_what_was_followed_is_not_refocused_again_by_process(tmp_path: Path) -> None:
    raw = tmp_path / "data" / "raw"
    with (
        running(quick_settings(tmp_path)) as daemon,
        following(raw.parent, daemon.endpoint, quiet_s=1.0, since_s=0.0),
    ):
        time_lapse(raw, 3)
        until(lambda: ended(daemon, "raw"))
        output = raw.parent / "raw_refocused"
        before = snapshot(output)
        done = refocusd("process", raw, place=tmp_path, COLUMNS="400")
        assert done.returncode == 0, done.stderr
        assert f"{output}: nothing to do" in done.stdout
        assert {name: data for name, data in snapshot(output).items() if name in before} == before
    assert outputs_below(tmp_path) == [output]
    status, said = verify(raw, place=tmp_path)
    assert status == 0, said


@pytest.mark.parametrize("folder", ["data", "elsewhere"])
def test_what_process_began_is_continued_where_it_is_when_it_is_followed(
    tmp_path: Path, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While a command writes the output, the follower waits for it and says so."""
    raw = tmp_path / "data" / "raw"
    time_lapse(raw, 2)
    output = tmp_path / folder / "raw_refocused"
    assert refocusd("process", raw, "--output", output.parent, place=tmp_path).returncode == 0
    writer = append_sink(output)
    with running(quick_settings(tmp_path)) as daemon:
        time_lapse(raw, 5)
        with following(raw.parent, daemon.endpoint, quiet_s=1.0, since_s=0.0):
            until(lambda: "another command is refocusing it" in caplog.text)
            writer.close()
            until(lambda: ended(daemon, "raw"))
    assert outputs_below(tmp_path) == [output]
    assert len(keys(output)) == 5
    status, said = verify(raw, place=tmp_path)
    assert status == 0, said


def test_recordings_of_one_name_and_several_kinds_are_distinguished(tmp_path: Path) -> None:
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
        # If it starts after the other has ended, it has nothing to do.
        assert status == 0 or "wait until it has finished" in said, said
    status, report = verify(raw, place=tmp_path)
    assert status == 0, report
    assert len(report["runs"]) == 1
    assert sorted(p.name for p in tmp_path.iterdir() if "refocused" in p.name) == ["raw_refocused"]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names there are always Unicode")
def test_a_name_that_is_not_utf8_is_reported_and_costs_no_other_recording(tmp_path: Path) -> None:
    odd = image_files(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")))
    good = write_stack(tmp_path / "s.tif", blurred(2))
    status, said = verify(odd, place=tmp_path)
    assert status == 1, said
    done = refocusd("process", odd, good, place=tmp_path, COLUMNS="400")
    assert done.returncode == 1
    assert "is not written in UTF-8: rename that file or folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(keys(tmp_path / "s_refocused")) == 2


def test_an_output_that_was_moved_away_meanwhile_is_asked_after(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="moved or deleted meanwhile"):
        note_recording(tmp_path / "cells_refocused", tmp_path / "cells.tif")
