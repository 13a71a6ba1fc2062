"""Sizes, names, times and stage positions go from every reader to every sink and to the export.

Outputs are read back with other readers: ndstorage, yaozarrs and zarr, tifffile and ome-types.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import ndstorage
import numpy as np
import pytest
import tifffile
import zarr
from described_recordings import (
    CH_COLORS,
    EXPOSURE_MS,
    INTERVAL_S,
    NAMES,
    OME_COLORS,
    PIXEL_UM,
    PLACES,
    SIZES,
    STARTED,
    STEP_UM,
    Recorded,
    every_kind,
    place_of,
    seconds,
    stage_um,
)
from ndtiff_sinks import write_all
from recordings_on_disk import frames

from refocusd.datasets.dataset import refuse_refocused
from refocusd.errors import InputError
from refocusd.formats.metadata import start_of
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.open_sink import SinkKind, create_sink
from refocusd.formats.scale import Scale, scale_of
from refocusd.formats.tiff.arrangement import from_imagej
from refocusd.formats.tiff.ome_export import export
from refocusd.formats.tiff.ome_export_plan import plan_export


@pytest.fixture(params=["ndtiff", "ome-zarr"])
def kind(request: pytest.FixtureRequest) -> SinkKind:
    """Format of the dataset that is written."""
    chosen: SinkKind = request.param
    return chosen


@pytest.mark.parametrize("recorded", list(every_kind()), ids=str)
def test_what_a_reader_knows_is_in_the_sinks_and_in_the_export(
    tmp_path: Path, kind: SinkKind, recorded: Recorded
) -> None:
    output = tmp_path / "out"
    with open_dataset(recorded.write(tmp_path)) as raw:
        assert len(raw) == len(PLACES) if len(recorded.positions) > 1 else len(PLACES) // 2
        export_and_check(raw, tmp_path / "of_raw" / "x.ome.tif", recorded)
        with create_sink(kind, output, raw.summary) as sink:
            write_all(sink, [raw.read(key) for key in raw.axes_keys()])
    (check_ndtiff if kind == "ndtiff" else check_ome_zarr)(output, recorded)
    with open_dataset(output) as refocused:
        exported = export_and_check(refocused, tmp_path / "export" / "x.ome.tif", recorded)
    with open_dataset(exported[0]) as again, pytest.raises(InputError, match="refocused frames"):
        refuse_refocused(again)


def check_frame(said: Mapping[str, Any], pixel: int, recorded: Recorded) -> None:
    """Compare a frame's metadata, under Micro-Manager's names, with what went in."""
    place = place_of(pixel)
    p = place[0]
    assert float(said["PixelSizeUm"]) == pytest.approx(PIXEL_UM)
    assert said.get("PositionName", "") == recorded.positions[p]
    if "exposure" not in recorded.lacks:
        assert float(said.get("Exposure-ms", said.get("Exposure", 0))) == EXPOSURE_MS
    if "stage" not in recorded.lacks:
        where = [said.get(f"{a}PositionUm", said.get(f"{a}Position_um_Intended")) for a in "XYZ"]
        assert where == pytest.approx(stage_um(place))
    if "times" not in recorded.lacks:
        received = said.get("TimeReceivedByCore")
        elapsed = (
            (datetime.fromisoformat(received).replace(tzinfo=None) - STARTED).total_seconds()
            if received
            else said["ElapsedTime-ms"] / 1e3
        )
        assert elapsed == pytest.approx(seconds(place))


def check_summary(said: Mapping[str, Any], recorded: Recorded) -> None:
    if "start" not in recorded.lacks and recorded.write.__name__ not in (
        "metamorph",
        "imagexpress",
    ):
        started = start_of(said)
        assert started is not None
        assert started.replace(tzinfo=None) == STARTED
    if "interval" not in recorded.lacks:
        assert float(said["Interval_ms"]) == 1e3 * INTERVAL_S


def check_ndtiff(path: Path, recorded: Recorded) -> None:
    """Check an NDTiff output with ndstorage."""
    data = ndstorage.Dataset(str(path))
    check_summary(data.summary_metadata, recorded)
    coordinates = data.get_image_coordinates_list()
    for axes in coordinates:
        pixel = int(data.read_image(**axes)[0, 0])
        said = data.read_metadata(**axes)
        check_frame(said, pixel, recorded)
        name = NAMES[place_of(pixel)[3]]
        listed = data.summary_metadata.get("ChNames") or NAMES
        channel = axes["channel"]
        named = listed[channel] if isinstance(channel, int) else channel
        assert name in (named, said.get("Channel"))
    assert len(coordinates) == len(recorded.positions) * len(PLACES) // 2
    data.close()


def check_ome_zarr(path: Path, recorded: Recorded) -> None:
    """Check an OME-Zarr output with yaozarrs and zarr; the list of frames holds what it cannot."""
    yaozarrs = pytest.importorskip("yaozarrs", reason="yaozarrs is not installed")
    assert yaozarrs.validate_zarr_store(str(path)) is not None
    own: Any = zarr.open_group(path / "refocusd", mode="r").attrs.asdict()
    check_summary(own["summary"], recorded)
    for line in (path / "refocusd" / "frames.jsonl").read_text(encoding="utf-8").splitlines():
        said = json.loads(line)
        array = zarr.open_array(str(path / str(said["image"]) / "0"), mode="r")
        check_frame(said["metadata"], int(np.asarray(array[tuple(said["at"])])[0, 0]), recorded)
    for p, name in enumerate(recorded.positions):
        array = zarr.open_array(str(path / str(p) / "0"), mode="r")
        for (t, c, z), pixel in np.ndenumerate(np.asarray(array)[:, :, :, 0, 0]):
            assert place_of(int(pixel)) == (p, t, z, c)
        ome: Any = zarr.open_group(path / str(p), mode="r").attrs["ome"]
        (multiscale,) = ome["multiscales"]
        assert multiscale["name"] == (name or "refocused")
        known = "interval" not in recorded.lacks
        (change,) = multiscale["datasets"][0]["coordinateTransformations"]
        scale = [INTERVAL_S if known else 1.0, 1.0, STEP_UM, PIXEL_UM, PIXEL_UM]
        assert change["scale"] == pytest.approx(scale)
        units = ["second" if known else None, None, *["micrometer"] * 3]
        assert [axis.get("unit") for axis in multiscale["axes"]] == units
        channels = ome["omero"]["channels"]
        assert [channel["label"] for channel in channels] == list(NAMES)
        if "colours" not in recorded.lacks:
            colours = [f"{colour & 0xFFFFFF:06X}" for colour in CH_COLORS]
            assert [channel["color"] for channel in channels] == colours


def said(element: Any, name: str, unit: str) -> float:
    """A quantity in OME-XML, asserting that it has the unit of our exports."""
    assert getattr(element, f"{name}_unit").value == unit
    return float(getattr(element, name))


def export_and_check(source: Any, path: Path, recorded: Recorded) -> list[Path]:
    """Export a dataset, and check the files with tifffile and ome-types."""
    ome_types = pytest.importorskip("ome_types", reason="ome-types is not installed")
    export(plan_export(source, path, fill=False, overwrite=False), source)
    files = sorted(path.parent.iterdir())
    assert len(files) == len(recorded.positions)
    for p, (file, name) in enumerate(zip(files, recorded.positions, strict=True)):
        stack = tifffile.imread(file).reshape(SIZES[1], SIZES[3], SIZES[2], *[32, 32])
        (image,) = ome_types.from_tiff(file).images
        about = image.pixels
        assert not name or image.name == name
        if "start" not in recorded.lacks:
            assert image.acquisition_date.replace(tzinfo=None) == STARTED
        sizes = [said(about, f"physical_size_{axis}", "µm") for axis in "xyz"]
        assert sizes == pytest.approx([PIXEL_UM, PIXEL_UM, STEP_UM])
        if "interval" not in recorded.lacks:
            assert said(about, "time_increment", "s") == INTERVAL_S
        assert [channel.name for channel in about.channels] == list(NAMES)
        if "colours" not in recorded.lacks:
            rgba = [int(channel.color.as_int32()) for channel in about.channels]
            assert [value & 0xFFFFFFFF for value in rgba] == [c & 0xFFFFFFFF for c in OME_COLORS]
        for plane in about.planes:
            t, z, c = plane.the_t, plane.the_z, plane.the_c
            place = (p, t, z, c)
            assert place_of(int(stack[t, c, z, 0, 0])) == place
            if "times" not in recorded.lacks:
                assert said(plane, "delta_t", "s") == pytest.approx(seconds(place))
            if "exposure" not in recorded.lacks:
                assert said(plane, "exposure_time", "ms") == pytest.approx(EXPOSURE_MS)
            if "stage" not in recorded.lacks:
                where = [said(plane, f"position_{axis}", "µm") for axis in "xyz"]
                assert where == pytest.approx(stage_um(place))
        assert len(about.planes) in (0, 12)
    return files


@pytest.mark.parametrize(
    "labels",
    [
        [],
        ["DAPI"],
        # Labels of slices, not of channels.
        [f"slice {number}" for number in range(6)],
        ["same"] * 6,
        ["", "GFP"] * 3,
    ],
)
def test_labels_that_name_no_channels_are_not_mistaken_for_names(labels: list[str]) -> None:
    description = "ImageJ=1.54f\nimages=6\nchannels=2\nslices=3\nhyperstack=true\n"
    assert "ChNames" not in from_imagej(description, 6, None, "x.tif", labels).summary


def test_a_stack_that_was_taken_downwards_keeps_the_distance_of_its_planes(tmp_path: Path) -> None:
    assert scale_of({}, {"z-step_um": -1.5}).z_um == 1.5
    assert scale_of({}, {"z-step_um": "-1.5"}).z_um == 1.5
    assert scale_of({}, {"z-step_um": True}).z_um is None
    assert scale_of({}, {"z-step_um": 1e300, "zStep_um": 0.5}).z_um == 0.5
    assert scale_of({}, {"Interval_ms": 1e300, "PixelSize_um": 1e300}) == Scale()
    fiji = "ImageJ=1.54f\nimages=3\nslices=3\nunit=micron\nspacing=-3.0\n"
    assert from_imagej(fiji, 3, None, "x.tif").summary["z-step_um"] == 3.0
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        frames(3, side=(32, 40)),
        photometric="minisblack",
        metadata={"axes": "ZYX", "PhysicalSizeZ": -0.5}
        | {"Plane": {"PositionX": [0.005] * 3, "PositionXUnit": ["m"] * 3}},
    )
    with open_dataset(tmp_path / "a.ome.tif") as recording:
        assert scale_of({}, recording.summary).z_um == 0.5
        assert recording.metadata({"z": 0})["XPositionUm"] == 5000.0


@pytest.mark.parametrize(
    ("told", "interval_ms", "step_um"),
    [
        ("unit=um\nspacing=0.5\nfinterval=2", 2000.0, 0.5),
        ("unit=\\u00B5m\nspacing=0.5\nfinterval=500\ntunit=ms", 500.0, 0.5),
        ("unit=micron\nspacing=300\nzunit=nm\nfinterval=2\ntunit=min", 120_000.0, 0.3),
        ("unit=um\nspacing=0.5\nzunit=plane\nfinterval=2\ntunit=frames", None, None),
        ("unit=inch\nspacing=0.0001\nfinterval=1\ntunit=hr", 3.6e6, 2.54),
    ],
)
def test_units_that_imagej_gives_z_and_time_are_their_own(
    told: str, interval_ms: float | None, step_um: float | None
) -> None:
    description = f"ImageJ=1.54f\nimages=6\nslices=3\nframes=2\nhyperstack=true\n{told}\n"
    arrangement = from_imagej(description, 6, None, "x.tif")
    assert arrangement.summary.get("Interval_ms") == interval_ms
    assert arrangement.summary.get("z-step_um") == pytest.approx(step_um)
    assert arrangement.frames[-1].elapsed_ms == interval_ms
