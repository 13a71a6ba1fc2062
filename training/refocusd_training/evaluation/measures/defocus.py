"""Accuracy of the defocus that a network with a defocus head predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import InputError
from refocusd.models.bundle import ModelBundle
from refocusd_training.evaluation.cases import Case
from refocusd_training.evaluation.methods import OnnxNetwork
from refocusd_training.evaluation.results import exposure_of

#: Eleven classes, 2 um apart, which is about 3 px of blur diameter at NA 0.45 and 0.645 um per pixel: the
#: spacing of S. J. Yang et al., BMC Bioinformatics 19, 77 (2018), whose eleven classes DelpNet has.
CLASSES_UM = tuple(2.0 * index for index in range(11))
OUTPUT = "defocus"
#: Side of the part of a frame for which the head makes one prediction, px.
TILE = 32


@dataclass(frozen=True, slots=True)
class DefocusAccuracy:
    """Predicted and true magnitude of the defocus.

    Parameters
    ----------
    accuracy : float
        Share of predictions in the class of the truth.
    within_one : float
        Share of predictions at most one class off.
    mae_um : float
        Mean absolute error.
    by_level : dict of float to (accuracy, mae_um, bias_um, count)
        The same for each true defocus, um.
    """

    accuracy: float
    within_one: float
    mae_um: float
    by_level: dict[float, tuple[float, float, float, int]]

    def document(self) -> dict[str, object]:
        """The figures as plain values for JSON."""
        return {
            "classes_um": list(CLASSES_UM),
            "accuracy": round(self.accuracy, 4),
            "within_one_class": round(self.within_one, 4),
            "mae_um": round(self.mae_um, 4),
            "by_defocus_um": {
                f"{level:g}": {
                    "accuracy": round(accuracy, 4),
                    "mae_um": round(mae, 4),
                    "bias_um": round(bias, 4),
                    "count": count,
                }
                for level, (accuracy, mae, bias, count) in self.by_level.items()
            },
        }


def defocus_accuracy(
    predicted_um: NDArray[Any],
    true_um: NDArray[Any],
    classes_um: Sequence[float] = CLASSES_UM,
) -> DefocusAccuracy:
    """Class accuracy and mean absolute error of predicted magnitudes, overall and by level.

    Parameters
    ----------
    predicted_um, true_um : ndarray of real numbers, shape (n,)
        Signs are ignored.
    classes_um : sequence of float
        Levels in ascending order; a magnitude belongs to the nearest.

    Raises
    ------
    InputError
        If there is no prediction, one is not finite or the lengths differ.
    """
    found = np.abs(np.asarray(predicted_um, dtype=np.float64))
    truth = np.abs(np.asarray(true_um, dtype=np.float64))
    if found.shape != truth.shape or found.ndim != 1 or found.size == 0:
        raise InputError(
            f"{found.shape} predictions cannot be compared with {truth.shape} truths: give as many "
            "of one as of the other, and at least one"
        )
    if not (np.isfinite(found).all() and np.isfinite(truth).all()):
        raise InputError("a predicted or true defocus is not finite: leave such frames out")
    levels = np.asarray(classes_um, dtype=np.float64)

    def nearest(values: NDArray[np.float64]) -> NDArray[np.intp]:
        return np.asarray(np.abs(values[:, None] - levels).argmin(axis=1))

    off = np.abs(nearest(found) - nearest(truth))
    error = found - truth
    by_level = {}
    for level in np.unique(truth):
        at = truth == level
        by_level[float(level)] = (
            float((off[at] == 0).mean()),
            float(np.abs(error[at]).mean()),
            float(error[at].mean()),
            int(at.sum()),
        )
    return DefocusAccuracy(
        float((off == 0).mean()), float((off <= 1).mean()), float(np.abs(error).mean()), by_level
    )


def evaluate_defocus(
    bundle: ModelBundle, cases: Sequence[Case], levels: Sequence[float] = CLASSES_UM
) -> DefocusAccuracy | None:
    """Evaluate a bundle's defocus head on simulated frames; None if it has no such output.

    A frame's estimate is the mean of its tiles, weighted by the inverse of the variance that the
    head states, because empty tiles contain no information.

    Parameters
    ----------
    bundle : ModelBundle
    cases : sequence of Case
    levels : sequence of float
        Distances from focus, um.
    """
    network = OnnxNetwork(bundle.onnx, bundle.size_multiple)
    if OUTPUT not in network.outputs():
        return None
    index = network.outputs().index(OUTPUT)
    predicted, true = [], []
    for case in cases:
        for level in levels:
            exposure = exposure_of(case, level)
            output = network.run(bundle.counts_range(exposure.raw).normalise(exposure.raw))[index]
            if output.ndim != 4 or output.shape[:2] != (1, 2):
                raise InputError(
                    f"the network {bundle.model_id} gives {output.shape} as {OUTPUT!r}: expected "
                    "(1, 2, height / 32, width / 32), mean in um and log of its standard deviation"
                )
            rows, columns = (max(1, math.floor(side / TILE)) for side in exposure.raw.shape)
            mean, log_sigma = output[0, :, :rows, :columns].astype(np.float64)
            weight = np.exp(-2 * np.clip(log_sigma, -10, 10))
            predicted.append(float((weight * mean).sum() / weight.sum()))
            true.append(level)
    return defocus_accuracy(np.array(predicted), np.array(true))
