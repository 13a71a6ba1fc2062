"""A profile is shown as numbers, as a figure and as a page."""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
import sys
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from refocusd_calibration.camera.measure import measure_camera
from refocusd_calibration.measurement import check
from refocusd_calibration.profile.report import write_report
from refocusd_calibration.profile.show_command import register
from refocusd_calibration.profile.write import read_map, write_section
from simulated_camera import SimulatedCamera

from refocusd.errors import ConfigError, InputError
from refocusd.profiles.catalogue import Catalogue
from refocusd.profiles.profile import (
    FocusSection,
    Measured,
    Microscope,
    PsfSection,
    load_profile,
    save_profile,
)

pytest.importorskip("matplotlib", reason="reports need the extra `calibrate`")

ONE = Measured(value=1.25, uncertainty=0.125)


def focus() -> FocusSection:
    z = np.linspace(-4, 4, 17)
    tiles = [(float(x), float(y), 0.01 * x, 0.1) for x in (-50, 0, 50) for y in (-40, 40)]
    return FocusSection(
        metric="Brenner",
        best_um=ONE,
        z_um=z.tolist(),
        curves={"Brenner": (1 / (1 + z**2)).tolist(), "entropy": np.abs(z).tolist()},
        surface_um=[1.0, 0.01, 0.0, 1e-5],
        tiles_um=tiles,
    )


def psf(model: str = "wave") -> PsfSection:
    z = np.linspace(-8, 8, 9)
    sigma = np.hypot(0.3, 0.2 * z)
    return PsfSection(
        method="beads",
        model=model,  # type: ignore[arg-type]
        focus_um=ONE,
        na=Measured(value=0.45, uncertainty=0.01) if model == "wave" else None,
        wavelength_um=0.46,
        defocus_um=z.tolist(),
        sigma_um=sigma.tolist(),
        sigma_uncertainty_um=(0.05 * sigma).tolist(),
        sigma_model_um=sigma.tolist(),
        beads=7,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a profile with every section."""
    path = tmp_path_factory.mktemp("profile") / "scope.json"
    microscope = Microscope(camera="<Zyla>", objective="20x/0.45", channel="DAPI", na=0.45)
    camera = SimulatedCamera(shading=0.3, hot_fraction=1e-3)
    found = measure_camera(
        camera.series([1, 100], 4),
        camera.series(range(10, 101, 10), 4, light_e_per_ms=42.0, seed=1),
    )
    write_section(path, microscope, found.section, raw=[], checks=found.checks, maps=found.maps)
    write_section(path, microscope, focus(), raw=[], checks=[check("range", True, "fine")])
    leak = check("beads", False, "only 7 < 10 beads")
    write_section(path, microscope, psf(), raw=[], checks=[leak], insist=True)
    return path


def pixels(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers(required=True))
    parsed = parser.parse_args([str(argument) for argument in arguments])
    return int(parsed.command(parsed))


def test_the_picture_shows_every_section(whole: Path, tmp_path: Path) -> None:
    write_report(whole, tmp_path / "report.png")
    picture = pixels((tmp_path / "report.png").read_bytes())
    height, width = picture.shape[:2]
    assert width > 1000
    # Each of the six panels and the strip of kernels below contains something.
    for row in range(3):
        for column in range(2):
            top, left = int(height * (0.05 + 0.27 * row)), column * width // 2
            panel = picture[top : top + height // 5, left : left + width // 2]
            assert len(np.unique(panel.reshape(-1, 3), axis=0)) > 20
    strip = picture[int(0.92 * height) :]
    assert float((strip.max(axis=2) < 40).mean()) > 0.2


class Page(HTMLParser):
    """Collects the references and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def test_the_page_needs_nothing_but_itself(whole: Path, tmp_path: Path) -> None:
    write_report(whole, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    (image,) = page.references
    assert image.startswith("data:image/png;base64,")
    assert pixels(base64.b64decode(image.partition(",")[2])).shape[1] > 1000
    assert not re.search(r"https?://", text.replace(image, ""))
    profile = load_profile(whole)
    assert profile.camera is not None
    for expected in (
        profile.id(),
        "<Zyla>",
        "FAILED",
        "only 7 < 10 beads",
        "because the user insisted",
        "1.25 ± 0.12 um",
        "gain",
    ):
        assert expected in page.text


@pytest.mark.parametrize("model", ["wave", "gaussian", "disc"])
def test_a_profile_of_one_section_is_drawn(model: str, scope: Microscope, tmp_path: Path) -> None:
    path = tmp_path / "scope.json"
    write_section(path, scope, psf(model), raw=[], checks=[])
    write_report(path, tmp_path / "report.png")
    assert pixels((tmp_path / "report.png").read_bytes()).size > 0


def test_a_profile_with_next_to_nothing_in_it_is_drawn(scope: Microscope, tmp_path: Path) -> None:
    path = tmp_path / "scope.json"
    bare = FocusSection(metric="Brenner", best_um=ONE)
    kernels = PsfSection(method="planes", model="gaussian", focus_um=ONE)
    write_section(path, scope, bare, raw=[], checks=[])
    write_section(path, scope, kernels, raw=[], checks=[])
    write_report(path, tmp_path / "report.html")
    assert "not measured" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_wrong_requests_say_what_to_do(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.png or \.html"):
        write_report(whole, tmp_path / "report.pdf")
    with pytest.raises(InputError, match="cannot be read"):
        write_report(tmp_path / "none.json", tmp_path / "report.png")


def test_without_matplotlib_the_extra_is_named(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"refocusd\[calibrate\]"):
        write_report(whole, tmp_path / "report.png")


def test_show_prints_numbers_checks_and_what_is_stale(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = load_profile(whole)
    old = (datetime.now(UTC) - timedelta(days=400)).isoformat()
    aged = msgspec.structs.replace(profile, measured={**profile.measured, "focus": old})
    path = tmp_path / "scope.json"
    save_profile(msgspec.structs.replace(aged, camera=None), path)
    assert run("show", path, "--report", tmp_path / "page.html") == 0
    printed = capsys.readouterr().out
    assert "1.25 ± 0.12 um" in printed
    assert "FAILED" in printed
    assert "stale: its focus section was measured 400 days ago" in printed
    assert "camera:" not in printed
    assert (tmp_path / "page.html").exists()


def test_show_prints_json_and_nothing_else(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", whole, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["id"] == load_profile(whole).id()
    assert figures["profile"]["camera"]["gain_e_per_count"]["value"] == pytest.approx(1, rel=0.03)
    assert figures["stale"] == []


def test_a_profile_is_used_with_its_maps_from_the_folder_of_those_in_use(
    whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "calibrations"
    assert run("use", whole, "--calibrations", folder) == 0
    [kept] = Catalogue(folder).profiles()
    assert kept == load_profile(whole)
    assert kept.camera is not None
    [path] = folder.glob("*.json")
    for stored in kept.camera.maps.values():
        assert np.array_equal(read_map(path, stored), read_map(whole, stored))
    before = sorted(folder.iterdir())
    assert run("use", path, "--calibrations", folder) == 0
    assert sorted(folder.iterdir()) == before, "it is there already"
    (folder / next(iter(kept.camera.maps.values())).file).write_bytes(b"damaged")
    with pytest.raises(InputError, match="was changed after"):
        run("use", path, "--calibrations", tmp_path / "other")
