"""Recordings that consist of image files: the frames read are those that were listed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from recordings_on_disk import (
    assert_reads,
    by_z,
    frames,
    nth,
    write_micromanager,
    write_tiff,
)

from refocusd.errors import InputError
from refocusd.formats.dataset import understood
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import canonical_axes
from refocusd.profiles.microscope_metadata import stage_position_um

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def data() -> Path:
    folder = os.environ.get("REFOCUSD_TEST_DATA")
    if not folder:
        pytest.skip("REFOCUSD_TEST_DATA is not set: no real images here")
    return Path(folder)


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


def test_a_folder_of_micromanager_stacks_keeps_positions_and_split_files_together(
    tmp_path: Path,
) -> None:
    stack = frames(6)
    for name, rows, position, start in (
        ("a_MMStack_Pos0.ome.tif", slice(0, 2), 0, 0),
        ("a_MMStack_Pos0_1.ome.tif", slice(2, 4), 0, 2),
        ("a_MMStack_Pos1.ome.tif", slice(4, 6), 1, 0),
    ):
        places = [(0, 0, start + t, position) for t in range(2)]
        write_micromanager(tmp_path / name, stack[rows], places, {"Slices": 1, "Channels": 1})
    with open_dataset(tmp_path) as recording:
        assert_reads(
            recording,
            {
                canonical_axes({"position": p, "time": t}): plane
                for plane, p, t in zip(stack, (0, 0, 0, 0, 1, 1), (0, 1, 2, 3, 0, 1), strict=True)
            },
        )


def test_a_bbbc006_plate_has_positions_planes_and_channels(tmp_path: Path) -> None:
    stack = frames(2, 2, 3)
    plate = tmp_path / "plate"
    for p, (well, site) in enumerate((("a02", 1), ("a10", 2))):
        for c in range(2):
            for z, plane in enumerate((0, 16, 32)):
                folder = plate / f"BBBC006_v1_images_z_{plane:02d}"
                folder.mkdir(parents=True, exist_ok=True)
                uuid = f"{p}{c}{z}abcdef-714e-450b-85ae-aa924fe725e9"
                name = f"mcf-z-stacks-03212011_{well}_s{site}_w{c + 1}{uuid}.tif"
                write_tiff(folder / name, stack[p, c, z], compression="lzw")
    with open_dataset(plate) as recording:
        plan = recording.plan()
        assert plan.pixel_um == pytest.approx(0.645)
        assert set(plan.elapsed_ms) == {None}
        assert nth(recording, len(plan) - 1).metadata["PositionName"] == "a10_s2"
        assert_reads(
            recording,
            {
                canonical_axes({"position": p, "z": plane, "channel": f"w{c + 1}"}): stack[p, c, z]
                for p in range(2)
                for c in range(2)
                for z, plane in enumerate((0, 16, 32))
            },
        )
    with open_dataset(plate / "BBBC006_v1_images_z_16") as recording:
        assert {axes["z"] for axes in recording.plan().axes} == {16}
        assert len(recording) == 4


def test_single_frames_are_a_time_series_in_natural_order(tmp_path: Path) -> None:
    stack = frames(12)
    for index, plane in enumerate(stack):
        write_tiff(tmp_path / f"frame {index}.TIF", plane)
    (tmp_path / "notes.txt").write_text("not an image", encoding="utf-8")
    (tmp_path / "._frame 3.tif").write_bytes(b"left by another system")
    with open_dataset(tmp_path) as recording:
        assert_reads(recording, {f'{{"time":{t}}}': plane for t, plane in enumerate(stack)})
        assert nth(recording, 11).metadata["FileName"] == "frame 11.TIF"


def test_tokens_that_all_names_have_are_axes(tmp_path: Path) -> None:
    stack = frames(2, 3)
    for t in range(2):
        for z in range(3):
            name = f"img_channel000_position000_time{t:09d}_z{z:03d}.tif"
            write_tiff(tmp_path / name, stack[t, z])
    with open_dataset(tmp_path) as recording:
        assert_reads(
            recording,
            {canonical_axes({"time": t, "z": z}): stack[t, z] for t in range(2) for z in range(3)},
        )


def test_tokens_may_stand_together_and_positions_have_other_numbers_of_planes(
    tmp_path: Path,
) -> None:
    """NIS-Elements exports such names; an incomplete grid is not a time series."""
    planes = iter(frames(8))
    for position, count in ((1, 5), (2, 3)):
        for z in range(count):
            write_tiff(tmp_path / f"exp_xy{position}z{z:02}c1.tif", next(planes))
    with open_dataset(tmp_path) as recording:
        assert set(recording) == {
            f'{{"position":{position},"z":{z}}}'
            for position, count in ((1, 5), (2, 3))
            for z in range(count)
        }


def test_names_that_count_times_and_planes_from_1_begin_at_0(tmp_path: Path) -> None:
    stack = frames(2, 3)
    for t in range(2):
        for z in range(3):
            write_tiff(tmp_path / f"exp_t{t + 1}_z{z + 1}.tif", stack[t, z])
    with open_dataset(tmp_path) as recording:
        keys = {
            canonical_axes({"time": t, "z": z}): stack[t, z] for t in range(2) for z in range(3)
        }
        assert_reads(recording, keys)


@pytest.mark.skipif(os.name == "nt", reason="needs links and pipes")
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_file_beside_image_files_is_reported(tmp_path: Path, kind: str) -> None:
    write_tiff(tmp_path / "t0.tif", frames(1)[0])
    odd = tmp_path / "t1.tif"
    odd.symlink_to(tmp_path / "gone.tif") if kind == "link" else os.mkfifo(odd)
    with pytest.raises(InputError, match=r"t1\.tif is not a file"):
        open_dataset(tmp_path)


def ome_set(folder: Path) -> list[Path]:
    """Two files with a time point each, which refer to each other."""
    names, uuids = ("a.ome.tif", "b.ome.tif"), [f"urn:uuid:{n * 8}" for n in "12"]
    blocks = "".join(
        f'<TiffData IFD="0" FirstT="{t}" PlaneCount="1"><UUID FileName="{name}">{uuids[t]}</UUID></TiffData>'
        for t, name in enumerate(names)
    )
    sizes = 'SizeX="40" SizeY="32" SizeZ="1" SizeC="1" SizeT="2"'
    for t, name in enumerate(names):
        pixels = f'<Pixels DimensionOrder="XYCZT" Type="uint16" {sizes}><Channel/>{blocks}</Pixels>'
        xml = f'<OME UUID="{uuids[t]}"><Image>{pixels}</Image></OME>'
        plane = frames(2, side=(32, 40))[t]
        tifffile.imwrite(folder / name, plane, description=xml, metadata=None)
    return [folder / name for name in names]


def test_files_of_a_set_are_known_by_their_uuid_when_they_were_renamed(tmp_path: Path) -> None:
    for path in ome_set(tmp_path):
        path.rename(path.with_name(f"copy of {path.name}"))
    with open_dataset(tmp_path) as recording:
        assert recording.axes_keys() == ['{"time":0}', '{"time":1}']
        assert "not there" not in recording.source


def test_a_missing_file_of_a_set_is_reported(tmp_path: Path) -> None:
    first, second = ome_set(tmp_path)
    with open_dataset(tmp_path) as recording:
        assert len(recording) == 2
        assert "of the set" not in recording.source
    with open_dataset(first) as recording:
        assert "; 1 other file of the set left out, such as b.ome.tif" in understood(recording)
    second.unlink()
    with open_dataset(tmp_path) as recording:
        assert len(recording) == 1
        assert "; 1 file of the set not found, such as b.ome.tif" in understood(recording)


def test_a_folder_of_folders_with_images_says_which_there_are(tmp_path: Path) -> None:
    for name in ("well A1", "well A2"):
        (tmp_path / name).mkdir()
        write_tiff(tmp_path / name / "img.tif", frames(1)[0])
    with pytest.raises(InputError, match=r"2 folders with images \(well A1, well A2\): give one"):
        open_dataset(tmp_path)


def test_several_stacks_are_positions(tmp_path: Path) -> None:
    stack = frames(2, 3)
    for position, planes in enumerate(stack):
        write_tiff(tmp_path / f"cell{position}.tif", planes, photometric="minisblack")
    with open_dataset(tmp_path) as recording:
        assert_reads(
            recording,
            {
                canonical_axes({"position": p, "z": z}): stack[p, z]
                for p in range(2)
                for z in range(3)
            },
        )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_greyscale_pngs_are_read(tmp_path: Path, dtype: type) -> None:
    stack = frames(2, dtype=dtype)
    for index, plane in enumerate(stack):
        Image.fromarray(plane).save(tmp_path / f"{index}.png")
    with open_dataset(tmp_path) as recording:
        assert_reads(recording, {f'{{"time":{t}}}': plane for t, plane in enumerate(stack)})
    with open_dataset(tmp_path / "1.png") as recording:
        assert_reads(recording, {'{"time":0}': stack[1]})


def test_pngs_beside_tiffs_are_left_out_and_said_to_be(tmp_path: Path) -> None:
    for number, plane in enumerate(frames(3)):
        tifffile.imwrite(tmp_path / f"t{number}.tif", plane)
    for number, plane in enumerate(frames(2)):
        Image.fromarray(plane).save(tmp_path / f"preview{number}.png")
    with open_dataset(tmp_path) as recording:
        assert len(recording) == 3
        assert "; 2 PNG files beside the TIFFs left out" in understood(recording)


@pytest.mark.parametrize(
    ("name", "planes"), [("dfnn_mitochondria_stack.tif", 34), ("isl_phase_contrast_z0-12.tif", 13)]
)
def test_real_stacks_read_as_tifffile_reads_them(data: Path, name: str, planes: int) -> None:
    path = data / "z_stacks" / name
    stack = tifffile.imread(path)
    assert len(stack) == planes
    with open_dataset(path) as recording:
        assert_reads(recording, by_z(stack))


def test_real_bbbc006_fields_read_as_tifffile_reads_them(data: Path) -> None:
    folder = data / "bbbc006" / "defocused_z00_w1"
    files = sorted(folder.glob("*.tif"))
    with open_dataset(folder) as recording:
        plan = recording.plan()
        assert (plan.format.height, plan.format.width, plan.format.dtype.name) == (
            520,
            696,
            "uint16",
        )
        assert all(axes["z"] == 0 and axes["channel"] == "w1" for axes in plan.axes)
        wells = {nth(recording, i).metadata["PositionName"] for i in range(len(plan))}
        assert wells == {"_".join(path.name.split("_")[2:4]) for path in files}
        for index in range(len(plan)):
            frame = nth(recording, index)
            path = folder / frame.metadata["FileName"]
            np.testing.assert_array_equal(frame.pixels, tifffile.imread(path))


def test_real_sharp_fields_in_png_are_read(data: Path) -> None:
    with open_dataset(data / "bbbc006" / "in_focus_w1") as recording:
        assert len(recording) == 5
        assert recording.plan().format.dtype == np.uint16
        assert 500 < np.percentile(nth(recording, 0).pixels, 99) < 4096


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


def test_files_whose_positions_have_one_name_are_told_apart_by_their_own(tmp_path: Path) -> None:
    """pymmcore-plus writes a file for each position, and calls each `Image0`."""
    for number, name in enumerate(("run_p0", "run_second")):
        write_tiff(
            tmp_path / f"{name}.ome.tiff",
            frames(2, 2)[number],
            ome=True,
            photometric="minisblack",
            metadata={"axes": "TYX", "Name": "Image0"},
        )
    with open_dataset(tmp_path) as recording:
        names = {key: recording.metadata(key)["PositionName"] for key in recording}
        assert names == {
            canonical_axes({"position": p, "time": t}): name
            for p, name in enumerate(("run_p0", "run_second"))
            for t in range(2)
        }
