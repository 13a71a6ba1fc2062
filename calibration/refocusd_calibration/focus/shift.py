"""How far a plane lies sideways of the one before, and how alike the two are.

Cross-correlation by Fourier transform of the middle of the frame, not whitened, because that would
amplify frequencies at which a defocused plane has only noise.  A tenth of a pixel is accurate enough
here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.signal import windows

from refocusd.frame import Pixels

#: Side of the middle of the frame that is looked at, px.
SIDE = 384


def compare_planes(after: Pixels, before: Pixels) -> tuple[tuple[float, float], float]:
    """Shift down and right of a plane against the one before, px, and their correlation.

    Returns
    -------
    (float, float)
        (0, 0) if either plane is constant.
    float
        Correlation with the shift undone, 0 to 1.
    """
    from skimage import registration

    middle = tuple(slice(max(0, (side - SIDE) // 2), (side + SIDE) // 2) for side in after.shape)
    # Without a window, the edges, which do not move, would keep the peak at zero.
    window = np.outer(*(windows.tukey(side, 0.25) for side in after[middle].shape))
    looks = [
        (plane[middle] - np.float32(plane[middle].mean())) * window.astype(np.float32)
        for plane in (after, before)
    ]
    if not all(look.any() for look in looks):
        return (0.0, 0.0), 0.0
    correlate: Any = registration.phase_cross_correlation
    shift, error, _ = correlate(*looks, upsample_factor=10, normalization=None)
    return (float(shift[0]), float(shift[1])), math.sqrt(max(0.0, 1 - float(error) ** 2))
