"""Two profiles of one microscope show whether it has drifted."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from refocusd_calibration.profile.compare import DEFAULT_LIMITS, compare_profiles, load_limits
from refocusd_calibration.profile.show_command import register

from refocusd.errors import ConfigError, InputError
from refocusd.profiles.profile import (
    CameraSection,
    FocusSection,
    Measured,
    Microscope,
    Profile,
    PsfSection,
    save_profile,
)

pytestmark = pytest.mark.fast


def profile(scope: Microscope, camera: CameraSection | None, **more: Any) -> Profile:
    return Profile(
        created="2026-01-05T10:00:00+00:00", version="0", microscope=scope, camera=camera, **more
    )


def with_gain(camera: CameraSection, value: float, uncertainty: float = 0.002) -> CameraSection:
    gain = Measured(value=value, uncertainty=uncertainty)
    return msgspec.structs.replace(camera, gain_e_per_count=gain)


def drifted(one: Profile, other: Profile, **more: Any) -> list[str]:
    return [item.name for item in compare_profiles(one, other, **more) if item.drifted]


def test_a_profile_has_not_drifted_from_itself(
    scope: Microscope, camera_section: CameraSection
) -> None:
    one = profile(scope, camera_section)
    assert drifted(one, one) == []
    assert {item.name for item in compare_profiles(one, one)} >= {
        "camera.offset_counts",
        "camera.gain_e_per_count",
        "camera.read_noise_e",
        "camera.hot_pixel_count",
    }


@pytest.mark.parametrize(
    ("gain", "uncertainty", "expected"),
    [
        (0.47, 0.002, []),  # 2 %, with 3 % allowed
        (0.48, 0.002, ["camera.gain_e_per_count"]),
        (0.48, 0.02, []),  # beyond the limit, but within two standard uncertainties
    ],
)
def test_a_number_has_drifted_beyond_its_limit_and_beyond_chance(
    scope: Microscope,
    camera_section: CameraSection,
    gain: float,
    uncertainty: float,
    expected: list[str],
) -> None:
    before = profile(scope, camera_section)
    after = profile(scope, with_gain(camera_section, gain, uncertainty))
    assert drifted(before, after) == expected


def test_every_limit_names_a_number_of_the_schema(
    scope: Microscope, camera_section: CameraSection
) -> None:
    one = Measured(value=1.0, uncertainty=0.1)
    whole = profile(
        scope,
        msgspec.structs.replace(
            camera_section,
            dark_current_e_per_s=one,
            full_well_e=one,
            linearity_error_percent=1.0,
            prnu_percent=1.0,
            dsnu_e=1.0,
        ),
        focus=FocusSection(
            metric="Brenner",
            best_um=one,
            depth_of_field_um=one,
            tilt_mrad=(one, one),
            curvature_per_m=one,
            backlash_um=one,
            repeatability_um=one,
            drift_um_per_min=one,
        ),
        psf=PsfSection(
            method="beads",
            model="wave",
            focus_um=one,
            na=one,
            spherical_waves=one,
            pixel_um=one,
            blur_um_per_um=one,
            blur_focus_um=one,
            asymmetry=one,
        ),
    )
    assert {item.name for item in compare_profiles(whole, whole)} == set(DEFAULT_LIMITS)


def test_different_microscopes_cannot_be_compared(
    scope: Microscope, camera_section: CameraSection
) -> None:
    other = msgspec.structs.replace(scope, objective="40x")
    with pytest.raises(InputError, match="different microscopes"):
        compare_profiles(profile(scope, camera_section), profile(other, camera_section))
    with pytest.raises(InputError, match="no measurement in common"):
        compare_profiles(profile(scope, camera_section), profile(scope, None))


def test_limits_are_read_from_a_file(
    tmp_path: Path, scope: Microscope, camera_section: CameraSection
) -> None:
    path = tmp_path / "limits.toml"
    path.write_text('["camera.gain_e_per_count"]\npercent = 1.0\n', encoding="utf-8")
    before = profile(scope, camera_section)
    after = profile(scope, with_gain(camera_section, 0.47))
    assert drifted(before, after, limits=load_limits(path)) == ["camera.gain_e_per_count"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('["camera.gain"]\npercent = 1', "not a number of a profile"),
        ('["camera.gain_e_per_count"]\npermille = 1', "does not hold limits"),
        ('["camera.gain_e_per_count"]\npercent = -1', "negative"),
        ("nonsense", "does not hold limits"),
    ],
)
def test_wrong_limits_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "limits.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_limits(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_limits(tmp_path / "none.toml")


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers(required=True))
    parsed = parser.parse_args([str(argument) for argument in arguments])
    return int(parsed.command(parsed))


def test_the_exit_status_tells_whether_it_has_drifted(
    tmp_path: Path,
    scope: Microscope,
    camera_section: CameraSection,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    save_profile(profile(scope, camera_section), before)
    save_profile(profile(scope, with_gain(camera_section, 0.6)), after)
    assert run("compare", before, before) == 0
    assert "no drift" in capsys.readouterr().out
    assert run("compare", before, after) == 1
    assert "DRIFTED" in capsys.readouterr().out
    assert run("compare", before, after, "--json") == 1
    assert json.loads(capsys.readouterr().out)["drifted"] == ["camera.gain_e_per_count"]
    figures = tmp_path / "figures.json"
    assert run("compare", before, after, "--json", figures) == 1
    assert len(json.loads(figures.read_text(encoding="utf-8"))["differences"]) == 4
    assert InputError.exit_status == 2
    with pytest.raises(InputError, match="cannot be read"):
        run("compare", before, tmp_path / "none.json")
