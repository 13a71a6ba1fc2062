"""Recordings that consist of image files: the frames read are those that were listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from recordings_on_disk import (
    assert_reads,
    by_z,
    frames,
    nth,
    real_data,
    write_micromanager,
    write_tiff,
)

from refocusd.formats.dataset import understood
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import canonical_axes
from refocusd.profiles.microscope_metadata import stage_position_um

pytestmark = pytest.mark.fast


ENCODINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
    "strips": {"rowsperstrip": 7},
    "tiles": {"tile": (16, 16)},
    "LZW": {"compression": "lzw"},
    "LZW with predictor in strips": {"compression": "lzw", "predictor": True, "rowsperstrip": 7},
    "Deflate": {"compression": "zlib"},
    "big-endian Deflate with predictor": {
        "compression": "zlib",
        "predictor": True,
        "byteorder": ">",
    },
    "Zstandard tiles": {"compression": "zstd", "tile": (16, 16)},
    "PackBits": {"compression": "packbits"},
}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_plain_stack_is_read_as_planes_in_any_encoding(
    tmp_path: Path, encoding: str, dtype: type
) -> None:
    stack = frames(5, dtype=dtype, side=(40, 37))
    path = write_tiff(
        tmp_path / "stack.tif",
        stack,
        metadata=None,
        photometric="minisblack",
        **ENCODINGS[encoding],
    )
    with open_dataset(path) as recording:
        assert recording.name == "stack"
        assert recording.plan().pixel_um is None
        assert_reads(recording, by_z(stack))


@pytest.mark.parametrize("bits", range(9, 16))
@pytest.mark.parametrize("options", [{}, {"rowsperstrip": 7}])
def test_pixels_that_are_packed_are_read_as_the_counts_they_are(
    tmp_path: Path, bits: int, options: dict[str, Any]
) -> None:
    """Some cameras' programs pack 10 and 12 bits; rows begin on a byte."""
    stack = frames(3, dtype=np.uint16, side=(40, 37)) >> (16 - bits)
    try:
        path = write_tiff(
            tmp_path / "packed.tif", stack, metadata=None, bitspersample=bits, **options
        )
    except NotImplementedError:
        pytest.skip("this version of imagecodecs reads packed pixels, but writes none")
    packed = 3 * 40 * ((37 * bits + 7) // 8)
    assert packed < path.stat().st_size < packed + 2000
    with open_dataset(path) as recording:
        assert_reads(recording, by_z(stack))
        part = recording.read_part(recording.axes_keys()[1], slice(5, 20), slice(3, 30))
        np.testing.assert_array_equal(part, stack[1, 5:20, 3:30])


@pytest.mark.parametrize(("dtype", "step"), [(np.uint8, 257), (np.uint16, 1)])
def test_a_colour_table_that_is_a_plain_grey_ramp_changes_nothing(
    tmp_path: Path, dtype: type, step: int
) -> None:
    """8-bit images of cameras often have a colour table."""
    (pixels,) = frames(1, dtype=dtype)
    levels = np.iinfo(dtype).max + 1
    ramp = np.tile((np.arange(levels) * step).astype(np.uint16), (3, 1))
    path = write_tiff(tmp_path / "fly.tif", pixels, photometric="palette", colormap=ramp)
    with open_dataset(path) as recording:
        assert_reads(recording, {'{"time":0}': pixels})


def test_an_imagej_hyperstack_has_its_axes_times_and_pixel_size(tmp_path: Path) -> None:
    stack = frames(2, 3, 2)
    path = write_tiff(
        tmp_path / "hyper.tif",
        stack,
        imagej=True,
        resolution=(1 / 0.325, 1 / 0.325),
        metadata={"axes": "TZCYX", "unit": "micron", "finterval": 0.5},
    )
    with open_dataset(path) as recording:
        plan = recording.plan()
        assert plan.pixel_um == pytest.approx(0.325)
        assert plan.elapsed_ms == (0.0,) * 6 + (500.0,) * 6
        assert plan.axes[1] == {"time": 0, "z": 0, "channel": 1}
        assert nth(recording, 7).metadata["PixelSizeUm"] == pytest.approx(0.325)
        assert_reads(
            recording,
            {
                canonical_axes({"time": t, "z": z, "channel": c}): stack[t, z, c]
                for t in range(2)
                for z in range(3)
                for c in range(2)
            },
        )


def test_imagej_frames_behind_a_single_directory_are_read(tmp_path: Path) -> None:
    """ImageJ writes stacks above 4 GB in this way, because 32-bit offsets end there."""
    stack = frames(6)
    path = write_tiff(tmp_path / "large.tif", stack, imagej=True, truncate=True)
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) == 1
    with open_dataset(path) as recording:
        assert_reads(recording, {f'{{"channel":{c}}}': stack[c] for c in range(6)})
    path.write_bytes(path.read_bytes()[:-1])
    with open_dataset(path) as recording:
        assert [key for key in recording if recording.unfit(key)] == ['{"channel":5}']
        assert "6 frames are promised" in recording.unfit('{"channel":5}')
        np.testing.assert_array_equal(nth(recording, 4).pixels, stack[4])


