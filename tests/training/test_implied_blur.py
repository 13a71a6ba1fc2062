"""The blur that two sets of different fields imply: its width, its shape, and a wrong simulator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.fft
from numpy.typing import NDArray

from benchmarks.simulator.implied_blur import (
    ImpliedBlur,
    implied_blur,
    same_blur,
    transfer_width,
)
from refocusd.errors import InputError
from refocusd.imaging.optics import Optics, defocus_otf

Floats = NDArray[np.float64]
Blur = Callable[[int], Floats]

SIDE, FIELDS = 256, 10
DISC, DISC_UM = Optics(0.45, 0.461), 19.0
RADIUS_PX = DISC_UM * np.tan(np.arcsin(0.45)) / DISC.pixel_um
#: A real plate at z = 00, at half of its size.
PEAKED, PEAKED_UM = Optics(0.51, 0.461, apodisation=0.39, spherical_waves=-0.58), 14.8


def disc(side: int) -> Floats:
    """The transfer function of a uniform disc."""
    return np.asarray(defocus_otf(DISC, DISC_UM, (side, side)), np.float64)


def peaked(side: int, um: float = PEAKED_UM) -> Floats:
    """The transfer function of a central peak with flanks, about as wide."""
    return np.asarray(defocus_otf(PEAKED, um, (side, side)), np.float64)


def narrower(side: int) -> Floats:
    """The same, nearer to focus."""
    return peaked(side, 0.7 * PEAKED_UM)


BLURS = pytest.mark.parametrize("blur", [disc, peaked])


def fields(seed: int) -> list[Floats]:
    """Fields of nuclei: ellipses of random size, place and brightness."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    found = []
    for _ in range(FIELDS):
        light = np.zeros((SIDE, SIDE), np.float32)
        for _ in range(70):
            row, column = rng.uniform(0, SIDE, 2)
            radius, stretch, bright = rng.uniform(4, 7), rng.uniform(0.8, 1.25), rng.uniform(0.5, 1)
            inside = ((y - row) * stretch) ** 2 + ((x - column) / stretch) ** 2 < radius**2
            light[inside] += np.float32(bright)
        found.append((100 + 800 * light).astype(np.float64))
    return found


def imaged(sharp: list[Floats], blur: Blur, gain: float = 1.0) -> list[Floats]:
    otf, rng = blur(SIDE), np.random.default_rng(9)
    light: list[Floats] = [scipy.fft.irfft2(scipy.fft.rfft2(gain * one) * otf) for one in sharp]
    return [one + rng.normal(0, 4, one.shape) for one in light]


@pytest.fixture(scope="module")
def sharp() -> list[Floats]:
    return fields(0)


@pytest.fixture(scope="module")
def others() -> list[Floats]:
    return fields(1)


def true_width(blur: Blur, found: ImpliedBlur) -> float:
    row = blur(2 * SIDE)[0]
    transfer = np.interp(found.frequency, np.arange(row.size) / (2 * SIDE), row)
    return transfer_width(transfer, found.frequency)


@BLURS
def test_the_width_of_a_known_psf_is_found_within_a_tenth(
    blur: Blur, sharp: list[Floats], others: list[Floats]
) -> None:
    # Twice as bright: the number and brightness of nuclei differ between plates.
    found = implied_blur(imaged(others, blur, gain=2.0), sharp)
    assert found.width_px == pytest.approx(true_width(blur, found), rel=0.10)
    assert found.uncertainty < 0.15


def test_the_light_of_a_disc_lies_where_it_should(
    sharp: list[Floats], others: list[Floats]
) -> None:
    inside, most, far = implied_blur(imaged(others, disc), sharp).encircled(
        np.array([0.5, 1.0, 1.6]) * RADIUS_PX
    )
    assert inside == pytest.approx(0.25, abs=0.12)
    assert most > 0.75
    assert far == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("wrong", [disc, narrower])
def test_a_simulator_with_another_psf_is_noticed_and_the_right_one_is_not(
    wrong: Blur, sharp: list[Floats], others: list[Floats]
) -> None:
    real = implied_blur(imaged(others, peaked), sharp)
    assert same_blur(real, implied_blur(imaged(sharp, peaked), sharp))
    assert not same_blur(real, implied_blur(imaged(sharp, wrong), sharp))


def test_few_fields_and_frames_of_noise_are_refused(sharp: list[Floats]) -> None:
    with pytest.raises(InputError, match="at least three fields"):
        implied_blur(sharp[:2], sharp)
    rng = np.random.default_rng(0)
    noise = [rng.normal(100, 5, (SIDE, SIDE)) for _ in range(3)]
    with pytest.raises(InputError, match="no structure above their noise"):
        implied_blur(noise, sharp)
