"""Sections join a profile of the same microscope, and only if their checks pass."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
from refocusd_calibration.measurement import check
from refocusd_calibration.profile.identity import microscope_of
from refocusd_calibration.profile.write import (
    Map,
    raw_data,
    read_map,
    write_section,
)

from refocusd.errors import ConfigError, InputError, OutputError
from refocusd.profiles.conformity import stale
from refocusd.profiles.profile import (
    CameraSection,
    FocusSection,
    Measured,
    Microscope,
    RawData,
    load_profile,
)

pytestmark = pytest.mark.fast

RAW = [RawData(what="dark series", path="dark", sha256="0" * 64)]
GOOD = [check("range", True, "fine")]
BAD = [check("light leak", False, "cover the camera")]
FOCUS = FocusSection(metric="Brenner", best_um=Measured(value=1.0, uncertainty=0.1))


def test_a_second_section_joins_the_first(
    tmp_path: Path, scope: Microscope, camera_section: CameraSection
) -> None:
    path = tmp_path / "scope.json"
    write_section(path, scope, camera_section, raw=RAW, checks=GOOD)
    write_section(path, scope, FOCUS, raw=RAW, checks=GOOD)
    profile = load_profile(path)
    assert profile.camera == camera_section
    assert profile.focus == FOCUS
    assert [raw.what for raw in profile.raw] == ["camera: dark series", "focus: dark series"]
    assert [item.name for item in profile.checks] == ["camera: range", "focus: range"]
    assert set(profile.measured) == {"camera", "focus"}
    assert not profile.insisted


def test_measuring_a_section_again_replaces_what_belongs_to_it(
    tmp_path: Path, scope: Microscope, camera_section: CameraSection
) -> None:
    path = tmp_path / "scope.json"
    write_section(path, scope, camera_section, raw=RAW, checks=BAD, insist=True)
    write_section(path, scope, FOCUS, raw=RAW, checks=GOOD)
    assert load_profile(path).insisted
    again = msgspec.structs.replace(camera_section, hot_pixel_count=99)
    profile = write_section(path, scope, again, raw=RAW, checks=GOOD)
    assert profile == load_profile(path)
    assert profile.camera == again
    assert len(profile.raw) == len(profile.checks) == 2
    assert not profile.insisted


def test_a_failed_check_writes_nothing_unless_the_user_insists(
    tmp_path: Path, scope: Microscope, camera_section: CameraSection
) -> None:
    path = tmp_path / "scope.json"
    with pytest.raises(InputError, match=r"light leak: cover the camera.*--insist"):
        write_section(
            path,
            scope,
            camera_section,
            raw=RAW,
            checks=[*GOOD, *BAD],
            maps={"flat": Map(np.ones((4, 4), np.float32), "1")},
        )
    assert list(tmp_path.iterdir()) == []
    profile = write_section(path, scope, camera_section, raw=RAW, checks=BAD, insist=True)
    assert profile.insisted
    assert load_profile(path).insisted


@pytest.mark.parametrize(
    "change",
    [{"camera": "Orca"}, {"objective": "40x"}, {"channel": "FITC"}, {"binning": 2}, {"na": 0.5}],
    ids=lambda change: next(iter(change)),
)
def test_another_microscope_is_refused_unless_replaced(
    tmp_path: Path, scope: Microscope, camera_section: CameraSection, change: dict[str, object]
) -> None:
    path = tmp_path / "scope.json"
    write_section(path, scope, camera_section, raw=RAW, checks=GOOD)
    before = path.read_bytes()
    other = msgspec.structs.replace(scope, **change)
    with pytest.raises(OutputError, match=f"{next(iter(change))} .*--replace"):
        write_section(path, other, FOCUS, raw=RAW, checks=GOOD)
    assert path.read_bytes() == before
    profile = write_section(path, other, FOCUS, raw=RAW, checks=GOOD, replace=True)
    assert profile.camera is None
    assert profile.microscope == other


def test_what_is_not_known_of_the_microscope_is_taken_from_the_profile(
    tmp_path: Path, scope: Microscope, camera_section: CameraSection
) -> None:
    path = tmp_path / "scope.json"
    write_section(path, scope, camera_section, raw=RAW, checks=GOOD)
    profile = write_section(path, Microscope(camera="Zyla"), FOCUS, raw=RAW, checks=GOOD)
    assert profile.microscope == scope


def test_maps_lie_beside_the_profile_and_are_checked(
    tmp_path: Path, scope: Microscope, camera_section: CameraSection
) -> None:
    path = tmp_path / "scope.json"
    values = np.random.default_rng(0).random((20, 30), np.float32)
    profile = write_section(
        path, scope, camera_section, raw=RAW, checks=GOOD, maps={"flat": Map(values, "1")}
    )
    assert profile.camera is not None
    stored = profile.camera.maps["flat"]
    file = tmp_path / stored.file
    assert hashlib.sha256(file.read_bytes()).hexdigest() == stored.sha256
    assert np.array_equal(read_map(path, stored), values)
    # Another measurement leaves one map, not two.
    write_section(
        path,
        scope,
        camera_section,
        raw=RAW,
        checks=GOOD,
        maps={"flat": Map(values + 1, "1")},
    )
    assert len(list(tmp_path.glob("*.tif"))) == 1
    with pytest.raises(InputError, match="cannot be read"):
        read_map(path, stored)
    now = load_profile(path).camera
    assert now is not None
    file = tmp_path / now.maps["flat"].file
    file.write_bytes(file.read_bytes()[:-1] + b"#")
    with pytest.raises(InputError, match="was changed after"):
        read_map(path, now.maps["flat"])
    outside = msgspec.structs.replace(stored, file="../flat.tif")
    with pytest.raises(InputError, match="outside its folder"):
        read_map(path, outside)


def test_raw_data_are_named_by_their_contents(tmp_path: Path) -> None:
    folder = tmp_path / "dark_1"
    folder.mkdir()
    (folder / "a.tif").write_bytes(b"abc")
    (folder / "NDTiff.index").write_bytes(b"index")
    first = raw_data("dark series", folder)
    assert first == raw_data("dark series", folder)
    (folder / "a.tif").write_bytes(b"abd")
    assert raw_data("dark series", folder).sha256 != first.sha256
    file = raw_data("flat", folder / "a.tif")
    assert file.sha256 == hashlib.sha256(b"abd").hexdigest()
    with pytest.raises(InputError, match="cannot be read"):
        raw_data("flat", tmp_path / "none")


def test_an_old_measurement_is_called_stale(
    tmp_path: Path, scope: Microscope, camera_section: CameraSection
) -> None:
    profile = write_section(tmp_path / "scope.json", scope, camera_section, raw=RAW, checks=GOOD)
    now = datetime.now(UTC)
    assert stale(profile) == []
    assert stale(profile, now=now + timedelta(days=179)) == []
    (remark,) = stale(profile, now=now + timedelta(days=200))
    assert remark.startswith("its camera section was measured 200 days ago")
    assert "clock" in stale(profile, now=now - timedelta(days=3))[0]
    undated = msgspec.structs.replace(profile, measured={"camera": "last week"})
    assert "cannot be read" in stale(undated)[0]


def test_the_microscope_is_read_from_a_frames_metadata() -> None:
    said = {
        "Camera": "Zyla",
        "TIObjective-Label": "20x/0.45",
        "Zyla-Binning": "2x2",
        "PixelSizeUm": 0.65,
        "ZPosition_um_Intended": 3.0,
    }
    assert microscope_of(None, said, channel="DAPI") == Microscope(
        camera="Zyla", objective="20x/0.45", channel="DAPI", binning=2, pixel_um=0.65
    )
    assert microscope_of(None, {}) == Microscope()


def test_flags_override_the_metadata_and_are_checked() -> None:
    from argparse import Namespace

    flags = Namespace(camera="Orca", na=0.5, binning=None, pixel_um=0.3)
    found = microscope_of(flags, {"Camera": "Zyla", "Binning": 2})
    assert (found.camera, found.na, found.binning, found.pixel_um) == ("Orca", 0.5, 2, 0.3)
    for flags, message in (
        (Namespace(na=1.2), "--refractive-index"),
        (Namespace(binning=0), "binning"),
        (Namespace(refractive_index=0.5), "refractive index"),
        (Namespace(pixel_um=-1.0), "--pixel-um"),
    ):
        with pytest.raises(ConfigError, match=message):
            microscope_of(flags, {})
