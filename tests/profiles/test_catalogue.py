"""Calibration profiles: which one applies to a frame, its warnings, and hot pixels."""

from __future__ import annotations

import json
import logging
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refocusd.errors import InputError
from refocusd.models.bundle import load_bundle
from refocusd.profiles.applied import apply_profiles
from refocusd.profiles.catalogue import Catalogue, selection_id
from refocusd.profiles.conformity import Trained
from refocusd.profiles.hot_pixels import HotPixels, hot_indices
from refocusd.profiles.microscope_metadata import first_of, identity_metadata, roi_of
from refocusd.profiles.profile import (
    CameraSection,
    Check,
    Measured,
    Microscope,
    Profile,
    PsfSection,
    save_profile,
)

pytestmark = pytest.mark.fast

NOW = datetime.now(UTC)
FRAME = {"Camera": "Zyla", "TIObjective-Label": "20x", "Binning": "2", "PixelSizeUm": 0.65}
SHAPE = (64, 64)


def profile(
    *,
    hot: list[tuple[int, int]] | None = None,
    shape: tuple[int, int] = SHAPE,
    age_days: int = 0,
    psf: PsfSection | None = None,
    saturation: float = 65535.0,
    failed: list[str] | None = None,
    **microscope: Any,
) -> Profile:
    """A profile of a camera with hot pixels."""
    camera = CameraSection(
        offset_counts=Measured(value=100.0, uncertainty=0.1),
        gain_e_per_count=Measured(value=0.5, uncertainty=0.01),
        read_noise_e=Measured(value=1.5, uncertainty=0.1),
        hot_pixels=hot or [],
        hot_pixel_count=len(hot or []),
        shape=shape,
        saturation_counts=saturation,
    )
    return Profile(
        created=(NOW - timedelta(days=age_days)).isoformat(),
        version="1",
        microscope=Microscope(**{"camera": "Zyla", "binning": 2, **microscope}),
        camera=camera,
        psf=psf,
        checks=[Check(name=name, passed=False, detail="") for name in failed or []],
    )


def folder(tmp_path: Path, *profiles: Profile) -> Catalogue:
    for number, one in enumerate(profiles):
        save_profile(one, tmp_path / f"{number}.json")
    return Catalogue(tmp_path)


def chosen(
    catalogue: Catalogue,
    first: dict[str, Any],
    channel: str = "",
    shape: tuple[int, int] | None = None,
) -> Profile | None:
    return catalogue.choose(first, shape)[0].of(channel)


def said(catalogue: Catalogue, first: dict[str, Any], **more: Any) -> str:
    return "\n".join(apply_profiles(catalogue, first, SHAPE, **more).warnings)


@pytest.mark.parametrize(
    ("named", "told", "matches"),
    [
        ({}, {}, True),
        ({"camera": ""}, {"Camera": "another"}, True),
        ({}, {"Camera": "another"}, False),
        ({}, {"Camera": ""}, False),
        ({"objective": "20x"}, {}, True),
        ({"objective": "40x"}, {}, False),
        ({"objective": "40x"}, {"TIObjective-Label": ""}, True),
        ({"binning": 1}, {}, False),
        ({"binning": 1}, {"Binning": None}, True),
        ({"channel": "DAPI"}, {}, True),
        ({"channel": "Cy5"}, {}, False),
    ],
    ids=str,
)
def test_a_differing_field_never_matches_and_an_empty_one_always(
    tmp_path: Path, named: dict[str, Any], told: dict[str, Any], matches: bool
) -> None:
    catalogue = folder(tmp_path, profile(**named))
    assert (chosen(catalogue, {**FRAME, **told}, "DAPI") is not None) == matches


def test_the_closest_profile_wins(tmp_path: Path) -> None:
    anything = profile(camera="")
    camera = profile()
    objective = profile(objective="20x")
    channel = profile(objective="20x", channel="DAPI")
    catalogue = folder(tmp_path, anything, camera, objective, channel)
    assert chosen(catalogue, FRAME, "DAPI") == channel
    assert chosen(catalogue, FRAME, "Cy5") == objective
    assert chosen(catalogue, {**FRAME, "TIObjective-Label": "4x"}) == camera
    assert chosen(catalogue, {**FRAME, "Camera": "Orca"}) == anything


