"""Sizes, names, times and stage positions go from every reader to every sink and to the export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ndstorage
import numpy as np
import pytest
import tifffile
import zarr
from java_ndtiff import JavaStack
from ndtiff_sinks import write_all
from recordings_on_disk import frames
from test_export import attributes, pixels_of

from refocusd.datasets.dataset import refuse_refocused
from refocusd.errors import InputError
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.open_sink import SinkKind, create_sink
from refocusd.formats.scale import scale_of
from refocusd.formats.tiff.arrangement import from_imagej
from refocusd.formats.tiff.ome_export import export
from refocusd.formats.tiff.ome_export_plan import plan_export

STARTED = "2024-05-06T07:08:09"
NAMES = ["DAPI", "GFP"]
#: Blue and green, as OME-Zarr writes them, Micro-Manager (alpha first) and OME-XML (alpha last).
COLOURS, CH_COLORS, OME_COLORS = ["0000FF", "00FF00"], [-16776961, -16711936], [65535, 16711935]
PLACES = [(t, z, c) for t in range(2) for z in range(3) for c in range(2)]


def ome_tiff(folder: Path) -> Path:
    """As Bio-Formats or tifffile write it, planes with exposure and position."""
    planes = [
        {"ExposureTime": 0.02, "PositionX": 5.0, "PositionXUnit": "mm"}
        | {"PositionZ": 2.0 * z, "PositionZUnit": "µm", "DeltaT": 3.0 * t}
        for t, z, _ in PLACES
    ]
    tifffile.imwrite(
        folder / "a.ome.tif",
        frames(2, 3, 2, side=(32, 40)),
        photometric="minisblack",
        metadata={
            "axes": "TZCYX",
            "PhysicalSizeX": 650,
            "PhysicalSizeXUnit": "nm",
            "PhysicalSizeZ": 2.0,
            "TimeIncrement": 3.0,
            "AcquisitionDate": STARTED,
            "Channel": {"Name": NAMES, "Color": OME_COLORS},
            "Plane": planes,
        },
    )
    return folder / "a.ome.tif"


def imagej(folder: Path) -> Path:
    """A hyperstack whose labels name the channels."""
    tifffile.imwrite(
        folder / "b.tif",
        frames(2, 3, 2, side=(32, 40)),
        imagej=True,
        resolution=(1 / 0.65, 1 / 0.65),
        metadata={"axes": "TZCYX", "unit": "um", "spacing": 2.0, "finterval": 3.0}
        | {"Labels": [f"c:{c + 1}/2 z:{z + 1}/3 t:{t + 1}/2 - {NAMES[c]}" for t, z, c in PLACES]},
    )
    return folder / "b.tif"


def micromanager_stack(folder: Path) -> Path:
    """An image stack as Micro-Manager 2 leaves it."""
    summary = {"Frames": 2, "Slices": 3, "Channels": 2, "Positions": 1, "ChNames": NAMES}
    summary |= {"ChColors": CH_COLORS}
    summary |= {"z-step_um": 2.0, "Interval_ms": 3000, "StartTime": "2024-05-06 07:08:09.000 +0200"}
    stack = JavaStack(folder / "c_1" / "c_1_MMStack_Pos0.ome.tif", summary, 32, len(PLACES))
    for number, (t, z, c) in enumerate(PLACES):
        pixels = np.full((32, 32), number, np.uint16)
        said = {"ChannelIndex": c, "SliceIndex": z, "FrameIndex": t, "PixelSizeUm": 0.65}
        said |= {"Exposure-ms": 20.0, "XPositionUm": 5000.0, "ZPositionUm": 2.0 * z}
        stack.put((c, z, t, 0), pixels, said)
    stack.finish()
    return folder / "c_1"


def pycromanager(folder: Path) -> Path:
    """An NDTiff dataset, whose frames alone say where the stage stood."""
    data = ndstorage.NDTiffDataset(str(folder / "d"), name=None, writable=True)
    data.initialize({"Interval_ms": 3000, "StartTime": STARTED})
    for t, z, c in PLACES:
        said = {"PixelSizeUm": 0.65, "Exposure": 20.0, "ZPosition_um_Intended": 2.0 * z}
        axes = {"time": t, "z": z, "channel": NAMES[c]}
        pixels = np.full((32, 40), z, np.uint16)
        data.put_image(axes, pixels, said | {"XPosition_um_Intended": 5000.0})
    data.finish()
    data.close()
    return folder / "d"


def ome_zarr(folder: Path) -> Path:
    """An image of another program."""
    group = zarr.create_group(folder / "e.zarr")
    array = frames(2, 3, 2, side=(32, 40))
    group.create_array("0", data=array, chunks=(1, 1, 1, 32, 40))
    axes = [{"name": "t", "type": "time", "unit": "second"}]
    axes += [{"name": "z", "type": "space", "unit": "micrometer"}, {"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    scale = {"type": "scale", "scale": [3.0, 2.0, 1.0, 0.65, 0.65]}
    datasets = [{"path": "0", "coordinateTransformations": [scale]}]
    window = {"min": 0, "max": 65535, "start": 0, "end": 900}
    channels = [
        {"label": name, "color": colour, "window": window}
        for name, colour in zip(NAMES, COLOURS, strict=True)
    ]
    ome: Any = {
        "version": "0.5",
        "multiscales": [{"axes": axes, "datasets": datasets}],
        "omero": {"channels": channels},
    }
    group.attrs["ome"] = ome
    return folder / "e.zarr"


@pytest.fixture(params=["ndtiff", "ome-zarr"])
def kind(request: pytest.FixtureRequest) -> SinkKind:
    """Kind of the refocused dataset."""
    chosen: SinkKind = request.param
    return chosen


@pytest.mark.parametrize("recorded", [ome_tiff, imagej, micromanager_stack, pycromanager, ome_zarr])
def test_what_a_reader_knows_is_in_the_sinks_and_in_the_export(
    tmp_path: Path, kind: SinkKind, recorded: Any
) -> None:
    output, exported = tmp_path / "out", tmp_path / "export" / "x.ome.tif"
    with open_dataset(recorded(tmp_path)) as raw, create_sink(kind, output, raw.summary) as sink:
        write_all(sink, [raw.read(key) for key in raw.axes_keys()])
        said = dict(raw.summary)
    if kind == "ndtiff":
        reader = ndstorage.Dataset(str(output))
        assert {k: reader.summary_metadata[k] for k in said} == said
        reader.close()
    else:
        assert_described(output, colours=recorded not in (imagej, pycromanager))
    with open_dataset(output) as refocused:
        export(plan_export(refocused, exported, fill=False, overwrite=False), refocused)
    with open_dataset(exported) as again, pytest.raises(InputError, match="holds refocused frames"):
        refuse_refocused(again)
    _, image = pixels_of(exported)
    pixels = attributes(image, "Pixels")[0]
    assert [float(pixels[f"PhysicalSize{axis}"]) for axis in "XYZ"] == pytest.approx(
        [0.65, 0.65, 2.0]
    )
    assert float(pixels["TimeIncrement"]) == 3.0
    assert [channel["Name"] for channel in attributes(image, "Channel")] == NAMES
    if recorded not in (imagej, pycromanager):
        shown = [int(channel["Color"]) for channel in attributes(image, "Channel")]
        assert shown == OME_COLORS
    if recorded in (imagej, ome_zarr):
        return  # have no more to say
    for plane in attributes(image, "Plane"):
        assert float(plane["ExposureTime"]) == 20.0
        assert float(plane["PositionX"]) == 5000.0
        assert float(plane["PositionZ"]) == 2.0 * int(plane["TheZ"])
    date = next(e.text for e in image.iter() if e.tag.endswith("AcquisitionDate"))
    assert date is not None
    assert date.startswith(STARTED)


def assert_described(path: Path, *, colours: bool) -> None:
    """The OME-Zarr says it all, as yaozarrs reads it."""
    yaozarrs = pytest.importorskip("yaozarrs", reason="yaozarrs is not installed")
    group = yaozarrs.validate_zarr_store(str(path))
    assert group is not None
    ome = json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"]["ome"]
    (change,) = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert change["scale"] == pytest.approx([3.0, 1.0, 2.0, 0.65, 0.65])
    assert [axis.get("unit") for axis in ome["multiscales"][0]["axes"]] == [
        "second",
        None,
        *["micrometer"] * 3,
    ]
    assert [channel["label"] for channel in ome["omero"]["channels"]] == NAMES
    if colours:
        assert [channel["color"] for channel in ome["omero"]["channels"]] == COLOURS


@pytest.mark.parametrize(
    "labels",
    [
        [],
        ["DAPI"],
        # Of slices, not of channels.
        [f"slice {number}" for number in range(6)],
        ["same"] * 6,
        ["", "GFP"] * 3,
    ],
)
def test_labels_that_name_no_channels_are_not_taken_for_names(labels: list[str]) -> None:
    description = "ImageJ=1.54f\nimages=6\nchannels=2\nslices=3\nhyperstack=true\n"
    assert "ChNames" not in from_imagej(description, 6, None, "x.tif", labels).summary


def test_a_stack_that_was_taken_downwards_keeps_the_distance_of_its_planes(tmp_path: Path) -> None:
    assert scale_of({}, {"z-step_um": -1.5}).z_um == 1.5
    assert scale_of({}, {"z-step_um": "-1.5"}).z_um == 1.5
    assert scale_of({}, {"z-step_um": True}).z_um is None
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
