"""Compares an engine that cuts frames into tiles with one that does not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refocusd.engines.engine import Engine
from refocusd.frame import Pixels


@dataclass(frozen=True, slots=True)
class TilingError:
    """How far a tiled frame is from the same frame inferred whole, in counts.

    Parameters
    ----------
    p999_counts : float
        99.9th percentile of the absolute differences.
    max_counts : int
        The largest one.
    """

    p999_counts: float
    max_counts: int


def tiling_error(whole: Engine, tiled: Engine, raw: Pixels) -> TilingError:
    """Compare two engines of one model on one frame.

    Parameters
    ----------
    whole, tiled : Engine
        Same model and precision; the second with options that cut `raw` into tiles.
    raw : ndarray of uint8 or uint16, shape (height, width)

    Raises
    ------
    EngineError
        If one of them cannot refocus it.
    """
    expected, found = np.empty_like(raw), np.empty_like(raw)
    whole.refocus(raw, expected)
    tiled.refocus(raw, found)
    difference = np.abs(found.astype(np.int32) - expected.astype(np.int32))
    return TilingError(float(np.percentile(difference, 99.9)), int(difference.max()))