def test_of_two_profiles_of_one_microscope_the_newer_wins(tmp_path: Path) -> None:
    old, new = profile(age_days=9), profile()
    assert chosen(folder(tmp_path, new, old), FRAME) == new


def test_frames_that_do_not_tell_their_objective_get_none_of_several(tmp_path: Path) -> None:
    catalogue = folder(tmp_path, profile(objective="20x"), profile(objective="40x"))
    first = {"Camera": "Zyla", "Binning": 2}
    selection, reasons = catalogue.choose(first)
    # Both have the shape of this camera.
    assert selection.of() is None
    assert "do not say which calibration profile is theirs" in reasons[0]
    assert "do not say which" in said(catalogue, first)
    assert said(catalogue, FRAME) == ""


def test_the_shape_decides_if_the_binning_is_not_stated(tmp_path: Path) -> None:
    full, binned = profile(binning=1, shape=(128, 128)), profile(binning=2)
    catalogue = folder(tmp_path, full, binned)
    assert chosen(catalogue, {"Camera": "Zyla"}, shape=SHAPE) == binned
    assert chosen(catalogue, {"Camera": "Zyla"}, shape=(128, 128)) == full


def test_an_objective_taken_on_trust_is_noted(tmp_path: Path) -> None:
    catalogue = folder(tmp_path, profile(objective="20x"))
    applied = apply_profiles(catalogue, {"Camera": "Zyla"}, SHAPE)
    assert len(applied.selection.profiles) == 1
    assert "assumed to fit" in applied.notes[0]


def test_a_bad_file_is_named_once_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue = folder(tmp_path, profile())
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    (tmp_path / "old.json").write_text('{"profile_schema": 99}', encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert [len(catalogue.profiles()) for _ in range(3)] == [1, 1, 1]
    assert sorted("bad.json" in record.message for record in caplog.records) == [False, True]


def test_the_folder_is_read_again_when_it_changes(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "calibrations")
    assert catalogue.profiles() == []
    one = profile()
    save_profile(one, catalogue.folder / "one.json")
    assert catalogue.profiles() == [one]
    save_profile(profile(channel="DAPI"), catalogue.folder / "one.json")
    assert catalogue.profiles()[0].microscope.channel == "DAPI"
    (catalogue.folder / "one.json").unlink()
    assert catalogue.profiles() == []


def test_a_selection_is_of_all_channels_and_named_by_its_content(tmp_path: Path) -> None:
    dapi, cy5, other = profile(channel="DAPI"), profile(channel="Cy5"), profile(camera="Orca")
    catalogue = folder(tmp_path, dapi, cy5, other)
    selection, _ = catalogue.choose({**FRAME, "Channel": "DAPI"})
    assert selection.ids == sorted([dapi.id(), cy5.id()])
    assert selection.of("Cy5") == cy5
    assert selection.of("DAPI") == dapi
    assert selection.of("FITC") is None
    assert selection.of("DAPI", camera="Orca") is None
    assert selection_id(selection.ids) == selection_id(reversed(selection.ids))
    assert selection_id([]) is None
    assert catalogue.named(selection.ids, FRAME).ids == selection.ids


@pytest.mark.parametrize(
    ("channel", "metadata"),
    [
        ("Cy5", {}),
        (1, {"Channel": "Cy5"}),
        (0, {"Channel": "Cy5"}),
        (1, {"Channel": "Cy5", "x": math.nan}),
    ],
)
def test_a_channel_that_is_numbered_has_the_profile_of_its_name(
    tmp_path: Path, channel: str | int, metadata: dict[str, Any]
) -> None:
    """Micro-Manager's GUI numbers channels; the first frame belonged to another channel."""
    catalogue = folder(tmp_path, profile(channel="DAPI"), profile(channel="Cy5"))
    applied = apply_profiles(catalogue, {**FRAME, "Channel": "DAPI"}, SHAPE)
    found = applied.profile_of(json.dumps({"channel": channel}), json.dumps({**FRAME, **metadata}))
    assert found is not None
    assert found.microscope.channel == "Cy5"


def test_a_profile_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"profile 0123, which is not in .*--calibrations"):
        Catalogue(tmp_path).named(["0123"], FRAME)
    assert Catalogue(tmp_path / "nowhere").named([], FRAME).profiles == ()


