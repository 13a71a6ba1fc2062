"""The PSF is measured automatically on z-stacks, and used for frames of that microscope."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tifffile
from finished import refocusd
from live import opened, pump_until, quick_settings, read_all, running, source
from numpy.typing import NDArray
from recordings_on_disk import write_ndtiff
from refocusd_calibration.psf.automatic import measure_automatically, stacks
from refocusd_training.simulate.blur import best_focus_um
from scipy.signal import fftconvolve
from simulated_psf import in_order
from waiting import PATIENCE_S, until

from refocusd.cli.main import main
from refocusd.config import Settings
from refocusd.daemon.acquisitions.blur.known import blur_by_microscope
from refocusd.demo.specimen import Specimen
from refocusd.formats.open_dataset import open_dataset
from refocusd.imaging.blur import BlurEstimate, PsfShape
from refocusd.imaging.optics import Optics, defocus_psf
from refocusd.processes.child import Child
from refocusd.processes.self_calibration import SelfCalibrator
from refocusd.profiles.applied import Applied, apply_profiles
from refocusd.profiles.catalogue import LEARNED, Catalogue, Selection
from refocusd.profiles.microscope_metadata import first_of
from refocusd.profiles.profile import (
    CameraSection,
    Check,
    FocusSection,
    Learned,
    Measured,
    Microscope,
    Profile,
    PsfSection,
    load_profile,
    save_profile,
)
from refocusd.worker import blurs

PIXEL_UM = 0.645
PLATE = Optics(0.51, 0.461, 1.0, PIXEL_UM, spherical_waves=-1.17, apodisation=0.39)
#: Stage positions and focus, um.
Z_UM, FOCUS_UM = np.arange(100.0, 141.0, 4.0), 128.0
SIDE = 448
SCOPE = {"Camera": "Zyla", "PixelSizeUm": PIXEL_UM, "TIObjective-Label": "20x"}
ID = "00000000-0000-4000-8000-000000000001"


@pytest.fixture(scope="module")
def stack() -> NDArray[np.uint16]:
    """Planes of a thin specimen, as the plate reader images them."""
    plane = np.tile(Specimen().sharp("DAPI").astype(np.float64), (2, 2))[:SIDE, :SIDE]
    rng, planes = np.random.default_rng(0), []
    for um in Z_UM:
        psf = defocus_psf(PLATE, best_focus_um(PLATE) + um - FOCUS_UM)
        seen = fftconvolve(np.pad(plane, psf.shape[0] // 2, mode="wrap"), psf, mode="valid")
        planes.append(np.rint(rng.poisson(np.maximum(seen, 0.01) * 40) / 2 + 100))
    return np.stack(planes).astype(np.uint16)


def environment(place: Path) -> dict[str, str]:
    return {
        "REFOCUSD_BACKEND": "openvino",
        "REFOCUSD_UNTRUSTED": "mark",
        "REFOCUSD_CALIBRATIONS": str(place / "calibrations"),
    }


@pytest.mark.timeout(600)
def test_a_recording_is_refocused_with_the_psf_that_its_own_stack_tells(
    tmp_path: Path, stack: NDArray[np.uint16]
) -> None:
    path = tmp_path / "cells.ome.tif"
    scale = {"PhysicalSizeX": PIXEL_UM, "PhysicalSizeY": PIXEL_UM, "PhysicalSizeZ": 4.0}
    tifffile.imwrite(path, stack, ome=True, metadata={"axes": "ZYX", **scale})
    done = refocusd("process", path, place=tmp_path, **environment(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "measuring the PSF on its z-stack" in done.stderr
    [kept] = (tmp_path / "calibrations" / LEARNED).glob("*.json")
    profile = load_profile(kept)
    assert profile.learned == Learned(recording=str(path), acquisition=kept.name[:36])
    assert profile.psf is not None
    assert profile.psf.na is not None
    assert profile.psf.na.value == pytest.approx(0.51, rel=0.1)
    frames = read_all(next(tmp_path.glob("cells*_refocused")))
    said = [metadata["refocusd"] for _, metadata in frames.values()]
    assert {each["calibration"] for each in said} == {profile.id()}
    assert "stack" in {each["blur_source"] for each in said}
    # Nothing is measured or refocused twice.
    again = refocusd("process", path, place=tmp_path, **environment(tmp_path))
    assert "nothing to do" in again.stdout
    assert "measuring" not in again.stderr


@pytest.mark.timeout(900)
def test_a_daemon_learns_from_a_stack_what_the_next_acquisition_is_refocused_with(
    tmp_path: Path, stack: NDArray[np.uint16], caplog: pytest.LogCaptureFixture
) -> None:
    said = [{**SCOPE, "ZPosition_um_Intended": float(um)} for um in Z_UM]
    frames = [({"z": n}, plane, said[n]) for n, plane in enumerate(stack)]
    raw = write_ndtiff(tmp_path / "raw", frames, {"PixelSize_um": PIXEL_UM})
    engine = {"backend": "openvino", "model": "live-fluorescence", "untrusted": "mark"}
    settings = quick_settings(tmp_path, **engine)
    caplog.set_level(logging.INFO)
    first: dict[str, Any] = {"side": SIDE, "first": first_of(SCOPE)}
    with running(settings) as daemon:
        with source(daemon) as connection:
            upload = opened(connection, tmp_path / "raw_refocused", raw=str(raw), **first)
            upload.close(len(stack))
            pump_until(upload, lambda: upload.closed)
        # At the lowest priority: where the machine is busy, hardly anything is left for it.
        measured = "the PSF was measured on the z-stack"
        until(lambda: measured in caplog.text, "the measurement", 6 * PATIENCE_S)
        with source(daemon) as connection:
            later = opened(connection, tmp_path / "later", **first)
            pump_until(later, lambda: later.credit)
            later.submit(stack[0], '{"time":0}', json.dumps(said[0]), 0)
            later.close(1)
            pump_until(later, lambda: later.closed)
    assert "is that which refocusd measured by itself on" in caplog.text
    [kept] = (tmp_path / "calibrations" / LEARNED).glob("*.json")
    [(_, metadata)] = read_all(tmp_path / "later").values()
    assert metadata["refocusd"]["calibration"] == load_profile(kept).id()
    assert metadata["refocusd"]["blur_source"] == "stack"
    first_run = read_all(tmp_path / "raw_refocused").values()
    assert {metadata["refocusd"]["calibration"] for _, metadata in first_run} == {None}


def test_planes_that_no_optics_explain_are_not_believed(stack: NDArray[np.uint16]) -> None:
    """Sharp structures at two depths, as in a thick specimen."""
    thick = stack[2:] + np.roll(stack[:-2], (90, 60), (1, 2))
    measured = measure_automatically(in_order(list(Z_UM[2:]), thick, PIXEL_UM), None)
    assert not measured.passed
    assert not {c.name: c.passed for c in measured.checks}["form of the PSF"]


def test_few_planes_are_no_stack_and_each_channel_has_its_own(tmp_path: Path) -> None:
    frames: list[tuple[dict[str, Any], NDArray[np.uint16], dict[str, Any]]] = [
        ({"z": z, "channel": name, "position": place}, np.zeros((32, 32), np.uint16), {})
        for name, planes in (("DAPI", 9), ("GFP", 5))
        for place in range(5)
        for z in range(planes)
    ]
    with open_dataset(write_ndtiff(tmp_path / "raw", frames)) as recording:
        found = dict(stacks(recording))
    assert set(found) == {"DAPI"}
    assert {json.loads(key)["position"] for key in found["DAPI"]} == {2}


# -- which profile applies ----------------------------------------------------------------------


def learned(
    folder: Path, *, elsewhere: bool = True, acquisition: str = ID, **microscope: Any
) -> Profile:
    """A profile that refocusd measured automatically, in the folder of such profiles."""
    one = Measured(value=100.0, uncertainty=0.1)
    profile = Profile(
        created=datetime.now(UTC).isoformat(),
        version="1",
        microscope=Microscope(
            **{"camera": "Zyla", "objective": "20x", "pixel_um": PIXEL_UM, **microscope}
        ),
        psf=PsfSection(
            method="planes",
            model="wave",
            focus_um=one,
            na=msgspec.structs.replace(one, value=0.5),
            wavelength_um=0.5,
            defocus_um=[-20.0, -10.0, 0.0, 10.0],
            sigma_um=[8.0, 4.0, 0.6, 4.0],
            misfit=0.01,
        ),
        learned=Learned(recording="/raw", acquisition=acquisition, elsewhere=elsewhere),
    )
    path = folder / LEARNED / f"{acquisition}-{profile.id()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_profile(profile, path)
    return profile


def applied(folder: Path, first: dict[str, Any]) -> list[str]:
    """Ids of the profiles for an acquisition that begins now."""
    catalogue = Catalogue(folder)
    lately = catalogue.learned_lately(first)
    return apply_profiles(catalogue, first, (64, 64), learned=lately).selection.ids


@pytest.mark.fast
@pytest.mark.parametrize(
    ("changed", "applies"),
    [
        ({}, True),
        ({"Camera": "Orca"}, False),
        ({"Camera": ""}, False),
        ({"TIObjective-Label": "40x"}, False),
        ({"TIObjective-Label": ""}, False),
        ({"PixelSizeUm": 0.325}, False),
        ({"PixelSizeUm": 0}, False),
        ({"Binning": "2"}, False),
        ({"Binning": "1"}, True),
    ],
)
def test_it_applies_to_that_microscope_only(
    tmp_path: Path, changed: dict[str, Any], applies: bool
) -> None:
    profile = learned(tmp_path)
    assert applied(tmp_path, {**SCOPE, **changed}) == [profile.id()] * applies


@pytest.mark.fast
def test_it_applies_to_that_channel_only(tmp_path: Path) -> None:
    profile = learned(tmp_path, channel="DAPI")
    catalogue = Catalogue(tmp_path)
    chosen, _ = catalogue.choose(SCOPE, learned=catalogue.learned_lately(SCOPE))
    assert chosen.of("DAPI") == profile
    assert chosen.of("GFP") is None
    assert chosen.of("") is None


def a_persons(folder: Path, **sections: Any) -> Profile:
    """A profile that a person measured and put into use."""
    now = datetime.now(UTC).isoformat()
    own = Profile(created=now, version="1", microscope=Microscope(camera="Zyla"), **sections)
    save_profile(own, folder / "own.json")
    return own


@pytest.mark.fast
def test_what_a_person_measured_wins(tmp_path: Path) -> None:
    own = a_persons(tmp_path, psf=learned(tmp_path).psf)
    assert applied(tmp_path, SCOPE) == [own.id()]


@pytest.mark.fast
def test_a_camera_that_a_person_measured_stays_beside_it(tmp_path: Path) -> None:
    itself = learned(tmp_path)
    one = Measured(value=100.0, uncertainty=0.1)
    camera = CameraSection(offset_counts=one, gain_e_per_count=one, read_noise_e=one)
    own = a_persons(
        tmp_path, camera=msgspec.structs.replace(camera, hot_pixels=[(3, 5)], shape=(64, 64))
    )
    assert applied(tmp_path, SCOPE) == sorted([own.id(), itself.id()])
    catalogue = Catalogue(tmp_path)
    begun = apply_profiles(catalogue, SCOPE, (64, 64), learned=catalogue.learned_lately(SCOPE))
    resumed = apply_profiles(catalogue, SCOPE, (64, 64), named=begun.selection.ids)
    for applies in (begun, resumed):
        assert applies.profile_of('{"time":0}', "{}") == own
        assert applies.profile_of('{"time":0}', "{}", psf=True) == itself
        frame = applies.of_frame('{"time":0}', "{}", (64, 64))
        assert frame is not None
        assert (frame.profile, frame.hot_pixels) == (own.id(), (3 * 64 + 5,))
        said = json.dumps({"ZPosition_um_Intended": 90.0})
        told = blur_by_microscope(Settings(), applies, "{}", '{"time":0}', said)
        assert told is not None
        assert told.source == "stack"
        assert told.form
    # Frames of another camera get neither.
    assert begun.profile_of('{"time":0}', '{"Camera":"Orca"}', psf=True) is None


@pytest.mark.fast
def test_beyond_its_planes_the_aperture_that_a_person_stated_tells_the_width(
    tmp_path: Path,
) -> None:
    itself, one = learned(tmp_path), Measured(value=100.0, uncertainty=0.1)
    own = a_persons(tmp_path, focus=FocusSection(metric="normalized variance", best_um=one))
    applies = Applied(Selection((own, itself), SCOPE, (64, 64)))
    said = json.dumps({"ZPosition_um_Intended": 60.0})
    told = blur_by_microscope(Settings(na=0.5), applies, "{}", '{"time":0}', said)
    assert told is not None
    assert told.source == "nominal"


@pytest.mark.fast
def test_the_next_day_it_applies_to_its_own_recording_only(tmp_path: Path) -> None:
    profile = learned(tmp_path)
    [path] = (tmp_path / LEARNED).iterdir()
    old = path.stat().st_mtime - 25 * 3600
    os.utime(path, (old, old))
    assert applied(tmp_path, SCOPE) == []
    assert Catalogue(tmp_path).learned_on(ID) == [profile]
    assert Catalogue(tmp_path).learned_on(ID.replace("1", "2")) == []
    assert Catalogue(tmp_path).named([profile.id()], SCOPE).profiles == (profile,)


@pytest.mark.fast
def test_one_of_files_without_a_stage_stays_with_its_recording(tmp_path: Path) -> None:
    learned(tmp_path, elsewhere=False)
    assert applied(tmp_path, SCOPE) == []


@pytest.mark.fast
@pytest.mark.parametrize(
    ("stage_um", "known"),
    [(90.0, True), (109.0, True), (70.0, False), (130.0, False), (None, False)],
)
def test_it_tells_the_blur_within_the_planes_that_it_was_measured_on(
    tmp_path: Path, stage_um: float | None, known: bool
) -> None:
    applies = Applied(Selection((learned(tmp_path),), SCOPE, (64, 64)))
    said = {**SCOPE, **({"ZPosition_um_Intended": stage_um} if stage_um else {})}
    told = blur_by_microscope(
        Settings(), applies, '{"z-step_um": 10.0}', '{"z":9}', json.dumps(said)
    )
    assert (told is not None) == known
    if told is not None:
        assert told.source == "stack"
        assert told.form


@pytest.mark.fast
def test_without_calibration_nothing_is_measured_and_this_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    caplog.set_level(logging.INFO)
    assert not SelfCalibrator(Settings()).on
    assert "calibration is not installed" in caplog.text


@pytest.mark.fast
def test_a_profile_that_names_no_camera_is_used_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = [Check(name="psf: beads", passed=False, detail="")]
    own = Profile(created="", version="1", microscope=Microscope(objective="20x"), checks=checks)
    save_profile(own, tmp_path / "own.json")
    used = ["calibrate", "use", str(tmp_path / "own.json"), "--calibrations"]
    assert main([*used, str(tmp_path / "in use")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "it names no camera, and applies to any: state --camera" in said
    assert "written although checks failed (psf: beads)" in said


@pytest.mark.fast
def test_a_stopped_daemon_measures_nothing(tmp_path: Path) -> None:
    calibrator = SelfCalibrator(Settings())
    calibrator.stop()
    assert calibrator.measure(str(tmp_path), ID, elsewhere=False).profiles == []


@pytest.mark.parametrize(
    ("program", "limit_s", "said"),
    [
        ("import sys; sys.exit(3)", 60.0, "failed (exit status 3): `refocusd calibrate auto"),
        ("import sys; sys.stdin.read()", 0.1, "could not be measured within"),
    ],
)
def test_a_measurement_that_failed_is_distinguished_from_one_that_took_too_long(
    monkeypatch: pytest.MonkeyPatch, program: str, limit_s: float, said: str
) -> None:
    module = "refocusd.processes.self_calibration"
    monkeypatch.setattr(f"{module}.LIMIT_S", limit_s)
    monkeypatch.setattr(f"{module}.Child", lambda _, **how: Child(["-c", program], **how))
    found = SelfCalibrator(Settings()).measure("raw", ID, elsewhere=False)
    assert found.profiles == []
    [sentence] = found.said
    assert said in sentence


@pytest.mark.fast
def test_shown_it_says_that_nobody_checked_it_and_used_it_is_the_persons_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = learned(tmp_path)
    [path] = (tmp_path / LEARNED).iterdir()
    assert main(["calibrate", "show", str(path)]) == 0
    assert "refocusd measured it automatically on /raw" in capsys.readouterr().out
    assert main(["calibrate", "use", str(path), "--calibrations", str(tmp_path)]) == 0
    [own] = Catalogue(tmp_path).profiles()
    assert own == msgspec.structs.replace(profile, learned=msgspec.UNSET)
    assert applied(tmp_path, SCOPE) == [own.id()]


FORM = PsfShape(tuple(np.exp(-PsfShape.CYCLES).tolist()))


@pytest.mark.fast
@pytest.mark.parametrize(
    ("by_stage_px", "by_frame_px", "formed"),
    [(12.0, 10.0, True), (12.0, 5.0, False), (8.0, 9.0, False), (12.0, 30.0, False)],
)
def test_its_form_is_tried_where_the_stage_and_the_frame_agree(
    monkeypatch: pytest.MonkeyPatch, by_stage_px: float, by_frame_px: float, formed: bool
) -> None:
    alone = BlurEstimate(by_frame_px, 0.12, "frame")
    monkeypatch.setattr(blurs, "estimate_blur", lambda _: alone)
    stack = BlurEstimate(by_stage_px, 0.1, "stack", FORM)
    found = blurs.Blurs().of("a", stack).known(np.zeros((64, 64), np.uint16))
    if not formed:
        assert found is None
        return
    # The width is the frame's own, and is measured before it is relied on.
    assert found == BlurEstimate(by_frame_px, 0.15, "stack", FORM)
