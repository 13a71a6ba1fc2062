"""Backlash, drift and repeatability of the stage, from the best z of each sweep.

``best_i = c + backlash · direction_i / 2 + drift · (t_i - mean t)``, by weighted least
squares; direction is 1 from below and -1 from above.  What remains is repeatability.
One pair up and down cannot tell backlash from drift, and all of it is then called
backlash; up, down, up and down again tells all three.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refocusd.profiles.profile import Measured

__all__ = ["Passage", "StageMotion", "fit_motion"]

#: Sweeps nearer than this in time say nothing of a drift, seconds.
LEAST_TIME_S = 1.0


@dataclass(frozen=True, slots=True)
class Passage:
    """One sweep's way through focus.

    Parameters
    ----------
    direction : int
    best_um, uncertainty_um : float
        Uncertainty of its place relative to the other sweeps: the specimen, which is
        the same in all, is not in it.
    time_s : float or None
        When it passed the focus.
    """

    direction: int
    best_um: float
    uncertainty_um: float
    time_s: float | None


@dataclass(frozen=True, slots=True)
class StageMotion:
    """What the sweeps say of the stage.

    Parameters
    ----------
    centre_um : float
        Best z half way between the directions and at the mean time.
    centre_uncertainty_um : float
        Of that, by the stage alone; 0 for one sweep.
    backlash_um, drift_um_per_min, repeatability_um : Measured or None
        None where the sweeps do not tell.
    notes : tuple of str
    """

    centre_um: float
    centre_uncertainty_um: float
    backlash_um: Measured | None
    drift_um_per_min: Measured | None
    repeatability_um: Measured | None
    notes: tuple[str, ...]


def fit_motion(passages: Sequence[Passage]) -> StageMotion:
    """Fit the sweeps of one field; at least one."""
    count = len(passages)
    z = np.array([passage.best_um for passage in passages])
    u = np.maximum([passage.uncertainty_um for passage in passages], 1e-9)
    if count == 1:
        return StageMotion(
            float(z[0]),
            0.0,
            None,
            None,
            None,
            ("one sweep: backlash, drift and repeatability need more",),
        )
    directions = np.array([passage.direction for passage in passages], dtype=np.float64)
    both = bool((directions > 0).any() and (directions < 0).any())
    columns = [np.ones(count)]
    if both:
        columns.append(directions / 2)
    notes = []
    times = [passage.time_s for passage in passages if passage.time_s is not None]
    minutes = np.array(times) / 60 if len(times) == count else np.zeros(count)
    timed = len(times) == count and float(np.ptp(minutes)) * 60 >= LEAST_TIME_S
    drifting = timed and _independent([*columns, minutes - minutes.mean()])
    if drifting:
        columns.append(minutes - minutes.mean())
    elif not timed:
        notes.append("no time stamps far enough apart: drift was not measured")
    else:
        notes.append("backlash and drift cannot be told apart: take the sweeps up, down, up, down")
    design = np.stack(columns, axis=1)
    weight = 1 / u**2
    covariance = np.linalg.inv(design.T @ (design * weight[:, None]))
    coefficients = covariance @ (design.T @ (weight * z))
    residual = z - design @ coefficients
    free = count - len(columns)
    repeatability = None
    if free >= 1:
        spread = math.sqrt(float((residual**2).sum()) / free)
        repeatability = Measured(value=spread, uncertainty=spread / math.sqrt(2 * free))
        # The stage's own scatter counts where it is above that of the fits.
        covariance = covariance * max(1.0, float((weight * residual**2).sum()) / free)
    else:
        notes.append("too few sweeps to measure repeatability beside the rest: take more")
    sigma = np.sqrt(np.diag(covariance))

    def measured(index: int) -> Measured:
        return Measured(value=float(coefficients[index]), uncertainty=float(sigma[index]))

    return StageMotion(
        float(coefficients[0]),
        float(sigma[0]),
        measured(1) if both else None,
        measured(len(columns) - 1) if drifting else None,
        repeatability,
        tuple(notes),
    )


def _independent(columns: list[NDArray[np.float64]]) -> bool:
    """Whether there are sweeps enough, and they do not say the same twice."""
    matrix = np.stack([column / np.linalg.norm(column) for column in columns], axis=1)
    return matrix.shape[0] >= matrix.shape[1] and float(np.linalg.cond(matrix)) < 30
