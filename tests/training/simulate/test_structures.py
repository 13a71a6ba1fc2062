"""Generated structures: range and shape; they are neither empty nor nuclei."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from refocusd_training.simulate.structures import GENERATORS, Image, _drawn, puncta

Generator = Callable[[np.random.Generator, tuple[int, int]], Image]


every_generator = pytest.mark.parametrize("generator", GENERATORS, ids=lambda one: one.__name__)


@every_generator
@pytest.mark.parametrize("seed", range(8))
def test_every_image_has_the_shape_asked_for_and_uses_the_range_from_0_to_1(
    generator: Generator, seed: int
) -> None:
    image = generator(np.random.default_rng(seed), (150, 211))
    assert image.shape == (150, 211)
    assert image.dtype == np.float32
    assert image.min() >= 0
    assert image.max() == 1
    assert image.std() > 0.01


@every_generator
def test_the_same_seed_draws_the_same_image(generator: Generator) -> None:
    one, two = (generator(np.random.default_rng(3), (128, 128)) for _ in range(2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, generator(np.random.default_rng(4), (128, 128)))


@every_generator
def test_images_have_details_finer_than_any_blur_that_they_will_get(generator: Generator) -> None:
    """Half of the images lose more than a tenth of their contrast if blurred by 4 px."""
    lost = []
    for seed in range(12):
        image = generator(np.random.default_rng(seed), (256, 256))
        frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None])
        blurred = np.fft.irfft2(np.fft.rfft2(image) * np.exp(-2 * (np.pi * 4 * frequency) ** 2))
        lost.append(1 - blurred.std() / image.std())
    assert np.median(lost) > 0.1


def test_spots_are_drawn_between_pixels_without_losing_light() -> None:
    """The sum does not depend on a spot's position: no spot is rounded to the grid."""
    sums = [
        _drawn(np.array([[32.0 + shift, 32.0]]), np.ones(1), (64, 64), 2.0).sum()
        for shift in (0.0, 0.25, 0.5)
    ]
    assert np.ptp(sums) < 1e-9 * sums[0]


def test_even_a_frame_of_a_few_pixels_can_be_drawn() -> None:
    assert puncta(np.random.default_rng(0), (16, 16)).max() == 1
