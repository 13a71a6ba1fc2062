"""`refocusd calibrate camera`: on a real Micro-Manager core, and from recordings."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from recordings_on_disk import write_ndtiff
from refocusd_calibration.camera.command import register
from refocusd_calibration.cli import commands
from refocusd_calibration.profile.write import raw_data, read_map
from simulated_camera import SimulatedCamera

from refocusd.demo.microscope import DemoMicroscope
from refocusd.errors import ConfigError, InputError
from refocusd.profiles.profile import load_profile

CAMERA = SimulatedCamera(gain=0.5, read_noise=2.0, bits=12, hot_fraction=1e-3, shading=0.2)
DARK_MS = (5.0, 50.0, 200.0)
FLAT_MS = tuple(float(ms) for ms in range(8, 97, 8))
LIGHT = 20.0


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers(required=True))
    parsed = parser.parse_args(["camera", *map(str, arguments)])
    return int(parsed.command(parsed))


def recorded(folder: Path, exposures_ms: tuple[float, ...], light: float) -> Path:
    """Write a series as pycromanager records one."""
    rng = np.random.default_rng(len(exposures_ms))
    planes = [
        (
            {"exposure": index, "time": time},
            CAMERA.expose(ms, light, rng),
            {"Exposure": ms, "Camera": "Zyla", "PixelSizeUm": 0.65, "BitDepth": 12},
        )
        for index, ms in enumerate(exposures_ms)
        for time in range(4)
    ]
    return write_ndtiff(folder, planes)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give a dark and a flat recording."""
    folder = tmp_path_factory.mktemp("series")
    return recorded(folder / "dark", DARK_MS, 0.0), recorded(folder / "flat", FLAT_MS, LIGHT)


