"""`refocusd calibrate focus`: on the real demo camera, and from recordings."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from recordings_on_disk import write_ndtiff
from refocusd_calibration.focus import command as focus_command
from refocusd_calibration.focus.command import sweep_positions
from simulated_focus import FocusScene, depth_of_field_um

from refocusd.errors import ConfigError, InputError
from refocusd.imaging.optics import Optics
from refocusd.profiles.profile import load_profile

TWENTY = Optics(0.45, 0.52)
DEPTH = depth_of_field_um(TWENTY)
Z_UM = np.arange(-8, 9) * 0.45 * DEPTH

#: Runs in a separate process, because a process can have only one core.  The beads are at z = 0
#: (the demo stage has no other zero); neither series has a plane there, and it is far from the
#: middle of the second.
ON_THE_DEMO_CAMERA = """
import argparse, sys
from pathlib import Path
from mm_test_adapters import device_adapter_path
from pycromanager import Core, start_headless, stop_headless
from refocusd_calibration.focus import command as focus_command

def main():
    folder = Path(sys.argv[1])
    start_headless(mm_app_path=str(device_adapter_path()), config_file="MMConfig_demo.cfg",
                   python_backend=True)
    core = Core()
    core.set_property("Camera", "Mode", "Fluorescent Beads")
    core.set_property("Camera", "PixelType", "16bit")
    parser = argparse.ArgumentParser()
    focus_command.register(parser.add_subparsers())

    def calibrate(name, low, *more):
        arguments = parser.parse_args(
            ["focus", "--z-from", str(low), "--z-to", str(low + 13), "--z-step", "1",
             "--z-limits", "-20", "20", "--sweeps", "3", "--exposure-ms", "2", "--settle-ms", "0",
             "--output", str(folder / (name + ".json")), "--json", str(folder / (name + "_figures.json")),
             "--pixel-um", "1", *more])
        return arguments.command(arguments)

    assert calibrate("dry", -6.3, "--dry-run") == 0
    assert not (folder / "dry_raw").exists()
    assert core.get_position() == 0
    core.set_position(5.0)
    assert calibrate("far", -6.3, "--dry-run") == 0
    core.set_position(0.0)
    assert calibrate("zero", -6.3) == 0
    assert core.get_position() == 0
    assert calibrate("away", -2.9) == 0
    stop_headless()

main()
"""


def calibrate(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    focus_command.register(parser.add_subparsers())
    parsed = parser.parse_args(["focus", *(str(argument) for argument in arguments)])
    status: int = parsed.command(parsed)
    return status


def recorded(folder: Path, focus_um: float = 0.4, **metadata: Any) -> Path:
    """Write an NDTiff dataset of a through-focus series with the acquisition engine's metadata."""
    scene = FocusScene(TWENTY, (160, 160), surface_um=(focus_um, 0, 0, 0))
    planes = scene.stack(Z_UM.tolist())
    return write_ndtiff(
        folder,
        [
            (
                {"z": index, "channel": "DAPI"},
                plane,
                {
                    "ZPosition_um_Intended": float(z),
                    "Camera": "Zyla",
                    "ElapsedTime-ms": 50.0 * index,
                    **metadata,
                },
            )
            for index, (plane, z) in enumerate(zip(planes, Z_UM, strict=True))
        ],
        {"PixelSize_um": 0.645},
    )


@pytest.mark.timeout(300)
def test_the_focus_of_the_demo_camera_is_found_by_a_real_stage(tmp_path: Path) -> None:
    pytest.importorskip("mm_test_adapters", reason="the demo camera is not installed")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", ON_THE_DEMO_CAMERA, str(tmp_path)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={**environment, "PYTHONIOENCODING": "utf-8"},
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "dry run: nothing was moved" in done.stdout
    assert "'Z' stands at z = 5.00 um: it will go up to 11.30 um away" in done.stdout
    for name in ("zero", "away"):
        profile = load_profile(tmp_path / f"{name}.json")
        focus = profile.focus
        assert focus is not None
        assert focus.best_um.value == pytest.approx(0, abs=0.05)
        assert abs(focus.best_um.value) < 4 * focus.best_um.uncertainty
        assert focus.backlash_um is not None
        assert abs(focus.backlash_um.value) < 0.05
        assert focus.depth_of_field_um is not None
        assert focus.depth_of_field_um.value < 5
        assert profile.microscope.camera == "Camera"
        assert len(focus.z_um) == 14 + 13 + 13
        assert len(profile.raw) == 1
        assert Path(profile.raw[0].path).is_dir()


