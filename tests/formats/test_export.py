"""Datasets exported to OME-TIFF, read back by tifffile and as recordings."""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from ndtiff_sinks import numbered_frame, opened_by_tifffile, write_all
from recordings_on_disk import assert_reads, frames, nth, write_ndtiff, write_tiff

from refocusd.cli.commands import export as command
from refocusd.cli.flags import add_module
from refocusd.errors import ConfigError, InputError, OutputError, RefocusdError
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.open_sink import SinkKind, create_sink
from refocusd.formats.tiff.ome_export import export
from refocusd.formats.tiff.ome_export_plan import plan_export
from refocusd.frame import Axes, Frame

pytestmark = pytest.mark.fast

SUMMARY = {"PixelSize_um": 0.645, "z-step_um": 2.0, "Interval_ms": 500, "ChNames": ["DAPI", "GFP"]}


@pytest.fixture(params=["ndtiff", "ome-zarr"])
def kind(request: pytest.FixtureRequest) -> SinkKind:
    """Kind of the dataset that is exported."""
    chosen: SinkKind = request.param
    return chosen


def refocusd_export(*arguments: object) -> int:
    """Run the sub-command in this process; errors are raised."""
    parser = argparse.ArgumentParser()
    add_module(parser.add_subparsers(required=True), "export", command)
    parsed = parser.parse_args(["export", *map(str, arguments)])
    status: int = parsed.command(parsed)
    return status


def dataset(
    path: Path, kind: SinkKind, several: Iterable[Axes], summary: Any = SUMMARY, **metadata: Any
) -> dict[str, Frame]:
    """Write a dataset of these axes, and return its frames."""
    made = [
        Frame(numbered_frame(n, (24, 32)).pixels, axes, {"ElapsedTime-ms": 20.0 * n, **metadata})
        for n, axes in enumerate(several)
    ]
    with create_sink(kind, path, summary) as sink:
        write_all(sink, made)
    return {frame.key: frame for frame in made}


def stack_of(times: int, channels: tuple[int | str, ...], planes: int, **more: Any) -> list[Axes]:
    return [
        {"time": t, "channel": c, "z": z, **more}
        for t in range(times)
        for z in reversed(range(planes))
        for c in channels
    ]


def pixels_of(path: Path) -> tuple[Any, ElementTree.Element]:
    """Pixels (t, c, z, y, x) and OME-XML, as tifffile reads the file."""
    with opened_by_tifffile(path) as tiff:
        assert tiff.is_ome
        (series,) = tiff.series
        root = ElementTree.fromstring(str(tiff.ome_metadata))
        image = next(element for element in root.iter() if element.tag.endswith("}Image"))
        (said,) = attributes(image, "Pixels")
        assert said["DimensionOrder"] == "XYZCT"
        sizes = tuple(int(said[f"Size{letter}"]) for letter in "TCZYX")
        assert len(tiff.pages) == np.prod(sizes[:3])
        return series.asarray().reshape(sizes), image


def attributes(image: ElementTree.Element, name: str) -> list[dict[str, str]]:
    return [dict(element.attrib) for element in image.iter() if element.tag.endswith("}" + name)]


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


def test_the_position_name_of_the_microscope_is_kept(tmp_path: Path) -> None:
    dataset(tmp_path / "d", "ndtiff", [{"time": 0, "position": 0}], PositionName="Well <B2>")
    refocusd_export(tmp_path / "d", "--output", tmp_path / "x.ome.tif")
    assert pixels_of(tmp_path / "x.ome.tif")[1].get("Name") == "Well <B2>"


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
    """Of an axis whose first place only was announced, Micro-Manager's first frames have none."""
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
    """The first time is missing as a whole: nothing moves into its place."""
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


def test_a_triggered_sequence_has_the_times_of_the_core(tmp_path: Path) -> None:
    with create_sink("ndtiff", tmp_path / "d") as sink:
        for n in range(3):
            said = {"ElapsedTime-ms": 7.0, "TimeReceivedByCore": f"2024-01-01 10:00:0{n}.250000"}
            sink.write(numbered_frame(n).pixels, {"time": n}, said)
    refocusd_export(tmp_path / "d", "--output", tmp_path / "x.ome.tif")
    planes = attributes(pixels_of(tmp_path / "x.ome.tif")[1], "Plane")
    assert [float(plane["DeltaT"]) for plane in planes] == [0, 1, 2]


def test_distance_of_planes_exposure_and_stage_come_from_the_frames(
    tmp_path: Path, kind: SinkKind
) -> None:
    """Pycromanager names no z step in the summary, but where the stage was for each frame."""
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


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe has no place in a folder there")
def test_nothing_beside_an_export_is_taken_for_its_own(tmp_path: Path) -> None:
    dataset(tmp_path / "d", "ndtiff", [{"time": 0}])
    os.mkfifo(tmp_path / "x.ome.tif.part")  # it would be waited for
    refocusd_export(tmp_path / "d", "--output", tmp_path / "x.ome.tif")
    assert {entry.name for entry in tmp_path.iterdir()} == {"d", "x.ome.tif", "x.ome.tif.part"}
    (tmp_path / "y.ome.tif").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        refocusd_export(tmp_path / "d", "--output", tmp_path / "y.ome.tif", "--overwrite")


def test_existing_files_are_replaced_only_when_asked(tmp_path: Path, kind: SinkKind) -> None:
    dataset(tmp_path / "d", kind, [{"time": 0, "position": p} for p in (0, 1)])
    (tmp_path / "x_position1.ome.tif").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"x_position1.*exists already.*--overwrite"):
        refocusd_export(tmp_path / "d", "--output", tmp_path / "x.ome.tif")
    assert (tmp_path / "x_position1.ome.tif").read_bytes() == b"mine"
    assert not (tmp_path / "x_position0.ome.tif").exists()
    refocusd_export(tmp_path / "d", "--output", tmp_path / "x.ome.tif", "--overwrite")
    assert pixels_of(tmp_path / "x_position1.ome.tif")[0].shape == (1, 1, 1, 24, 32)


