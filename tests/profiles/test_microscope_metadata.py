"""What a frame's metadata say of its microscope, where many sources write many things."""

from __future__ import annotations

from typing import Any

import pytest

from refocusd.profiles.microscope_metadata import pixel_um_of


@pytest.mark.parametrize(
    ("metadata", "summary", "um"),
    [
        ({"PixelSizeUm": 0.65}, None, 0.65),
        ({"PixelSize_um": "0.65"}, None, 0.65),
        ({"PixelSizeUm": 0.65}, {"PixelSize_um": 0.1}, 0.65),
        ({"PixelSizeUm": 0}, {"PixelSize_um": 0.65}, 0.65),
        ({"PixelSizeUm": "?"}, {"PixelSize_um": 0.65}, 0.65),
        ({}, {"PixelSize_um": 0.65}, 0.65),
        ({"PixelSizeUm": 0}, {"PixelSize_um": 0}, None),
        ({"PixelSizeUm": 1e-6}, None, 1e-6),
        ({"PixelSizeUm": True}, None, None),
        ({"PixelSizeUm": float("nan")}, None, None),
        ({}, {}, None),
    ],
)
def test_a_pixel_size_is_the_frames_own_or_the_acquisitions(
    metadata: dict[str, Any], summary: dict[str, Any] | None, um: float | None
) -> None:
    assert pixel_um_of(metadata, summary) == um
