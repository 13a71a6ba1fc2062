"""A recording is identified by its content, whatever its name and wherever it is."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from finished import blurred, key, raw_dataset, refocusd, snapshot, told, verify
from java_ndtiff import JavaNDTiff
from live import (
    keys,
    opened,
    pump_until,
    quick_settings,
    read_all,
    running,
    source,
    write_stack,
)
from recordings_on_disk import write_ndtiff
from test_resume import stop_midway, written
from waiting import until

from refocusd.daemon.acquisitions.checks import check_open
from refocusd.daemon.daemon import daemon_status
from refocusd.datasets.identity import fingerprint, recognise
from refocusd.datasets.output import Output
from refocusd.datasets.run_folder import LEDGER_COPY, RUN_FILE, refocused_in, refocused_path
from refocusd.errors import OutputError
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.sink import refuse_within
from refocusd.frame import checksum
from refocusd.sources.folders.announcement import announcement
from refocusd.transport.messages import Open


def run_file(output: Path) -> Any:
    return json.loads((output / RUN_FILE).read_text(encoding="utf-8"))


def forget_recording(output: Path) -> None:
    """Remove the fingerprint, as in an output of 0.1.0."""
    said = run_file(output)
    del said["recording"]
    (output / RUN_FILE).write_text(json.dumps(said), encoding="utf-8")


@pytest.mark.parametrize("frames", [3, 5], ids=["as many frames", "more frames"])
def test_two_recordings_of_one_name_are_never_merged(tmp_path: Path, frames: int) -> None:
    first = raw_dataset(tmp_path / "day1" / "cells_1", 3, seed=1)
    second = raw_dataset(tmp_path / "day2" / "cells_1", frames, seed=2)
    done = refocusd("process", first, second, "--output", "out", place=tmp_path)
    assert done.returncode == 1
    (error,) = (line for line in done.stderr.splitlines() if "error:" in line)
    assert str(first) in error
    assert str(second) in error
    assert "--output" in error
    output = tmp_path / "out" / "cells_1_refocused"
    pixels = {k: checksum(p) for k, (p, _) in read_all(output).items()}
    assert pixels == {k: checksum(p) for k, (p, _) in read_all(first).items()}
    assert verify(output, place=tmp_path)[0] == 0
    done = refocusd("process", second, "--output", "out2", place=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(keys(tmp_path / "out2" / "cells_1_refocused")) == frames


def test_recordings_that_begin_with_the_same_dark_frames_are_not_merged(tmp_path: Path) -> None:
    dark = np.zeros((32, 32), np.uint16)
    first, second = (
        write_ndtiff(tmp_path / day / "cells_1", [({"time": n}, dark + v, {}) for n, v in values])
        for day, values in (
            ("day1", [(0, 0), (1, 0)]),
            ("day2", [(0, 0), (1, 0), (2, 9)]),
        )
    )
    done = refocusd("process", first, second, "--output", "out", place=tmp_path)
    assert done.returncode == 1
    assert "nothing tells whether these are one recording" in " ".join(done.stderr.split())
    output = tmp_path / "out" / "cells_1_refocused"
    assert len(keys(output)) == 2
    assert verify(output, place=tmp_path)[0] == 0


def test_a_copy_with_its_output_goes_on_while_the_original_is_still_there(tmp_path: Path) -> None:
    raw = write_ndtiff(tmp_path / "a" / "run", [({"time": 0}, np.ones((32, 32), np.uint16), {})])
    assert refocusd("process", raw, place=tmp_path).returncode == 0
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "run")
    planes: list[Any] = [({"time": n}, np.full((32, 32), 1 + n, np.uint16), {}) for n in range(3)]
    write_ndtiff(tmp_path / "b" / "run", planes)
    done = refocusd("process", tmp_path / "b" / "run", place=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(keys(tmp_path / "b" / "run_refocused")) == 3


@pytest.mark.parametrize("old", [False, True], ids=["now", "0.1.0"])
@pytest.mark.parametrize("changed", [[0, 1, 2], [2], [1]], ids=["all", "last", "middle"])
def test_what_was_recorded_again_under_its_name_is_refused(
    tmp_path: Path, changed: list[int], old: bool
) -> None:
    planes = blurred(3)
    path = write_stack(tmp_path / "s.tif", planes)
    assert refocusd("process", path, place=tmp_path).returncode == 0
    output = tmp_path / "s_refocused"
    if old:
        forget_recording(output)
    before = snapshot(output)
    planes[changed] += 7
    write_stack(path, planes)
    # `resume` cannot attempt a frame that `verify` knows to have changed.
    for command in ("process", "resume") if len(changed) == 3 else ("process",):
        status, said = told(command, path, place=tmp_path)
        assert status == 2
        assert "another recording" in said
        assert f"move {output} away" in said
    assert snapshot(output) == before
    status, report = verify(path, place=tmp_path)
    assert status == 1
    (run,) = report["runs"]
    assert {p["axes"] for p in run["problems"]} == {f'{{"z":{n}}}' for n in changed}
    assert any("another recording" in fault for fault in run["faults"]) == (len(changed) == 3)
    # The advice in the message helps.
    output.rename(tmp_path / "old")
    done = refocusd("process", path, place=tmp_path)
    assert done.returncode == 0, done.stderr
    assert checksum(read_all(output)['{"z":2}'][0]) == checksum(planes[2])


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is POSIX")
def test_what_is_half_done_is_not_finished_from_another_recording(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path / "raw", 300)
    output = tmp_path / "raw_refocused"
    stop_midway(["process", str(raw)], output, tmp_path, signal.SIGINT, 20)
    there = written(output)
    shutil.rmtree(raw)
    raw_dataset(raw, 300, seed=9)
    for command in ("process", "resume"):
        status, said = told(command, raw, place=tmp_path)
        assert status == 2
        assert "another recording" in said
    assert written(output) == there


def test_an_output_of_0_1_0_without_checksums_is_matched_by_name_with_a_warning(
    tmp_path: Path,
) -> None:
    raw = raw_dataset(tmp_path / "raw", 3)
    assert refocusd("process", raw, place=tmp_path).returncode == 0
    output = tmp_path / "raw_refocused"
    forget_recording(output)
    (output / LEDGER_COPY).unlink()
    shutil.rmtree(tmp_path / "ledgers")
    done = refocusd("process", raw, place=tmp_path)
    assert "because of its name; nothing else proves it" in done.stderr
    assert [p.name for p in tmp_path.glob("raw_refocused*")] == ["raw_refocused"]


def test_another_format_than_the_one_on_disk_is_reported(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path / "raw", 3)
    assert refocusd("process", raw, place=tmp_path).returncode == 0
    output = tmp_path / "raw_refocused"
    before = snapshot(output)
    flag = ("--sink", "ome-zarr")
    for done in (
        refocusd("process", raw, *flag, place=tmp_path),
        refocusd("process", raw, place=tmp_path, REFOCUSD_SINK="ome-zarr"),
        refocusd("resume", raw, *flag, place=tmp_path),
    ):
        assert done.returncode == 2
        assert "and a dataset has one format" in done.stderr
        assert "--output" in done.stderr
    assert snapshot(output) == before
    done = refocusd("process", raw, *flag, "--output", "zarr", place=tmp_path)
    assert done.returncode == 0, done.stderr
    # NDTiff was not requested: it continues in the existing format, and says so.
    done = refocusd("process", raw, "--output", "zarr", place=tmp_path)
    assert done.returncode == 0
    assert "is continued in its format, ome-zarr" in done.stderr


@pytest.mark.parametrize("how", ["raw renamed", "both renamed", "both moved"])
def test_a_growing_acquisition_is_found_after_its_raw_was_renamed(tmp_path: Path, how: str) -> None:
    """Half was refocused live; `verify` and `resume` get the raw data at their present place."""
    frames = blurred(6)
    raw = raw_dataset(tmp_path / "run_1", 6)
    with running(quick_settings(tmp_path, pick_up=False)) as daemon, source(daemon) as connection:
        upload = opened(connection, Path(), raw=str(raw), output_="")
        for number in range(3):
            pump_until(upload, lambda: upload.credit)
            upload.submit(frames[number], key(number), "{}", 1)
        pump_until(upload, lambda: not upload.in_flight)
    output = tmp_path / "run_1_refocused"
    now = tmp_path / "cells" if how != "both moved" else tmp_path / "archive" / "run_1"
    now.parent.mkdir(exist_ok=True)
    raw.rename(now)
    if how != "raw renamed":
        output = output.rename(now.with_name(f"{now.name}_refocused"))
    # Another recording beside them is not mistaken for it.
    other = raw_dataset(now.with_name("other"), 6, seed=5)
    assert verify(other, place=tmp_path)[1]["runs"] == []
    assert verify(now, place=tmp_path)[1]["runs"][0]["output"] == str(output)
    done = refocusd("resume", now, place=tmp_path)
    assert done.returncode == 0, done.stderr
    status, said = verify(now, place=tmp_path)
    assert status == 0, said
    assert said["runs"][0]["raw_pixels_compared"] == 6
    assert "nothing to do" in refocusd("process", now, place=tmp_path).stdout


def test_another_recording_that_took_its_place_is_no_raw_of_it(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path / "run_1", 3)
    assert refocusd("process", raw, place=tmp_path).returncode == 0
    raw.rename(tmp_path / "kept")
    raw_dataset(raw, 3, seed=4)
    status, said = verify(tmp_path / "run_1_refocused", place=tmp_path)
    assert status == 1
    assert "another recording" in said["runs"][0]["faults"][0]


def test_a_followed_dataset_recorded_again_is_refused(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path / "run_1", 3)
    assert refocusd("process", raw, place=tmp_path).returncode == 0
    with open_dataset(raw, growing=True) as growing:
        acquisition = announcement(growing, key(0)).acquisition
    assert acquisition == run_file(tmp_path / "run_1_refocused")["acquisition"]
    shutil.rmtree(raw)
    dataset = JavaNDTiff(raw)
    dataset.put({"time": 0, "channel": "DAPI"}, np.full((64, 64), 7, np.uint16), {})
    with (
        open_dataset(raw, growing=True) as growing,
        pytest.raises(OutputError, match="another recording"),
    ):
        announcement(growing, growing.axes_keys()[0])
    dataset.finish()


def test_a_catch_up_leaves_another_recording_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The raw data were deleted and recorded again between one daemon and the next."""
    frames = blurred(4)
    raw = raw_dataset(tmp_path / "run_1", 4)
    settings = quick_settings(tmp_path)
    with running(settings) as daemon, source(daemon) as connection:
        upload = opened(connection, Path(), raw=str(raw), output_="")
        upload.submit(frames[0], key(0), "{}", 1)
        pump_until(upload, lambda: not upload.in_flight)
    shutil.rmtree(raw)
    raw_dataset(raw, 4, seed=8)
    with running(settings) as daemon:
        until(
            lambda: daemon_status(daemon.endpoint, 10.0).details, "the acquisition left unfinished"
        )
        (about,) = daemon_status(daemon.endpoint, 10.0).details
        assert about.raw == str(raw)
        until(lambda: "is another recording than test" in caplog.text, "the refusal")
    assert keys(tmp_path / "run_1_refocused") == [key(0)]