def an_empty_one(path: Path) -> None:
    create_sink("ndtiff", path / "d").close()


def a_sparse_one(path: Path) -> None:
    dataset(path / "d", "ndtiff", [{"time": 0}, {"time": 10**9}])


def one_of_two_formats(path: Path) -> None:
    write_ndtiff(path / "d", [({"z": z}, frames(1, side=(24, 32 + z))[0], {}) for z in range(2)])


def a_tiff(path: Path) -> None:
    write_tiff(path / "d", frames(2))


def a_processed_tiff(path: Path) -> None:
    a_tiff(path)
    (path / "d_refocused").mkdir()


def a_folder(path: Path) -> None:
    (path / "d").mkdir()


def a_good_one(path: Path) -> None:
    dataset(path / "d", "ndtiff", [{"time": 0}])


@pytest.mark.parametrize(
    ("prepare", "output", "kind_of_error", "message"),
    [
        (an_empty_one, "x.ome.tif", InputError, "no frame yet"),
        (a_sparse_one, "x.ome.tif", InputError, r"2 frames .* grid of 1000000001 planes"),
        (one_of_two_formats, "x.ome.tif", InputError, r"different formats.*33×24.*32×24"),
        (a_tiff, "x.ome.tif", InputError, "give the folder of a dataset"),
        (a_processed_tiff, "x.ome.tif", InputError, "its refocused frames are in .*d_refocused"),
        (a_folder, "x.ome.tif", InputError, "give the folder of a dataset"),
        (lambda _: None, "x.ome.tif", InputError, "does not exist: give the folder"),
        (a_good_one, "x.tif", ConfigError, r"ends in \.ome\.tif"),
        (a_good_one, ".ome.tif", ConfigError, r"ends in \.ome\.tif"),
        (a_good_one, "d/x.ome.tif", OutputError, "within the dataset"),
        (a_good_one, "file/x.ome.tif", OutputError, r"exporting in .* failed"),
    ],
)
def test_bad_input_is_one_clear_error(
    tmp_path: Path,
    prepare: Callable[[Path], None],
    output: str,
    kind_of_error: type[RefocusdError],
    message: str,
) -> None:
    prepare(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(kind_of_error, match=message):
        refocusd_export(tmp_path / "d", "--output", tmp_path / output, "--fill")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    import resource

    dataset(
        tmp_path / "d", "ndtiff", [{"time": t, "position": p} for t in range(9) for p in (0, 1)]
    )
    output = tmp_path / "out" / "x.ome.tif"
    refocusd_export(tmp_path / "d", "--output", output)
    before = {name: name.read_bytes() for name in output.parent.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 5000, 9 * 1536 + 100):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            # The limit holds for the captured progress bar, too: so without the command.
            with (
                open_dataset(tmp_path / "d") as reader,
                pytest.raises(OutputError, match="the disk is full"),
            ):
                export(plan_export(reader, output, fill=False, overwrite=True), reader)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert {name: name.read_bytes() for name in output.parent.iterdir()} == before


def test_a_frame_that_cannot_be_read_leaves_nothing_behind(tmp_path: Path) -> None:
    dataset(tmp_path / "d", "ndtiff", [{"time": t} for t in range(4)])
    with open_dataset(tmp_path / "d") as reader:
        plan = plan_export(reader, tmp_path / "x.ome.tif", fill=False, overwrite=False)
        stack = tmp_path / "d" / "NDTiffStack.tif"
        stack.write_bytes(stack.read_bytes()[:-3000])
        with pytest.raises(InputError, match="copy the dataset again"):
            export(plan, reader)
    assert {name.name for name in tmp_path.iterdir()} == {"d"}


def test_an_interrupted_export_leaves_nothing_behind(tmp_path: Path) -> None:
    dataset(tmp_path / "d", "ndtiff", [{"time": t} for t in range(4)])
    steps: list[int] = []

    def interrupt() -> None:
        steps.append(len(steps))
        if len(steps) == 6:
            raise KeyboardInterrupt

    with open_dataset(tmp_path / "d") as reader:
        plan = plan_export(reader, tmp_path / "x.ome.tif", fill=False, overwrite=False)
        assert plan.steps == 8
        with pytest.raises(KeyboardInterrupt):
            export(plan, reader, interrupt)
        assert {name.name for name in tmp_path.iterdir()} == {"d"}
        export(plan, reader, lambda: steps.append(0))
    assert len(steps) == 6 + plan.steps
    assert pixels_of(tmp_path / "x.ome.tif")[0].shape[0] == 4


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
    """Beside the OME-XML, of some hundred bytes a plane, one frame is held at a time."""
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


def test_the_module_says_its_errors_in_one_line(tmp_path: Path) -> None:
    """As `refocusd export` would, in a process of its own."""
    code = (
        "import sys, argparse; from refocusd.cli.commands import export; from refocusd.errors import *\n"
        "from refocusd.cli.flags import add_module; parser = argparse.ArgumentParser()\n"
        "add_module(parser.add_subparsers(), 'export', export)\n"
        "parsed = parser.parse_args(sys.argv[1:])\n"
        "try: parsed.command(parsed)\n"
        "except RefocusdError as error: print(error); sys.exit(error.exit_status)"
    )
    arguments = ["export", str(tmp_path / "nothing"), "--output", str(tmp_path / "x.ome.tif")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout.count("\n") == 1
    assert "does not exist" in done.stdout
