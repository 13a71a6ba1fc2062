"""The width of the blur, from the microscope and the distance from focus."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest

from refocusd.imaging.blur import half_width_sigma
from refocusd.imaging.known_blur import Distance, distance_from_focus, known_blur
from refocusd.imaging.optics import Optics, defocus_psf
from refocusd.profiles.applied import _without_stage
from refocusd.profiles.profile import FocusSection, Measured, Microscope, Profile, PsfSection

PIXEL_UM = 0.5
FRAME = {"PixelSizeUm": PIXEL_UM}


def measured(value: float, uncertainty: float = 0.1) -> Measured:
    return Measured(value=value, uncertainty=uncertainty)


def profile(**sections: Any) -> Profile:
    """A PSF whose width is 0.4 um at stage position 102 um, and 0.3 times the distance far away."""
    psf = PsfSection(
        method="beads",
        model="wave",
        focus_um=measured(100.0),
        defocus_um=[float(um) for um in range(-30, 31, 4)],
        sigma_um=[math.hypot(0.4, 0.3 * (um - 2.0)) for um in range(-30, 31, 4)],
    )
    values: dict[str, Any] = {"microscope": Microscope(na=0.5), "psf": psf, **sections}
    return Profile(created="2026-01-01T00:00:00+00:00", version="1", **values)


@pytest.mark.parametrize("um", [-24.0, -11.0, 7.0, 20.0])
def test_a_measured_psf_tells_the_width_at_a_stated_distance(um: float) -> None:
    found = known_blur(profile(), FRAME, distance_from_focus(profile(), None, um))
    assert found is not None
    assert found.source == "profile"
    assert found.sigma_px == pytest.approx(math.hypot(0.4, 0.3 * um) / PIXEL_UM, rel=0.03)
    assert 0.08 < found.uncertainty < 0.2


def test_beyond_what_was_measured_the_width_grows_with_the_distance_and_is_less_sure() -> None:
    near, far = (known_blur(profile(), FRAME, Distance(um, 1.0)) for um in (25.0, 50.0))
    assert near is not None
    assert far is not None
    assert far.sigma_px == pytest.approx(2 * near.sigma_px, rel=0.03)
    assert far.uncertainty > near.uncertainty


def test_the_stage_tells_the_distance_but_not_on_which_specimen() -> None:
    far, near = (distance_from_focus(profile(), stage_um) for stage_um in (130.0, 104.0))
    assert far is not None
    assert far.um == pytest.approx(28.0, abs=0.3)
    widths = [known_blur(profile(), FRAME, distance) for distance in (far, near)]
    uncertainties = [width.uncertainty for width in widths if width is not None]
    # The effect of a few micrometres more or less.
    assert 0.15 < uncertainties[0] < 0.3 < uncertainties[1]
    assert distance_from_focus(profile(), None) is None
    assert distance_from_focus(None, 104.0) is None


def test_a_focus_that_was_measured_by_itself_counts() -> None:
    later = profile(focus=FocusSection(metric="brenner", best_um=measured(110.0)))
    distance = distance_from_focus(later, 104.0)
    assert distance is not None
    assert distance.um == -6.0


def test_planes_that_were_counted_and_stage_positions_are_never_compared() -> None:
    focus = FocusSection(metric="brenner", best_um=measured(6.0), counted=True)
    counted = profile(focus=focus, psf=None)
    assert distance_from_focus(counted, 104.0) is None
    assert distance_from_focus(profile(), 4.0, counted=True) is None
    distance = distance_from_focus(counted, 4.0, counted=True)
    assert distance is not None
    assert distance.um == -2.0
    # Another section may know the stage position.
    assert distance_from_focus(profile(focus=focus), 104.0) == distance_from_focus(profile(), 104.0)
    [warning] = _without_stage(counted)
    assert "its focus was measured on planes without stage positions" in warning
    assert _without_stage(profile()) == []


@pytest.mark.parametrize(
    ("na", "index", "um"),
    [*product([0.3, 0.5, 0.75], [1.0], [6.0, 16.0, 30.0]), (1.25, 1.518, 4.0)],
)
def test_the_nominal_aperture_tells_the_width_within_its_uncertainty(
    na: float, index: float, um: float
) -> None:
    found = known_blur(None, FRAME | {"NumericalAperture": na}, Distance(um, 0.0))
    assert found is not None
    assert found.source == "nominal"
    for apodisation in (0.0, 1.0):
        optics = Optics(na, 0.52, index, PIXEL_UM, apodisation=apodisation)
        truth = half_width_sigma(defocus_psf(optics, um))
        assert truth is not None
        assert abs(math.log(found.sigma_px / truth)) < found.uncertainty


def test_a_stated_aperture_comes_before_that_of_the_metadata() -> None:
    distance = Distance(20.0, 0.0)
    said = FRAME | {"NumericalAperture": 0.3}
    stated = known_blur(None, said, distance, na=0.6)
    read = known_blur(None, said, distance)
    assert stated is not None
    assert read is not None
    assert stated.sigma_px == pytest.approx(2 * read.sigma_px, rel=0.05)


def test_without_the_aperture_the_pixel_size_or_the_distance_nothing_is_known() -> None:
    distance = Distance(20.0, 0.0)
    assert known_blur(None, FRAME, distance) is None
    assert known_blur(None, {"NumericalAperture": 0.5}, distance) is None
    assert known_blur(profile(), FRAME, None) is None
    summary = {"PixelSize_um": PIXEL_UM}
    assert known_blur(None, {"NumericalAperture": 0.5}, distance, summary=summary) is not None


@pytest.mark.parametrize(
    "odd", [{"wavelength_um": 1e300}, {"wavelength_um": -0.5}, {"refractive_index": 1e300}]
)
def test_light_and_media_that_no_microscope_has_count_as_not_stated(odd: dict[str, Any]) -> None:
    near = Distance(4.0, 0.5)
    plain = known_blur(profile(psf=None), FRAME, near)
    assert known_blur(profile(psf=None, microscope=Microscope(na=0.5, **odd)), FRAME, near) == plain
    no_aperture = profile(psf=None, microscope=Microscope(na=1e300))
    assert known_blur(no_aperture, FRAME, near) is None
