"""Folders of plate readers and of MetaMorph, read by the names of their files."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from recordings_on_disk import frames, write_tiff

from refocusd.errors import InputError
from refocusd.formats.dataset import understood
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import canonical_axes

UUID = "0F3A8D2E-1B2C-4D5E-8F90-123456789ABC"


def write_files(folder: Path, *names: str) -> dict[str, int]:
    """Write a file of each name; all pixels of the n-th are n."""
    values = {}
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_tiff(folder / name, np.full((24, 32), number, np.uint16))
        values[name] = number
    return values


def read_values(folder: Path) -> dict[str, int]:
    with open_dataset(folder) as dataset:
        return {key: int(dataset.read(key).pixels[0, 0]) for key in dataset.axes_keys()}


def test_a_yokogawa_plate_has_wells_fields_planes_and_channels(tmp_path: Path) -> None:
    names = [
        f"exp_{well}_T0001F00{f}L01A0{c}Z0{z}C0{c}.tif"
        for well in ("B03", "D08")
        for f in (1, 2)
        for z in (1, 2)
        for c in (1, 2)
    ]
    values = write_files(tmp_path, *names, "SC_BP445-45_20x_M01_CH01.tif", "DC_sCMOS_CH01.tif")
    places = [(p, z, c) for p in range(4) for z in range(2) for c in (1, 2)]
    expected = {
        canonical_axes({"position": p, "z": z, "channel": f"C0{c}"}): values[name]
        for name, (p, z, c) in zip(names, places, strict=True)
    }
    assert read_values(tmp_path) == expected
    with open_dataset(tmp_path) as dataset:
        frame = dataset.read({"position": 3, "z": 1, "channel": "C02"})
        assert frame.metadata["PositionName"] == "D08_F002"
        line = understood(dataset)
    assert "position 4" in line
    assert "channels C01, C02" in line
    assert "names of Yokogawa CellVoyager (2 other files left out)" in line


def test_a_metamorph_series_has_waves_stages_and_times_in_their_order(tmp_path: Path) -> None:
    names = [
        f"exp_1_w{w}{dye}_s{s}_t{t}.TIF"
        for w, dye in ((1, "DAPI"), (2, "Cy5_long"))
        for s in (1, 2)
        for t in (1, 2, 10)
    ]
    values = write_files(tmp_path, *names)
    found = read_values(tmp_path)
    assert len(found) == 12
    for s in (1, 2):
        for t in (1, 2, 10):
            key = canonical_axes({"position": s - 1, "time": t - 1, "channel": "Cy5_long"})
            assert found[key] == values[f"exp_1_w2Cy5_long_s{s}_t{t}.TIF"]
    times = [key for key in found if '"channel":"DAPI"' in key and '"position":0' in key]
    assert [key[-2] for key in times] == ["0", "1", "9"]


@pytest.mark.parametrize(
    "name",
    ["exp_s{s}_z{z}_w{w}.tif", "exp_A0{s}_s1_z{z}_w{w}.tif", "A0{s}_s1_w{w}_z{z}.tif"],
)
@pytest.mark.parametrize("first", [0, 1])
def test_the_same_tokens_in_another_order_and_with_wells_are_understood(
    tmp_path: Path, name: str, first: int
) -> None:
    """Positions have different numbers of planes, counted from 0 or from 1."""
    places = [(s, z, w) for s, planes in ((1, 5), (2, 3)) for z in range(planes) for w in (1, 2)]
    values = write_files(tmp_path, *(name.format(s=s, z=z + first, w=w) for s, z, w in places))
    assert read_values(tmp_path) == {
        canonical_axes({"position": s - 1, "z": z, "channel": f"w{w}"}): values[
            name.format(s=s, z=z + first, w=w)
        ]
        for s, z, w in places
    }


def test_a_metamorph_series_of_stacks_has_the_names_and_planes_of_its_nd_file(
    tmp_path: Path,
) -> None:
    for number, name in enumerate(("s1_t1", "s2_t1", "s1_t2", "s2_t2")):
        planes = np.stack([np.full((24, 32), 10 * number + z, np.uint16) for z in range(3)])
        tifffile.imwrite(
            tmp_path / f"exp_w1Cy5_{name}.TIF", planes, photometric="minisblack", metadata=None
        )
    (tmp_path / "exp.nd").write_bytes(
        b'"NDInfoFile", Version 1.0\r\n"Stage1", "A1 \xb5"\r\n"Stage2", "B7"\r\n"ZStepSize", 0,50\r\n'
    )
    with open_dataset(tmp_path) as dataset:
        assert len(dataset) == 12
        for position, time, z in itertools.product(range(2), range(2), range(3)):
            frame = dataset.read({"position": position, "time": time, "z": z, "channel": "Cy5"})
            assert frame.pixels[0, 0] == 10 * (2 * time + position) + z
            assert frame.metadata["PositionName"] == ("A1 µ", "B7")[position]
        assert "planes 0.5 µm apart; by names of MetaMorph" in understood(dataset)


def test_metaxpress_says_pixel_size_place_and_exposure_in_each_file(tmp_path: Path) -> None:
    said = (
        '<MetaData><prop id="Description" type="string" value="Exposure: 250 ms&#13;&#10;"/><PlaneInfo>'
        '<prop id="spatial-calibration-x" type="float" value="0.656"/>'
        '<prop id="spatial-calibration-units" type="string" value="um"/>'
        '<prop id="stage-position-x" type="float" value="-12.5"/>'
        '<prop id="z-position" type="float" value="8030.5"/>'
        '<prop id="_IllumSetting_" type="string" value="DAPI"/></PlaneInfo></MetaData>'
    )
    for well in ("A01", "B02"):
        plane = np.ones((24, 32), np.uint16)
        tifffile.imwrite(tmp_path / f"exp_{well}_s1_w1.tif", plane, description=said, metadata=None)
    with open_dataset(tmp_path) as dataset:
        assert dataset.plan().pixel_um == 0.656
        frame = dataset.read({"position": 1, "channel": "w1"})
        expected: dict[str, Any] = {
            "PixelSizeUm": 0.656,
            "XPositionUm": -12.5,
            "ZPositionUm": 8030.5,
        }
        expected |= {"Exposure-ms": 250.0, "Channel": "DAPI", "PositionName": "B02_s1"}
        assert expected.items() <= frame.metadata.items()
        assert "0.656 µm a pixel" in understood(dataset)


@pytest.mark.parametrize("plane", ["", "ZStep_{z}/"])
def test_an_imagexpress_plate_has_the_times_and_planes_of_its_folders(
    tmp_path: Path, plane: str
) -> None:
    names = {
        canonical_axes({"time": t - 1, "position": s - 1, "channel": f"w{w}"})
        if not plane
        else canonical_axes({"time": t - 1, "position": s - 1, "channel": f"w{w}", "z": z - 1}): (
            f"TimePoint_{t}/{plane.format(z=z)}plate_B02_s{s}_w{w}{UUID}.tif"
        )
        for t in (1, 2)
        for s in (1, 2)
        for w in (1, 2)
        for z in ((1, 2) if plane else (1,))
    }
    thumbs = [name.replace(f"{UUID}.tif", f"_thumb{UUID}.tif") for name in names.values()]
    values = write_files(tmp_path, *names.values(), *thumbs)
    assert read_values(tmp_path) == {key: values[name] for key, name in names.items()}


def test_projections_of_an_imagexpress_plate_are_no_frames(tmp_path: Path) -> None:
    """One wave has a plane only, and no folder for it; plates of 1536 wells have rows of two letters."""
    planes = [f"TimePoint_1/ZStep_{z}/p_AA01_s1_w1.tif" for z in range(3)]
    values = write_files(
        tmp_path, *planes, "TimePoint_1/p_AA01_s1_w1.tif", "TimePoint_1/p_AA01_s1_w2.tif"
    )
    expected = {
        canonical_axes({"channel": "w1", "z": z - 1}): values[planes[z]] for z in (1, 2)
    } | {canonical_axes({"channel": "w2"}): values["TimePoint_1/p_AA01_s1_w2.tif"]}
    assert read_values(tmp_path) == expected
    assert read_values(tmp_path / "TimePoint_1") == expected
    with open_dataset(tmp_path) as dataset:
        assert "names of ImageXpress (2 other files left out)" in understood(dataset)
        assert dataset.metadata(dataset.first_key())["PositionName"] == "AA01_s1"


def test_waves_have_the_names_and_order_of_the_nd_file(tmp_path: Path) -> None:
    (tmp_path / "exp.nd").write_text('"WaveName1", "GFP 488"\n"WaveName2", "DAPI"\n"EndFile"\n')
    values = write_files(tmp_path, "exp_w2_t1.TIF", "exp_w1-GFP 488_t1.TIF")
    assert list(read_values(tmp_path).items()) == [
        (canonical_axes({"channel": "GFP 488"}), values["exp_w1-GFP 488_t1.TIF"]),
        (canonical_axes({"channel": "DAPI"}), values["exp_w2_t1.TIF"]),
    ]


def test_a_metamorph_series_of_one_wave_does_not_number_it(tmp_path: Path) -> None:
    names = [f"exp_s{s}_t{t}.TIF" for s in (1, 2) for t in (1, 2, 10)]
    values = write_files(tmp_path, *names)
    with pytest.raises(InputError, match="whose names give the same axes"):
        open_dataset(tmp_path)
    (tmp_path / "exp.nd").write_text('"DoWave", FALSE\n"Stage2", "B7"\n"EndFile"\n')
    assert read_values(tmp_path) == {
        canonical_axes({"position": s - 1, "time": t - 1}): values[f"exp_s{s}_t{t}.TIF"]
        for s in (1, 2)
        for t in (1, 2, 10)
    }


@pytest.mark.parametrize("prefix", ["expt", "exp001", "exp_"])
def test_tokens_of_nis_elements_need_nothing_in_front(tmp_path: Path, prefix: str) -> None:
    places = list(itertools.product((1, 2), (1, 2), (1, 2)))
    names = [f"{prefix}t{t:03}xy{p}c{c}.tif" for t, p, c in places]
    values = write_files(tmp_path, *names)
    assert read_values(tmp_path) == {
        canonical_axes({"time": t - 1, "position": p, "channel": c}): values[name]
        for (t, p, c), name in zip(places, names, strict=True)
    }


def test_a_plate_folder_with_other_files_in_it_is_refused_by_name(tmp_path: Path) -> None:
    write_files(tmp_path, "exp_D08_T0001F001L01A01Z01C01.tif", "overview.tif")
    with pytest.raises(InputError, match=r"Yokogawa CellVoyager.*others, such as overview\.tif"):
        open_dataset(tmp_path)


def test_files_of_the_same_place_in_two_plates_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, "a_w1DAPI_t1.tif", "b_w1DAPI_t1.tif")
    with pytest.raises(InputError, match="two frames with the axes"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("waves", "channels"),
    [
        (("w1DAPI", "w2GFP"), ("DAPI", "GFP")),
        (("w1405", "w2488 nm"), ("w1405", "w2488 nm")),
        (("w1GFP", "w2GFP"), ("w1GFP", "w2GFP")),
        (("w1", "w2"), ("w1", "w2")),
    ],
)
def test_waves_stay_apart(
    tmp_path: Path, waves: tuple[str, str], channels: tuple[str, str]
) -> None:
    values = write_files(tmp_path, *(f"exp_{wave}_t{t}.tif" for wave in waves for t in (1, 2)))
    found = read_values(tmp_path)
    for wave, channel in zip(waves, channels, strict=True):
        for t in (1, 2):
            key = canonical_axes({"channel": channel, "time": t - 1})
            assert found[key] == values[f"exp_{wave}_t{t}.tif"]


def test_a_number_behind_the_wave_is_no_dye(tmp_path: Path) -> None:
    write_files(tmp_path, "BBBC006__a02__s1__w1_10.tif", "BBBC006__a03__s1__w1_10.tif")
    with open_dataset(tmp_path) as dataset:
        assert len(dataset) == 2
        assert "give no axes" in dataset.source


@pytest.mark.parametrize(
    ("system", "names", "last"),
    [
        (
            "Opera",
            "r0{w}c03f0{s}p0{z}-ch{c}sk{t}fk1fl1.tiff",
            {"channel": "ch2", "position": 3, "time": 1, "z": 1},
        ),
        (
            "CV1000",
            "W000{w}F000{s}T000{t}Z0{z}C{c}.tif",
            {"channel": "C2", "position": 3, "time": 1, "z": 1},
        ),
        (
            "ScanR",
            "exp--W0000{w}--P0000{s}--Z0000{z}--T0000{t}--D{c}.tif",
            {"channel": "D2", "position": 3, "time": 1, "z": 1},
        ),
        (
            "IN Cell",
            "A - 0{w}(fld {s} wv D{c} - E z {z} tm {t}).tif",
            {"channel": "D2 - E", "position": 3, "time": 1, "z": 1},
        ),
        (
            "Cellomics",
            "exp_p00_z0{z}_{t}_B0{w}f0{s}d{c}.TIF",
            {"channel": "2", "position": 3, "time": 1, "z": 1},
        ),
        (
            "Leica's Matrix Screener",
            "image--L0--S00--U0{w}--V00--J08--E00--O00--X0{s}--Y00--T000{t}--Z0{z}--C0{c}.ome.tif",
            {"channel": "C02", "position": 3, "time": 1, "z": 1},
        ),
        ("Incucyte", "exp_A{w}_{s}_0{t}d{z}{c}h30m.tif", {"position": 3, "time": 7}),
        ("Incucyte", "exp_A{w}_{s}_2024y05m0{t}d_{z}{c}h30m.tif", {"position": 3, "time": 7}),
    ],
)
def test_names_of_other_systems_are_wells_fields_planes_and_times(
    tmp_path: Path, system: str, names: str, last: dict[str, Any]
) -> None:
    grid = itertools.product((1, 2), repeat=5)
    values = write_files(
        tmp_path, *(names.format(**dict(zip("wstzc", g, strict=True))) for g in grid)
    )
    found = read_values(tmp_path)
    assert len(found) == 32
    assert found[canonical_axes(last)] == values[names.format(w=2, s=2, t=2, z=2, c=2)]
    with open_dataset(tmp_path) as dataset:
        assert f"names of {system}" in understood(dataset)


@pytest.mark.parametrize(
    "names",
    [
        ["A1.tif", "A2.tif", "B1.tif", "B2.tif"],
        ["x_DAPI_1.tif", "x_DAPI_2.tif", "x_GFP_1.tif", "x_GFP_2.tif"],
        [f"{w}2_01_1_{n}_{c}_001.tif" for w in "AB" for n in (1, 2) for c in ("DAPI", "GFP")],
        # One file is missing; and two parts that change together.
        ["x_DAPI_1.tif", "x_DAPI_2.tif", "x_GFP_1.tif"],
        [f"x_F{f}L1A{c}C{c}.png.tif" for f in (1, 2) for c in (1, 2)],
    ],
)
def test_names_that_are_a_grid_of_unknown_meaning_are_refused(
    tmp_path: Path, names: list[str]
) -> None:
    write_files(tmp_path, *names)
    with pytest.raises(InputError, match=r"differ in \d parts .*, .* × .*; name them with _t"):
        open_dataset(tmp_path)


def test_a_series_by_date_is_a_series(tmp_path: Path) -> None:
    write_files(tmp_path / "days", *(f"scan 2024-05-{d:02}T{7 + d}-30-00.tif" for d in (1, 2, 3)))
    assert list(read_values(tmp_path / "days")) == [f'{{"time":{n}}}' for n in range(3)]
    write_files(tmp_path / "hours", *(f"{7 + n // 6:02}-{n % 6}5.tif" for n in range(1, 12)))
    assert list(read_values(tmp_path / "hours")) == [f'{{"time":{n}}}' for n in range(11)]


def test_names_that_tell_nothing_are_said_to_be_guessed(tmp_path: Path) -> None:
    write_files(tmp_path, "cells.tif", "more cells.tif")
    with open_dataset(tmp_path) as dataset:
        assert "time 2" in understood(dataset)
        assert understood(dataset).endswith("by the order of the files' names, which give no axes")


def test_two_series_in_one_folder_are_no_series_in_time(tmp_path: Path) -> None:
    write_files(tmp_path, "A_t0.tif", "B_t0.tif", "A_t1.tif")
    with pytest.raises(InputError, match=r"give the same axes, A_t0\.tif and B_t0\.tif"):
        open_dataset(tmp_path)


def test_a_token_that_all_names_have_is_not_what_tells_them_apart(tmp_path: Path) -> None:
    write_files(tmp_path, "exp_c1_001.tif", "exp_c1_002.tif")
    with open_dataset(tmp_path) as dataset:
        assert [json.loads(key) for key in dataset] == [{"time": 0}, {"time": 1}]
        assert "the order of the files' names" in dataset.source


def test_one_line_says_how_a_file_was_understood(tmp_path: Path) -> None:
    stack = frames(2, 3, 2, side=(32, 40))
    said = {"axes": "TZCYX", "unit": "um", "spacing": 2.0, "Labels": ["DAPI", "GFP"] * 6}
    write_tiff(tmp_path / "a.tif", stack, imagej=True, resolution=(2.0, 2.0), metadata=said)
    with open_dataset(tmp_path / "a.tif") as dataset:
        line = understood(dataset)
    assert line == (
        "a: 12 frames of 40×32 px uint16: time 2 × z 3 × channel 2 (channels DAPI, GFP); "
        "0.5 µm a pixel, planes 2 µm apart; by ImageJ's description"
    )


@pytest.mark.parametrize(
    ("axes", "told"),
    [
        ({"axes": "TCYX"}, "by the description by tifffile"),
        ({"axes": "QCYX"}, "which does not name all axes (assumed: z)"),
        ({}, "which does not name all axes (assumed: time, z)"),
    ],
)
def test_axes_that_are_assumed_are_said_to_be(
    tmp_path: Path, axes: dict[str, str], told: str
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, frames(2, 3), photometric="minisblack", metadata=axes)
    with open_dataset(path) as dataset:
        assert understood(dataset).endswith(told)