def test_an_ome_tiff_has_its_axes_channel_names_times_and_pixel_size(tmp_path: Path) -> None:
    stack = frames(2, 2, 3)
    path = write_tiff(
        tmp_path / "cells.ome.tif",
        stack,
        ome=True,
        metadata={
            "axes": "TCZYX",
            "Channel": {"Name": ["DAPI", "Cy5"]},
            "PhysicalSizeX": 650.0,
            "PhysicalSizeXUnit": "nm",
            "Plane": {"DeltaT": [0.25 * i for i in range(12)], "DeltaTUnit": ["s"] * 12},
        },
    )
    with open_dataset(path) as recording:
        plan = recording.plan()
        assert recording.name == "cells"
        assert plan.pixel_um == pytest.approx(0.65)
        assert plan.elapsed_ms == tuple(250.0 * i for i in range(12))
        assert_reads(
            recording,
            {
                canonical_axes({"time": t, "z": z, "channel": name}): stack[t, c, z]
                for t in range(2)
                for z in range(3)
                for c, name in enumerate(("DAPI", "Cy5"))
            },
        )


def test_images_of_an_ome_tiff_are_positions_and_the_odd_one_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "sites.ome.tif"
    sites, overview = frames(2, 3), frames(1, side=(48, 20))
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(overview, metadata={"axes": "TYX", "Name": "overview"})
        for index, site in enumerate(sites):
            writer.write(site, metadata={"axes": "ZYX", "Name": f"site {index}"})
    with open_dataset(path) as recording:
        assert recording.summary["IgnoredImages"] == ["overview"]
        assert nth(recording, 4).metadata["PositionName"] == "site 1"
        assert_reads(
            recording,
            {
                canonical_axes({"position": p, "z": z}): sites[p, z]
                for p in range(2)
                for z in range(3)
            },
        )


def test_a_tifffile_stack_has_the_axes_of_its_description(tmp_path: Path) -> None:
    stack = frames(4, 3)
    path = write_tiff(
        tmp_path / "shaped.tif", stack, photometric="minisblack", metadata={"axes": "TZYX"}
    )
    with open_dataset(path) as recording:
        expected = {
            canonical_axes({"time": t, "z": z}): stack[t, z] for t in range(4) for z in range(3)
        }
        assert_reads(recording, expected)
    older = write_tiff(
        tmp_path / "older.tif",
        stack,
        photometric="minisblack",
        description='{"axes": "TZYX", "shape": [4, 3, 24, 32]}',
        metadata=None,
    )
    with open_dataset(older) as recording:
        assert_reads(recording, expected)
    whole = write_tiff(
        tmp_path / "one.tif", stack, truncate=True, rowsperstrip=24, metadata={"axes": "TZYX"}
    )
    with open_dataset(whole) as recording:
        assert_reads(recording, expected)


def test_of_several_series_in_a_file_the_largest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "series.tif"
    small, large = frames(2), frames(5, side=(30, 30))
    with tifffile.TiffWriter(path) as writer:
        writer.write(small, photometric="minisblack")
        writer.write(large, photometric="minisblack")
    with open_dataset(path) as recording:
        assert_reads(recording, by_z(large))


