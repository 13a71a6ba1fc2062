"""Weights and thresholds of the judge, and how often it is right on what was kept apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refocusd.engines.verdict import ERROR_FEATURES, Judge, Logistic, error_features
from refocusd.imaging.field_evidence import LOOKS
from refocusd_training.trust.examples import Example, Outcome

__all__ = ["Reliability", "auroc", "chances", "fit_judge", "logistic", "reliability", "write_judge"]

Floats = NDArray[np.float64]

#: Of the error, see `Judge.bound`: 20 dB.
BOUND = 0.1
#: Frames that came out worse than raw by more than this factor (0.1 dB) are wrong as well.
WORSE = 1.0116
#: Shares of fluorescence frames that are called strange, and something else, by mistake.
FALSE_ALARMS = (0.05, 0.01)
#: Probabilities of an error from which a frame is doubtful, and untrusted.
LEVELS = (0.25, 0.8)
#: Under so many standard deviations of a pixel's noise, or counts, a field is empty.
EMPTY = (2.5, 5.0)
#: Bounds of the bins of the reliability curve.
BINS = (0.0, 0.1, 0.25, 0.4, 0.6, 0.8, 1.0)
#: Weights of the squared weights: of looks, which the kinds of pictures tell well, and of errors.
LOOKS_RIDGE, RIDGE = 1.0, 20.0


@dataclass(frozen=True, slots=True)
class Reliability:
    """Frames whose error the judge took to be as likely as this, and how many were wrong.

    Parameters
    ----------
    low, high : float
        Of the probability.
    frames : int
    wrong : float
        Share of them.
    """

    low: float
    high: float
    frames: int
    wrong: float


def logistic(rows: Floats, wanted: NDArray[np.bool_], ridge: float = RIDGE) -> Logistic:
    """Fit a `Logistic` by Newton's method, both classes weighing the same on the whole.

    Parameters
    ----------
    rows : ndarray, shape (samples, features)
    wanted : ndarray of bool, shape (samples,)
    ridge : float
        Weight of the squared weights.
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


def is_wrong(example: Example, outcome: Outcome) -> bool:
    """Whether a refocused frame is one that should not be trusted."""
    return outcome.error > BOUND or outcome.error > WORSE * example.raw_error


def fit_judge(examples: Sequence[Example], others: Mapping[str, NDArray[np.float32]]) -> Judge:
    """The judge that these teach.

    Parameters
    ----------
    examples : sequence of Example
        Of fluorescence.
    others : mapping of str to ndarray
        `FieldEvidence.looks` of pictures of something else, by kind.
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
    pairs = [(example, outcome) for example in examples for outcome in example.outcomes.values()]
    rows = np.stack([error_features(e.field, o.pair, told.score(e.field.looks)) for e, o in pairs])
    wanted = np.array([is_wrong(example, outcome) for example, outcome in pairs])
    error = logistic(rows, wanted)
    # Both classes weighed the same: back to how often frames are wrong.
    share = float(wanted.mean())
    error = Logistic(
        error.mean, error.deviation, error.weights, error.bias + float(np.log(share / (1 - share)))
    )
    return Judge(
        bound=BOUND,
        looks=told,
        error=error,
        strange=at[0],
        foreign=at[1],
        doubtful=LEVELS[0],
        untrusted=LEVELS[1],
        empty_noises=EMPTY[0],
        empty_counts=EMPTY[1],
    )


def chances(judge: Judge, examples: Sequence[Example], engine: str) -> tuple[Floats, Floats]:
    """Probabilities of an error, and whether there was one, of what an engine refocused."""
    rows = [
        error_features(e.field, e.outcomes[engine].pair, judge.looks.score(e.field.looks))
        for e in examples
    ]
    chance = np.array([judge.error.chance(row) for row in rows])
    return chance, np.array([float(is_wrong(e, e.outcomes[engine])) for e in examples])


def auroc(scores: Floats, wanted: Floats) -> float:
    """Probability that one that is wanted scores higher than one that is not (Mann-Whitney)."""
    yes, no = scores[wanted > 0.5], scores[wanted <= 0.5]
    if not (len(yes) and len(no)):
        return float("nan")
    above = (yes[:, None] > no).mean() + 0.5 * (yes[:, None] == no).mean()
    return float(above)


def reliability(chance: Floats, wrong: Floats) -> list[Reliability]:
    """How often frames of each probability were wrong."""
    found = []
    for low, high in pairwise(BINS):
        within = (chance >= low) & (chance < high + (high == 1.0))
        if within.any():
            found.append(Reliability(low, high, int(within.sum()), float(wrong[within].mean())))
    return found


def write_judge(judge: Judge, curve: Sequence[Reliability], path: Path) -> None:
    """As `refocusd.engines.verdict` reads it, with the reliability on what was kept apart."""

    def listed(values: NDArray[np.floating]) -> str:
        return "[" + ", ".join(f"{value:.5g}" for value in values) + "]"

    def section(name: str, part: Logistic, features: Sequence[str]) -> list[str]:
        return [
            f"[{name}]",
            f"# of {', '.join(features)}; then of their squares",
            f"mean = {listed(part.mean)}",
            f"deviation = {listed(part.deviation)}",
            f"weights = {listed(part.weights)}",
            f"bias = {part.bias:.5g}",
            "",
        ]

    names = ("bound", "strange", "foreign", "doubtful", "untrusted", "empty_noises", "empty_counts")
    lines = ["# Made by `refocusd train trust`; see refocusd/engines/verdict.py.", "[limits]"]
    lines += [f"{name} = {float(getattr(judge, name)):.5g}" for name in names]
    lines += ["", *section("looks", judge.looks, LOOKS)]
    lines += section("error", judge.error, ERROR_FEATURES)
    for row in curve:
        lines += ["[[reliability]]"]
        lines += [f"chance = [{row.low}, {row.high}]", f"frames = {row.frames}"]
        lines += [f"wrong = {row.wrong:.3f}", ""]
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