def test_frames_of_the_same_pixels_are_distinguished_by_their_times(tmp_path: Path) -> None:
    """Black frames of a closed shutter, recorded on two days."""
    dark = np.full((64, 64), 100, np.uint16)
    for day in (1, 2):
        axes: dict[str, Any] = {"time": 0}
        said = {"TimeReceivedByCore": f"2026-11-0{day} 10:00:00.0"}
        write_ndtiff(tmp_path / f"day{day}" / "dark_1", [(axes, dark, said)])
    paths = [tmp_path / f"day{day}" / "dark_1" for day in (1, 2)]
    done = refocusd("process", *paths, "--output", "out", place=tmp_path)
    assert done.returncode == 1
    assert "another recording" in done.stderr


def test_an_ome_tiff_is_known_by_its_own_uuid(tmp_path: Path) -> None:
    for day in ("day1", "day2"):
        path = tmp_path / day / "cells.ome.tif"
        path.parent.mkdir()
        tifffile.imwrite(path, blurred(2), ome=True, metadata={"axes": "ZYX"})
    with open_dataset(tmp_path / "day1" / "cells.ome.tif") as frames:
        one = fingerprint(frames)
    with open_dataset(tmp_path / "day2" / "cells.ome.tif") as frames:
        assert one.frames == fingerprint(frames).frames
        assert recognise(frames, fingerprint(frames), {}).proved
        (what,) = recognise(frames, one, {}).differing
    assert "UUID" in what
    assert one.uuid in what


