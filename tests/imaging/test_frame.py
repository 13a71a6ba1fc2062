"""Frames, their axes, and what is accepted as a frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from refocusd.errors import InputError
from refocusd.frame import Frame, canonical_axes, checked_pixels

pytestmark = pytest.mark.fast


def test_equal_axes_have_equal_keys_whatever_their_order_and_integer_type() -> None:
    one = canonical_axes({"z": np.int64(1), "channel": "DAPI", "time": 0})
    two = canonical_axes({"time": 0, "channel": "DAPI", "z": 1})
    assert one == two == '{"channel":"DAPI","time":0,"z":1}'
    assert Frame(np.zeros((16, 16), np.uint16), {"z": 1}).key == '{"z":1}'
    assert canonical_axes({"z": np.float64(1)}) == '{"z":1}'


@pytest.mark.parametrize("value", [1.5, float("nan"), True, None, [1]])
def test_an_axis_takes_integers_and_strings_only(value: Any) -> None:
    with pytest.raises(InputError, match="axis 'z'"):
        canonical_axes({"z": value})


def test_big_endian_counts_become_native_and_contiguous() -> None:
    stored = np.arange(32 * 64, dtype=">u2").reshape(32, 64)[:, ::2]
    pixels = checked_pixels(stored)
    assert pixels.dtype == np.uint16
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, stored)


@pytest.mark.parametrize(
    ("pixels", "word"),
    [
        (np.zeros((32, 32, 3), np.uint8), "RGB"),
        (np.zeros((2, 32, 32), np.uint16), "two dimensions"),
        (np.zeros((32, 32), np.float32), "float32"),
        (np.zeros((32, 32), np.int16), "int16"),
        (np.zeros((8, 32), np.uint16), "smallest side"),
    ],
)
def test_what_is_no_frame_is_refused_by_name(pixels: Any, word: str) -> None:
    with pytest.raises(InputError, match=f"page 3.*{word}"):
        checked_pixels(pixels, what="page 3")
