"""Fits weights and thresholds of the judge, and measures how often it is right on held-out frames."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from refocusd.engines.verdict import (
    ERROR_FEATURES,
    INTERVALS_AT_PX,
    MOST_OF_ERRORS,
    Interval,
    Judge,
    Logistic,
    error_features,
)
from refocusd.errors import InputError
from refocusd.imaging.field_evidence import LOOKS
from refocusd_training.trust.examples import Example, Outcome

Floats = NDArray[np.float64]

#: Limit of the error, see `Judge.bound`: 20 dB.
BOUND = 0.1
#: Frames whose error exceeds that of raw by more than this factor (0.1 dB) are wrong as well.
WORSE = 1.0116
#: Shares of fluorescence frames that are called strange, or not fluorescence, by mistake.
FALSE_ALARMS = (0.05, 0.01)
#: Probabilities of an error from which a frame is doubtful, and untrusted.
LEVELS = (0.25, 0.8)
#: A field is empty below this many standard deviations of a pixel's noise, or this many counts.
EMPTY = (2.5, 5.0)
#: Bounds of the bins of the reliability curve.
BINS = (0.0, 0.1, 0.25, 0.4, 0.6, 0.8, 1.0)
#: Ridge penalties: for looks, by which the kinds of pictures are easily distinguished, and for errors.
LOOKS_RIDGE, RIDGE = 1.0, 200.0
#: Distances from the bound, and from the error of raw, at which errors are cut off for the fits (natural logarithm).
FAR, FAR_FROM_RAW = 0.5, 0.1
#: Probabilities of a result worse than raw from which a frame is untrusted: if it is likely wrong, and otherwise.
MOST_WORSE = (0.06, 0.15)
#: Folds of the cross-validation whose scores are turned into probabilities.
FOLDS = 5
#: Bounds of the widths of the blur for which figures are given, px.
WIDTHS_PX = (0, 4, 8, 16, 60)
#: Fewest frames on which a judge is fitted.
LEAST_FRAMES = 40
#: Share of true pixels that intervals should hold, and number of rounds in which they are scaled to do so.
HELD, ROUNDS = 0.9, 4


@dataclass(frozen=True, slots=True)
class Reliability:
    """How many of the frames with a probability of an error in this range were wrong.

    Parameters
    ----------
    low, high : float
        Range of the probability.
    frames : int
        Number of frames in this range.
    wrong : float
        Share of these frames that were wrong.
    """

    low: float
    high: float
    frames: int
    wrong: float


def logistic(rows: Floats, wanted: NDArray[np.bool_], ridge: float) -> Logistic:
    """Fit a `Logistic` by Newton's method, with the same total weight for both classes.

    Parameters
    ----------
    rows : ndarray, shape (samples, features)
    wanted : ndarray of bool, shape (samples,)
    ridge : float
        Penalty on the squared weights.
    """
    deviation = rows.std(axis=0) + 1e-6
    found = Logistic(rows.mean(axis=0), deviation, np.zeros(2 * rows.shape[1]), 0.0)
    terms = np.concatenate([found.terms(rows), np.ones((len(rows), 1))], axis=1)
    shares = np.where(wanted, 0.5 / max(wanted.mean(), 1e-9), 0.5 / max(1 - wanted.mean(), 1e-9))
    penalty = np.diag([ridge] * (terms.shape[1] - 1) + [1e-6])
    weights = np.zeros(terms.shape[1])
    for _ in range(30):
        chance = 1 / (1 + np.exp(-np.clip(terms @ weights, -30, 30)))
        slope = terms.T @ (shares * (chance - wanted)) + penalty @ weights
        curve = terms.T @ (terms * (shares * chance * (1 - chance))[:, None]) + penalty
        step = np.linalg.solve(curve, slope)
        weights -= step
        if np.abs(step).max() < 1e-6:
            break
    return Logistic(found.mean, deviation, weights[:-1], float(weights[-1]))


def graded(rows: Floats, margins: Floats, ridge: float = RIDGE, far: float = FAR) -> Logistic:
    """Fit a `Logistic` by least squares to the distance of frames from the limit of being wrong.

    Many frames are near the limit, where it is half chance whether they are wrong; their distance from it is
    not.  A logistic regression on cross-validated scores turns the score into a probability (J. Platt, Adv.
    Large Margin Classifiers, 61, 1999).

    Parameters
    ----------
    rows : ndarray, shape (samples, features)
    margins : ndarray, shape (samples,)
        Distances, see `margin` and `over_raw`.
    ridge : float
        Penalty on the squared weights.
    far : float
        Distance at which margins are cut off.
    """
    found = Logistic(
        rows.mean(axis=0),
        rows.std(axis=0) + 1e-6,
        np.zeros(2 * rows.shape[1]),
        0.0,
        most=MOST_OF_ERRORS,
    )
    terms = np.concatenate([found.terms(rows), np.ones((len(rows), 1))], axis=1)
    penalty = np.diag([ridge] * (terms.shape[1] - 1) + [1e-6])

    def weights_of(known: NDArray[np.bool_]) -> Floats:
        own, wanted = terms[known], np.clip(margins[known], -far, far)
        return np.asarray(np.linalg.solve(own.T @ own + penalty, own.T @ wanted))

    fold = np.arange(len(rows)) % FOLDS
    scores = np.empty(len(rows))
    for each in range(FOLDS):
        scores[fold == each] = terms[fold == each] @ weights_of(fold != each)

    def loss(terms: Floats) -> float:
        odds = terms[0] * scores + terms[1]
        return float(np.mean(np.logaddexp(0, odds) - (margins > 0) * odds))

    slope, offset = minimize(loss, np.array([1 / far, 0.0])).x
    weights = slope * weights_of(fold >= 0)
    return replace(found, weights=weights[:-1], bias=float(weights[-1] + offset))


def margin(example: Example, outcome: Outcome) -> float:
    """Natural logarithm of a refocused frame's error over the error from which it is wrong."""
    least = min(BOUND, WORSE * example.raw_error)
    return float(np.log(max(outcome.error, 1e-6) / least))


