"""Micro-Manager's image stacks: the same frames while they are written, and ever after."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from java_ndtiff import JavaStack, frame_of
from recordings_on_disk import frames, write_micromanager, write_tiff

from refocusd.errors import InputError
from refocusd.formats.open_dataset import open_dataset

pytestmark = pytest.mark.fast

SIDE = 32
ONE_OF_EACH = {"Frames": 3, "Slices": 1, "Channels": 1, "Positions": 1}


def put(stack: JavaStack, places: Sequence[tuple[int, int, int, int]]) -> None:
    """Frames at their (channel, z, time, position)."""
    for number, place in enumerate(places):
        indices = ("ChannelIndex", "SliceIndex", "FrameIndex", "PositionIndex")
        stack.put(place, frame_of(number, SIDE), dict(zip(indices, place, strict=True)))


@pytest.mark.parametrize(
    ("summary", "axes"),
    [
        (ONE_OF_EACH, {"time"}),
        # Saved from a script or the live window: nothing says how many there will be.
        ({"Prefix": "run"}, {"time", "z", "channel", "position"}),
        (ONE_OF_EACH | {"ChNames": ["DAPI"]}, {"time", "channel"}),
        (ONE_OF_EACH | {"Frames": 1}, {"time"}),
    ],
)
@pytest.mark.parametrize("finish", [True, False])
def test_a_stack_has_the_axes_when_finished_that_it_had_while_it_grew(
    tmp_path: Path, summary: Mapping[str, Any], axes: set[str], finish: bool
) -> None:
    path = tmp_path / "run_1" / "run_1_MMStack_Pos0.ome.tif"
    stack = JavaStack(path, summary, SIDE, 3)
    put(stack, [(0, 0, 0, 0)])
    with open_dataset(tmp_path / "run_1", growing=True) as followed:
        put(stack, [(0, 0, time, 0) for time in range(1, 3)])
        followed.refresh()
        (stack.finish if finish else stack.abandon)()
        followed.refresh()
        keys = followed.axes_keys()
    assert len(keys) == 3
    for place in (tmp_path / "run_1", path):
        with open_dataset(place) as finished:
            assert finished.axes_keys() == keys
            assert set(finished.read(keys[0]).axes) == axes
            assert finished.finished is finish


@pytest.mark.parametrize("begun", [0, 20, SIDE * SIDE])
def test_a_stack_that_was_never_finished_has_its_whole_frames_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, begun: int
) -> None:
    """As a crash leaves it, and now and then a normal end, within a page: the original is so."""
    stack = JavaStack(tmp_path / "run_MMStack_Pos0.ome.tif", ONE_OF_EACH, SIDE, 6)
    put(stack, [(0, 0, time, 0) for time in range(4)])
    if begun:
        stack.put((0, 0, 4, 0), frame_of(4, SIDE), {"FrameIndex": 4}, cut=begun)
    stack.abandon()
    with open_dataset(tmp_path) as dataset:
        assert dataset.axes_keys() == [f'{{"time":{time}}}' for time in range(4)]
        np.testing.assert_array_equal(dataset.read({"time": 3}).pixels, frame_of(3, SIDE))
        assert not dataset.finished
    assert "never finished" in caplog.text


def test_a_copy_that_ends_too_early_or_was_damaged_is_an_error(tmp_path: Path) -> None:
    places = [(0, 0, time, 0) for time in range(4)]
    path = write_micromanager(tmp_path / "a_MMStack.ome.tif", frames(4), places, ONE_OF_EACH)
    whole = path.read_bytes()
    first = int.from_bytes(whole[4:8], "little")
    for cut in range(12, len(whole), 211):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"damaged|cannot be used|is not a TIFF|holds no page"):
            open_dataset(path)
    path.write_bytes(whole[:first] + b"\xff\xff" + whole[first + 2 :])
    with pytest.raises(InputError, match="not whole"):
        open_dataset(path)
    # One flipped bit: twice as wide, in as many bytes as 8-bit pixels would take.
    assert whole[first + 10] == SIDE
    path.write_bytes(whole[: first + 10] + bytes([2 * SIDE]) + whole[first + 11 :])
    with open_dataset(path) as dataset:
        broken, *others = dataset.axes_keys()
        assert [dataset.unfit(key) for key in others] == [""] * 3
        with pytest.raises(InputError, match="which is impossible"):
            dataset.read(broken)


def test_a_folder_of_more_than_one_recording_says_which(tmp_path: Path) -> None:
    places = [(0, 0, time, 0) for time in range(2)]
    for name in ("a_MMStack_Pos0.ome.tif", "b_MMStack_Pos0.ome.tif"):
        write_micromanager(tmp_path / name, frames(2), places, ONE_OF_EACH)
    with pytest.raises(InputError, match=r"of 2 recordings \(a_, b_\): put each into a folder"):
        open_dataset(tmp_path)
    (tmp_path / "b_MMStack_Pos0.ome.tif").unlink()
    write_tiff(tmp_path / "overview.tif", frames(1)[0])
    with pytest.raises(
        InputError, match=r"and 1 other image, such as overview\.tif: put the others"
    ):
        open_dataset(tmp_path)


def test_a_summary_in_the_text_of_an_older_windows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run_MMStack_Pos0.ome.tif"
    summary = {**ONE_OF_EACH, "ChNames": ["gr__n"]}
    write_micromanager(path, frames(2), [(0, 0, time, 0) for time in range(2)], summary)
    path.write_bytes(path.read_bytes().replace(b"gr__n", "gr\xfc n".encode("cp1252")))
    with open_dataset(path) as dataset:
        assert dataset.summary["ChNames"] == ["grü n"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["Cam-0"], ["Cam-0", "channel 1"]),
        (["DAPI", "GFP"], ["DAPI", "GFP"]),
        (["DAPI", "DAPI"], [0, 1]),
        (["DAPI", "Default"], [0, 1]),
        (["Default"], [0, 1]),
        ([], [0, 1]),
    ],
)
def test_channels_are_told_apart_all_by_name_or_all_by_number(
    tmp_path: Path, names: list[str], expected: list[Any]
) -> None:
    """Live images of two cameras, saved: the summary knows one of them."""
    places = [(channel, 0, time, 0) for time in range(2) for channel in range(2)]
    summary = {"ChNames": names, "Slices": 1, "Positions": 1}
    write_micromanager(tmp_path / "snap_MMStack_Default.ome.tif", frames(4), places, summary)
    with open_dataset(tmp_path) as dataset:
        found = [json.loads(key)["channel"] for key in dataset.axes_keys()]
    assert found == expected * 2
