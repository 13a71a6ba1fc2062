"""Which way, and how far, to move the stage: what many frames' distances from focus say together.

One frame tells a distance without a sign.  Where the stage stands differently from frame
to frame (a z-series, a drift correction, a small dither), one side fits and the other does
not.  `FocusTracker` keeps the probability of every offset between the stage and the plane
of focus on a grid (a histogram filter: Thrun, Burgard and Fox, Probabilistic Robotics
(2005), section 4.1): a move of the stage shifts it, time widens it, an estimate weighs it on both
sides alike.  As long as the stage has not moved both sides are equal, and the advice says
that the direction is not known.  That all distances may be wrong by one common factor
(assumed optics) is a second dimension of the grid.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from refocusd.transport.records import FocusAdvice

if TYPE_CHECKING:  # needs SciPy, which who only carries an advice does not
    from refocusd.imaging.defocus import DefocusEstimate

__all__ = ["FocusTracker"]

Floats = NDArray[np.float64]

#: Offsets that are kept, um.
_GRID: Floats = np.arange(-60.0, 60.01, 0.25)
_DISTANCE: Floats = np.abs(_GRID)
#: Common factor of the distances, in standard uncertainties, and how likely each is.
_SCALES: Floats = np.linspace(-2.0, 2.0, 7)
_SCALE_WEIGHTS: Floats = np.exp(-0.5 * _SCALES**2) / np.exp(-0.5 * _SCALES**2).sum()
#: Random walk of the focal plane, um per square root of a minute: a stand that warms up.
WANDER_UM = 1.0
#: What a stage's move is uncertain by: um, and as a share of the move.
MOVE_ERROR_UM = 0.2
MOVE_ERROR = 0.02
#: A stage position that differs by less is the same.
SAME_Z_UM = 0.1
#: A field that differs by less, um, is the same.
SAME_XY_UM = 5.0
#: Share of estimates that are wrong altogether.
OUTLIERS = 0.05
#: Frames of one specimen in one plane have much the same error: the k-th of them counts for
#: 1 / k, but for so much at least.
LEAST_WEIGHT = 0.1
#: ... and of their common error this much remains, however many there are.
COMMON = 0.6
#: Probability of one side from which on the direction counts as known.
SURE = 0.95
#: ... and down to which it stays so: near focus both sides fit, but which one it was is known.
STILL_SURE = 0.8
#: An estimate below this confidence is not used.
MIN_CONFIDENCE = 0.1
#: So many estimates in a row that contradict what was known: it is forgotten.
MAX_CONTRADICTIONS = 3
CONTRADICTION = 4.0
#: Drift is told after so many estimates over so long, in s.
DRIFT_ESTIMATES = 8
DRIFT_S = 60.0
#: Estimates that the drift is taken from.
REMEMBERED = 128


class FocusTracker:
    """What is known of the focus of one field in one channel.  Belongs to one thread.

    Parameters
    ----------
    depth_of_field_um : float
        Full width; within half of it a frame is in focus.
    """

    def __init__(self, depth_of_field_um: float) -> None:
        self._depth_um = depth_of_field_um
        #: Of each common factor and offset: shape (factors, offsets).
        self._probability = _unknown()
        self._relative: float | None = None
        #: Of the offset, 1 or -1; 0 while it is not known.
        self._side = 0
        self._time_s: float | None = None
        self._z_um: float | None = None
        self._xy_um: tuple[float, float] | None = None
        #: Variance, um², that the grid is yet to be widened by.
        self._widen = 0.0
        self._spread_um = 0.0
        self._confidence = 0.0
        self._estimates = 0
        self._contradictions = 0
        self._saturated = False
        self._planes: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        self._last: FocusAdvice | None = None

    @property
    def advice(self) -> FocusAdvice | None:
        """The latest; None before the first usable estimate."""
        return self._last

    def reset(self) -> None:
        """Forget all: another field, another specimen."""
        self.__init__(self._depth_um)  # type: ignore[misc]

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
            When it was taken; one older than the last is ignored.
        z_um : float or None
            Where the stage stood, if known; where not, it is taken to stand still.
        estimate : DefocusEstimate
        xy_um : (float, float), optional
            Where the field is; another one is another specimen, and all is forgotten.

        Returns
        -------
        FocusAdvice or None
            As `advice`.
        """
        if self._time_s is not None and time_s < self._time_s:
            return self._last
        if xy_um is not None:
            if self._xy_um is not None and math.dist(xy_um, self._xy_um) > SAME_XY_UM:
                self.reset()
            self._xy_um = xy_um
        finite = math.isfinite(estimate.distance_um) and math.isfinite(estimate.uncertainty_um)
        if not (finite and estimate.confidence >= MIN_CONFIDENCE):
            return self._last
        self._pass_time(time_s)
        self._move_to(z_um)
        self._weigh(estimate)
        self._last = self._conclude(estimate)
        return self._last

    # -- the filter ---------------------------------------------------------------------

    def _pass_time(self, time_s: float) -> None:
        if self._time_s is not None:
            self._widen += WANDER_UM**2 * (time_s - self._time_s) / 60
        self._time_s = time_s

    def _move_to(self, z_um: float | None) -> None:
        if z_um is None:
            return
        if self._z_um is not None and abs(moved := z_um - self._z_um) > SAME_Z_UM:
            # The stage went up by so much: what it lacks is less by as much.
            edge = 1e-6 / _GRID.size
            shifted = np.array(
                [np.interp(_GRID + moved, _GRID, row, edge, edge) for row in self._probability]
            )
            self._probability = shifted / shifted.sum()
            self._widen += MOVE_ERROR_UM**2 + (MOVE_ERROR * moved) ** 2
            self._estimates = 0
            self._z_um = z_um
        elif self._z_um is None:
            self._z_um = z_um

    def _weigh(self, estimate: DefocusEstimate) -> None:
        self._blur()
        if estimate.relative != self._relative:
            # The first one, or of other optics: what they may be wrong by is another.
            self._relative = estimate.relative
            self._probability = _unknown()
        expected, spread = _mean(self._probability.sum(axis=0), _DISTANCE)
        error = math.hypot(spread, estimate.uncertainty_um)
        contradicts = abs(estimate.distance_um - expected) > CONTRADICTION * error
        self._contradictions = self._contradictions + 1 if contradicts else 0
        if self._contradictions >= MAX_CONTRADICTIONS:
            # The specimen or the plane of focus is another: what was known is worth nothing.
            self._probability = _unknown()
            self._planes.clear()
            self._estimates = self._contradictions = 0
        weight = max(1 / (self._estimates + 1), LEAST_WEIGHT)
        weighed = self._probability * _likelihood(estimate) ** weight
        self._probability = weighed / weighed.sum()
        self._estimates += 1
        share = 1 / min(self._estimates, 5)
        self._spread_um += share * (estimate.uncertainty_um - self._spread_um)
        self._confidence += share * (estimate.confidence - self._confidence)
        self._saturated = estimate.saturated

    def _blur(self) -> None:
        sigma = math.sqrt(self._widen) / (_GRID[1] - _GRID[0])
        if sigma < 0.5:
            return  # narrower than the grid: later, with what is yet to come
        reach = min(math.ceil(4 * sigma), _GRID.size // 2 - 1)
        steps = np.arange(-reach, reach + 1)
        kernel = np.exp(-0.5 * (steps / sigma) ** 2)
        wide = np.array([np.convolve(row, kernel, "same") for row in self._probability])
        self._probability = wide / wide.sum()
        self._widen = 0.0

    # -- what follows -------------------------------------------------------------------

    def _conclude(self, estimate: DefocusEstimate) -> FocusAdvice:
        probability = self._probability.sum(axis=0)
        above = float(probability[_GRID > 0].sum())
        below = float(probability[_GRID < 0].sum())
        side = 1 if above > below else -1
        known = max(above, below) >= (STILL_SURE if side == self._side else SURE)
        self._side = side if known else 0
        values: Floats = _DISTANCE
        if known:
            values = _GRID
            probability = np.where(_GRID * side > 0, probability, 0.0)
            probability = probability / probability.sum()
        offset, spread = _mean(probability, values)
        uncertainty = math.hypot(spread, COMMON * self._spread_um)
        in_focus = abs(offset) <= self._depth_um / 2
        if known and self._z_um is not None and not in_focus and not self._saturated:
            plane = self._z_um + math.copysign(estimate.distance_um, offset)
            assert self._time_s is not None
            self._planes.append((self._time_s, plane))
        drift, drift_error = self._drift()
        advice = FocusAdvice(
            offset_um=offset,
            uncertainty_um=uncertainty,
            direction_known=known,
            confidence=self._confidence,
            beyond=self._saturated,
            in_focus=in_focus,
            estimates=self._estimates,
            stage_um=self._z_um,
            drift_um_per_min=drift,
            drift_uncertainty_um_per_min=drift_error,
            depth_of_field_um=self._depth_um,
        )
        return msgspec.structs.replace(advice, text=_sentence(advice))

    def _drift(self) -> tuple[float | None, float | None]:
        """Slope of the focal plane over time, um a minute, and its standard uncertainty."""
        count = len(self._planes)
        if count < DRIFT_ESTIMATES or self._planes[-1][0] - self._planes[0][0] < DRIFT_S:
            return None, None
        time, plane = np.array(self._planes).T
        minutes = (time - time.mean()) / 60
        power = float(minutes @ minutes)
        slope = float(minutes @ plane) / power
        rest = plane - plane.mean() - slope * minutes
        return slope, math.sqrt(float(rest @ rest) / (count - 2) / power)


def _unknown() -> Floats:
    return np.outer(_SCALE_WEIGHTS, np.full(_GRID.shape, 1 / _GRID.size))


def _mean(probability: Floats, values: Floats) -> tuple[float, float]:
    """Mean and standard deviation."""
    mean = float(probability @ values)
    return mean, math.sqrt(float(probability @ (values - mean) ** 2))


def _likelihood(estimate: DefocusEstimate) -> Floats:
    """Of each factor and offset, given one estimate: the same on both sides."""
    factors = 1 + estimate.relative * _SCALES[:, None]
    common = estimate.relative * estimate.distance_um
    # What is left once the common part is taken out; never nothing.
    alone = math.sqrt(max(estimate.uncertainty_um**2 - common**2, 0.04))
    away = (_DISTANCE[None] * factors - estimate.distance_um) / alone
    if estimate.saturated:
        away = np.minimum(away, 0.0)  # that far, or any farther
    # What is wrong altogether may be anywhere in the range.
    floor = OUTLIERS * math.sqrt(2 * math.pi) * alone / _GRID[-1]
    return np.asarray((1 - OUTLIERS) * np.exp(-0.5 * away**2) + floor)


def _sentence(advice: FocusAdvice) -> str:
    size = f"{abs(advice.offset_um):.1f} ± {advice.uncertainty_um:.1f} um"
    drift = ""
    rate, error = advice.drift_um_per_min, advice.drift_uncertainty_um_per_min
    if rate is not None and error is not None and abs(rate) > 2 * error:
        drift = f"; the plane of focus drifts by {rate:+.2f} um/min"
    if advice.beyond:
        return (
            f"more than {abs(advice.offset_um):.0f} um out of focus, how far cannot be told{drift}"
        )
    if advice.in_focus:
        return f"in focus within {max(abs(advice.offset_um), advice.uncertainty_um):.1f} um{drift}"
    if advice.direction_known:
        return f"{size} out of focus: move the stage by {advice.offset_um:+.1f} um{drift}"
    return f"{size} out of focus; on which side will show when the stage moves{drift}"
