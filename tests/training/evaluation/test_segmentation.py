"""Nuclei by Otsu and watershed, and their matching."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from refocusd_training.data.images import read_image
from refocusd_training.evaluation.measures.segmentation import agreement, nuclei_of

PIXEL_UM = 0.645


def discs(*centres: tuple[int, int], radius: int = 12, side: int = 160) -> NDArray[np.float32]:
    """Bright discs on a dark background with camera noise."""
    rows, columns = np.ogrid[:side, :side]
    frame = np.full((side, side), 100.0)
    for y, x in centres:
        frame[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = 600.0
    rng = np.random.default_rng(0)
    return rng.poisson(frame).astype(np.float32)


APART = ((30, 30), (30, 110), (110, 40), (115, 115))


def test_discs_are_counted_and_measured() -> None:
    labels = nuclei_of(discs(*APART), PIXEL_UM)
    assert labels.max() == 4
    assert np.bincount(labels.ravel())[1:] == pytest.approx(np.pi * 12**2, rel=0.15)


def test_touching_nuclei_are_parted() -> None:
    assert nuclei_of(discs((60, 50), (60, 72)), PIXEL_UM).max() == 2


def test_dirt_is_no_nucleus() -> None:
    assert nuclei_of(discs(*APART, (70, 70), radius=12) * 1, PIXEL_UM).max() == 5
    speck = discs(*APART)
    speck[70:74, 70:74] = 600
    assert nuclei_of(speck, PIXEL_UM).max() == 4


def test_sizes_are_in_micrometres() -> None:
    speck = discs(*APART)
    speck[70:74, 70:74] = 600
    # With pixels of 2 um the same speck is as large as a nucleus.
    assert nuclei_of(speck, PIXEL_UM)[72, 72] == 0
    assert nuclei_of(speck, 2.0)[72, 72] > 0


def test_a_constant_frame_has_no_nuclei() -> None:
    nothing = nuclei_of(np.full((64, 64), 7.0), PIXEL_UM)
    assert nothing.max() == 0
    found = agreement(nothing, nothing)
    assert (found.true, found.found, found.matched) == (0, 0, 0)
    assert math.isnan(found.f1)


def test_equal_frames_agree() -> None:
    labels = nuclei_of(discs(*APART), PIXEL_UM)
    found = agreement(labels, labels)
    assert (found.matched, found.invented, found.lost, found.f1) == (4, 0, 0, 1.0)
    assert (found.phantoms, found.vanished) == (0, 0)
    assert found.true_area == found.found_area


def test_an_invented_and_a_lost_nucleus_are_counted() -> None:
    true = nuclei_of(discs(*APART), PIXEL_UM)
    restored = nuclei_of(discs(*APART[:3], (70, 75)), PIXEL_UM)
    found = agreement(restored, true)
    assert (found.matched, found.invented, found.lost) == (3, 1, 1)
    # Nothing corresponds to the invented one, and nothing to the lost one.
    assert (found.phantoms, found.vanished) == (1, 1)
    assert found.f1 == pytest.approx(0.75)


def test_a_wrong_shape_is_no_phantom() -> None:
    true = nuclei_of(discs((80, 80)), PIXEL_UM)
    swollen = nuclei_of(discs((80, 80), radius=24), PIXEL_UM)
    found = agreement(swollen, true)
    assert (found.matched, found.invented, found.lost) == (0, 1, 1)
    assert (found.phantoms, found.vanished) == (0, 0)
    assert found.found_area > 3 * found.true_area


def test_two_nuclei_merged_into_one_lose_both() -> None:
    true = np.zeros((40, 80), np.int32)
    true[10:30, 10:38] = 1
    true[10:30, 40:68] = 2
    merged = (true > 0).astype(np.int32)
    merged[10:30, 38:40] = 1
    found = agreement(merged, true)
    assert (found.true, found.found, found.matched, found.lost) == (2, 1, 0, 2)


def test_no_nucleus_is_matched_twice() -> None:
    # Both halves of the true one have exactly the threshold IoU: at most one match.
    true = np.ones((10, 20), np.int32)
    split = true.copy()
    split[:, 10:] = 2
    found = agreement(split, true)
    assert found.matched == 1
    assert found.invented == 1


def test_real_fields_hold_as_many_nuclei_as_one_counts(test_data: Path) -> None:
    # Counted by eye; the first is sparse and contains debris that saturates the camera.
    for well, counted in (("a03", 14), ("a05", 43)):
        [path] = (test_data / "bbbc006" / "in_focus_w1").glob(f"*__{well}__*.png")
        assert nuclei_of(read_image(path), PIXEL_UM).max() == pytest.approx(counted, rel=0.15)