def test_a_profile_is_written_from_recordings(
    series: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, figures = tmp_path / "scope.json", tmp_path / "figures.json"
    flags = ("--objective", "20x/0.45", "--na", 0.45)
    assert run("--from-recording", *series, "--output", path, "--json", figures, *flags) == 0
    profile = load_profile(path)
    assert profile.camera is not None
    assert profile.camera.gain_e_per_count.value == pytest.approx(0.5, rel=0.02)
    assert profile.camera.read_noise_e.value == pytest.approx(2.0, rel=0.05)
    assert profile.camera.hot_pixel_count == int(CAMERA.hot.sum())
    assert profile.camera.shape == CAMERA.shape
    assert read_map(path, profile.camera.maps["flat"]).shape == CAMERA.shape
    assert (profile.microscope.camera, profile.microscope.objective) == ("Zyla", "20x/0.45")
    assert profile.microscope.pixel_um == pytest.approx(0.65)
    assert not profile.insisted
    assert [raw.sha256 for raw in profile.raw] == [
        raw_data("", recording).sha256 for recording in series
    ]
    said = json.loads(figures.read_text(encoding="utf-8"))
    assert said["camera"]["gain_e_per_count"]["value"] == profile.camera.gain_e_per_count.value
    assert "read noise" in capsys.readouterr().out


def test_a_measurement_that_fails_its_checks_is_reported_but_not_written(
    series: tuple[Path, Path], tmp_path: Path
) -> None:
    leaking = recorded(tmp_path / "leak", DARK_MS, 0.3)
    path, figures = tmp_path / "scope.json", tmp_path / "figures.json"
    arguments = ("--from-recording", leaking, series[1], "--output", path, "--json", figures)
    with pytest.raises(InputError, match=r"light leak: .*cover the camera"):
        run(*arguments)
    assert not path.exists()
    checks = json.loads(figures.read_text(encoding="utf-8"))["checks"]
    assert [item["name"] for item in checks if not item["passed"]] == ["light leak"]
    assert run(*arguments, "--insist") == 0
    assert load_profile(path).insisted


def test_recordings_without_metadata_take_their_exposures_from_flags(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, exposures, light in (("dark", DARK_MS, 0.0), ("flat", FLAT_MS, LIGHT)):
        frames = [CAMERA.expose(ms, light, rng) for ms in exposures for _ in range(4)]
        tifffile.imwrite(tmp_path / f"{name}.tif", np.stack(frames), photometric="minisblack")
    paths = (tmp_path / "dark.tif", tmp_path / "flat.tif")
    path = tmp_path / "scope.json"
    with pytest.raises(InputError, match="do not state their exposure"):
        run("--from-recording", *paths, "--output", path)
    lists = [",".join(f"{ms:g}" for ms in exposures) for exposures in (DARK_MS, FLAT_MS)]
    flags = ("--dark-exposures-ms", lists[0], "--flat-exposures-ms", lists[1])
    assert run("--from-recording", *paths, "--output", path, *flags) == 0
    camera = load_profile(path).camera
    assert camera is not None
    assert camera.gain_e_per_count.value == pytest.approx(0.5, rel=0.02)


def test_without_an_output_the_figures_are_only_printed(
    series: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--from-recording", *series, "--json", tmp_path / "figures.json") == 0
    assert "no profile was written" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
    leaking = recorded(tmp_path / "leak", DARK_MS, 0.3)
    assert run("--from-recording", leaking, series[1]) == 1
    with pytest.raises(ConfigError, match="so that the recordings can be stored"):
        run("--yes")


def test_dark_frames_alone_are_refused(series: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 paths.*no gain"):
        run("--from-recording", series[0], "--output", tmp_path / "scope.json")
    again = recorded(tmp_path / "dark", (1.0, 2.0, 4.0, 8.0), 0.0)
    with pytest.raises(InputError, match="as dark as"):
        run("--from-recording", series[0], again, "--output", tmp_path / "scope.json")


def test_a_dry_run_prints_every_move_and_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--dark-exposures-ms", "7,70", "--flat-exposures-ms", "3,30,60,90")
    assert run("--dry-run", "--output", tmp_path / "scope.json", *flags) == 0
    printed = capsys.readouterr().out
    # Two dark moves of 16 frames; flat moves up and down with 2 frames each.
    assert "2 moves, 32 frames" in printed
    assert "8 moves, 16 frames" in printed
    assert printed.count("closed") == 2
    assert "nothing was moved" in printed
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="move 2 exposes for 70 ms"):
        run("--dry-run", "--longest-exposure-ms", 50, *flags)


def test_the_real_core_measures_a_camera(
    demo_microscope: DemoMicroscope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the pixels are simulated; they follow the core's exposure and shutter."""
    core = demo_microscope.core
    camera = SimulatedCamera(shape=(512, 512), gain=0.5, read_noise=2.0, bits=12, shading=0.2)
    rng = np.random.default_rng(0)
    take = core.get_tagged_image

    def taken(*arguments: Any, **named: Any) -> Any:
        image = take(*arguments, **named)
        light = LIGHT if core.get_shutter_open() else 0.0
        image.pix = camera.expose(core.get_exposure(), light, rng)
        return image

    monkeypatch.setattr(core, "get_tagged_image", taken)
    path = tmp_path / "scope.json"
    flags = (
        "--dark-exposures-ms", "5,40", "--dark-frames", 4,
        "--flat-exposures-ms", "8,20,32,44,56,68,80,92", "--flat-frames", 2,
    )  # fmt: skip
    assert run("--output", path, "--yes", "--settle-ms", 0, *flags) == 0
    profile = load_profile(path)
    assert profile.camera is not None
    gain, noise = profile.camera.gain_e_per_count, profile.camera.read_noise_e
    assert gain.value == pytest.approx(0.5, rel=0.02)
    assert noise.value == pytest.approx(2.0, rel=0.05)
    assert profile.microscope.camera == "Camera"
    assert profile.microscope.channel == "DAPI"
    assert profile.microscope.pixel_um == pytest.approx(demo_microscope.specimen.pixel_um)
    for raw in profile.raw:
        assert raw_data("", raw.path).sha256 == raw.sha256


def test_a_microscope_that_is_not_there_is_reported(tmp_path: Path) -> None:
    code = (
        "from refocusd_calibration.stage.microscope import microscope_core, JAVA_PORT, _listens\n"
        "from refocusd.errors import ConfigError\n"
        "if _listens(JAVA_PORT): raise SystemExit(77)\n"
        "try: microscope_core()\n"
        "except ConfigError as error: print(error)\n"
    )
    search = [path for path in sys.path if path]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {search!r}\n{code}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    if done.returncode == 77:
        pytest.skip("a Micro-Manager runs on this computer")
    assert "no microscope was found" in done.stdout, done.stderr


def test_a_hardware_configuration_is_started_and_stopped_here(tmp_path: Path) -> None:
    code = (
        "from refocusd_calibration.stage.microscope import open_microscope\n"
        "from refocusd_calibration.stage.moves import run_series\n"
        "from refocusd_calibration.stage.plan import MoveLimits, plane_moves\n"
        "from refocusd.errors import ConfigError\n"
        "for number in range(2):\n"
        "    with open_microscope('MMConfig_demo.cfg') as core:\n"
        "        moves = plane_moves([0, 1], exposure_ms=5)\n"
        "        path = run_series(moves, '.', 'p', limits=MoveLimits(0, 1), settle_ms=0)\n"
        "        print(core.get_camera_device(), path.name)\n"
        "try:\n"
        "    with open_microscope('none.cfg'): pass\n"
        "except ConfigError as error: print(error)\n"
    )
    pytest.importorskip("mm_test_adapters", reason="the demo devices are not installed")
    search = [path for path in sys.path if path]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {search!r}\n{code}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=100,
    )
    said = [line for line in done.stdout.splitlines() if line.startswith(("Camera", "the conf"))]
    assert said[:2] == ["Camera p_1", "Camera p_2"], done.stderr
    assert said[2].startswith("the configuration none.cfg does not load")


@pytest.mark.parametrize(
    "arguments",
    [
        ("camera", "--from-recording", "dark", "flat", "--output", "p.json", "--json", "f.json"),
        ("focus", "--from-recording", "stack", "--output", "p.json", "--dry-run"),
        ("psf", "--from-recording", "beads", "--output", "p.json", "--dry-run"),
        ("show", "p.json", "--report", "p.html", "--json"),
        ("compare", "a.json", "b.json", "--limits", "limits.toml", "--json"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_measurement_joins_the_command_line(arguments: tuple[str, ...]) -> None:
    parser = argparse.ArgumentParser()
    commands.register(parser.add_subparsers(required=True))
    assert callable(parser.parse_args(["calibrate", *arguments]).command)


def test_the_commands_are_known_without_loading_what_it_computes_with() -> None:
    search = [path for path in sys.path if path]
    code = (
        "import refocusd_calibration.cli.commands; "
        "heavy = {'scipy', 'matplotlib', 'tifffile', 'pycromanager', 'skimage'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {search!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"