def test_a_profile_is_written_from_a_recording(tmp_path: Path) -> None:
    path, output, figures = recorded(tmp_path / "up"), tmp_path / "scope.json", tmp_path / "f.json"
    flags = ("--na", 0.45, "--wavelength-um", 0.52)
    assert calibrate("--from-recording", path, "--output", output, "--json", figures, *flags) == 0
    profile = load_profile(output)
    assert profile.focus is not None
    assert profile.focus.best_um.value == pytest.approx(0.4, abs=0.1 * DEPTH)
    assert profile.microscope.camera == "Zyla"
    assert profile.microscope.channel == "DAPI"
    assert profile.microscope.pixel_um == pytest.approx(0.645)
    assert profile.raw[0].what == "focus: series 1"
    assert all(check.passed for check in profile.checks)
    told = json.loads(figures.read_text(encoding="utf-8"))
    assert {item["metric"] for item in told["metrics"]} == set(profile.focus.curves)


def test_several_recordings_are_sweeps_of_one_field(tmp_path: Path) -> None:
    paths = [recorded(tmp_path / f"series_{index}", 0.2 * index) for index in range(3)]
    figures = tmp_path / "f.json"
    assert calibrate("--from-recording", *paths, "--json", figures) == 0
    told = json.loads(figures.read_text(encoding="utf-8"))
    assert told["focus"]["repeatability_um"]["value"] == pytest.approx(0.2, abs=0.05)
    assert told["focus"]["best_um"]["value"] == pytest.approx(0.2, abs=0.1)
    # They differ by more than their uncertainties, and that decides.
    assert told["focus"]["best_um"]["uncertainty"] > 0.08
    assert any("clock" in note for note in told["notes"])


def test_a_failed_check_keeps_the_profile_from_being_written(tmp_path: Path) -> None:
    path, output = recorded(tmp_path / "edge", focus_um=9.0), tmp_path / "scope.json"
    with pytest.raises(InputError, match=r"focus inside the range.*--insist"):
        calibrate("--from-recording", path, "--output", output)
    assert not output.exists()
    assert calibrate("--from-recording", path) == 1
    assert calibrate("--from-recording", path, "--output", output, "--insist") == 0
    assert load_profile(output).insisted


def test_what_a_recording_does_not_say_must_be_given(tmp_path: Path) -> None:
    stack = FocusScene(TWENTY, (96, 96), surface_um=(9.0, 0, 0, 0)).stack(Z_UM + 9.0)
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, stack, metadata={"axes": "ZYX"})
    with pytest.raises(InputError, match="--z-step"):
        calibrate("--from-recording", path)
    with pytest.raises(InputError, match="--pixel-um"):
        calibrate("--from-recording", path, "--z-step", 0.45 * DEPTH)
    known = ("--z-step", 0.45 * DEPTH, "--pixel-um", 0.645)
    assert calibrate("--from-recording", path, *known, "--output", tmp_path / "a.json") == 0
    focus = load_profile(tmp_path / "a.json").focus
    assert focus is not None
    assert focus.counted is True


def test_a_z_step_that_does_not_go_with_the_aperture_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, FocusScene(TWENTY, (96, 96)).stack(Z_UM), metadata={"axes": "ZYX"})
    known = ("--from-recording", path, "--pixel-um", 0.645, "--na", 0.45)
    assert calibrate(*known, "--z-step", 0.45 * DEPTH) == 0
    assert "the focus's position on the stage is not known" in " ".join(
        capsys.readouterr().out.split()
    )
    assert calibrate(*known, "--z-step", 0.045 * DEPTH) == 1
    assert "check the z step, the NA" in " ".join(capsys.readouterr().out.split())
    assert calibrate(*known, "--z-step", 45 * DEPTH) == 1


