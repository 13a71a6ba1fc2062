"""Backlash, drift and repeatability of the stage, from the best z of each sweep.

``best_i = c + backlash · direction_i / 2 + drift · (t_i - mean t)``, by weighted least
squares; direction is 1 from below and -1 from above.  The residual is the repeatability.
One pair of sweeps up and down cannot distinguish backlash from drift, and the whole difference is
then called backlash; sweeps up, down, up and down determine all three.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refocusd.profiles.profile import Measured
from refocusd_calibration.estimates import measured, weighted_fit

#: Least time between sweeps from which a drift can be measured, seconds.
LEAST_TIME_S = 1.0


@dataclass(frozen=True, slots=True)
class Passage:
    """One sweep through focus.

    Parameters
    ----------
    direction : int
        1 from below, -1 from above, 0 for neither.
    best_um, uncertainty_um : float
        Best focus.  Its uncertainty is relative to the other sweeps: it does not include the specimen,
        which is the same in all.
    time_s : float or None
        Time at which it passed the focus.
    """

    direction: int
    best_um: float
    uncertainty_um: float
    time_s: float | None


@dataclass(frozen=True, slots=True)
class StageMotion:
    """Motion of the stage, determined from the sweeps.

    Parameters
    ----------
    centre_um : float
        Best z half way between the directions and at the mean time.
    centre_uncertainty_um : float
        Uncertainty of `centre_um` that is due to the stage; 0 for one sweep.
    backlash_um, drift_um_per_min, repeatability_um : Measured or None
        None if the sweeps do not determine it.
    notes : tuple of str
    """

    centre_um: float
    centre_uncertainty_um: float
    backlash_um: Measured | None
    drift_um_per_min: Measured | None
    repeatability_um: Measured | None
    notes: tuple[str, ...]


def fit_motion(passages: Sequence[Passage]) -> StageMotion:
    """Fit the stage's motion to the sweeps of one field, of which there is at least one."""
    count = len(passages)
    z = np.array([passage.best_um for passage in passages])
    u = np.maximum([passage.uncertainty_um for passage in passages], 1e-9)
    if count == 1:
        note = "one sweep does not show backlash, drift and repeatability: take more"
        return StageMotion(float(z[0]), 0.0, None, None, None, (note,))
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
        notes.append("the time stamps are not far enough apart, so drift was not measured")
    else:
        notes.append("backlash and drift cannot be told apart: take sweeps up, down, up and down")
    fit = weighted_fit(np.stack(columns, axis=1), z, 1 / u**2)
    sigma = fit.sigma
    free = count - len(columns)
    repeatability = None
    if free >= 1:
        spread = math.sqrt(float((fit.residual**2).sum()) / free)
        repeatability = measured(spread, spread / math.sqrt(2 * free))
        # The stage's own scatter counts if it is larger than that of the fits.
        sigma = sigma * math.sqrt(max(1.0, fit.chi2 / free))
    else:
        notes.append("there are too few sweeps to measure repeatability: take more")
    values = [measured(*pair) for pair in zip(fit.coefficients, sigma, strict=True)]
    return StageMotion(
        values[0].value,
        values[0].uncertainty,
        values[1] if both else None,
        values[-1] if drifting else None,
        repeatability,
        tuple(notes),
    )


def _independent(columns: list[NDArray[np.float64]]) -> bool:
    """Whether there are enough sweeps, and the columns are linearly independent."""
    matrix = np.stack([column / np.linalg.norm(column) for column in columns], axis=1)
    return matrix.shape[0] >= matrix.shape[1] and float(np.linalg.cond(matrix)) < 30
