"""A lab's own through-focus stacks, in the formats that they come in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from refocusd_training.data.config import DataConfig
from refocusd_training.data.source import open_samples
from refocusd_training.data.stacks import find_stacks, focus_of
from refocusd_training.simulate.blur import Defocus
from refocusd_training.simulate.camera import Camera
from refocusd_training.simulate.ranges import Setting
from refocusd_training.simulate.scene import simulate_frame

from refocusd.errors import InputError
from refocusd.imaging.optics import Optics

STEP_UM = 4.0
PLANES = 9
#: Number of the plane in focus, for each field.
FOCI = (4.3, 3.2, 5.0, 4.0)
STACKS = DataConfig(kind="stacks", validate=0.25, test=0.0, validation_batches=1)
Stack = NDArray[np.uint16]


@pytest.fixture(scope="module")
def stacks(flux: NDArray[np.float32]) -> list[Stack]:
    """Give four fields through focus, shape (planes, height, width)."""
    setting = Setting("20x", Optics(0.45, 0.461), Camera(110.0, 1.0, 3.0, bits=16), 900.0)
    fields = [flux[:256, :256], flux[:256, 256:], flux[256:, :256], flux[256:, 256:]]
    rng = np.random.default_rng(0)
    return [
        np.stack(
            [
                simulate_frame(part, setting, Defocus((z - focus) * STEP_UM), rng).raw
                for z in range(PLANES)
            ]
        ).astype(np.uint16)
        for part, focus in zip(fields, FOCI, strict=True)
    ]


def write_ome_tiff(folder: Path, stacks: list[Stack]) -> None:
    for number, stack in enumerate(stacks):
        tifffile.imwrite(
            folder / f"field{number}.ome.tif",
            stack,
            ome=True,
            photometric="minisblack",
            metadata={"axes": "ZYX", "PhysicalSizeZ": STEP_UM, "PhysicalSizeZUnit": "µm"},
        )


def write_imagej(folder: Path, stacks: list[Stack]) -> None:
    for number, stack in enumerate(stacks):
        tifffile.imwrite(
            folder / f"field{number}.tif",
            stack,
            imagej=True,
            metadata={"axes": "ZYX", "spacing": STEP_UM, "unit": "um"},
        )


def write_ndtiff(folder: Path, stacks: list[Stack]) -> None:
    from ndstorage import NDTiffDataset

    dataset = NDTiffDataset(str(folder / "stacks"), name=None, writable=True)
    dataset.initialize({"PixelSize_um": 0.645})
    for number, stack in enumerate(stacks):
        for z, plane in enumerate(stack):
            said = {"ZPosition_um_Intended": 100.0 + STEP_UM * z}
            dataset.put_image({"position": number, "z": z}, plane, said)
    dataset.finish()
    dataset.close()


def write_single_planes(folder: Path, stacks: list[Stack]) -> None:
    for number, stack in enumerate(stacks):
        for z, plane in enumerate(stack):
            tifffile.imwrite(folder / f"img_position{number:03d}_z{z:03d}.tif", plane)


def write_ome_zarr(folder: Path, stacks: list[Stack], version: str = "0.5") -> None:
    import zarr

    for number, stack in enumerate(stacks):
        path = folder / f"field{number}.ome.zarr"
        form = 3 if version == "0.5" else 2
        multiscales = [
            {
                "version": version,
                "axes": [
                    {"name": "c", "type": "channel"},
                    {"name": "z", "type": "space", "unit": "micrometer"},
                    {"name": "y", "type": "space", "unit": "micrometer"},
                    {"name": "x", "type": "space", "unit": "micrometer"},
                ],
                "datasets": [
                    {
                        "path": "0",
                        "coordinateTransformations": [
                            {"type": "scale", "scale": [1.0, STEP_UM, 0.645, 0.645]}
                        ],
                    }
                ],
            }
        ]
        said = {"multiscales": multiscales, "omero": {"channels": [{"label": "DAPI"}]}}
        attributes = {"ome": said} if form == 3 else said
        group = zarr.open_group(str(path), mode="w", zarr_format=form, attributes=attributes)  # type: ignore[arg-type]
        array = group.create_array(
            "0", shape=(1, *stack.shape), chunks=(1, 1, *stack.shape[1:]), dtype="uint16"
        )
        array[0] = stack


FORMATS: dict[str, Callable[[Path, list[Stack]], None]] = {
    "ome-tiff": write_ome_tiff,
    "imagej": write_imagej,
    "ndtiff": write_ndtiff,
    "ome-zarr": write_ome_zarr,
    "planes": write_single_planes,
}


@pytest.mark.parametrize("form", FORMATS)
def test_stacks_of_every_format_give_pairs_with_their_sharpest_plane(
    tmp_path: Path, stacks: list[Stack], form: str
) -> None:
    FORMATS[form](tmp_path, stacks)
    config = DataConfig(kind="stacks", z_step_um=STEP_UM if form == "planes" else 0.0)
    found = find_stacks(tmp_path, config)
    try:
        assert [stack.best for stack in found.stacks] == [round(focus) for focus in FOCI]
        for stack, focus in zip(found.stacks, FOCI, strict=True):
            assert stack.focus == pytest.approx(focus, abs=0.3)
            assert stack.step_um == pytest.approx(STEP_UM)
            assert stack.defocus_um(0) == pytest.approx(-focus * STEP_UM, abs=1.2)
        assert len({stack.field for stack in found.stacks}) == 4
        assert {stack.channel for stack in found.stacks} == {"DAPI" if form == "ome-zarr" else ""}
        first = found.read((found.stacks[1].recording, found.stacks[1].planes[2]))
        np.testing.assert_array_equal(first, stacks[1][2])
    finally:
        found.close()


def test_stacks_of_a_plate_are_found_by_field_and_refocused_ones_are_not(
    tmp_path: Path, stacks: list[Stack]
) -> None:
    import zarr

    for name in ("plate.zarr", "plate_refocused.zarr"):
        plate = zarr.open_group(tmp_path / name, mode="w", zarr_format=2)
        plate.attrs["plate"] = {"version": "0.4", "wells": [{"path": "A/1"}]}
        well = plate.require_group("A/1")
        well.attrs["well"] = {"version": "0.4", "images": [{"path": "0"}, {"path": "1"}]}
        inside = tmp_path / name / "A" / "1"
        write_ome_zarr(inside, stacks[:2], "0.4")
        for number in range(2):
            (inside / f"field{number}.ome.zarr").rename(inside / str(number))
    found = find_stacks(tmp_path, DataConfig(kind="stacks"))
    try:
        assert [stack.best for stack in found.stacks] == [round(focus) for focus in FOCI[:2]]
        assert len({stack.field for stack in found.stacks}) == 2
        assert all(stack.step_um == pytest.approx(STEP_UM) for stack in found.stacks)
        assert found.skipped == {"recording that refocusd has written": 2}
    finally:
        found.close()


@pytest.mark.parametrize("form", ["ome-tiff", "ndtiff", "ome-zarr"])
def test_batches_know_their_defocus_and_fields_are_on_one_side(
    tmp_path: Path, stacks: list[Stack], form: str
) -> None:
    FORMATS[form](tmp_path, stacks)
    source = open_samples(STACKS, tmp_path, size=64, batch=6, seed=1)
    fields = source.description["fields"]
    assert isinstance(fields, dict)
    assert len(fields["train"] + fields["validate"]) == 4
    assert not set(fields["train"]) & set(fields["validate"])
    assert fields["validate"]
    batch = next(source.batches(0))
    assert batch.raw.shape == (6, 1, 64, 64)
    assert 1.0 < np.abs(batch.defocus_um).max() <= STEP_UM * PLANES
    (fixed,) = source.validation()
    assert fixed.raw.shape == (6, 1, 64, 64)
    # Near focus, the two frames of a pair are alike if they show the same place.
    near = min(range(6), key=lambda i: abs(fixed.defocus_um[i]))
    alike = np.corrcoef(fixed.raw[near].ravel(), fixed.truth[near].ravel())[0, 1]
    assert alike > 0.9


def test_a_folder_may_be_named_relative_and_hold_links(
    tmp_path: Path, stacks: list[Stack], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
    write_ome_tiff(tmp_path / "mine", stacks[:1])
    write_imagej(tmp_path / "theirs", stacks[1:2])
    with suppress(OSError):  # Windows may refuse it
        (tmp_path / "mine" / "linked.tif").symlink_to(tmp_path / "theirs" / "field0.tif")
    monkeypatch.chdir(tmp_path)
    found = find_stacks(Path("mine"), DataConfig(kind="stacks"))
    found.close()
    expected = {"field0.ome.tif position 0", "field0.tif position 0"}
    assert {stack.field for stack in found.stacks} <= expected
    assert "field0.ome.tif position 0" in {stack.field for stack in found.stacks}


def test_defocus_can_be_limited(tmp_path: Path, stacks: list[Stack]) -> None:
    write_ome_tiff(tmp_path, stacks)
    config = DataConfig(kind="stacks", validate=0.25, test=0.0, defocus_um=(6.0, 14.0))
    source = open_samples(config, tmp_path, size=64, batch=16, seed=1)
    drawn = np.abs(next(source.batches(0)).defocus_um)
    assert drawn.min() >= 6.0
    assert drawn.max() <= 14.0


def test_a_drifting_stage_is_followed_and_a_jump_is_left_out(
    tmp_path: Path, stacks: list[Stack]
) -> None:
    drifted = [stack.copy() for stack in stacks]
    for stack in drifted:
        stack[2] = np.roll(stack[2], (3, -2), axis=(0, 1))
        stack[6] = np.roll(stack[6], (20, 0), axis=(0, 1))
    write_ome_tiff(tmp_path, drifted)
    from refocusd_training.data.stacks import pairs_of

    found = find_stacks(tmp_path, STACKS)
    try:
        pairs = pairs_of(found, found.stacks[3], (0.0, 36.0))
        assert found.skipped == {"plane that drifted by more than 8 px": 1}
        shifts = {pair.raw[1]: pair.shift for pair in pairs}
        assert shifts[2] == (-3, 2)
        assert shifts[1] == (0, 0)
    finally:
        found.close()


def test_stacks_that_cannot_serve_are_left_out_and_counted(
    tmp_path: Path, stacks: list[Stack]
) -> None:
    half = [stacks[0], stacks[1][4:], stacks[2][:2], np.repeat(stacks[3][4:5], 5, axis=0)]
    # The same plane five times, each with its own noise.
    noise = np.random.default_rng(0).integers(0, 9, half[3].shape, dtype=np.uint16)
    half[3] = half[3] + noise
    write_ome_tiff(tmp_path, half)
    (tmp_path / "broken.tif").write_bytes(b"II*\x00 nothing")
    tifffile.imwrite(tmp_path / "small.tif", stacks[0][:, :32, :32], metadata={"axes": "ZYX"})
    found = find_stacks(tmp_path, DataConfig(kind="stacks"), smallest=64)
    found.close()
    assert len(found.stacks) == 1
    assert found.skipped["stack with fewer than 3 planes along 'z'"] == 1
    assert found.skipped["recording that cannot be read"] == 1
    assert found.skipped["recording with too small frames"] == 1
    assert (
        found.skipped["stack whose sharpest plane is at its end: the focus may lie outside"]
        + found.skipped["stack in which no plane stands out as sharp"]
        == 2
    )
    assert "broken.tif" in found.problems[0]


def test_what_refocusd_has_written_is_not_learned_from(tmp_path: Path, stacks: list[Stack]) -> None:
    write_ome_tiff(tmp_path, stacks[:1])
    (tmp_path / "well_refocused").mkdir()
    write_ndtiff(tmp_path / "well_refocused", stacks[1:2])
    tifffile.imwrite(tmp_path / "field0_refocused.ome.tif", stacks[0])
    found = find_stacks(tmp_path, DataConfig(kind="stacks"))
    found.close()
    assert [stack.field for stack in found.stacks] == ["field0.ome.tif position 0"]
    assert found.skipped["recording that refocusd has written"] == 2


def test_a_folder_without_stacks_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        find_stacks(tmp_path / "none", DataConfig(kind="stacks"))
    with pytest.raises(InputError, match="no recording in it"):
        find_stacks(tmp_path, DataConfig(kind="stacks"))
    (tmp_path / "broken.tif").write_bytes(b"II*\x00 nothing")
    with pytest.raises(InputError, match=r"1 x recording that cannot be read; .*broken\.tif"):
        find_stacks(tmp_path, DataConfig(kind="stacks"))


def test_the_focus_lies_at_the_vertex_of_the_parabola() -> None:
    scores = [1 - (z - 3.3) ** 2 / 40 for z in range(8)]
    best, focus = focus_of(scores)
    assert best == 3
    assert focus == pytest.approx(3.3)
    assert focus_of([3.0, 2.0, 1.0]) == (0, 0.0)


def test_a_real_series_is_in_focus_where_its_authors_say(test_data: Path, tmp_path: Path) -> None:
    series = tifffile.imread(test_data / "z_stacks/dfnn_mitochondria_stack.tif")
    tifffile.imwrite(tmp_path / "mitochondria.tif", series, imagej=True, metadata={"axes": "ZYX"})
    found = find_stacks(tmp_path, DataConfig(kind="stacks", z_step_um=0.05))
    found.close()
    assert found.stacks[0].focus == pytest.approx(18.0, abs=0.5)


@pytest.mark.parametrize(
    "names",
    [
        ("{}_w1", "{}_w2"),
        ("{}_w1DAPI_t1", "{}_w2GFP_t1"),
        ("{}_DAPI", "{}_GFP"),
        ("DAPI_{}", "mCherry_{}"),
        ("{}_ch0", "{}_ch1"),
        ("{}_C0", "{}_C1"),
        ("C1-{}", "C2-{}"),
    ],
)
def test_one_file_a_channel_is_one_field_on_one_side(
    tmp_path: Path, stacks: list[Stack], names: tuple[str, str]
) -> None:
    for number, stack in enumerate(stacks):
        for name in names:
            tifffile.imwrite(
                tmp_path / f"{name.format(f'plate_w{number + 1}0_s{number}')}.ome.tif",
                stack,
                ome=True,
                photometric="minisblack",
                metadata={"axes": "ZYX", "PhysicalSizeZ": STEP_UM, "PhysicalSizeZUnit": "µm"},
            )
    found = find_stacks(tmp_path, STACKS)
    fields = {stack.field for stack in found.stacks}
    found.close()
    assert len(found.stacks) == 8
    assert len(fields) == 4, "the well in a name is no channel"


def test_a_channel_that_is_not_there_is_counted(tmp_path: Path, stacks: list[Stack]) -> None:
    write_ome_tiff(tmp_path, stacks)
    with pytest.raises(InputError, match=r"4 x stack of channel '', which data\.channels does not"):
        find_stacks(tmp_path, replace(STACKS, channels=("DAPI",)))
