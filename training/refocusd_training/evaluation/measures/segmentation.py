"""Compares the nuclei found in a refocused frame with the true ones, by a simple recipe.

Otsu's threshold and a watershed of the distance map are applied to the restored and the
true frame in the same way. This is what users try first, not the best segmentation.  The restored
frame gets its own threshold, as in practice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Labels = NDArray[np.int32]

#: Objects with a smaller area, um², are dirt: a disc of 5 um diameter.
MIN_AREA_UM2 = 20.0
#: Least distance between two nuclei, um.
MIN_DISTANCE_UM = 5.0
#: Smoothing before the threshold, sigma in um: a little more than a pixel of 0.65 um.
SMOOTHING_UM = 0.8
#: Percentile at which brightness is cut off, because one piece of debris in a sparse field would
#: raise the threshold above every nucleus.
GLARE = 99.9
#: A restored and a true nucleus match from this intersection over union on.
SAME_IOU = 0.5
#: A nucleus with a smaller share of its area on nuclei of the other frame has no counterpart there.
NOTHING_THERE = 0.1


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of the nuclei of a restored frame with those of the true one, as counts and areas.

    Parameters
    ----------
    true, found : int
        Number of nuclei in the true and in the restored frame.
    matched : int
        Number of pairs with an intersection over union of at least 0.5.
    phantoms : int
        Number of restored nuclei of which less than 10 % lies on any true one.
    vanished : int
        Number of true nuclei of which less than 10 % lies on any restored one.
    true_area, found_area : int
        Area of all nuclei, px.
    """

    true: int
    found: int
    matched: int
    phantoms: int
    vanished: int
    true_area: int
    found_area: int

    @property
    def f1(self) -> float:
        """``2 matched / (true + found)``; NaN without nuclei."""
        return 2 * self.matched / total if (total := self.true + self.found) else math.nan

    @property
    def invented(self) -> int:
        """Number of restored nuclei that match no true one: phantoms, wrong shapes, splits, merges."""
        return self.found - self.matched

    @property
    def lost(self) -> int:
        """Number of true nuclei that no restored one matches."""
        return self.true - self.matched


def nuclei_of(image: NDArray[Any], pixel_um: float) -> Labels:
    """Nuclei by Otsu's threshold and a watershed of the distance map.

    N. Otsu, IEEE Trans. Syst. Man Cybern. 9, 62 (1979); F. Meyer, Signal Process. 38, 113
    (1994); scikit-image's implementations.

    Parameters
    ----------
    image : ndarray of real numbers, shape (height, width)
        Bright nuclei on a dark background.
    pixel_um : float
        Pixel size, because all sizes are in um.

    Returns
    -------
    ndarray of int32, same shape
        1, 2, ... for nuclei, 0 for background; none on a constant frame.
    """
    from skimage.feature import peak_local_max
    from skimage.filters import threshold_otsu
    from skimage.segmentation import watershed

    # scikit-image has no types.
    threshold: Any = threshold_otsu
    maxima: Any = peak_local_max
    flood: Any = watershed

    values = np.minimum(image.astype(np.float32), np.float32(np.percentile(image, GLARE)))
    smooth = ndimage.gaussian_filter(values, SMOOTHING_UM / pixel_um)
    if np.ptp(smooth) == 0:
        return np.zeros(image.shape, np.int32)
    mask = ndimage.binary_fill_holes(smooth > float(threshold(smooth)))
    distance = ndimage.gaussian_filter(
        ndimage.distance_transform_edt(mask).astype(np.float32), SMOOTHING_UM / pixel_um
    )
    objects, _ = ndimage.label(mask)
    peaks = maxima(
        distance,
        min_distance=max(1, round(MIN_DISTANCE_UM / pixel_um)),
        labels=objects,
        exclude_border=False,
    )
    seeds = np.zeros(image.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels = flood(-distance, seeds, mask=mask)
    areas = np.bincount(labels.ravel())
    kept = areas >= MIN_AREA_UM2 / pixel_um**2
    kept[0] = False
    names = np.cumsum(kept, dtype=np.int32) * kept
    return np.asarray(names[labels], dtype=np.int32)


def agreement(found: Labels, true: Labels) -> Agreement:
    """Match the nuclei of a restored frame with those of the true one.

    Parameters
    ----------
    found, true : ndarray of int32, shape (height, width)
        Labels from `nuclei_of`.
    """
    count_found, count_true = int(found.max()), int(true.max())
    pairs = np.bincount(
        true.ravel().astype(np.int64) * (count_found + 1) + found.ravel(),
        minlength=(count_true + 1) * (count_found + 1),
    ).reshape(count_true + 1, count_found + 1)
    true_areas, found_areas = pairs.sum(axis=1)[1:], pairs.sum(axis=0)[1:]
    shared = pairs[1:, 1:]
    union = true_areas[:, None] + found_areas[None, :] - shared
    # From one half on, a nucleus has only one match; rows are counted because of exact halves.
    matched = int((shared / np.maximum(union, 1) >= SAME_IOU).any(axis=1).sum())
    return Agreement(
        true=count_true,
        found=count_found,
        matched=min(matched, count_found),
        phantoms=int((shared.sum(axis=0) < NOTHING_THERE * found_areas).sum()),
        vanished=int((shared.sum(axis=1) < NOTHING_THERE * true_areas).sum()),
        true_area=int(true_areas.sum()),
        found_area=int(found_areas.sum()),
    )