@pytest.mark.parametrize(
    ("first", "of", "warning"),
    [
        ({}, {}, ""),
        ({}, {"pixel_um": 0.651}, ""),
        ({}, {"pixel_um": 0.33}, "pixel size (0.65 um) is not that of calibration profile"),
        ({"NumericalAperture": "0.75"}, {"na": 0.45}, "NA (0.75) is not that"),
        ({"NominalMagnification": 40}, {"magnification": 20.0}, "magnification (40)"),
        ({"BitDepth": 12}, {"saturation": 60000.0}, "another gain or readout mode"),
        ({"BitDepth": "16"}, {"saturation": 60000.0}, ""),
        ({}, {"age_days": 400}, "is stale: its camera section was measured 40"),
        ({}, {"hot": [(1, 1)], "shape": (32, 32)}, "its hot pixels are not replaced"),
        ({}, {"failed": ["camera: light"]}, "written although checks failed (camera: light)"),
    ],
    ids=str,
)
def test_what_does_not_go_with_the_profile_is_warned_of(
    tmp_path: Path, first: dict[str, Any], of: dict[str, Any], warning: str
) -> None:
    found = said(folder(tmp_path, profile(**of)), {**FRAME, **first})
    assert (warning in found) if warning else found == ""


TRAINED = {
    "na": (0.4, 0.5),
    "pixel_um": (0.6, 0.7),
    "wavelength_um": (0.44, 0.48),
    "spherical_waves": (-0.15, 0.15),
}
BEADS = PsfSection(
    method="beads",
    model="wave",
    focus_um=Measured(value=0.0, uncertainty=0.1),
    na=Measured(value=0.52, uncertainty=0.02),
    spherical_waves=Measured(value=0.6, uncertainty=0.02),
    wavelength_um=0.67,
)


@pytest.mark.parametrize(
    ("first", "of", "outside"),
    [
        ({}, {}, []),
        ({"PixelSizeUm": 0.1}, {}, ["a pixel of 0.1 um"]),
        ({"PixelSizeUm": 0.0}, {"pixel_um": 0.1}, ["a pixel of 0.1 um"]),
        ({}, {"na": 1.2, "wavelength_um": 0.6}, ["an NA of 1.2", "wavelength of 0.6 um"]),
        # 0.52 ± 0.02 is consistent with 0.5.
        ({}, {"na": 1.2, "psf": BEADS}, ["wavelength of 0.67 um", "aberration of 0.6 waves"]),
    ],
    ids=str,
)
def test_what_the_model_was_not_trained_for_is_warned_of(
    tmp_path: Path, first: dict[str, Any], of: dict[str, Any], outside: list[str]
) -> None:
    catalogue = folder(tmp_path, profile(**of))
    found = said(catalogue, {**FRAME, **first}, trained={"": Trained("live", TRAINED)}).splitlines()
    about = [line for line in found if "the model live was trained for" in line]
    assert len(about) == len(outside)
    assert all(words in line for words, line in zip(outside, about, strict=True))


def test_the_shipped_model_tells_its_trained_range() -> None:
    assert load_bundle("live-nuclei").trained["na"] == (0.4, 0.5)
    assert set(TRAINED) < set(load_bundle("live-nuclei").trained)


def test_only_what_names_the_microscope_is_kept_of_metadata() -> None:
    told = {**FRAME, "ROI": "8-4-64-64", "Exposure": 10, "Core-Camera": "x" * 999, "Zyla-Gain": 1}
    assert identity_metadata(told) == {**FRAME, "ROI": "8-4-64-64"}
    assert json.loads(first_of(told, "DAPI"))["Channel"] == "DAPI"


@pytest.mark.parametrize(
    ("value", "roi"),
    [
        ("8-4-64-32", (8, 4, 64, 32)),
        ([8, 4, 64, 32], (8, 4, 64, 32)),
        (None, None),
        ("full", None),
        ([1, 2], None),
        ("1-2-0-5", None),
    ],
)
def test_a_region_of_the_chip_is_read(value: Any, roi: Any) -> None:
    assert roi_of({"ROI": value}) == roi


