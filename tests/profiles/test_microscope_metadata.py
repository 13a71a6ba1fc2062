"""The microscope as described by a frame's metadata, which differ between sources."""

from __future__ import annotations

from typing import Any

import pytest

from refocusd.profiles.microscope_metadata import (
    ignored,
    implausible_pixel_um,
    na_of,
    pixel_um_of,
    stage_position_um,
)


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
        ({"PixelSizeUm": 0.001}, None, 0.001),
        ({"PixelSizeUm": 1e-6}, None, None),
        ({"PixelSizeUm": 1e300}, {"PixelSize_um": 0.65}, 0.65),
        ({"PixelSizeUm": -0.65}, None, None),
        ({"PixelSizeUm": "1e300"}, {"PixelSize_um": 10**400}, None),
        ({"PixelSizeUm": True}, None, None),
        ({"PixelSizeUm": float("nan")}, None, None),
        ({}, {}, None),
    ],
)
def test_a_pixel_size_is_the_frames_own_or_the_acquisitions(
    metadata: dict[str, Any], summary: dict[str, Any] | None, um: float | None
) -> None:
    assert pixel_um_of(metadata, summary) == um


@pytest.mark.parametrize(
    ("um", "told"), [(1e300, "1e+300"), (-1, "-1"), ("nan", "nan"), (0, ""), (0.65, ""), (None, "")]
)
def test_a_pixel_size_that_no_microscope_has_is_reported(um: Any, told: str) -> None:
    assert implausible_pixel_um({"PixelSizeUm": um}, {}) == told


def test_an_aperture_that_no_objective_has_is_not_known() -> None:
    assert [na_of({"NA": na}) for na in (1e300, -0.4, 0, 1e-9, 2.0, "1.4")] == [*[None] * 5, 1.4]


@pytest.mark.parametrize(
    ("metadata", "um", "told"),
    [
        ({"ZPositionUm": 12.5}, 12.5, []),
        ({"ZPositionUm": -8030.5, "ZPosition_um_Intended": 1e300}, -8030.5, []),
        ({"ZPositionUm": 1e300}, None, ["Z position 1e+300"]),
        ({"ZPositionUm": float("nan"), "NA": -3}, None, ["NA -3", "Z position nan"]),
        ({"ZPositionUm": 0.0, "NA": 0}, 0.0, []),
    ],
)
def test_a_stage_that_no_microscope_has_is_not_known_and_told(
    metadata: dict[str, Any], um: float | None, told: list[str]
) -> None:
    assert stage_position_um(metadata, "Z") == um
    assert ignored(metadata) == told
