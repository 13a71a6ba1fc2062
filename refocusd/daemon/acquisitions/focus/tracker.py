"""Combines many distances from focus: how far to move the stage, and in which direction.

One frame gives a distance without a sign.  Once the stage has been at different heights (a
z-series, a drift correction, a small dither), one side fits the distances and the other does
not.  `FocusTracker` keeps the probability of every offset between the stage and the focal
plane on a grid (a histogram filter: Thrun, Burgard and Fox, Probabilistic Robotics (2005),
section 4.1).  A move of the stage shifts the distribution, time widens it, and an estimate
weights it equally on both sides.  Until the stage has moved, both sides are equally likely, and
the advice says that the direction is not known.  The second dimension of the grid is a common
factor by which all distances may be wrong (assumed optics).
"""

from __future__ import annotations

import math
from collections import deque

import msgspec
import numpy as np
from numpy.typing import NDArray

from refocusd.imaging.defocus import DefocusEstimate
from refocusd.transport.records import FocusAdvice

Floats = NDArray[np.float64]

#: Offsets of the grid, um.
_GRID: Floats = np.arange(-60.0, 60.01, 0.25)
_STEP_UM = 0.25
_DISTANCE: Floats = np.abs(_GRID)
#: Common factors of the distances, in standard uncertainties, and their probabilities.
_SCALES: Floats = np.linspace(-2.0, 2.0, 7)
_SCALE_WEIGHTS: Floats = np.exp(-0.5 * _SCALES**2) / np.exp(-0.5 * _SCALES**2).sum()
#: Probability of each common factor and offset, shape (factors, offsets), if nothing is known.
_UNKNOWN: Floats = np.outer(_SCALE_WEIGHTS, np.full(_GRID.shape, 1 / _GRID.size))

#: Random walk of the focal plane (a stand that warms up), um per square root of a minute.
WANDER_UM = 1.0
#: Standard uncertainty of a stage move: um, and as a share of the move.
MOVE_ERROR_UM = 0.2
MOVE_ERROR = 0.02
#: Stage positions and fields that differ by less than this are the same, um.
SAME_Z_UM = 0.1
SAME_XY_UM = 5.0
#: Share of estimates that are entirely wrong.
OUTLIERS = 0.05
#: Frames of one specimen in one plane have nearly the same error: the k-th of them is weighted
#: by 1 / k, but by at least LEAST_WEIGHT, and the share COMMON of that error remains for any number
#: of frames.
LEAST_WEIGHT = 0.1
COMMON = 0.6
#: The direction becomes known when one side has the first probability, and stays known while it has at
#: least the second: near focus both sides fit, but the side is known from before.
SURE = 0.95
STILL_SURE = 0.8
#: Estimates below this confidence are not used.
MIN_CONFIDENCE = 0.1
#: After this many consecutive estimates that are off by more than CONTRADICTION standard uncertainties,
#: everything known before is discarded.
MAX_CONTRADICTIONS = 3
CONTRADICTION = 4.0
#: Drift is reported if there are this many estimates over at least this time; it is fitted to the last
#: REMEMBERED of them.
DRIFT_ESTIMATES = 8
DRIFT_S = 60.0
REMEMBERED = 128


