"""Frames by verdict, from the ledger beside refocused frames: those to look at, or to image again."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from refocusd.datasets.run_folder import LEDGER_COPY, made_by, notes_of
from refocusd.errors import InputError
from refocusd.frame import AxisValue
from refocusd.ledger import Attempt, Ledger


@dataclass(frozen=True, slots=True)
class JudgedFrame:
    """A frame that was judged.

    Parameters
    ----------
    axes : dict of str to int or str
    state, verdict : str
    reasons : tuple of str
        Of the verdict, the most important first.
    error_chance : float
        Probability that its error is large; 1 for frames whose result was not written.
    blur_px : float or None
        Standard deviation of the raw frame's blur.
    """

    axes: dict[str, AxisValue]
    state: str
    verdict: str
    reasons: tuple[str, ...]
    error_chance: float
    blur_px: float | None


def attempts_of(output: Path) -> list[Attempt]:
    """The latest attempt at each frame of a refocused dataset, from the ledger's copy in it.

    Raises
    ------
    InputError
        If there is no copy of the ledger.
    LedgerError
        If it is damaged.
    """
    path = notes_of(output) / LEDGER_COPY
    if not path.is_file():
        raise InputError(
            f"{output} has no copy of its ledger ({LEDGER_COPY}) yet: it is written once a minute, and "
            "at the end of an acquisition; name a refocused dataset"
        )
    about = made_by(output)
    with Ledger(path, read_only=True) as ledger:
        acquisition, run = about.get("acquisition"), about.get("run")
        found = [acquisition] if isinstance(acquisition, str) else ledger.acquisitions()
        return [
            attempt
            for each in found
            for attempt in ledger.attempts(each)
            if run is None or attempt.run == run
        ]


def judged_frames(output: Path, verdicts: Collection[str] = ("untrusted",)) -> list[JudgedFrame]:
    """Frames of a refocused dataset with one of these verdicts, the worst first.

    Raises
    ------
    InputError, LedgerError
        See `attempts_of`.
    """
    return judged(attempts_of(output), verdicts)


def judged(attempts: Collection[Attempt], verdicts: Collection[str]) -> list[JudgedFrame]:
    """The attempts with one of these verdicts, the worst first."""
    found = [frame for frame in _judged(attempts) if frame.verdict in verdicts]
    return sorted(found, key=lambda frame: -frame.error_chance)


def _judged(attempts: Collection[Attempt]) -> Iterator[JudgedFrame]:
    for attempt in attempts:
        facts = attempt.facts or {}
        chance, blur, reasons = (facts.get(k) for k in ("error_chance", "blur_px", "reasons"))
        verdict = str(facts.get("verdict", ""))
        written = attempt.state == "refocused"
        yield JudgedFrame(
            axes=json.loads(attempt.axes),
            state=attempt.state,
            verdict=verdict,
            reasons=tuple(map(str, reasons)) if isinstance(reasons, list) else (),
            error_chance=float(chance) if isinstance(chance, float) and written else 1.0,
            blur_px=blur if isinstance(blur, float) else None,
        )