@pytest.mark.parametrize("metadata", [{"BitDepth": 12}, {}])
def test_planes_that_are_cut_off_below_the_end_of_their_type_are_noticed(
    metadata: dict[str, Any], tmp_path: Path
) -> None:
    scene = FocusScene(TWENTY, (160, 160))
    planes = scene.stack(Z_UM.tolist())
    top = 4095 if metadata else int(np.percentile(planes, 99.5))
    bright = np.minimum(planes.astype(float) * (top / np.percentile(planes, 99.5)), top)
    frames = [
        ({"z": z}, plane, {"ZPosition_um_Intended": float(Z_UM[z]), **metadata})
        for z, plane in enumerate(bright.astype(np.uint16))
    ]
    path = write_ndtiff(tmp_path / "bright", frames, {"PixelSize_um": 0.645})
    figures = tmp_path / "figures.json"
    assert calibrate("--from-recording", path, "--json", figures) == 1
    told = json.loads(figures.read_text(encoding="utf-8"))
    assert not {c["name"]: c["passed"] for c in told["checks"]}["not saturated"]


def test_a_recording_at_one_stage_position_is_refused(tmp_path: Path) -> None:
    path = recorded(tmp_path / "still", ZPosition_um_Intended=3.0)
    with pytest.raises(InputError, match="one stage position"):
        calibrate("--from-recording", path)


def test_several_channels_ask_for_a_choice(tmp_path: Path) -> None:
    scene = FocusScene(TWENTY, (96, 96))
    planes = scene.stack(Z_UM.tolist())
    path = write_ndtiff(
        tmp_path / "two",
        [
            ({"z": z, "channel": channel}, plane, {"ZPosition_um_Intended": float(Z_UM[z])})
            for channel in ("DAPI", "FITC")
            for z, plane in enumerate(planes)
        ],
    )
    with pytest.raises(InputError, match="--channel"):
        calibrate("--from-recording", path)
    with pytest.raises(InputError, match="no channel 'Cy5'"):
        calibrate("--from-recording", path, "--channel", "Cy5")
    assert calibrate("--from-recording", path, "--channel", "FITC") == 0


def test_sweeps_go_up_and_down_and_turn_once() -> None:
    assert sweep_positions(0, 5, 1, 3) == [0, 1, 2, 3, 4, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 0, 1, 1), "lower end first"),
        ((0, 5, -1, 1), "above zero"),
        ((0, 5, math.nan, 1), "not a range"),
        ((0, 3, 1, 1), "take 6"),
        ((0, 9000, 1, 1), "another --z-step"),
        ((0, 9, 1, 0), "one or more"),
    ],
)
def test_a_series_that_shows_no_focus_is_refused(
    arguments: tuple[float, float, float, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep_positions(*arguments)


def test_a_stage_needs_limits_and_stays_within(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ("--z-from", -4, "--z-to", 4, "--z-step", 1)
    with pytest.raises(ConfigError, match="--z-limits"):
        calibrate(*sweep, "--dry-run")
    with pytest.raises(ConfigError, match="outside the limits"):
        calibrate(*sweep, "--z-limits", -3, 10, "--dry-run")
    assert calibrate(*sweep, "--z-limits", -5, 5, "--sweeps", 1, "--dry-run") == 0
    assert "9 moves" in capsys.readouterr().out


def test_a_good_stack_of_a_commercial_confocal_passes(test_data: Path, tmp_path: Path) -> None:
    """Ten planes, 5 um apart; out of focus, the microscope rejects three quarters of the light."""
    path, figures = test_data / "z_stacks/faim_beads_E07_s2_w1.tif", tmp_path / "f.json"
    status = calibrate("--from-recording", path, "--json", figures)
    told = json.loads(figures.read_text(encoding="utf-8"))
    assert [item["detail"] for item in told["checks"] if not item["passed"]] == []
    assert status == 0
    assert told["focus"]["best_um"]["value"] == pytest.approx(20, abs=2)


def test_a_dry_run_of_recordings_reads_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate("--from-recording", "nowhere", "--dry-run") == 0
    assert "nowhere" in capsys.readouterr().out
