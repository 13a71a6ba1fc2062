"""One stack of the specimen gives the form of the PSF, with which other frames are refocused."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from refocusd_calibration.psf.measure import PsfMeasurement, Stated, measure_planes
from refocusd_training.simulate.blur import best_focus_um
from scipy.signal import fftconvolve
from simulated_psf import in_order

from refocusd.config import EngineOptions, Settings
from refocusd.daemon.acquisitions.blur.known import blur_by_microscope
from refocusd.demo.specimen import Specimen
from refocusd.engines.choose import build_engine
from refocusd.engines.engine import BlurEngine
from refocusd.frame import Pixels
from refocusd.imaging.blur import BlurEstimate
from refocusd.imaging.optics import Optics, defocus_psf
from refocusd.imaging.quality import psnr
from refocusd.profiles.applied import Applied
from refocusd.profiles.catalogue import Selection
from refocusd.profiles.profile import Microscope, Profile
from refocusd.worker.blurs import Blurs, known_blur

PIXEL_UM, WAVELENGTH_UM = 0.645, 0.461
#: The optics of a plate reader, whose aperture is stated as 0.45.
PLATE = Optics(0.51, WAVELENGTH_UM, 1.0, PIXEL_UM, spherical_waves=-1.17, apodisation=0.39)
STATED = Stated(0.45, WAVELENGTH_UM)
#: Planes of the stack, and which of them is in focus.
Z_UM, IN_FOCUS = np.arange(2.0, 42.0, 3.0), 10
UPPER, LOWER = slice(0, 448), slice(448, 896)


def exposed(plane: NDArray[np.float64], z_um: float, rows: slice) -> Pixels:
    """The plane as the plate reader images it, including light from beyond the borders."""
    psf = defocus_psf(PLATE, best_focus_um(PLATE) + z_um - Z_UM[IN_FOCUS])
    seen = fftconvolve(np.pad(plane, psf.shape[0] // 2, mode="wrap"), psf, mode="valid")
    light = np.random.default_rng(0).poisson(np.maximum(seen, 0.01)[rows] * 40)
    return np.rint(light / 2 + 100).astype(np.uint16)


@pytest.fixture(scope="module")
def plane() -> NDArray[np.float64]:
    return np.tile(Specimen().sharp("DAPI").astype(np.float64), (2, 2))[:896, :672]


@pytest.fixture(scope="module")
def measured(plane: NDArray[np.float64]) -> PsfMeasurement:
    stack = np.stack([exposed(plane, um, UPPER) for um in Z_UM])
    return measure_planes(in_order(list(Z_UM), stack, PIXEL_UM), IN_FOCUS, STATED)


def known(measured: PsfMeasurement, **changed: Any) -> BlurEstimate | None:
    """A daemon's prior blur of plane 4 of another recording, which states no stage positions."""
    section = measured.section
    profile = Profile(
        created="2026-01-01T00:00:00+00:00",
        version="1",
        microscope=Microscope(pixel_um=PIXEL_UM),
        psf=type(section)(
            **{
                **{f: getattr(section, f) for f in section.__struct_fields__},
                "counted": True,
                **changed,
            }
        ),
    )
    applied = Applied(Selection((profile,), {"PixelSizeUm": PIXEL_UM}, (448, 672)))
    return known_blur(
        blur_by_microscope(Settings(), applied, json.dumps({"z-step_um": 2.0}), '{"z": 4}', "{}")
    )


def test_an_apodised_pupil_is_found_and_not_mistaken_for_another_pixel_size(
    measured: PsfMeasurement,
) -> None:
    section = measured.section
    assert measured.passed, measured.checks
    assert section.na is not None
    assert section.na.value == pytest.approx(0.51, rel=0.04)
    assert section.apodisation
    assert section.apodisation.value == pytest.approx(0.39, abs=0.12)
    assert section.spherical_waves is not None
    assert section.spherical_waves.value == pytest.approx(-1.17, abs=0.25)
    assert section.pixel_um is None


def test_another_field_gains_from_what_one_stack_showed(
    measured: PsfMeasurement, plane: NDArray[np.float64]
) -> None:
    raw, truth = exposed(plane, 8.0, LOWER), plane[LOWER].astype(np.float32)
    told = known(measured)
    assert told is not None
    assert told.shape is not None
    out = np.empty_like(raw)
    gained = []
    with closing(
        build_engine("live-fluorescence", EngineOptions("openvino", "f32", threads=1))
    ) as engine:
        assert isinstance(engine, BlurEngine)
        for beforehand in (None, told):
            engine.refocus(raw, out, Blurs().of("a", beforehand).known(raw))
            gained.append(psnr(out, truth, affine=True) - psnr(raw, truth, affine=True))
    assert gained[0] > 1.0
    assert gained[1] > gained[0] + 1.0


def test_planes_that_the_optics_do_not_explain_tell_no_form(measured: PsfMeasurement) -> None:
    told = known(measured, misfit=0.06)
    assert told is not None
    assert told.shape is None
