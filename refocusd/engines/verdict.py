"""The verdict on a frame: whether there was anything to refocus, and whether the result can be trusted.

================  ==================================================================================
verdict           meaning
================  ==================================================================================
`trusted`         an error above `Judge.bound` is unlikely
`doubtful`        it is possible, or it is likely but raw is even further from the truth: see the
                  reasons
`untrusted`       it is likely, or the engine is not made for such a frame
`passed_through`  there is nothing to refocus, and raw is written unchanged
================  ==================================================================================

Thresholds and weights are in ``verdict.toml``, which ``refocusd train trust`` fits on frames whose
truth is known: that in a model's bundle is for this model, that beside this module for all others.  A
quadratic logistic score distinguishes fluorescence from other pictures; another gives the probability that
the error is above the bound, and a third, which only models have, that the result is worse than raw.
"""

from __future__ import annotations

import logging
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import BundleError
from refocusd.frame import Pixels
from refocusd.imaging.field_evidence import LOOKS, FieldEvidence
from refocusd.imaging.pair_evidence import PairEvidence
from refocusd.models.bundle import VERDICT

log = logging.getLogger(__name__)

Verdict = Literal["trusted", "doubtful", "untrusted", "passed_through"]

#: Features from which the probability of an error is computed, see `error_features`.
ERROR_FEATURES = (
    "unexplained", "unexplained as stated", "chi2", "worst chi2", "worst flux", "blur",
    "blur misfit", "uncertainty", "contrast over noise", "sharpened", "kept", "undershoot",
    "clipped", "foreign", "expected error", "expected error over range", "lit", "result kurtosis",
    "fine", "finest", "interval width", "wide intervals", "lopsided intervals",
    *LOOKS,
)  # fmt: skip
#: Widths of the blur for which intervals are fitted, px; in between, they are interpolated.
INTERVALS_AT_PX = (3.0, 6.0, 12.0, 24.0)
#: Features are limited to this many standard deviations from their mean, those for the error to fewer: far
#: outside the fitted range, the square of one feature made frames with an error of 2 % count as wrong.
_MOST, MOST_OF_ERRORS = 4.0, 2.0
#: This many samples determine a ratio of sums to well below one percent.
MAX_SAMPLES = 1 << 18


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, and why.

    Parameters
    ----------
    verdict : str
    reasons : tuple of str
        In plain words, the most important first; empty for a frame that is trusted.
    error_chance : float or None
        Probability that the error is above `Judge.bound`; None for raw frames.
    """

    verdict: Verdict
    reasons: tuple[str, ...] = ()
    error_chance: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Logistic:
    """A logistic score of standardised features and their squares.

    Parameters
    ----------
    mean, deviation : ndarray of float, shape (features,)
    weights : ndarray of float, shape (2 * features,)
    bias : float
    places : ndarray of int, shape (features,), optional
        Indices of the features that are used among those that are given; None for all of them.
    most : float
        Features are limited to this many standard deviations from the mean.
    """

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    weights: NDArray[np.float64]
    bias: float
    places: NDArray[np.intp] | None = None
    most: float = _MOST

    def terms(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Standardised features and their squares; one row for each row of `features`."""
        own = features if self.places is None else features[..., self.places]
        values = (own - self.mean) / self.deviation
        values = np.clip(values, -self.most, self.most)
        return np.concatenate([values, values**2], axis=-1)

    def score(self, features: NDArray[np.floating]) -> float:
        """Log-odds."""
        return float(self.terms(features) @ self.weights) + self.bias

    def chance(self, features: NDArray[np.floating]) -> float:
        """Probability."""
        return 1 / (1 + math.exp(-min(max(self.score(features), -50.0), 50.0)))


