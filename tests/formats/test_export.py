"""Datasets exported to OME-TIFF, read back by tifffile and as recordings."""

from __future__ import annotations

import json
import logging
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from exported import attributes, dataset, pixels_of, refocusd_export, stack_of
from ndtiff_sinks import numbered_frame
from recordings_on_disk import assert_reads, frames, nth, write_ndtiff

from refocusd.errors import InputError
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.open_sink import SinkKind, create_sink
from refocusd.formats.tiff.ome_export import export
from refocusd.formats.tiff.ome_export_plan import plan_export
from refocusd.frame import Axes, Frame

pytestmark = pytest.mark.fast


@pytest.fixture(params=["ndtiff", "ome-zarr"])
def kind(request: pytest.FixtureRequest) -> SinkKind:
    """Format of the dataset that is exported."""
    chosen: SinkKind = request.param
    return chosen


def test_a_dataset_becomes_one_file_with_sizes_names_and_times(
    tmp_path: Path, kind: SinkKind, capsys: pytest.CaptureFixture[str]
) -> None:
    made = dataset(tmp_path / "d", kind, stack_of(3, ("DAPI", "φ 蛍光"), 4))
    output = tmp_path / "new" / "cells.ome.tif"
    figures = tmp_path / "figures.json"
    assert refocusd_export(tmp_path / "d", "--output", output, "--json", figures) == 0
    pixels, image = pixels_of(output)
    assert pixels.shape == (3, 2, 4, 24, 32)
    for frame in made.values():
        c = ("DAPI", "φ 蛍光").index(str(frame.axes["channel"]))
        np.testing.assert_array_equal(
            pixels[int(frame.axes["time"]), c, int(frame.axes["z"])], frame.pixels
        )
    (said,) = attributes(image, "Pixels")
    assert {name: said[name] for name in said if "Physical" in name or "Time" in name} == {
        "PhysicalSizeX": "0.645",
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": "0.645",
        "PhysicalSizeYUnit": "µm",
        "PhysicalSizeZ": "2.0",
        "PhysicalSizeZUnit": "µm",
        "TimeIncrement": "0.5",
        "TimeIncrementUnit": "s",
    }
    assert [channel["Name"] for channel in attributes(image, "Channel")] == ["DAPI", "φ 蛍光"]
    planes = attributes(image, "Plane")
    assert len(planes) == 24
    for plane in planes:
        key = {"time": int(plane["TheT"]), "z": int(plane["TheZ"])}
        channel = ("DAPI", "φ 蛍光")[int(plane["TheC"])]
        frame = made[Frame(pixels[0, 0, 0], {**key, "channel": channel}).key]
        assert float(plane["DeltaT"]) == pytest.approx(frame.metadata["ElapsedTime-ms"] / 1000)
    with open_dataset(output) as recording:
        assert_reads(recording, {key: frame.pixels for key, frame in made.items()})
        plan = recording.plan()
        assert plan.pixel_um == pytest.approx(0.645)
        told = [made[nth(recording, n).key].metadata["ElapsedTime-ms"] for n in range(24)]
        assert plan.elapsed_ms == pytest.approx(told)
    said_json = json.loads(figures.read_text(encoding="utf-8"))
    assert said_json["files"] == [{"path": str(output), "axes": {}, "sizes_tcz": [3, 2, 4]}]
    assert said_json["frames"] == 24
    assert said_json["frames_filled"] == 0
    assert said_json["bytes"] == output.stat().st_size
    assert (said_json["pixel_um"], said_json["z_um"], said_json["interval_s"]) == (0.645, 2.0, 0.5)
    assert "3 times, 2 channels, 4 planes of 32×24 px uint16" in capsys.readouterr().out
    assert [place.name for place in output.parent.iterdir()] == ["cells.ome.tif"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_raw_dataset_is_exported_too(tmp_path: Path, dtype: Any) -> None:
    stack = frames(5, dtype=dtype)
    planes = [({"z": z}, plane, {"PixelSizeUm": 0.325}) for z, plane in enumerate(stack)]
    write_ndtiff(tmp_path / "data" / "raw_1", planes, {})
    output = tmp_path / "raw.ome.tiff"
    refocusd_export(tmp_path / "data", "--output", output)
    pixels, image = pixels_of(output)
    assert pixels.dtype == dtype
    np.testing.assert_array_equal(pixels[0, 0], stack)
    assert attributes(image, "Pixels")[0]["PhysicalSizeX"] == "0.325"
    assert not attributes(image, "Plane")
    assert "Name" not in attributes(image, "Channel")[0]
    with open_dataset(output) as recording:
        assert_reads(recording, {f'{{"z":{z}}}': plane for z, plane in enumerate(stack)})


def test_each_position_becomes_a_file(tmp_path: Path, kind: SinkKind) -> None:
    several = [
        {"time": t, "position": p, "site": s}
        for t in range(2)
        for p in (0, 3)
        for s in ("A/1", "..")
    ]
    made = dataset(tmp_path / "d", kind, several)
    refocusd_export(tmp_path / "d", "--output", tmp_path / "out" / "x.ome.tif")
    names = {
        (p, s): tmp_path / "out" / f"x_position{p}_site{token}.ome.tif"
        for p in (0, 3)
        for s, token in (("A/1", "A-1"), ("..", "-"))
    }
    assert set((tmp_path / "out").iterdir()) == set(names.values())
    for (position, site), name in names.items():
        pixels, image = pixels_of(name)
        assert image.get("Name") == f"position {position}, site {site}"
        for time in range(2):
            axes: Axes = {"time": time, "position": position, "site": site}
            np.testing.assert_array_equal(
                pixels[time, 0, 0], made[Frame(pixels[0, 0, 0], axes).key].pixels
            )


def test_the_files_of_positions_are_one_recording_again(tmp_path: Path, kind: SinkKind) -> None:
    made = dataset(
        tmp_path / "d", kind, [{"time": t, "position": p} for t in range(3) for p in (0, 1)]
    )
    refocusd_export(tmp_path / "d", "--output", tmp_path / "out" / "x.ome.tif")
    with open_dataset(tmp_path / "out") as recording:
        assert_reads(recording, {key: frame.pixels for key, frame in made.items()})


def test_names_that_would_be_the_same_file_stay_apart(tmp_path: Path) -> None:
    several: list[Axes] = [{"site": "a/b"}, {"site": "a.b"}, {"site": "A b"}, {"well": 1}]
    dataset(tmp_path / "d", "ndtiff", several)
    refocusd_export(tmp_path / "d", "--output", tmp_path / "out" / "x.OME.TIF")
    assert sorted(name.name for name in (tmp_path / "out").iterdir()) == [
        "x_siteA-b_3.OME.TIF",
        "x_sitea-b.OME.TIF",
        "x_sitea-b_2.OME.TIF",
        "x_well1.OME.TIF",
    ]


def test_axes_with_gaps_names_and_negative_numbers_are_laid_out(tmp_path: Path) -> None:
    several: list[Axes] = [{"z": z} for z in (-1, 0, 1)]
    made = dataset(tmp_path / "d", "ndtiff", several)
    refocusd_export(tmp_path / "d", "--output", tmp_path / "x.ome.tif")
    for z in (-1, 0, 1):
        np.testing.assert_array_equal(
            pixels_of(tmp_path / "x.ome.tif")[0][0, 0, z + 1], made[f'{{"z":{z}}}'].pixels
        )
    named = dataset(tmp_path / "e", "ndtiff", [{"time": "before"}, {"time": "after"}])
    refocusd_export(tmp_path / "e", "--output", tmp_path / "y.ome.tif")
    pixels = pixels_of(tmp_path / "y.ome.tif")[0]
    for place, frame in enumerate(named.values()):
        np.testing.assert_array_equal(pixels[place, 0, 0], frame.pixels)


def test_an_axis_that_only_some_frames_have_is_laid_out_without_a_hole(tmp_path: Path) -> None:
    """Micro-Manager's first frames lack an axis of which only the first place was announced."""
    several: list[Axes] = [{"channel": "A"}, {"channel": "A", "time": 1}, {"time": 2}]
    dataset(tmp_path / "d", "ndtiff", several)
    with open_dataset(tmp_path / "d") as frames_:
        plan = plan_export(frames_, tmp_path / "x.ome.tif", fill=True, overwrite=False)
        (file,) = plan.files
        assert file.sizes == (3, 2, 1)
        assert set(file.keys) == {(0, 1, 0), (1, 1, 0), (2, 0, 0)}
        export(plan, frames_)
    with tifffile.TiffFile(tmp_path / "x.ome.tif") as tiff:
        assert 'Name="no channel"' in str(tiff.ome_metadata)


def test_missing_frames_are_refused_or_filled_and_counted(tmp_path: Path, kind: SinkKind) -> None:
    """The whole first time point is missing, and nothing moves into its place."""
    several = [axes for axes in stack_of(4, ("DAPI",), 3) if axes["time"] != 0]
    del several[4]
    made = dataset(tmp_path / "d", kind, several)
    output = tmp_path / "x.ome.tif"
    with pytest.raises(
        InputError, match=r"8 of the 12 frames.*4 missing, such as t=0, c=0, z=0.*--fill"
    ):
        refocusd_export(tmp_path / "d", "--output", output)
    assert not output.exists()
    figures = tmp_path / "figures.json"
    assert refocusd_export(tmp_path / "d", "--output", output, "--fill", "--json", figures) == 0
    said = json.loads(figures.read_text(encoding="utf-8"))
    assert (said["frames"], said["frames_filled"]) == (8, 4)
    pixels, image = pixels_of(output)
    assert pixels.shape[:3] == (4, 1, 3)
    assert not pixels[0].any()
    for frame in made.values():
        np.testing.assert_array_equal(
            pixels[int(frame.axes["time"]), 0, int(frame.axes["z"])], frame.pixels
        )
    assert sum("DeltaT" in plane for plane in attributes(image, "Plane")) == 8


@pytest.mark.parametrize("big", [False, True])
def test_more_than_a_tiff_can_hold_is_a_bigtiff(tmp_path: Path, big: bool) -> None:
    made = dataset(tmp_path / "d", "ndtiff", [{"time": t} for t in range(3)])
    limit = 3 * (24 * 32 * 2 + 8192) - int(big)
    with open_dataset(tmp_path / "d") as reader:
        plan = plan_export(reader, tmp_path / "x.ome.tif", fill=False, overwrite=False)
        export(plan, reader, max_tiff_bytes=limit)
    with tifffile.TiffFile(tmp_path / "x.ome.tif") as tiff:
        assert tiff.is_bigtiff == big
    with open_dataset(tmp_path / "x.ome.tif") as recording:
        assert_reads(recording, {key: frame.pixels for key, frame in made.items()})


def test_memory_stays_flat_over_many_planes(tmp_path: Path) -> None:
    """Besides the OME-XML, some hundred bytes per plane, only one frame is in memory at a time."""
    frame = numbered_frame(0, (256, 256))
    with create_sink("ndtiff", tmp_path / "d") as sink:
        for time in range(200):
            sink.write(frame.pixels, {"time": time}, {})
    logging.getLogger("tifffile").setLevel(logging.WARNING)
    tracemalloc.start()
    try:
        refocusd_export(tmp_path / "d", "--output", tmp_path / "x.ome.tif")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6_000_000  # the pixels are 26 MB
    assert pixels_of(tmp_path / "x.ome.tif")[0].shape[0] == 200


@pytest.mark.skipif("REFOCUSD_TEST_DATA" not in os.environ, reason="REFOCUSD_TEST_DATA is not set")
def test_a_real_stack_goes_through_a_dataset_and_back(tmp_path: Path, kind: SinkKind) -> None:
    data = Path(os.environ["REFOCUSD_TEST_DATA"])
    name = next(iter(sorted(data.rglob("*.tif"))), None)
    if name is None:
        pytest.skip(f"{data} holds no TIFF")
    with open_dataset(name) as recording:
        count = min(5, len(recording))
        real = [nth(recording, number) for number in range(count)]
    with create_sink(kind, tmp_path / "d") as sink:
        for time, frame in enumerate(real):
            sink.write(frame.pixels, {"time": time}, frame.metadata)
    refocusd_export(tmp_path / "d", "--output", tmp_path / "x.ome.tif")
    pixels = pixels_of(tmp_path / "x.ome.tif")[0]
    for time, frame in enumerate(real):
        np.testing.assert_array_equal(pixels[time, 0, 0], frame.pixels)
