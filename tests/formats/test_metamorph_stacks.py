"""MetaMorph's stacks (.stk): one directory, all planes behind it, and what MetaMorph's own tags say."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from recordings_on_disk import Frames, assert_reads, frames

from refocusd.formats.dataset import understood
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import canonical_axes

pytestmark = pytest.mark.fast

JULIAN_DAY = 2_458_163


def write_stk(
    path: Path, stack: Frames, *, step_um: float = 0.0, every_ms: int = 0, pixel_um: float = 0.0
) -> Path:
    """A stack as MetaMorph lays it out: its numbers of planes are in tags of fewer bytes than they take."""
    planes, height, width = stack.shape
    pixels = stack.astype("<u2").tobytes()
    of_planes = b"".join(
        struct.pack(
            "<6I", round(step_um * 1000), 1000, JULIAN_DAY, 1000 + n * every_ms, JULIAN_DAY, 0
        )
        for n in range(planes)
    )
    unit = b"um\0"
    at = 8 + 2 + 12 * 11 + 4
    after = at + len(of_planes)
    # SpatialCalibration by its value; XCalibration, YCalibration and CalibrationUnits by their places.
    calibration = struct.pack("<8I", 2, 1, 4, after + 32, 5, after + 32, 6, after + 40)
    texts = struct.pack("<3I", round(pixel_um * 1000), 1000, len(unit)) + unit
    start = after + len(calibration) + len(texts)
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 16),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, start),
        (277, 3, 1, 1),
        (278, 4, 1, height),
        (279, 4, 1, 2 * height * width),
        (33628, 4, 4, after),
        (33629, 5, planes, at),
    ]
    body = struct.pack("<H", len(entries))
    body += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    path.write_bytes(b"II*\0\x08\0\0\0" + body + of_planes + calibration + texts + pixels)
    return path


def test_a_stack_has_the_planes_that_tifffile_finds_and_their_distance(tmp_path: Path) -> None:
    stack = frames(5)
    path = write_stk(tmp_path / "exp.stk", stack, step_um=0.3, pixel_um=0.16)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.series[0].axes == "ZYX"
        np.testing.assert_array_equal(tiff.series[0].asarray(), stack)
        assert tiff.stk_metadata is not None
        assert tiff.stk_metadata["XCalibration"] == 0.16
    with open_dataset(path) as recording:
        assert_reads(recording, {canonical_axes({"z": z}): stack[z] for z in range(5)})
        said = understood(recording)
        assert "z 5; 0.16 µm a pixel, planes 0.3 µm apart; by MetaMorph's tags" in said


def test_a_stack_without_distances_is_a_time_lapse(tmp_path: Path) -> None:
    stack = frames(4)
    path = write_stk(tmp_path / "exp.stk", stack, every_ms=250)
    with open_dataset(path) as recording:
        assert_reads(recording, {canonical_axes({"time": t}): stack[t] for t in range(4)})
        assert recording.plan().elapsed_ms == (0.0, 250.0, 500.0, 750.0)


def test_planes_that_were_cut_off_are_lost_by_name(tmp_path: Path) -> None:
    stack = frames(5)
    path = write_stk(tmp_path / "exp.stk", stack)
    path.write_bytes(path.read_bytes()[: -2 * stack[0].nbytes + 10])
    with open_dataset(path) as recording:
        lost = [key for key in recording if recording.unfit(key)]
        assert lost == [canonical_axes({"z": 3}), canonical_axes({"z": 4})]
        np.testing.assert_array_equal(recording.read({"z": 2}).pixels, stack[2])


def test_a_series_of_stacks_and_single_planes_is_read_by_its_nd_file(tmp_path: Path) -> None:
    """A wave without planes is a TIFF beside the stacks of the others."""
    (tmp_path / "exp.nd").write_text('"WaveName1", "DAPI"\n"Stage1", "A1"\n"ZStepSize", 0.5\n')
    stack = frames(2, 3)
    for t in range(2):
        write_stk(tmp_path / f"exp_w1DAPI_s1_t{t + 1}.stk", stack[t], step_um=0.5)
        tifffile.imwrite(tmp_path / f"exp_w2GFP_s1_t{t + 1}.TIF", stack[t, 0], metadata=None)
    expected = {
        canonical_axes({"channel": "DAPI", "time": t, "z": z}): stack[t, z]
        for t in range(2)
        for z in range(3)
    } | {canonical_axes({"channel": "GFP", "time": t}): stack[t, 0] for t in range(2)}
    with open_dataset(tmp_path) as recording:
        assert {key: recording.read(key).pixels.tobytes() for key in recording} == {
            key: pixels.tobytes() for key, pixels in expected.items()
        }
        assert "planes 0.5 µm apart; by names of MetaMorph" in understood(recording)