@dataclass(frozen=True, slots=True)
class Interval:
    """Half the width of the interval that holds 90 % of a frame's true pixels.

    It grows with the light of a pixel, as errors do, because a wrong blur moves more light where there is
    more.  It is scaled by split-conformal calibration on specimens that nothing else was fitted on (J. Lei
    et al., J. Am. Stat. Assoc. 113, 1094, 2018).

    Parameters
    ----------
    floor : sequence of float
        Half-width on a dark background, over the expected error, for the blurs `INTERVALS_AT_PX`.
    share : sequence of float
        Half-width that each count of light adds, for the same blurs.
    """

    floor: Sequence[float]
    share: Sequence[float]

    def of(self, expected_error: float, blur_px: float) -> tuple[float, float]:
        """Half-width on a dark background, counts, and the half-width that each count of light adds."""
        floor, share = (
            float(np.interp(math.log(blur_px), np.log(INTERVALS_AT_PX), values))
            for values in (self.floor, self.share)
        )
        return floor * expected_error, share


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """Judges frames by fitted thresholds; see `judge_of`.

    Parameters
    ----------
    bound : float
        Limit of the error (root mean square after the best offset and gain), over the range of the
        true frame (percentiles 0.1 to 99.9).
    looks : Logistic
        Score of `FieldEvidence.looks`: above 0 if the frame does not look like fluorescence.
    error : Logistic
        Score of `error_features`: whether the error is above `bound`.
    interval : Interval
        Interval of the counts of single pixels.
    strange, foreign : float
        Scores of `looks` from which a frame is doubtful, and from which it is passed through.
    doubtful, untrusted : float
        Probabilities of an error above `bound` from which a frame is doubtful, and untrusted.
    empty_noises, empty_counts : float
        A frame is empty if its contrast is below this many standard deviations of a pixel's noise, or
        below this many counts.
    worse : Logistic, optional
        Score of `error_features`: whether the result is worse than raw (by 0.1 dB).
    most_worse, rather_worse : float
        Probabilities of a result worse than raw from which a frame is untrusted: the first for frames that
        are likely wrong or clipped, the second for all others.  A frame that is likely wrong, but below the
        first, is only doubtful, because raw is likely even further from the truth.
    """

    bound: float
    looks: Logistic
    error: Logistic
    interval: Interval
    strange: float
    foreign: float
    doubtful: float
    untrusted: float
    empty_noises: float
    empty_counts: float
    worse: Logistic | None = None
    most_worse: float = 0.06
    rather_worse: float = 0.15

    # -- raw alone --------------------------------------------------------------------------

    def nothing_to_refocus(self, field: FieldEvidence | None) -> Judgement | None:
        """Whether the raw frame alone shows that there is nothing to refocus.

        Returns
        -------
        Judgement or None
            ``passed_through``; None where there is something to refocus.
        """
        if field is None:
            return Judgement("passed_through", ("too small to judge",))
        if field.contrast < max(self.empty_counts, self.empty_noises * field.noise):
            seen, noise = f"{field.contrast:.0f} counts", f"{field.noise:.1f}"
            return Judgement(
                "passed_through", (f"empty field: structures of {seen} in noise of {noise}",)
            )
        if self.looks.score(field.looks) > self.foreign:
            return Judgement(
                "passed_through",
                ("not fluorescence: it looks like transmitted light or a photograph",),
            )
        return None

    # -- raw and refocused ------------------------------------------------------------------

    def in_focus(self, pair: PairEvidence) -> bool:
        """Whether the engine sharpened almost nothing, and the blur is narrow enough to explain this."""
        narrow = pair.stated_px * math.exp(-pair.uncertainty) < IN_FOCUS_PX
        return _as_it_was(pair) and (pair.uncertainty >= 1 or narrow)

    def of_pair(self, field: FieldEvidence, pair: PairEvidence) -> Judgement:
        """The verdict on a refocused frame."""
        foreign = self.looks.score(field.looks)
        features = error_features(field, pair, foreign)
        chance = self.error.chance(features)
        worse = self.worse.chance(features) if self.worse else None
        strange = foreign > self.strange
        # Impossible results need no statistics, and are too rare to be among the fitted frames.
        refused = (
            _measured_above(pair, 1)
            or _unsharpened(pair)
            or field.clipped > (CLIPPED[1] if worse is None else MOST_CLIPPED)
        )
        if refused:
            chance = max(chance, self.untrusted)
        likely = chance >= self.untrusted
        risky = likely or field.clipped > CLIPPED[1]
        better = worse is not None and worse < (self.most_worse if risky else self.rather_worse)
        odd = (
            strange
            or _measured_above(pair, 0)
            or field.clipped > CLIPPED[0]
            or _processed(field, pair)
        )
        verdict: Verdict = "doubtful" if chance >= self.doubtful or odd else "trusted"
        if (worse is not None and not better) or (likely and (refused or strange or not better)):
            verdict = "untrusted"
        if verdict == "trusted":
            return Judgement("trusted", (), chance)
        reasons = _reasons(field, pair)
        if strange:
            reasons.insert(0, "hardly looks like fluorescence")
        if worse is not None and not better:
            reasons.append(
                f"frames like this one became worse than raw in {worse:.0%} of the tests"
            )
        elif likely and verdict == "doubtful":
            reasons.append(
                f"likely wrong ({chance:.0%}), but raw is likely even further from the truth"
            )
        if not reasons:
            reasons = [f"frames like this one came out wrong in {chance:.0%} of the tests"]
        return Judgement(verdict, tuple(reasons), chance)

    def likely_wrong(self, said: Judgement) -> bool:
        """Whether no pixel of a frame should be believed, even if raw is no better."""
        return said.verdict == "untrusted" or (said.error_chance or 0.0) >= self.untrusted


