"""`refocusd calibrate psf`: on the real demo camera, and from recordings."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from recordings_on_disk import write_ndtiff
from refocusd_calibration.psf import command as psf_command
from simulated_psf import scattered, simulate_beads, simulate_planes

from refocusd.errors import ConfigError, InputError, OutputError
from refocusd.imaging.optics import Optics
from refocusd.profiles.profile import Microscope, Profile, load_profile, save_profile

OPTICS = Optics(0.45, 0.52, 1.0, 0.645)
Z_UM = np.linspace(-16, 16, 9)

#: Runs in a separate process, because a process can have only one core.  The demo camera blurs by
#: sigma^2 = 2^2 + (0.5 z)^2, in pixels, which are 1 um; its amplitude stays.
ON_THE_DEMO_CAMERA = """
import argparse, sys
from pathlib import Path
from refocusd_calibration.psf import command as psf_command
from refocusd_calibration.stage.microscope import open_microscope

def main():
    folder = Path(sys.argv[1])
    parser = argparse.ArgumentParser()
    psf_command.register(parser.add_subparsers())
    with open_microscope("MMConfig_demo.cfg") as core:
        core.set_property("Camera", "Mode", "Fluorescent Beads")
        core.set_property("Camera", "PixelType", "16bit")
        core.set_property("Camera", "BeadDensity", "30")

        def calibrate(name, *more):
            arguments = parser.parse_args(
                ["psf", "--z-from", "-10", "--z-to", "12", "--z-step", "2", "--z-limits", "-20",
                 "20", "--exposure-ms", "2", "--settle-ms", "0", "--pixel-um", "1",
                 "--wavelength-um", "0.5", "--output", str(folder / (name + ".json")), *more])
            return arguments.command(arguments)

        assert calibrate("dry", "--dry-run") == 0
        assert not (folder / "dry_raw").exists()
        assert core.get_position() == 0
        assert calibrate("beads") == 0
        assert core.get_position() == 0

main()
"""


def calibrate(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    psf_command.register(parser.add_subparsers())
    parsed = parser.parse_args(["psf", *(str(argument) for argument in arguments)])
    status: int = parsed.command(parsed)
    return status


def beads() -> NDArray[np.uint16]:
    places = scattered(10, 256, 50, 26, np.random.default_rng(0))
    return simulate_beads(OPTICS, list(Z_UM), places, 256, focus_um=1.3)


def recorded(folder: Path, planes: NDArray[np.uint16], **more: Any) -> Path:
    """Write an NDTiff dataset of a z series with the acquisition engine's metadata."""
    return write_ndtiff(
        folder,
        [
            (
                {"z": index, "channel": "DAPI"},
                plane,
                {"ZPosition_um_Intended": float(z), "Camera": "Zyla", **more},
            )
            for index, (plane, z) in enumerate(zip(planes, Z_UM, strict=True))
        ],
        {"PixelSize_um": 0.645},
    )


@pytest.mark.timeout(300)
def test_the_blur_law_of_the_demo_camera_is_found_by_a_real_stage(tmp_path: Path) -> None:
    pytest.importorskip("mm_test_adapters", reason="the demo camera is not installed")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", ON_THE_DEMO_CAMERA, str(tmp_path)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "12 moves, 12 frames" in done.stdout
    profile = load_profile(tmp_path / "beads.json")
    psf = profile.psf
    assert psf is not None
    assert psf.model == "gaussian"
    assert psf.beads >= 8
    assert psf.focus_um.value == pytest.approx(0.0, abs=0.05)
    assert psf.blur_um_per_um is not None
    assert psf.blur_um_per_um.value == pytest.approx(0.5, rel=0.02)
    z = np.arange(-10, 13, 2)
    np.testing.assert_allclose(psf.sigma_um, np.hypot(2, 0.5 * z), rtol=0.05)
    assert psf.asymmetry is not None
    assert abs(psf.asymmetry.value) < 0.005
    assert profile.microscope.camera == "Camera"
    assert Path(profile.raw[0].path).is_dir()
    assert any(c.name == "psf: sign of defocus" and "not obs" in c.detail for c in profile.checks)


def test_a_recording_of_beads_becomes_a_section_of_the_profile(tmp_path: Path) -> None:
    path = recorded(tmp_path / "beads", beads())
    output, figures = tmp_path / "scope.json", tmp_path / "figures.json"
    status = calibrate(
        "--from-recording", path, "--na", 0.45, "--wavelength-um", 0.52, "--output", output,
        "--json", figures,
    )  # fmt: skip
    assert status == 0
    profile = load_profile(output)
    assert profile.psf is not None
    assert profile.psf.na is not None
    assert profile.psf.na.value == pytest.approx(0.45, rel=0.01)
    assert profile.microscope.channel == "DAPI"
    assert profile.microscope.camera == "Zyla"
    assert profile.measured["psf"]
    said = json.loads(figures.read_text(encoding="utf-8"))
    assert set(said["laws"]) == {"gaussian", "disc", "wave"}
    assert said["psf"]["model"] == "wave"


