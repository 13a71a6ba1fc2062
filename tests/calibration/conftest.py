"""Fixtures of the calibration tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from refocusd.profiles.profile import CameraSection, Measured, Microscope


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Give the folder of real images, or skip."""
    folder = os.environ.get("REFOCUSD_TEST_DATA")
    if not folder:
        pytest.skip("REFOCUSD_TEST_DATA is not set: no real images to test with")
    return Path(folder)


@pytest.fixture
def scope() -> Microscope:
    """Give a microscope with all parameters known."""
    return Microscope(
        camera="Zyla",
        objective="20x/0.45",
        channel="DAPI",
        pixel_um=0.325,
        na=0.45,
        wavelength_um=0.46,
    )


@pytest.fixture
def camera_section() -> CameraSection:
    """Give a camera section with only the mandatory numbers."""
    return CameraSection(
        offset_counts=Measured(value=100.0, uncertainty=0.05),
        gain_e_per_count=Measured(value=0.46, uncertainty=0.002),
        read_noise_e=Measured(value=1.6, uncertainty=0.01),
        hot_pixel_count=12,
    )