class FocusTracker:
    """The focus of one field in one channel.  Belongs to one thread.

    Parameters
    ----------
    depth_of_field_um : float
        Full width; a frame within half of it is in focus.

    Attributes
    ----------
    advice : FocusAdvice or None
        The latest; None before the first usable estimate.
    """

    def __init__(self, depth_of_field_um: float) -> None:
        self._depth_um = depth_of_field_um
        self._probability = _UNKNOWN
        #: Relative uncertainty of the common factor of the estimates so far; None before the first.
        self._relative: float | None = None
        #: Sign of the offset, 1 or -1; 0 while it is not known.
        self._side = 0
        self._time_s: float | None = None
        self._z_um: float | None = None
        self._xy_um: tuple[float, float] | None = None
        #: Variance by which the distribution has still to be widened, um².
        self._variance_um2 = 0.0
        self._spread_um = 0.0
        self._confidence = 0.0
        self._estimates = 0
        self._contradictions = 0
        #: (time in s, height of the focal plane in um) of the last estimates with a known side.
        self._planes: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        self.advice: FocusAdvice | None = None

    def add(
        self,
        time_s: float,
        z_um: float | None,
        estimate: DefocusEstimate,
        xy_um: tuple[float, float] | None = None,
    ) -> FocusAdvice | None:
        """Take in one frame.

        Parameters
        ----------
        time_s : float
            When it was taken; a frame older than the last one is ignored.
        z_um : float or None
            Height of the stage; if it is None, the stage is assumed not to have moved.
        estimate : DefocusEstimate
        xy_um : (float, float), optional
            Position of the field; a different field has another specimen, and resets the tracker.

        Returns
        -------
        FocusAdvice or None
            The same as `advice`.
        """
        if self._time_s is not None and time_s < self._time_s:
            return self.advice
        if xy_um is not None:
            if self._xy_um is not None and math.dist(xy_um, self._xy_um) > SAME_XY_UM:
                self.__init__(self._depth_um)  # type: ignore[misc]
            self._xy_um = xy_um
        finite = math.isfinite(estimate.distance_um) and math.isfinite(estimate.uncertainty_um)
        if finite and estimate.confidence >= MIN_CONFIDENCE:
            self._pass_time(time_s)
            self._move_to(z_um)
            self._widen()
            self._weight(estimate)
            self.advice = self._conclude(time_s, estimate)
        return self.advice

    # -- the filter ---------------------------------------------------------------------

    def _pass_time(self, time_s: float) -> None:
        if self._time_s is not None:
            self._variance_um2 += WANDER_UM**2 * (time_s - self._time_s) / 60
        self._time_s = time_s

    def _move_to(self, z_um: float | None) -> None:
        moved_um = 0.0 if z_um is None or self._z_um is None else z_um - self._z_um
        if abs(moved_um) > SAME_Z_UM:
            # A move of the stage reduces the offset that remains.
            edge = 1e-6 / _GRID.size
            self._probability = _normalised(
                [np.interp(_GRID + moved_um, _GRID, row, edge, edge) for row in self._probability]
            )
            self._variance_um2 += MOVE_ERROR_UM**2 + (MOVE_ERROR * moved_um) ** 2
            self._estimates = 0
        if self._z_um is None or abs(moved_um) > SAME_Z_UM:
            self._z_um = z_um

    def _widen(self) -> None:
        sigma = math.sqrt(self._variance_um2) / _STEP_UM
        if sigma < 0.5:
            return  # narrower than the grid: widened later, together with what is added until then
        reach = min(math.ceil(4 * sigma), _GRID.size // 2 - 1)
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        self._probability = _normalised(
            [np.convolve(row, kernel, "same") for row in self._probability]
        )
        self._variance_um2 = 0.0

    def _weight(self, estimate: DefocusEstimate) -> None:
        if estimate.relative != self._relative:
            # The first estimate, or one with other optics, which has another common factor.
            self._relative = estimate.relative
            self._probability = _UNKNOWN
        expected, spread = _mean(self._probability.sum(axis=0), _DISTANCE)
        error = math.hypot(spread, estimate.uncertainty_um)
        contradicts = abs(estimate.distance_um - expected) > CONTRADICTION * error
        self._contradictions = self._contradictions + 1 if contradicts else 0
        if self._contradictions >= MAX_CONTRADICTIONS:
            # Another specimen or focal plane.
            self._probability = _UNKNOWN
            self._planes.clear()
            self._estimates = self._contradictions = 0
        weight = max(1 / (self._estimates + 1), LEAST_WEIGHT)
        self._probability = _normalised(self._probability * _likelihood(estimate) ** weight)
        self._estimates += 1
        share = 1 / min(self._estimates, 5)
        self._spread_um += share * (estimate.uncertainty_um - self._spread_um)
        self._confidence += share * (estimate.confidence - self._confidence)

    # -- what follows -------------------------------------------------------------------

    def _conclude(self, time_s: float, estimate: DefocusEstimate) -> FocusAdvice:
        probability = self._probability.sum(axis=0)
        above = float(probability[_GRID > 0].sum())
        below = float(probability[_GRID < 0].sum())
        side = 1 if above > below else -1
        known = max(above, below) >= (STILL_SURE if side == self._side else SURE)
        self._side = side if known else 0
        values: Floats = _DISTANCE
        if known:
            values, probability = _GRID, _normalised(np.where(_GRID * side > 0, probability, 0.0))
        offset, spread = _mean(probability, values)
        in_focus = abs(offset) <= self._depth_um / 2
        if known and self._z_um is not None and not (in_focus or estimate.saturated):
            plane = self._z_um + math.copysign(estimate.distance_um, offset)
            self._planes.append((time_s, plane))
        drift, drift_error = self._drift()
        advice = FocusAdvice(
            offset_um=offset,
            uncertainty_um=math.hypot(spread, COMMON * self._spread_um),
            direction_known=known,
            confidence=self._confidence,
            beyond=estimate.saturated,
            in_focus=in_focus,
            estimates=self._estimates,
            stage_um=self._z_um,
            drift_um_per_min=drift,
            drift_uncertainty_um_per_min=drift_error,
            depth_of_field_um=self._depth_um,
        )
        return msgspec.structs.replace(advice, text=_sentence(advice))

    def _drift(self) -> tuple[float | None, float | None]:
        """Slope of the focal plane over time, um per minute, and its standard uncertainty."""
        count = len(self._planes)
        if count < DRIFT_ESTIMATES or self._planes[-1][0] - self._planes[0][0] < DRIFT_S:
            return None, None
        time, plane = np.array(self._planes).T
        minutes = (time - time.mean()) / 60
        power = float(minutes @ minutes)
        slope = float(minutes @ plane) / power
        rest = plane - plane.mean() - slope * minutes
        return slope, math.sqrt(float(rest @ rest) / (count - 2) / power)


def _normalised(weights: Floats | list[Floats]) -> Floats:
    array: Floats = np.asarray(weights)
    return np.asarray(array / array.sum())


def _mean(probability: Floats, values: Floats) -> tuple[float, float]:
    """Mean and standard deviation."""
    mean = float(probability @ values)
    return mean, math.sqrt(float(probability @ (values - mean) ** 2))


def _likelihood(estimate: DefocusEstimate) -> Floats:
    """Likelihood of each factor and offset, given one estimate: the same on both sides."""
    factors = 1 + estimate.relative * _SCALES[:, None]
    common = estimate.relative * estimate.distance_um
    # What remains without the common part; never zero.
    alone = math.sqrt(max(estimate.uncertainty_um**2 - common**2, 0.04))
    away = (_DISTANCE[None] * factors - estimate.distance_um) / alone
    if estimate.saturated:
        away = np.minimum(away, 0.0)  # at least that far
    # An estimate that is entirely wrong may be anywhere in the range.
    floor = OUTLIERS * math.sqrt(2 * math.pi) * alone / _GRID[-1]
    return np.asarray((1 - OUTLIERS) * np.exp(-0.5 * away**2) + floor)


def _sentence(advice: FocusAdvice) -> str:
    size = f"{abs(advice.offset_um):.1f} ± {advice.uncertainty_um:.1f} um"
    rate, error = advice.drift_um_per_min, advice.drift_uncertainty_um_per_min
    drifts = rate is not None and error is not None and abs(rate) > 2 * error
    if advice.beyond:
        text = f"more than {abs(advice.offset_um):.0f} um out of focus, how far is not known"
    elif advice.in_focus:
        text = f"in focus within {max(abs(advice.offset_um), advice.uncertainty_um):.1f} um"
    elif advice.direction_known:
        text = f"{size} out of focus: move the stage by {advice.offset_um:+.1f} um"
    else:
        text = f"{size} out of focus; moving the stage will show on which side"
    return text + (f"; the plane of focus drifts by {rate:+.2f} um/min" if drifts else "")
