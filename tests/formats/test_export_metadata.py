"""Metadata of an exported OME-TIFF: names, channels, times, distances, stage positions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from exported import attributes, dataset, pixels_of, refocusd_export, stack_of
from ndtiff_sinks import numbered_frame

from refocusd.formats.open_sink import SinkKind, create_sink

pytestmark = pytest.mark.fast


def test_the_position_name_of_the_microscope_is_kept(tmp_path: Path) -> None:
    dataset(tmp_path / "d", "ndtiff", [{"time": 0, "position": 0}], PositionName="Well <B2>")
    refocusd_export(tmp_path / "d", "--output", tmp_path / "x.ome.tif")
    assert pixels_of(tmp_path / "x.ome.tif")[1].get("Name") == "Well <B2>"


@pytest.mark.parametrize("kind", ["ndtiff", "ome-zarr"])
@pytest.mark.parametrize(
    ("channels", "names"),
    [
        ((0, 1), ["DAPI", "GFP"]),
        ((1,), ["GFP"]),
        ((4, 2), ["channel 2", "channel 4"]),
    ],
)
def test_channels_keep_their_identity(
    tmp_path: Path, kind: SinkKind, channels: tuple[int, ...], names: list[str]
) -> None:
    made = dataset(tmp_path / "d", kind, stack_of(1, channels, 2))
    refocusd_export(tmp_path / "d", "--output", tmp_path / "x.ome.tif")
    pixels, image = pixels_of(tmp_path / "x.ome.tif")
    assert [channel["Name"] for channel in attributes(image, "Channel")] == names
    for frame in made.values():
        c = sorted(channels).index(int(frame.axes["channel"]))
        np.testing.assert_array_equal(pixels[0, c, int(frame.axes["z"])], frame.pixels)


def test_a_triggered_sequence_has_the_times_of_the_core(tmp_path: Path) -> None:
    with create_sink("ndtiff", tmp_path / "d") as sink:
        for n in range(3):
            said = {"ElapsedTime-ms": 7.0, "TimeReceivedByCore": f"2024-01-01 10:00:0{n}.250000"}
            sink.write(numbered_frame(n).pixels, {"time": n}, said)
    refocusd_export(tmp_path / "d", "--output", tmp_path / "x.ome.tif")
    planes = attributes(pixels_of(tmp_path / "x.ome.tif")[1], "Plane")
    assert [float(plane["DeltaT"]) for plane in planes] == [0, 1, 2]


@pytest.mark.parametrize("kind", ["ndtiff", "ome-zarr"])
def test_distance_of_planes_exposure_and_stage_come_from_the_frames(
    tmp_path: Path, kind: SinkKind
) -> None:
    """Pycromanager states no z step in the summary, but the stage position of each frame."""
    with create_sink(kind, tmp_path / "d", {"PixelSize_um": 0.65}) as sink:
        for n, z in enumerate((2, 0, 1)):
            said = {"ZPosition_um_Intended": 10.0 - 1.5 * z, "XPosition_um_Intended": -3.0}
            sink.write(numbered_frame(n).pixels, {"z": z}, {**said, "Exposure": "20.00"})
    refocusd_export(tmp_path / "d", "--output", tmp_path / "x.ome.tif")
    image = pixels_of(tmp_path / "x.ome.tif")[1]
    assert attributes(image, "Pixels")[0]["PhysicalSizeZ"] == "1.5"
    for plane in attributes(image, "Plane"):
        assert float(plane["PositionZ"]) == 10.0 - 1.5 * int(plane["TheZ"])
        assert (plane["PositionX"], plane["PositionXUnit"]) == ("-3.0", "µm")
        assert (plane["ExposureTime"], plane["ExposureTimeUnit"]) == ("20.0", "ms")


def test_names_that_no_xml_may_hold_are_written_so_that_the_file_is_read(tmp_path: Path) -> None:
    names = ("D\x1b[31mAPI\x00", "GFP\ud800 <&>")
    with create_sink("ndtiff", tmp_path / "d") as sink:
        for n, name in enumerate(names):
            sink.write(numbered_frame(n).pixels, {"channel": name}, {"PositionName": "A\x07"})
    refocusd_export(tmp_path / "d", "--output", tmp_path / "x.ome.tif")
    image = pixels_of(tmp_path / "x.ome.tif")[1]
    found = [channel["Name"] for channel in attributes(image, "Channel")]
    assert found == ["D\ufffd[31mAPI\ufffd", "GFP\ufffd <&>"]
