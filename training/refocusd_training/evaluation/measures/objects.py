"""Compares size and light of single restored objects with the true ones, for any stain.

Only isolated objects are measured, each in a window that contains no other object, so that the restored
frame need not be segmented.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

#: Objects with a smaller area, px, are noise.
LEAST_AREA = 12
#: An object's window extends beyond it by this many of its diameters, within these limits in px.
REACH, LEAST_REACH, MOST_REACH = 0.6, 4, 40
#: Pixels further than this from every object, px, are background.
CLEAR_PX = 6
#: As in `segmentation`: smoothing in px, and the percentile at which light is cut off.
SMOOTHING_PX, GLARE = 1.0, 99.9
#: Light and area of an object count as right within these relative differences from the truth.
RIGHT_LIGHT, RIGHT_AREA = 0.05, 0.15


@dataclass(frozen=True, slots=True)
class ObjectRatios:
    """Ratios of restored to true, one value per isolated object.

    Parameters
    ----------
    area : tuple of float
        Ratios of the area above half of the object's own peak.
    light : tuple of float
        Ratios of the counts above the frame's background in the object's window.
    """

    area: tuple[float, ...]
    light: tuple[float, ...]


class IsolatedObjects:
    """The isolated objects of a true frame.

    Parameters
    ----------
    truth : ndarray of real numbers, shape (height, width)
    """

    def __init__(self, truth: NDArray[Any]) -> None:
        truth = truth.astype(np.float64)
        labels = _objects_of(truth)
        clear = ndimage.distance_transform_edt(labels == 0) > CLEAR_PX
        # In a frame full of objects, which has hardly any such pixels, the darkest twentieth is background.
        self._clear = clear if clear.sum() > 100 else truth <= np.percentile(truth, 5)
        self._windows = _isolated(labels)
        self._areas, self._light = self._measured(truth)

    def diameters_px(self) -> list[float]:
        """Diameters of discs with the area that each object has above half of its peak."""
        return [2 * math.sqrt(area / math.pi) for area in self._areas]

    def __len__(self) -> int:
        return len(self._windows)

    def compare(self, image: NDArray[Any]) -> ObjectRatios:
        """Compare size and light of the same objects in a restored frame of the same shape."""
        areas, light = self._measured(image.astype(np.float64))
        return ObjectRatios(
            tuple(float(one / true) for one, true in zip(areas, self._areas, strict=True)),
            tuple(float(one / true) for one, true in zip(light, self._light, strict=True)),
        )

    def _measured(self, image: NDArray[np.float64]) -> tuple[list[float], list[float]]:
        background = float(np.median(image[self._clear]))
        smooth = ndimage.gaussian_filter(image, SMOOTHING_PX) - background
        areas, light = [], []
        for window, area in self._windows:
            brightest = np.sort(smooth[window], axis=None)[-max(3, area // 10) :]
            half = 0.5 * float(brightest.mean())
            areas.append(float(np.count_nonzero(smooth[window] > half)) if half > 0 else 0.0)
            light.append(float(image[window].sum() - background * image[window].size))
        return areas, light


def object_figures(found: Sequence[ObjectRatios]) -> dict[str, float]:
    """Medians and shares over the objects of all frames; NaN without objects."""
    area = np.array([ratio for one in found for ratio in one.area])
    light = np.array([ratio for one in found for ratio in one.light])
    if not area.size:
        return dict.fromkeys(
            ("object_area", "area_within_15", "object_light", "light_within_5"), math.nan
        )
    return {
        "object_area": float(np.median(area)),
        "area_within_15": float(np.mean(np.abs(area - 1) <= RIGHT_AREA)),
        "object_light": float(np.median(light)),
        "light_within_5": float(np.mean(np.abs(light - 1) <= RIGHT_LIGHT)),
    }


def _objects_of(truth: NDArray[np.float64]) -> NDArray[np.int32]:
    from skimage.filters import threshold_otsu

    threshold: Any = threshold_otsu
    smooth = ndimage.gaussian_filter(np.minimum(truth, np.percentile(truth, GLARE)), SMOOTHING_PX)
    if np.ptp(smooth) == 0:
        return np.zeros(truth.shape, np.int32)
    labels, _ = ndimage.label(ndimage.binary_fill_holes(smooth > float(threshold(smooth))))
    return np.asarray(labels, np.int32)


def _isolated(labels: NDArray[np.int32]) -> list[tuple[tuple[slice, slice], int]]:
    """Window and area of each object whose window lies in the frame and contains no other object."""
    areas = np.bincount(labels.ravel())
    found = []
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if areas[label] < LEAST_AREA:
            continue
        diameter = 2 * math.sqrt(areas[label] / math.pi)
        reach = round(float(np.clip(REACH * diameter, LEAST_REACH, MOST_REACH)))
        window = (
            slice(box[0].start - reach, box[0].stop + reach),
            slice(box[1].start - reach, box[1].stop + reach),
        )
        inside = all(
            part.start >= 0 and part.stop <= side
            for part, side in zip(window, labels.shape, strict=True)
        )
        if inside and np.isin(labels[window], (0, label)).all():
            found.append((window, int(areas[label])))
    return found