def over_raw(example: Example, outcome: Outcome) -> float:
    """Natural logarithm of a refocused frame's error over the error from which it is worse than raw."""
    return float(np.log(max(outcome.error, 1e-6) / (WORSE * example.raw_error)))


def is_wrong(example: Example, outcome: Outcome) -> bool:
    """Whether a refocused frame is wrong: its error is above the bound, or it is worse than raw."""
    return margin(example, outcome) > 0


def is_worse(example: Example, outcome: Outcome) -> bool:
    """Whether a refocused frame is worse than raw."""
    return over_raw(example, outcome) > 0


@dataclass(frozen=True, slots=True)
class Looks:
    """Score and thresholds that distinguish fluorescence from other pictures; see `Judge`."""

    score: Logistic
    strange: float
    foreign: float


def fit_looks(examples: Sequence[Example], others: Mapping[str, NDArray[np.float32]]) -> Looks:
    """Fit the score that distinguishes fluorescence from other pictures.

    Parameters
    ----------
    examples : sequence of Example
        Frames of fluorescence.
    others : mapping of str to ndarray
        `FieldEvidence.looks` of other pictures, by kind.
    """
    looks = np.stack([example.field.looks for example in examples]).astype(np.float64)
    strange = np.concatenate(list(others.values())).astype(np.float64)
    told = logistic(
        np.concatenate([looks, strange]),
        np.arange(len(looks) + len(strange)) >= len(looks),
        ridge=LOOKS_RIDGE,
    )
    own = np.sort([told.score(row) for row in looks])
    at = [float(own[int((1 - share) * (len(own) - 1))]) for share in FALSE_ALARMS]
    return Looks(told, *at)


def fit_judge(examples: Sequence[Example], looks: Looks) -> Judge:
    """Fit a judge.

    Frames that it passes through are left out of the fit of errors.

    Parameters
    ----------
    examples : sequence of Example
    looks : Looks
        From `fit_looks`, or from an existing judge.

    Raises
    ------
    InputError
        If too few frames are left, or all of them are right, or all wrong.
    """
    nothing = Logistic(np.zeros(1), np.ones(1), np.zeros(2), 0.0)
    judge = Judge(
        bound=BOUND,
        looks=looks.score,
        error=nothing,
        interval=Interval((), ()),
        strange=looks.strange,
        foreign=looks.foreign,
        doubtful=LEVELS[0],
        untrusted=LEVELS[1],
        empty_noises=EMPTY[0],
        empty_counts=EMPTY[1],
        most_worse=MOST_WORSE[0],
        rather_worse=MOST_WORSE[1],
    )
    pairs = [
        (example, outcome)
        for example in examples
        for engine, outcome in example.outcomes.items()
        if _is_judged(judge, example, engine)
    ]
    margins = np.array([margin(example, outcome) for example, outcome in pairs])
    wrong = int(np.sum(margins > 0))
    if len(pairs) < LEAST_FRAMES or not 0 < wrong < len(pairs):
        raise InputError(
            f"{len(pairs)} refocused frames, of which {wrong} are wrong, are too few for a fit: "
            "give more samples or minutes"
        )
    rows = np.stack([_features(judge, example, outcome) for example, outcome in pairs])
    worse = np.array([over_raw(example, outcome) for example, outcome in pairs])
    return replace(
        judge,
        error=graded(rows, margins),
        worse=graded(rows, worse, far=FAR_FROM_RAW) if 0 < np.sum(worse > 0) < len(pairs) else None,
        interval=_fit_interval(pairs),
    )


