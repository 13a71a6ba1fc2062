"""Folders of image files: which frames there are, by names, folders and the files themselves."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from recordings_on_disk import (
    assert_reads,
    frames,
    nth,
    real_data,
    write_micromanager,
    write_tiff,
)

from refocusd.errors import InputError
from refocusd.formats.dataset import understood
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import canonical_axes

pytestmark = pytest.mark.fast


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


def test_real_bbbc006_fields_read_as_tifffile_reads_them() -> None:
    folder = real_data() / "bbbc006" / "defocused_z00_w1"
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


def test_real_sharp_fields_in_png_are_read() -> None:
    with open_dataset(real_data() / "bbbc006" / "in_focus_w1") as recording:
        assert len(recording) == 5
        assert recording.plan().format.dtype == np.uint16
        assert 500 < np.percentile(nth(recording, 0).pixels, 99) < 4096


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