def test_planes_of_any_specimen_serve_with_an_in_focus_one(tmp_path: Path) -> None:
    planes = simulate_planes(OPTICS, list(Z_UM), 192, focus_um=1.3)
    path = recorded(tmp_path / "cells", planes)
    output = tmp_path / "scope.json"
    common = ("--from-recording", path, "--na", 0.45, "--wavelength-um", 0.52)
    assert calibrate(*common, "--in-focus", 4, "--output", output) == 0
    psf = load_profile(output).psf
    assert psf is not None
    assert (psf.method, psf.model, psf.beads) == ("planes", "wave", 0)
    frame = tmp_path / "sharp.tif"
    tifffile.imwrite(frame, simulate_planes(OPTICS, [0.0, 14.7], 192, seed=8)[0])
    assert calibrate(*common, "--in-focus", frame, "--output", output) == 0
    assert len(load_profile(output).raw) == 2


def test_a_failed_check_writes_no_profile_unless_the_user_insists(tmp_path: Path) -> None:
    path = recorded(tmp_path / "beads", beads())
    output = tmp_path / "scope.json"
    common = ("--from-recording", path, "--na", 0.6, "--wavelength-um", 0.52, "--output", output)
    with pytest.raises(InputError, match="numerical aperture"):
        calibrate(*common)
    assert not output.exists()
    assert calibrate(*common, "--insist") == 0
    assert load_profile(output).insisted


def test_files_that_could_not_be_written_are_refused_before_anything_is_read(
    tmp_path: Path,
) -> None:
    missing = ("--from-recording", tmp_path / "none", "--output", tmp_path / "scope.json")
    (tmp_path / "file").touch()
    for flags, kind, said in (
        (("--json", tmp_path / "file" / "figures.json"), OutputError, "cannot be written"),
        (("--report", tmp_path / "scope.pdf"), ConfigError, r"ends with \.png or \.html"),
        (("--output", tmp_path / "file"), InputError, "is no calibration profile"),
        ((), InputError, "none"),
    ):
        with pytest.raises(kind, match=said):
            calibrate(*missing, *flags)


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--wavelength-um", 520, "give 0.2 to 2"),
        ("--pixel-um", -1, "give 0.001 to 100"),
        ("--bead-um", -3, "give a diameter"),
        ("--radius-um", 0, "above 0"),
        ("--saturation", -1, "above 0"),
        ("--na", 1.4, "refractive index of 1"),
    ],
)
def test_numbers_that_no_microscope_has_are_refused(
    tmp_path: Path, flag: str, value: float, said: str
) -> None:
    path = recorded(tmp_path / "beads", np.zeros((9, 32, 32), np.uint16))
    with pytest.raises(ConfigError, match=said):
        calibrate("--from-recording", path, flag, value)


def test_the_profile_of_another_microscope_is_refused_before_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, output = recorded(tmp_path / "beads", beads()), tmp_path / "scope.json"
    other = Profile(created="", version="1", microscope=Microscope(camera="Orca"))
    save_profile(other, output)
    monkeypatch.delattr("refocusd_calibration.psf.measure.find_beads")
    with pytest.raises(OutputError, match="another microscope"):
        calibrate("--from-recording", path, "--output", output)


def test_unknown_pixel_sizes_and_stage_positions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.tif"
    tifffile.imwrite(path, beads(), imagej=True, metadata={"axes": "ZYX"})
    with pytest.raises(InputError, match="--pixel-um"):
        calibrate("--from-recording", path, "--z-step", 4)
    with pytest.raises(InputError, match="--z-step"):
        calibrate("--from-recording", path, "--pixel-um", 0.645)
    assert (
        calibrate(
            "--from-recording", path, "--pixel-um", 0.645, "--z-step", 4, "--wavelength-um", 0.52
        )
        == 0
    )


@pytest.mark.slow
def test_the_widefield_channel_of_a_nucleus_is_measured_with_the_step_that_the_file_states(
    test_data: Path, tmp_path: Path
) -> None:
    """45 planes through one nucleus in a field of 67 um, smaller than the widest kernel."""
    figures = tmp_path / "figures.json"
    status = calibrate(
        "--from-recording", test_data / "z_stacks/neubias_dna_widefield_confocal.tif",
        "--channel", 1, "--in-focus", "sharpest", "--na", 1.2, "--refractive-index", 1.33,
        "--wavelength-um", 0.46, "--json", figures,
    )  # fmt: skip
    said = json.loads(figures.read_text(encoding="utf-8"))
    assert [item["name"] for item in said["checks"] if not item["passed"]] == [
        "room for the widest kernel"
    ]
    assert status == 1
    assert said["psf"]["na"]["value"] == pytest.approx(1.2, rel=0.1)
    assert said["psf"]["focus_um"]["value"] == pytest.approx(9.8, abs=1.5)
    assert any("take a larger field" in item["detail"] for item in said["checks"])


def test_moves_that_make_no_series_are_refused() -> None:
    with pytest.raises(ConfigError, match="--z-limits"):
        calibrate("--z-from", -5, "--z-to", 5, "--z-step", 1)
    limits = ("--z-limits", -4, 4)
    with pytest.raises(ConfigError, match="outside the limits"):
        calibrate("--z-from", -5, "--z-to", 5, "--z-step", 1, *limits, "--dry-run")
    with pytest.raises(ConfigError, match="take 5 to"):
        calibrate("--z-from", -4, "--z-to", 4, "--z-step", 4, *limits, "--dry-run")
    with pytest.raises(ConfigError, match="are not a range"):
        calibrate("--z-from", 4, "--z-to", -4, "--z-step", 1, *limits, "--dry-run")


def test_an_in_focus_recording_of_several_frames_is_refused(tmp_path: Path) -> None:
    path = recorded(tmp_path / "beads", beads())
    with pytest.raises(InputError, match="takes one frame"):
        calibrate("--from-recording", path, "--in-focus", path)