def _is_judged(judge: Judge, example: Example, engine: str) -> bool:
    pair = example.outcomes[engine].pair
    return judge.nothing_to_refocus(example.field) is None and not judge.in_focus(pair)


def _features(judge: Judge, example: Example, outcome: Outcome) -> Floats:
    foreign = judge.looks.score(example.field.looks)
    return error_features(example.field, outcome.pair, foreign)


def is_above_bound(_example: Example, outcome: Outcome) -> bool:
    """Whether a frame's error is above the bound, even if that of raw is as large."""
    return outcome.error > BOUND


def chances(
    judge: Judge,
    examples: Sequence[Example],
    engine: str,
    wrong: Callable[[Example, Outcome], bool] = is_wrong,
    by: Logistic | None = None,
) -> tuple[Floats, Floats]:
    """Probability of an error, and whether there was one, for each judged frame of an engine."""
    judged = [
        (
            (by or judge.error).chance(_features(judge, e, e.outcomes[engine])),
            wrong(e, e.outcomes[engine]),
        )
        for e in examples
        if _is_judged(judge, e, engine)
    ]
    chance, was = np.array(judged, dtype=float).reshape(-1, 2).T
    return chance, was


def figures(judge: Judge, examples: Sequence[Example], engine: str) -> dict[str, Any]:
    """Figures for the judge's file that show how well it predicts errors of held-out frames.

    ``auroc`` is for errors above the bound, also by the width of the blur in px; for ``auroc_or_worse``, frames
    that became worse than raw are wrong, too; ``auroc_worse`` is only for frames that became worse than raw, and
    numbers of such frames follow.
    """
    chance, above = chances(judge, examples, engine, is_above_bound)
    found: dict[str, Any] = {
        "frames": len(chance),
        "above_bound": round(float(above.mean()), 3),
        "auroc": round(auroc(chance, above), 3),
        "auroc_or_worse": round(auroc(*chances(judge, examples, engine)), 3),
    }
    if judge.worse is not None:
        worse, was = chances(judge, examples, engine, is_worse, judge.worse)
        kept = worse < np.where(chance < judge.untrusted, judge.rather_worse, judge.most_worse)
        found["auroc_worse"] = round(auroc(worse, was), 3)
        found["worse"], found["worse_if_not_untrusted"] = int(was.sum()), int(was[kept].sum())
        found["untrusted_as_worse"] = int((~kept).sum())
    for low, high in pairwise(WIDTHS_PX):
        own = [example for example in examples if low <= example.sigma_px < high]
        found[f"auroc_{low:g}_to_{high:g}_px"] = round(
            auroc(*chances(judge, own, engine, is_above_bound)), 3
        )
    return found


def _fit_interval(pairs: Sequence[tuple[Example, Outcome]]) -> Interval:
    """Fit by the pinball loss (R. Koenker and G. Bassett, Econometrica 46, 33, 1978), for each blur."""
    at = [_nearest(outcome) for _, outcome in pairs]
    found = []
    for knot in range(len(INTERVALS_AT_PX)):
        own = [pair for pair, its in zip(pairs, at, strict=True) if its == knot]
        found.append(_half_width(own if len(own) >= LEAST_FRAMES else pairs))
    floor, share = np.array(found).T
    return Interval(tuple(map(float, floor)), tuple(map(float, share)))


def _nearest(outcome: Outcome) -> int:
    apart = np.abs(np.log(outcome.pair.stated_px) - np.log(INTERVALS_AT_PX))
    return int(np.argmin(apart))


def _half_width(pairs: Sequence[tuple[Example, Outcome]]) -> Floats:
    """Half-width on a dark background over the expected error, and half-width added per count of light."""
    expected = np.array([[_expected(example, outcome)] for example, outcome in pairs])
    off, light = (
        np.stack([getattr(outcome, name) for _, outcome in pairs]) / expected
        for name in ("off", "light")
    )

    def loss(terms: Floats) -> float:
        over = off - np.exp(terms[0]) - np.exp(terms[1]) * light
        return float(np.mean(np.maximum(HELD * over, (HELD - 1) * over)))

    around: Any = {"initial_simplex": [[-1.0, -2.0], [0.5, -2.0], [-1.0, -0.5]]}
    found = minimize(loss, np.array([-1.0, -2.0]), method="Nelder-Mead", options=around)
    return np.asarray(np.exp(found.x))


def _expected(example: Example, outcome: Outcome) -> float:
    return max(outcome.pair.expected_error * example.field.contrast, 1e-3)


