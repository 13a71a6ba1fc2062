"""Probability that a part of a refocused frame is wrong, for each cell of 16 by 16 px.

The local error of a restored frame grows with its light, because a wrong blur moves more light where
there is more.  The probability that a cell's error (root mean square, over the range of the true frame)
is above the bound of the verdict is a logistic function of the frame's own probability, of the light of
the cell, and of its χ² against raw.  It was fitted on 480 simulated frames of 240 exposures; on held-out
specimens it distinguishes wrong cells from right ones with an AUROC of 0.88.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refocusd.frame import MIN_SIDE
from refocusd.imaging.pair_evidence import CELL_PX, PairEvidence

__all__ = ["AS_ACQUIRED", "CELL_PX", "pixels_per_cell", "trust_map", "trust_shape"]

#: Value of cells whose pixels are those of raw; all others hold a probability in percent.
AS_ACQUIRED = 255
#: Weights of the log-odds of the frame, of the logarithms of light and of χ², and the bias.
_FRAME, _LIGHT, _CHI2, _BIAS = 0.17, 1.26, 0.48, -0.13
#: Added to light (over the contrast) and to χ², so that the logarithms stay finite.
_DARK, _QUIET = 0.03, 0.1


def trust_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a frame's map; cells at the ends may lie partly outside the frame."""
    height, width = shape
    return -(-height // CELL_PX), -(-width // CELL_PX)


def pixels_per_cell(shape: tuple[int, ...]) -> int:
    """Side, in px, of a cell of a frame's map as a dataset stores it.

    It is more than 1 for small frames (under 256 px), whose maps have too few rows or columns for a dataset.
    """
    least = min(trust_shape(shape))
    return next(count for count in (1, 2, 4, 8, 16) if count * least >= MIN_SIDE)


def trust_map(
    shape: tuple[int, ...], pair: PairEvidence, chance: float, least: float = 0.0
) -> NDArray[np.uint8]:
    """The map of a refocused frame.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the frame, px.
    pair : PairEvidence
    chance : float
        Probability that the error of the whole frame is above the bound.
    least : float
        Lower limit of all cells, 0 to 1: no part of an untrusted frame is trusted.

    Returns
    -------
    ndarray of uint8, shape `trust_shape`
        Probability in percent that the local error is above the bound.
    """
    known = float(np.clip(chance, 1e-3, 1 - 1e-3))
    odds = _FRAME * np.log(known / (1 - known)) + _BIAS
    odds = odds + _LIGHT * np.log(np.maximum(pair.light, 0) + _DARK)
    odds = odds + _CHI2 * np.log(pair.residuals + _QUIET)
    percent = np.rint(100 * np.maximum(1 / (1 + np.exp(-odds)), least)).astype(np.uint8)
    # The evidence counts a remainder of less than half a cell as part of the cell before it.
    rows, columns = (
        np.minimum(np.arange(cells), have - 1)
        for cells, have in zip(trust_shape(shape), percent.shape, strict=True)
    )
    return np.asarray(percent[rows][:, columns])