@pytest.mark.parametrize("odd", [float("nan"), 10**400, "\ud800", object(), b"x", None, [1]])
def test_odd_metadata_cost_no_acquisition(tmp_path: Path, odd: Any) -> None:
    first = json.loads(first_of({**FRAME, "PixelSizeUm": odd, "ROI": odd, "Binning": odd}))
    msgspec.json.decode(json.dumps(first))
    applied = apply_profiles(folder(tmp_path, profile()), first, SHAPE)
    assert applied.warnings == ()
    frame = json.dumps({"Camera": "Zyla", "ROI": odd}, default=str)
    told = applied.of_frame('{"time":0}', frame, SHAPE)
    assert (told is not None) == (first != {})


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', '{"ROI":[9]}'])
def test_a_frame_without_metadata_is_treated_like_the_first(tmp_path: Path, text: str) -> None:
    applied = apply_profiles(folder(tmp_path, profile(hot=[(1, 2)])), FRAME, SHAPE)
    found = applied.of_frame('{"time":0}', text, SHAPE)
    assert found is not None
    assert found.hot_pixels == (66,)


def test_hot_pixels_are_found_in_a_region_of_the_chip() -> None:
    hot = [(5, 9), (60, 60), (0, 0)]
    assert hot_indices(hot, (64, 64), (64, 64), None) == [5 * 64 + 9, 60 * 64 + 60, 0]
    assert hot_indices(hot, (64, 64), (16, 32), (8, 4, 32, 16)) == [1 * 32 + 1]
    # The positions of these are unknown.
    assert hot_indices(hot, (64, 64), (16, 32), None) is None
    assert hot_indices(hot, (64, 64), (64, 64), (8, 0, 64, 64)) is None
    assert hot_indices(hot, (64, 64), (128, 128), (0, 0, 128, 128)) is None


def test_the_region_of_a_frame_decides_its_hot_pixels(tmp_path: Path) -> None:
    catalogue = folder(tmp_path, profile(hot=[(5, 9)]))
    applied = apply_profiles(catalogue, FRAME, (16, 32))
    axes = '{"channel":"DAPI"}'
    there = applied.of_frame(axes, '{"Camera":"Zyla","ROI":"8-4-32-16","x":[1]}', (16, 32))
    elsewhere = applied.of_frame(axes, '{"Camera":"Zyla","ROI":"9-4-32-16"}', (16, 32))
    assert there is not None
    assert elsewhere is not None
    assert (there.hot_pixels, elsewhere.hot_pixels) == ((33,), (32,))
    assert there.key != elsewhere.key
    assert applied.of_frame(axes, '{"Camera":"Orca"}', (16, 32)) is None


@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.tuples(st.integers(0, 19), st.integers(0, 16)), max_size=60),
    st.sampled_from([np.uint8, np.uint16]),
)
def test_hot_pixels_become_the_median_of_good_neighbours_and_nothing_else_changes(
    places: set[tuple[int, int]], dtype: Any
) -> None:
    rng = np.random.default_rng(len(places))
    raw = rng.integers(10, 200, (20, 17)).astype(dtype)
    hot = np.zeros(raw.shape, bool)
    for y, x in places:
        hot[y, x] = True
    raw[hot] = np.iinfo(dtype).max
    before = raw.copy()
    out = HotPixels([y * 17 + x for y, x in places], (20, 17)).repaired(raw)
    np.testing.assert_array_equal(raw, before)
    np.testing.assert_array_equal(out[~hot], raw[~hot])
    for y, x in places:
        near = (slice(max(0, y - 1), y + 2), slice(max(0, x - 1), x + 2))
        good = raw[near][~hot[near]]
        if len(good) >= 3:
            assert out[y, x] == int(np.median(good))
        else:
            # From farther away, but in any case the counts of a good pixel.
            assert out[y, x] < 200


def test_a_list_of_hot_pixels_outside_the_frame_changes_nothing() -> None:
    raw = np.arange(256, dtype=np.uint16).reshape(16, 16)
    assert not HotPixels([9999], (16, 16))
    np.testing.assert_array_equal(HotPixels([9999], (16, 16)).repaired(raw), raw)
    everything = HotPixels(range(256), (16, 16))
    np.testing.assert_array_equal(everything.repaired(raw), raw)


def test_a_changed_profile_is_another_one() -> None:
    one = profile()
    assert msgspec.structs.replace(one, version="2").id() != one.id()