#: A raw frame at least this sharp, relative to the engine's result, is in focus already: if it is
#: written unchanged, nothing can be invented.
IN_FOCUS_RATIO = 0.96
#: Gain of fine structure in the whole frame, natural logarithm, below which a frame counts as not sharpened.
SHARPENED = 0.1
#: A frame with a wider blur (px) is not in focus, whatever the engine did.
IN_FOCUS_PX = 2.0
#: Shares of clipped pixels that make a frame doubtful, and untrusted unless a model's own statistics include them.
CLIPPED = (0.01, 0.05)
#: The largest share that models' statistics include.
MOST_CLIPPED = 0.2
#: Shares of raw's structure, left unexplained, that make a frame doubtful, and untrusted; 99 % of frames leave
#: less than 0.09.
UNEXPLAINED = (0.1, 0.2)
#: Noise smoother than this does not come from a camera; real blurred frames reach 1.7.  Slightly blurred details
#: look smooth as well, up to the second value.
SMOOTH = (1.9, 4.0)
#: Relative changes of the light of one tile that make a frame doubtful, and untrusted; 98 % of frames change by
#: less than 0.26.
FLUX = (0.1, 0.5)


def _measured_above(pair: PairEvidence, level: int) -> bool:
    """Whether the unexplained structure or the change of light exceeds its limit for this level."""
    return pair.unexplained > UNEXPLAINED[level] or pair.worst_flux > FLUX[level]


def _processed(field: FieldEvidence, pair: PairEvidence) -> bool:
    """Whether the noise of a frame is smoother than its blur explains."""
    return field.smoothness > SMOOTH[pair.stated_px < IN_FOCUS_PX]


def _unsharpened(pair: PairEvidence) -> bool:
    """Whether a frame that is known to be blurred was returned unchanged."""
    narrowest = pair.stated_px * math.exp(-pair.uncertainty)
    return _as_it_was(pair) and pair.uncertainty < 1 and narrowest >= IN_FOCUS_PX


def _as_it_was(pair: PairEvidence) -> bool:
    """Whether hardly any tile was sharpened, and the few that were do not count for much."""
    return pair.kept >= IN_FOCUS_RATIO and pair.sharpened < SHARPENED


def _reasons(field: FieldEvidence, pair: PairEvidence) -> list[str]:
    """What is unusual about a frame, in plain words."""
    misfit = pair.blur_px / pair.stated_px
    found = {
        f"{field.clipped:.0%} of the pixels are clipped": field.clipped > CLIPPED[0],
        "its pixels were interpolated, smoothed or compressed": _processed(field, pair),
        f"blurred by {pair.stated_px:.0f} px, the engine found nothing to sharpen": _unsharpened(
            pair
        ),
        f"blurred again, {pair.unexplained:.0%} of raw is left unexplained": pair.unexplained
        > UNEXPLAINED[0],
        f"explains raw with a blur of {pair.blur_px:.1f} px, not with {pair.stated_px:.1f} px": (
            misfit < 0.6 or misfit > 1.6
        )
        and pair.unexplained_as_stated > 0.05,
        f"light of one part changed by {pair.worst_flux:.0%}": pair.worst_flux > FLUX[0],
        f"the blur of {pair.stated_px:.0f} px is very wide": pair.stated_px > 20,
        f"the blur is uncertain by {pair.uncertainty:.0%}": 0.6 < pair.uncertainty < 1,
        f"structures are only {field.contrast / field.noise:.1f} times the noise": (
            field.contrast < 6 * field.noise
        ),
    }
    return [text for text, applies in found.items() if applies]


