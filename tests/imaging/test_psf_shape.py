"""The form of a PSF: from optics, from images of points, and its benefit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from refocusd.errors import InputError
from refocusd.imaging.blur import PsfShape, half_width_sigma
from refocusd.imaging.optics import Optics, defocus_psf
from refocusd.imaging.psf_shape import equalised, read_psf, shape_of, shape_of_optics

OPTICS = Optics(0.5, 0.52, pixel_um=0.645, spherical_waves=0.8)


def test_the_form_is_that_of_the_transfer_function_whatever_the_width() -> None:
    near, far = (shape_of_optics(OPTICS, um) for um in (20.0, 24.0))
    assert near is not None
    assert far is not None
    assert far.sigma_px > 1.1 * near.sigma_px
    assert np.abs(np.subtract(near.shape.gains, far.shape.gains)).max() < 0.12
    assert near.shape.gain(np.array([0.0]))[0] == 1.0
    # By definition of the width, one half at 0.187 cycles per standard deviation.
    assert near.shape.gain(np.array([0.1874]))[0] == pytest.approx(0.5, abs=0.01)


def test_a_gaussian_has_the_form_of_one() -> None:
    offsets = np.arange(-40, 41)
    psf = np.exp(-(offsets[:, None] ** 2 + offsets**2) / 2 / 7.0**2)
    found = shape_of(psf / psf.sum())
    assert found is not None
    assert found.sigma_px == pytest.approx(7.0, rel=1e-3)
    expected = np.exp(-2 * (np.pi * PsfShape.CYCLES) ** 2)
    np.testing.assert_allclose(found.shape.gains, expected, atol=2e-3)


def test_a_measured_point_off_centre_on_a_background_is_read(tmp_path: Path) -> None:
    psf = defocus_psf(OPTICS, 16.0)
    image = np.zeros((psf.shape[0] + 20, psf.shape[0] + 8))
    image[13 : 13 + psf.shape[0], 5 : 5 + psf.shape[0]] = psf
    counts = np.random.default_rng(0).poisson(image / image.max() * 4000 + 200)
    tifffile.imwrite(tmp_path / "bead.tif", counts.astype(np.uint16))
    read, exact = read_psf(tmp_path / "bead.tif"), shape_of(psf)
    assert exact is not None
    assert read.sigma_px == pytest.approx(exact.sigma_px, rel=0.05)
    passed = PsfShape.CYCLES < 0.4
    np.testing.assert_allclose(
        np.array(read.shape.gains)[passed], np.array(exact.shape.gains)[passed], atol=0.06
    )


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (np.ones((7, 40, 40), np.uint16), "give one grey plane"),
        (np.ones((40, 40), np.uint16), "shows no point of light"),
        (np.pad(np.full((1, 1), 9, np.uint16), (1, 38)), "lies at the border"),
        (np.pad(np.full((1, 1), 9, np.uint16), 19), "narrower than a pixel"),
    ],
)
def test_what_is_no_psf_is_refused(content: np.ndarray, wanted: str, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "psf.tif", content)
    with pytest.raises(InputError, match=wanted):
        read_psf(tmp_path / "psf.tif")


def test_a_file_that_is_missing_or_no_tiff_is_refused(tmp_path: Path) -> None:
    (tmp_path / "psf.txt").write_text("0.45")
    for name in ("psf.txt", "gone.tif"):
        with pytest.raises(InputError, match="cannot be read"):
            read_psf(tmp_path / name)


def test_what_is_left_of_a_blur_is_a_gaussian_of_the_width_asked_for() -> None:
    psf = defocus_psf(OPTICS, 16.0)
    width_px = half_width_sigma(psf)
    stated = shape_of(psf)
    assert width_px is not None
    assert stated is not None
    frame = np.zeros((257, 257), np.float32)
    half = psf.shape[0] // 2
    frame[128 - half : 129 + half, 128 - half : 129 + half] = psf * 1e5
    left = equalised(frame, width_px, stated.shape, 0.5)
    inner = left[128 - half : 129 + half, 128 - half : 129 + half]
    assert half_width_sigma(inner / inner.sum()) == pytest.approx(width_px * 0.5, rel=0.15)
    assert float(left.sum()) == pytest.approx(float(frame.sum()), rel=0.05)
