"""The microscope's blur, from calibration to the metadata of frames that a daemon refocused."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import tifffile
from live import opened, pump_until, quick_settings, read_all, running, source
from refocusd_calibration.psf.measure import Stated, measure_beads
from simulated_psf import in_order, scattered, simulate_beads

from refocusd.frame import Pixels
from refocusd.imaging.blur import half_width_sigma
from refocusd.imaging.known_blur import Distance, known_blur
from refocusd.imaging.optics import Optics, defocus_otf, defocus_psf
from refocusd.imaging.psf_shape import shape_of
from refocusd.profiles.microscope_metadata import first_of
from refocusd.profiles.profile import Microscope, Profile, save_profile

#: The objective states 0.45, which is not quite right.
OPTICS = Optics(0.5, 0.52, 1.0, 0.645, apodisation=0.4)
NOMINAL_NA = 0.45
FRAME = {"Camera": "Zyla", "PixelSizeUm": 0.645}
DEFOCUS_UM = 24.0


def truth_px(defocus_um: float = DEFOCUS_UM) -> float:
    width = half_width_sigma(defocus_psf(OPTICS, defocus_um))
    assert width is not None
    return width


def frame(defocus_um: float = DEFOCUS_UM, seed: int = 0) -> Pixels:
    """Nuclei at a known distance from focus."""
    sample = resources.files("refocusd").joinpath("demo/sample/nuclei.tif")
    with resources.as_file(sample) as path:
        nuclei = tifffile.imread(path)[:384, :384].astype(np.float64)
    otf = defocus_otf(OPTICS, defocus_um, nuclei.shape)
    light = np.maximum(scipy.fft.irfft2(scipy.fft.rfft2(nuclei) * otf, s=nuclei.shape), 0)
    light *= 3000 / light.max()
    return np.random.default_rng(seed).poisson(100 + light).astype(np.uint16)


@lru_cache(maxsize=1)
def calibrated() -> Profile:
    """A profile as `refocusd calibrate psf` makes it from beads; the focus is at 51.3 um."""
    z_um = list(np.linspace(-32, 32, 17))
    places = scattered(8, 360, 85, 45, np.random.default_rng(3))
    frames = simulate_beads(OPTICS, z_um, places, 360, focus_um=1.3, electrons=50000.0)
    stack = in_order([50 + z for z in z_um], frames, 0.645)
    microscope = Microscope(camera="Zyla", pixel_um=0.645, na=NOMINAL_NA)
    section = measure_beads(stack, Stated(NOMINAL_NA, 0.52)).section
    return Profile(
        created=datetime.now(UTC).isoformat(), version="1", microscope=microscope, psf=section
    )


def told(
    place: Path, frames: list[Pixels], metadata: dict[str, Any] | None = None, **settings: Any
) -> list[dict[str, Any]]:
    """Refocus the frames of one stream, and return the metadata of each."""
    values = {"backend": "deconvolution", "untrusted": "mark"} | settings
    said = FRAME | (metadata or {})
    with running(quick_settings(place, **values)) as daemon, source(daemon) as connection:
        upload = opened(connection, place / "out", side=384, first=first_of(said))
        for number, pixels in enumerate(frames):
            pump_until(upload, lambda: upload.credit)
            assert upload.submit(pixels, f'{{"time":{number}}}', json.dumps(said), 0)
        upload.close(len(frames))
        pump_until(upload, lambda: upload.closed)
    return [said["refocusd"] for _, (_, said) in sorted(read_all(place / "out").items())]


def off(facts: dict[str, Any], defocus_um: float = DEFOCUS_UM) -> float:
    return abs(math.log(facts["blur_px"] / truth_px(defocus_um)))


@pytest.mark.parametrize(
    "engine",
    [{"backend": "deconvolution"}, {"backend": "openvino", "model": "live-fluorescence"}],
    ids=["deconvolution", "network"],
)
def test_a_measured_psf_makes_the_blur_of_a_frame_known(
    tmp_path: Path, engine: dict[str, Any]
) -> None:
    (blind,) = told(tmp_path / "blind", [frame()], **engine)
    assert blind["blur_source"] == "frame"
    place = tmp_path / "known"
    save_profile(calibrated(), place / "calibrations" / "zyla.json")
    (known,) = told(place, [frame()], defocus_um=DEFOCUS_UM, **engine)
    assert known["blur_source"] == "profile"
    assert off(known) < 0.12
    assert known["blur_uncertainty"] < 0.15


def test_a_measured_psf_tells_its_form_on_either_side() -> None:
    for um in (-DEFOCUS_UM, DEFOCUS_UM):
        found = known_blur(calibrated(), FRAME, Distance(um, 1.0))
        exact = shape_of(defocus_psf(OPTICS, um))
        assert found is not None
        assert found.shape is not None
        assert exact is not None
        assert np.abs(np.subtract(found.shape.gains, exact.shape.gains)).max() < 0.05


def test_the_stage_tells_how_far_the_frame_is_from_the_focus_that_was_measured(
    tmp_path: Path,
) -> None:
    at = {"ZPosition_um_Intended": 51.3 + DEFOCUS_UM}
    (blind,) = told(tmp_path / "blind", [frame()], at)
    place = tmp_path / "known"
    save_profile(calibrated(), place / "calibrations" / "zyla.json")
    (known,) = told(place, [frame()], at)
    assert known["blur_uncertainty"] < 0.8 * blind["blur_uncertainty"]
    assert off(known) < max(off(blind), 0.15)


def test_the_nominal_aperture_helps_and_the_frames_decide(tmp_path: Path) -> None:
    (blind,) = told(tmp_path / "blind", [frame()])
    (helped,) = told(tmp_path / "helped", [frame()], na=NOMINAL_NA, defocus_um=DEFOCUS_UM)
    assert helped["blur_uncertainty"] < blind["blur_uncertainty"]
    assert off(helped) < max(off(blind), 0.15)


def test_frames_overrule_a_distance_that_is_not_theirs(tmp_path: Path) -> None:
    save_profile(calibrated(), tmp_path / "calibrations" / "zyla.json")
    facts = told(tmp_path, [frame(6.0, seed) for seed in range(3)], defocus_um=60.0)
    assert [one["blur_source"] for one in facts] == ["frame", "frames", "frames"]
    assert all(one["blur_px"] < 2 * truth_px(6.0) for one in facts)


def test_a_measured_psf_counts_in_every_frame_of_a_stream(tmp_path: Path) -> None:
    save_profile(calibrated(), tmp_path / "calibrations" / "zyla.json")
    facts = told(tmp_path, [frame(seed=seed) for seed in range(4)], defocus_um=DEFOCUS_UM)
    assert all(off(one) < 0.12 for one in facts)