def test_beside_the_root_of_a_drive_nothing_can_lie(tmp_path: Path) -> None:
    root = Path(tmp_path.anchor)
    assert refocused_path(root) == root / "_refocused"
    assert refocused_path(tmp_path / "raw") == tmp_path / "raw_refocused"


def test_all_of_a_drive_but_its_root_may_take_what_is_made_of_a_dataset_in_its_root(
    tmp_path: Path,
) -> None:
    root = Path(tmp_path.anchor)
    for place in (tmp_path, root / "data", root / "data" / "cells.ome.tif"):
        refuse_within(place, root)
    for place in (root, root / "cells.ome.tif"):
        with pytest.raises(OutputError, match="lies within the dataset"):
            refuse_within(place, root)
    assert refocused_in(tmp_path, root.name) == tmp_path / "_refocused"
    assert refocused_in(tmp_path, "raw") == tmp_path / "raw_refocused"


def test_what_was_made_of_a_dataset_in_the_root_of_a_drive_is_exported(tmp_path: Path) -> None:
    output = raw_dataset(tmp_path / "raw", 2).rename(tmp_path / "_refocused")
    (output / RUN_FILE).write_text('{"run": "a", "acquisition": "b", "raw": "/"}')
    status, said = told("export", output, "--output", tmp_path / "all.ome.tif", place=tmp_path)
    assert status == 0, said


def test_a_recording_in_the_root_of_a_drive_is_distinguished_from_its_output(
    tmp_path: Path,
) -> None:
    """The folder stands for the root of a drive: the output of image files is NDTiff inside it."""
    write_ndtiff(tmp_path / "_refocused", [({"time": 0}, np.zeros((32, 32), np.uint16), {})])
    for time_point in range(2):
        tifffile.imwrite(tmp_path / f"img_t{time_point}.tif", blurred(1)[0])
    with open_dataset(tmp_path) as frames:
        assert (frames.path, len(frames)) == (tmp_path.resolve(), 2)
    output = Output(tmp_path / "_refocused", "a", "b", raw="E:\\", engine={}, settings={})
    assert output.raw_places()[0] == tmp_path
    root = tmp_path.anchor
    opened = Open("a", "", 32, 32, "uint16", root, str(refocused_path(Path(root))), "{}")
    check_open(opened)