def _scores(
    judge: Judge, examples: Sequence[Example], engine: str | None = None, knot: int | None = None
) -> Floats:
    """Absolute error over the half-width of the interval, for pixels of frames that are not untrusted."""
    found = []
    for example in examples:
        for name, outcome in example.outcomes.items():
            if engine not in (None, name) or knot not in (None, _nearest(outcome)):
                continue
            if _is_judged(judge, example, name) and (
                judge.error.chance(_features(judge, example, outcome)) < judge.untrusted
            ):
                expected = _expected(example, outcome)
                floor, share = judge.interval.of(expected, outcome.pair.stated_px)
                found.append(outcome.off / (floor + share * outcome.light))
    return np.concatenate(found).astype(float) if len(found) >= 2 else np.ones(1)


def calibrated(judge: Judge, examples: Sequence[Example]) -> Judge:
    """Scale a judge's intervals to hold 90 % of the pixels of specimens on which it was not fitted.

    Intervals are interpolated between two widths of the blur, so their factors depend on each other, and
    are found in several rounds.
    """
    for _ in range(ROUNDS):
        factors = [
            float(np.quantile(_scores(judge, examples, knot=knot), HELD))
            for knot in range(len(INTERVALS_AT_PX))
        ]
        floor, share = (
            tuple(value * factor for value, factor in zip(values, factors, strict=True))
            for values in (judge.interval.floor, judge.interval.share)
        )
        judge = replace(judge, interval=Interval(floor, share))
    return judge


def coverage(judge: Judge, examples: Sequence[Example], engine: str) -> dict[str, float]:
    """Shares of true pixels that the intervals of an engine's frames hold: in all, and by estimated blur."""
    knots = {"": None, **{f"_at_{px:g}_px": knot for knot, px in enumerate(INTERVALS_AT_PX)}}
    scores = {name: _scores(judge, examples, engine, knot) for name, knot in knots.items()}
    return {
        f"intervals_hold{name}": round(float(np.mean(own <= 1)), 3)
        for name, own in scores.items()
        if own.size > 1
    }


def auroc(scores: Floats, wanted: Floats) -> float:
    """Probability that a wanted sample scores higher than an unwanted one (Mann-Whitney)."""
    yes, no = scores[wanted > 0.5], scores[wanted <= 0.5]
    if not (len(yes) and len(no)):
        return float("nan")
    above = (yes[:, None] > no).mean() + 0.5 * (yes[:, None] == no).mean()
    return float(above)


def reliability(chance: Floats, wrong: Floats) -> list[Reliability]:
    """How often frames were wrong, for each range of the probability."""
    found = []
    for low, high in pairwise(BINS):
        within = (chance >= low) & (chance < high + (high == 1.0))
        if within.any():
            found.append(Reliability(low, high, int(within.sum()), float(wrong[within].mean())))
    return found


def judge_text(
    judge: Judge,
    curve: Sequence[Reliability],
    held_out: Mapping[str, float] | None = None,
    made_by: str = "refocusd train trust",
) -> str:
    """The judge as TOML for `refocusd.engines.verdict`, with figures from held-out frames.

    Parameters
    ----------
    judge : Judge
    curve : sequence of Reliability
    held_out : mapping of str to float, optional
        Figures of held-out frames.
    made_by : str
        Command that made the judge.
    """

    def listed(values: NDArray[np.floating]) -> str:
        return "[" + ", ".join(f"{value:.5g}" for value in values) + "]"

    def section(name: str, part: Logistic, features: Sequence[str]) -> list[str]:
        return [
            f"[{name}]",
            "# Weights are those of the features, then of their squares.",
            f"features = {json.dumps([*features])}",
            f"mean = {listed(part.mean)}",
            f"deviation = {listed(part.deviation)}",
            f"weights = {listed(part.weights)}",
            f"bias = {part.bias:.5g}",
            "",
        ]

    names = (
        *("bound", "strange", "foreign", "doubtful", "untrusted"),
        *("most_worse", "rather_worse", "empty_noises", "empty_counts"),
    )
    lines = ["# See refocusd/engines/verdict.py.  Made by:", f"# {made_by}", "[limits]"]
    lines += [f"{name} = {float(getattr(judge, name)):.5g}" for name in names]
    lines += ["", *section("looks", judge.looks, LOOKS)]
    lines += section("error", judge.error, ERROR_FEATURES)
    if judge.worse is not None:
        lines += section("worse", judge.worse, ERROR_FEATURES)
    floor, share = (listed(np.array(part)) for part in (judge.interval.floor, judge.interval.share))
    lines += ["[interval]", f"floor = {floor}", f"share = {share}", ""]
    if held_out:
        lines += ["[held_out]", *(f"{name} = {value}" for name, value in held_out.items()), ""]
    for row in curve:
        lines += ["[[reliability]]"]
        lines += [f"chance = [{row.low}, {row.high}]", f"frames = {row.frames}"]
        lines += [f"wrong = {row.wrong:.3f}", ""]
    return "\n".join(lines).rstrip() + "\n"
