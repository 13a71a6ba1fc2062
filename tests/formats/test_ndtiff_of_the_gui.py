"""NDTiff as Micro-Manager's GUI writes it: numbered channels, cp1252, files truncated late."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from java_ndtiff import JavaNDTiff, frame_of

from refocusd.formats.open_dataset import open_dataset

pytestmark = pytest.mark.fast

SIDE = 32


@pytest.mark.parametrize("growing", [False, True])
def test_channels_that_are_numbered_have_the_names_of_the_summary(
    tmp_path: Path, growing: bool
) -> None:
    dataset = JavaNDTiff(tmp_path / "run_1", summary={"ChNames": ["DAPI", "Cy5"]})
    for channel in range(2):
        dataset.put({"time": 0, "channel": channel}, frame_of(channel, SIDE), {"Exposure": 10})
    dataset.finish()
    with open_dataset(tmp_path / "run_1", growing=growing) as recording:
        assert recording.axes_keys() == ['{"channel":0,"time":0}', '{"channel":1,"time":0}']
        names = [recording.metadata(key)["Channel"] for key in recording.axes_keys()]
    assert names == ["DAPI", "Cy5"]


@pytest.mark.parametrize("growing", [False, True])
def test_an_index_in_the_text_of_an_older_windows_is_read(tmp_path: Path, growing: bool) -> None:
    axes = {"time": 0, "channel": "grün"}
    dataset = JavaNDTiff(tmp_path / "run_1", summary={"ChNames": ["grün"]}, encoding="cp1252")
    dataset.put(axes, frame_of(7, SIDE), {"Axes": axes, "Objective": "40× Öl"})
    dataset.finish()
    with open_dataset(tmp_path / "run_1", growing=growing) as recording:
        assert recording.axes_keys() == ['{"channel":"grün","time":0}']
        frame = recording.read(recording.axes_keys()[0])
        np.testing.assert_array_equal(frame.pixels, frame_of(7, SIDE))
        assert frame.metadata["Objective"] == "40× Öl"
        assert recording.summary["ChNames"] == ["grün"]


def test_a_dataset_is_finished_once_its_index_is_cut(tmp_path: Path) -> None:
    """Its stacks may keep their full size until Micro-Manager's window is closed."""
    dataset = JavaNDTiff(tmp_path / "run_1")
    dataset.put({"time": 0}, frame_of(0, SIDE), {"Axes": {"time": 0}})
    finished = []
    with open_dataset(tmp_path / "run_1", growing=True) as recording:
        finished.append(recording.finished)
        dataset.put({"time": 1}, frame_of(1, SIDE), {"Axes": {"time": 1}})
        recording.refresh()
        finished.append(recording.finished)
        dataset.finish(stacks=False)
        recording.refresh()
        finished.append(recording.finished)
    dataset.abandon()
    assert finished == [False, False, True]