@pytest.mark.parametrize("says", ["tags", "index map"])
def test_a_micromanager_stack_has_the_places_of_its_planes(tmp_path: Path, says: str) -> None:
    stack = frames(8)
    places = [(c, z, t, 0) for t in range(2) for z in range(2) for c in range(2)]
    path = write_micromanager(
        tmp_path / "a_MMStack_Pos0.ome.tif",
        stack,
        places,
        {"ChNames": ["DAPI", "FITC"], "Prefix": "a", "Positions": 1},
        tags=says == "tags",
        index_map=says == "index map",
    )
    with open_dataset(path) as recording:
        plan = recording.plan()
        assert plan.pixel_um == pytest.approx(0.325)
        assert plan.elapsed_ms == tuple(5.0 * i for i in range(8))
        assert recording.summary["Prefix"] == "a"
        assert nth(recording, 3).metadata["ElapsedTime-ms"] == 15.0
        assert_reads(
            recording,
            {
                canonical_axes({"time": t, "z": z, "channel": ("DAPI", "FITC")[c]}): plane
                for plane, (c, z, t, _) in zip(stack, places, strict=True)
            },
        )


@pytest.mark.parametrize(
    ("name", "planes"), [("dfnn_mitochondria_stack.tif", 34), ("isl_phase_contrast_z0-12.tif", 13)]
)
def test_real_stacks_read_as_tifffile_reads_them(name: str, planes: int) -> None:
    path = real_data() / "z_stacks" / name
    stack = tifffile.imread(path)
    assert len(stack) == planes
    with open_dataset(path) as recording:
        assert_reads(recording, by_z(stack))


def test_lengths_that_no_microscope_has_are_ignored_and_told(tmp_path: Path) -> None:
    path = write_tiff(
        tmp_path / "far.ome.tif",
        frames(2),
        ome=True,
        photometric="minisblack",
        metadata={
            "axes": "ZYX",
            "PhysicalSizeX": 0.65,
            "PhysicalSizeZ": 2e7,
            "Plane": {"PositionX": [1e300, 1.0], "PositionXUnit": ["µm", "µm"]},
        },
    )
    with open_dataset(path) as recording:
        said = understood(recording)
        assert (
            "0.65 µm a pixel (ignored, as no light microscope has it: X position 1e+300, " in said
        )
        assert "distance of planes 20000000.0)" in said
        assert stage_position_um(recording.metadata(recording.first_key()), "X") is None


PREFIXED = '<o:OME xmlns:o="http://www.openmicroscopy.org/Schemas/OME/2016-06">{}</o:OME>'
PLAIN = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{}</OME>'
PIXELS = (
    '<{0}Image><{0}Pixels DimensionOrder="XYCZT" Type="uint16" SizeX="32" SizeY="24" SizeZ="2" '
    'SizeC="2" SizeT="1"><{0}Channel Fluor="DAPI"/><{0}Channel Name="GFP" Fluor="x"/>{1}'
    "</{0}Pixels></{0}Image>"
)


@pytest.mark.parametrize(
    ("xml", "count", "source"),
    [
        (PLAIN.format(PIXELS.format("", "")), 4, "OME-XML"),
        (PREFIXED.format(PIXELS.format("o:", "<o:TiffData/>")), 4, "OME-XML"),
        (
            "<!-- " + "x" * 3000 + " -->" + PLAIN.format(PIXELS.format("", "<TiffData/>")),
            4,
            "OME-XML",
        ),
        (
            PLAIN.format(PIXELS.format("", '<TiffData IFD="0"/><TiffData IFD="1" FirstC="1"/>')),
            2,
            "OME-XML; 2 pages that it does not name left out",
        ),
    ],
)
def test_ome_xml_is_understood_however_it_is_written(
    tmp_path: Path, xml: str, count: int, source: str
) -> None:
    stack = frames(4)
    path = tmp_path / "cells.ome.tif"
    tifffile.imwrite(path, stack, photometric="minisblack", metadata=None, description=xml)
    with open_dataset(path) as recording:
        assert (len(recording), recording.source) == (count, source)
        assert recording.summary["ChNames"] == ["DAPI", "GFP"]
        np.testing.assert_array_equal(nth(recording, 1).pixels, stack[1])