def error_features(field: FieldEvidence, pair: PairEvidence, foreign: float) -> NDArray[np.float64]:
    """The features named by `ERROR_FEATURES`, in this order.

    Parameters
    ----------
    field : FieldEvidence
    pair : PairEvidence
    foreign : float
        Score of `Judge.looks`.

    Returns
    -------
    ndarray of float64, shape (len(ERROR_FEATURES),)
    """
    return np.array(
        [
            math.log(pair.unexplained + 1e-3),
            math.log(pair.unexplained_as_stated + 1e-3),
            math.log(pair.chi2 + 1e-2),
            math.log(pair.worst_chi2 + 1e-2),
            math.log(min(pair.worst_flux, 10.0) + 1e-2),
            math.log(pair.stated_px),
            math.log(pair.blur_px / pair.stated_px),
            pair.uncertainty,
            math.log(field.contrast / field.noise + 1e-2),
            pair.sharpened,
            math.log(min(max(pair.kept, 1e-3), 10.0)),
            math.log(pair.undershoot + 1e-3),
            math.log(field.clipped + 1e-3),
            min(max(foreign, -8.0), 8.0),
            math.log(min(pair.expected_error, 10.0) + 1e-3),
            math.log(min(pair.expected_error / pair.range, 10.0) + 1e-3),
            math.log(pair.lit + 1e-3),
            math.log(pair.kurtosis + 1e-3),
            math.log(pair.fine + 1e-3),
            math.log(pair.finest + 1e-3),
            math.log(pair.width + 1e-3),
            math.log(pair.wide + 1e-3),
            pair.lopsided,
            *field.looks,
        ]
    )


def flux_ratio(raw: Pixels, refocused: Pixels, offset: float) -> float:
    """Light of the refocused frame above `offset` counts, over that of the raw frame.

    Defocus moves light but neither makes nor destroys it, so a ratio far from
    one means that flux was invented or lost.  1.0 for a frame without signal.
    """
    stride = max(1, math.ceil(math.sqrt(raw.size / MAX_SAMPLES)))
    before = float(np.mean(raw[::stride, ::stride], dtype=np.float64)) - offset
    after = float(np.mean(refocused[::stride, ::stride], dtype=np.float64)) - offset
    return after / before if before > 1e-6 else 1.0


def shipped_judge() -> Judge:
    """The judge for engines whose bundle has no thresholds of its own."""
    return judge_of(None)


@lru_cache(maxsize=16)
def judge_of(path: Path | None) -> Judge:
    """The judge with the thresholds of a file, see `EngineDescription.verdict`.

    A file of an older version may lack features that this version has.  A file with unknown features
    is ignored, and the judge that comes with refocusd is returned.

    Raises
    ------
    BundleError
        If the file cannot be read, or does not hold thresholds.
    """
    try:
        text = (path or resources.files(__package__).joinpath(VERDICT)).read_text("utf-8")
        told = tomllib.loads(text)
        looks, error, worse = (
            _logistic(told[name], _places(told[name]["features"], known), most)
            if name in told
            else None
            for name, known, most in (
                ("looks", LOOKS, _MOST),
                ("error", ERROR_FEATURES, MOST_OF_ERRORS),
                ("worse", ERROR_FEATURES, MOST_OF_ERRORS),
            )
        )
        if looks is None or error is None:
            log.warning("%s was fitted for another version: run `refocusd train trust`", path)
            return judge_of(None)
        interval = Interval(*(_numbers(told["interval"][name]) for name in ("floor", "share")))
        return Judge(looks=looks, error=error, worse=worse, interval=interval, **told["limits"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise BundleError(
            f"{path or VERDICT} does not say how to judge frames ({problem!r}): run `refocusd train trust`"
        ) from problem


def _numbers(values: Sequence[float]) -> tuple[float, ...]:
    if len(values) != len(INTERVALS_AT_PX):
        raise ValueError("its intervals are not those of four blurs")
    return tuple(map(float, values))


def _places(features: Sequence[str], known: Sequence[str]) -> NDArray[np.intp] | None:
    """Indices of features among the known ones, in the same order; None if one is unknown."""
    # The order matters because two features have the same name.
    rest = iter(enumerate(known))
    found = [next((place for place, name in rest if name == each), -1) for each in features]
    return None if -1 in found else np.array(found, np.intp)


def _logistic(
    told: Mapping[str, Any], places: NDArray[np.intp] | None, most: float
) -> Logistic | None:
    if places is None:
        return None
    mean, deviation, weights = (
        np.array(told[name], np.float64) for name in ("mean", "deviation", "weights")
    )
    if mean.shape != deviation.shape or weights.shape != (2 * mean.size,):
        raise ValueError("its weights do not fit its features")
    return Logistic(mean, deviation, weights, float(told["bias"]), places, most)
