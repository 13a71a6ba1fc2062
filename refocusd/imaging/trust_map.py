"""How likely each part of a refocused frame is wrong: one value for each cell of 16 by 16 px.

The local error of a restored frame grows with its light: a wrong blur moves much light where there is
much.  The probability that a cell's error (root mean square, over the range of the true frame) is
above the bound of the verdict is a logistic function of the frame's own probability, of the light of
the cell, and of what it leaves unexplained of raw (χ²).  Fitted on 480 simulated frames of 240
exposures; on held-out specimens it tells wrong cells from right ones with an AUROC of 0.88.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refocusd.frame import MIN_SIDE
from refocusd.imaging.pair_evidence import CELL_PX, PairEvidence

__all__ = ["AS_ACQUIRED", "CELL_PX", "pixels_per_cell", "trust_map", "trust_shape"]

#: Value of cells whose pixels are raw's; all others hold a probability in percent.
AS_ACQUIRED = 255
#: Weights of the log-odds of the frame, of the logarithms of light and of χ², and the bias.
_FRAME, _LIGHT, _CHI2, _BIAS = 0.17, 1.26, 0.48, -0.13
#: Background light over the contrast, and χ² of noise: what keeps the logarithms finite.
_DARK, _QUIET = 0.03, 0.1


def trust_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of the map of a frame: cells at the ends may lie partly outside of it."""
    height, width = shape
    return -(-height // CELL_PX), -(-width // CELL_PX)


def pixels_per_cell(shape: tuple[int, ...]) -> int:
    """Pixels a side by which a dataset holds each cell of a frame's map.

    Maps of frames under 256 px have fewer rows or columns than a dataset takes.
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
        Of the frame.
    pair : PairEvidence
    chance : float
        Probability that the error of the whole frame is above the bound.
    least : float
        No cell has less: of a frame that is not trusted, no part is.

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
    # The evidence gives a rest under half a cell to the cell before it.
    rows, columns = (
        np.minimum(np.arange(cells), have - 1)
        for cells, have in zip(trust_shape(shape), percent.shape, strict=True)
    )
    return np.asarray(percent[rows][:, columns])
