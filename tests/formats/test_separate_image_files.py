"""Micro-Manager's separate image files: one file per frame, with a metadata.txt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bridge_standin_acquisitions import Saved
from bridge_standin_microscope import Microscope
from recordings_on_disk import Frames, assert_reads, frames, nth, write_tiff

from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import canonical_axes

pytestmark = pytest.mark.fast

CHANNELS = ("DAPI", "GFP")
PLACES = [(t, c, z) for t in range(2) for c in range(2) for z in range(3)]


def write_position(folder: Path, stack: Frames, version: str) -> None:
    """Write the folder of one position in the layout of Micro-Manager 1.4 or 2.0."""
    folder.mkdir(parents=True)
    summary = {"ChNames": list(CHANNELS), "z-step_um": 2.0}
    notes: dict[str, Any] = {"Summary": summary}
    for t, c, z in PLACES:
        said = {"FrameIndex": t, "SliceIndex": z, "ChannelIndex": c, "PixelSizeUm": 0.65}
        said["ElapsedTime-ms"] = 100.0 * t
        if version == "1.4":
            name = f"img_{t:09d}_{CHANNELS[c]}_{z:03d}.tif"
            notes[f"FrameKey-{t}-{c}-{z}"] = said | {"FileName": name}
        else:
            name = f"img_channel{c:03d}_position000_time{t:09d}_z{z:03d}.tif"
            notes[f"Coords-{folder.name}/{name}"] = {"time": t}
            notes[f"Metadata-{folder.name}/{name}"] = said
        write_tiff(folder / name, stack[t, c, z], imagej=True)
    (folder / "metadata.txt").write_text(json.dumps(notes), encoding="utf-8")


def expected(stack: Frames, **more: int) -> dict[str, Frames]:
    """The frames of one position by key."""
    return {
        canonical_axes({"time": t, "channel": CHANNELS[c], "z": z, **more}): stack[t, c, z]
        for t, c, z in PLACES
    }


@pytest.mark.parametrize("version", ["1.4", "2.0"])
def test_separate_files_have_the_axes_and_sizes_of_their_metadata(
    tmp_path: Path, version: str
) -> None:
    stack = frames(2, 2, 3)
    write_position(tmp_path / "run_1" / "Pos0", stack, version)
    for folder in (tmp_path / "run_1" / "Pos0", tmp_path / "run_1"):
        with open_dataset(folder) as recording:
            assert_reads(recording, expected(stack))
            assert recording.plan().pixel_um == 0.65
            assert set(recording.plan().elapsed_ms) == {0.0, 100.0}
            assert recording.summary["z-step_um"] == 2.0
            assert nth(recording, 0).metadata["SliceIndex"] == 0


@pytest.mark.parametrize("version", ["1.4", "2.0"])
def test_the_folders_of_a_run_are_its_positions(tmp_path: Path, version: str) -> None:
    stack = frames(2, 2, 2, 3)
    for position in range(2):
        write_position(tmp_path / "run_1" / f"Pos{position}", stack[position], version)
    with open_dataset(tmp_path / "run_1") as recording:
        assert_reads(
            recording, {**expected(stack[0], position=0), **expected(stack[1], position=1)}
        )


@pytest.mark.parametrize("version", ["1.4", "2.0"])
@pytest.mark.parametrize("lost", [0, 1])
def test_a_position_that_lost_its_metadata_is_read_by_its_names(
    tmp_path: Path, version: str, lost: int
) -> None:
    stack = frames(2, 2, 2, 3)
    for position in range(2):
        write_position(tmp_path / "run_1" / f"Pos{position}", stack[position], version)
    (tmp_path / "run_1" / f"Pos{lost}" / "metadata.txt").unlink()
    with open_dataset(tmp_path / "run_1") as recording:
        assert_reads(
            recording, {**expected(stack[0], position=0), **expected(stack[1], position=1)}
        )


@pytest.mark.parametrize("version", ["1.4", "2.0"])
def test_of_files_without_an_entry_the_names_tell(tmp_path: Path, version: str) -> None:
    """A program that died leaves the text unfinished; a western Windows writes it in cp1252."""
    stack = frames(2, 2, 3)
    write_position(tmp_path / "Pos0", stack, version)
    notes = tmp_path / "Pos0" / "metadata.txt"
    text = json.loads(notes.read_text(encoding="utf-8"))
    text["Summary"]["Comment"] = "20× µ"
    notes.write_bytes(json.dumps(text, ensure_ascii=False).encode("cp1252")[:-100])
    with open_dataset(tmp_path / "Pos0") as recording:
        assert_reads(recording, expected(stack))
        assert recording.plan().pixel_um == 0.65
        assert recording.summary["Comment"] == "20× µ"


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
def test_metadata_that_an_editor_on_windows_saved_are_read(tmp_path: Path, coding: str) -> None:
    stack = frames(2, 2, 3)
    write_position(tmp_path / "Pos0", stack, "2.0")
    notes = tmp_path / "Pos0" / "metadata.txt"
    notes.write_text(notes.read_text(encoding="utf-8"), encoding=coding)
    for growing in (False, True):
        with open_dataset(tmp_path / "Pos0", growing=growing) as recording:
            assert_reads(recording, expected(stack))
            assert recording.summary["z-step_um"] == 2.0


@pytest.mark.parametrize("version", ["1.4", "2.0"])
def test_without_readable_metadata_the_names_tell(tmp_path: Path, version: str) -> None:
    stack = frames(2, 2, 3)
    write_position(tmp_path / "Pos0", stack, version)
    (tmp_path / "Pos0" / "metadata.txt").write_bytes(b"{\0\0")
    with open_dataset(tmp_path / "Pos0") as recording:
        found = {frame.axes["channel"] for frame in map(recording.read, recording.axes_keys())}
        assert found == ({"DAPI", "GFP"} if version == "1.4" else {0, 1})
        assert {json.loads(key)["z"] for key in recording.axes_keys()} == {0, 1, 2}
        np.testing.assert_array_equal(nth(recording, 0).pixels, stack[0, 0, 0])


def named(number: int) -> str:
    return canonical_axes({"channel": "DAPI", "time": number})


def test_frames_are_found_while_they_are_written_with_the_axes_of_the_finished_dataset(
    tmp_path: Path,
) -> None:
    saved = Saved(Microscope(), tmp_path, "run", "SINGLEPLANE_TIFF_SERIES", 3)
    stack = frames(3)
    ended = []
    saved.put(0, stack[0])
    with open_dataset(saved.folder, growing=True) as recording:
        assert recording.axes_keys() == [named(0)]
        for number in (1, 2):
            saved.put(number, stack[number])
            assert recording.refresh() == [named(number)]
            ended.append(recording.finished)
            np.testing.assert_array_equal(recording.read(named(number)).pixels, stack[number])
        assert recording.metadata(named(0))["Camera"] == "Camera"
        saved.end()
        assert recording.refresh() == []
        ended.append(recording.finished)
        with open_dataset(saved.folder) as finished:
            assert sorted(finished.axes_keys()) == sorted(recording.axes_keys())
            assert finished.summary["ChNames"] == recording.summary["ChNames"]
    assert ended == [False, False, True]


def test_an_entry_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    saved = Saved(Microscope(), tmp_path, "run", "SINGLEPLANE_TIFF_SERIES", 2)
    for number, pixels in enumerate(frames(2)):
        saved.put(number, pixels)
    notes = saved.folder / "Default" / "metadata.txt"
    whole = notes.read_bytes()
    notes.write_bytes(whole[:-20])
    with open_dataset(saved.folder, growing=True) as recording:
        assert recording.axes_keys() == [named(0)]
        notes.write_bytes(whole)
        assert recording.refresh() == [named(1)]


def test_positions_have_the_numbers_of_micro_manager_whatever_their_names(tmp_path: Path) -> None:
    stack = frames(2, 2, 2, 3)
    for number, name in enumerate(("well B", "well A")):
        folder = tmp_path / "run_1" / name
        write_position(folder, stack[number], "2.0")
        notes = folder / "metadata.txt"
        said = json.loads(notes.read_text(encoding="utf-8"))
        for key, entry in said.items():
            if key.startswith("Metadata-"):
                entry["PositionIndex"] = number
        notes.write_text(json.dumps(said), encoding="utf-8")
    wanted = {**expected(stack[0], position=0), **expected(stack[1], position=1)}
    for growing in (False, True):
        with open_dataset(tmp_path / "run_1", growing=growing) as recording:
            assert_reads(recording, wanted)


def test_the_image_files_of_pymmcore_plus_have_the_names_and_sizes_beside_them(
    tmp_path: Path,
) -> None:
    plan = {
        "channels": [{"config": "DAPI"}, {"config": "FITC"}],
        "z_plan": {"range": 2.0, "step": 1.5},
        "time_plan": {"interval": 2.0, "loops": 2},
    }
    said = {}
    for number, (t, c, z) in enumerate(PLACES):
        name = f"{number:05}_t{t:04}_p000_c{c:02}_z{z:03}.tif"
        write_tiff(tmp_path / name, np.full((24, 32), number, np.uint16))
        said[name] = {"pixel_size_um": 0.65, "exposure_ms": 10.0, "runner_time_ms": 2000.0 * t}
    (tmp_path / "_useq_MDASequence.json").write_text(json.dumps(plan), encoding="utf-8")
    (tmp_path / "_frame_metadata.json").write_text(json.dumps(said), encoding="utf-8")
    with open_dataset(tmp_path) as dataset:
        assert dataset.summary == {
            "ChNames": ["DAPI", "FITC"],
            "z-step_um": 1.5,
            "Interval_ms": 2000.0,
            "PixelSize_um": 0.65,
        }
        assert dataset.plan().pixel_um == 0.65
        last = {"channel": 1, "position": 0, "time": 1, "z": 2}
        assert dataset.metadata(last)["Exposure-ms"] == 10.0
        assert dataset.metadata(last)["ElapsedTime-ms"] == 2000.0
        assert len(dataset) == len(PLACES)
