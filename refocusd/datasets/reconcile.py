"""Compares raw frames, ledger and refocused frames.

This is a pure function of the three; nothing is opened or changed here. Frames are asked for one
after another, and only problems and pending frames are kept, so that memory does not grow with
the frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from refocusd.errors import InputError
from refocusd.frame import REPLACED
from refocusd.ledger import WRITTEN, Fate, Outcomes, was_taken_again

ProblemKind = Literal[
    "failed",
    "missing from the dataset",
    "not in the ledger",
    "state differs",
    "not in raw",
    "written twice",
    "raw incomplete",
    "unreadable",
    "raw changed since",
    "refocused pixels changed",
]
#: 64-bit XXH3 of the pixels of the frame with these canonical axes.
Checksum = Callable[[str], int]
#: Prefix of the reason of frames that were skipped because they could not be caught up later.
NO_RAW = "no raw"


class NoOutcomes:
    """The outcomes if there is no ledger: none."""

    def __iter__(self) -> Iterator[Fate]:
        return iter(())

    def of(self, axes: str) -> None:
        """None, for every frame."""


class Refocused(Protocol):
    """The frames of a refocused dataset, each once."""

    def __iter__(self) -> Iterator[str]: ...

    def times(self, axes: str) -> int:
        """How often a frame was written."""
        ...


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of one frame: what, which frame, and details."""

    kind: ProblemKind
    axes: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a reconciliation.

    Parameters
    ----------
    frames : int
        Number of raw frames and of those that were replaced in raw; without raw data, of acquired frames.
    states : dict of str to int
        Frames by final state.
    pending : tuple of str
        Canonical axes of the raw frames without a final state, in raw order.
    unnamed : int
        Pending frames whose axes are unknown, because there are no raw data.
    problems : tuple of Problem
        In raw order.
    compared, raw_compared : int
        Frames whose refocused, and whose raw, pixels were compared with the
        checksum taken when they were written.
    without_checksum : int
        Written frames without a checksum in the ledger (written by an older
        refocusd, or restored from the dataset itself).
    """

    frames: int
    states: dict[str, int]
    pending: tuple[str, ...]
    unnamed: int
    problems: tuple[Problem, ...]
    compared: int
    raw_compared: int
    without_checksum: int

    @property
    def clean(self) -> bool:
        """Whether every frame has exactly one final state, none failed, and everything matches."""
        return not (self.pending or self.unnamed or self.problems)

    def to_do(self) -> list[str]:
        """Raw frames to refocus again: pending, failed, or lost from the dataset."""
        again = [p.axes for p in self.problems if p.kind in ("failed", "missing from the dataset")]
        return list(dict.fromkeys([*self.pending, *again]))

    def as_json(self) -> dict[str, Any]:
        """The whole report, as plain values."""
        return {
            "frames": self.frames,
            "states": self.states,
            "pending": list(self.pending),
            "pending_without_axes": self.unnamed,
            "problems": [asdict(problem) for problem in self.problems],
            "refocused_pixels_compared": self.compared,
            "raw_pixels_compared": self.raw_compared,
            "without_checksum": self.without_checksum,
            "clean": self.clean,
        }


def reconcile(
    raw: Collection[str] | None,
    fates: Outcomes,
    refocused: Refocused,
    *,
    raw_incomplete: Iterable[str] = (),
    acquired: int | None = None,
    raw_checksum: Checksum | None = None,
    refocused_checksum: Checksum | None = None,
    running: bool = False,
    looked_at: Callable[[], object] = lambda: None,
) -> Report:
    """Compare raw frames, ledger and refocused frames.

    Parameters
    ----------
    raw : collection of str or None
        Canonical axes of the raw frames; None for an acquisition without raw data.
    fates : Outcomes
        The latest attempt of one run at each frame. While the acquisition runs, open it
        before `refocused`, and that before `raw`.
    refocused : Refocused
        Canonical axes of the frames in the refocused dataset.
    raw_incomplete : iterable of str
        Frames that raw lists, but whose pixels are missing.
    acquired : int, optional
        Number of acquired frames; used if there are no raw data.
    raw_checksum, refocused_checksum : callable, optional
        Read a frame and return its checksum; by default pixels are not compared.
    running : bool
        Whether frames are being written meanwhile. A frame that is in the dataset but not
        yet in the ledger, or not yet in raw, is then pending and not a problem.
    looked_at : callable
        Called once for each raw frame, for a progress bar.

    Returns
    -------
    Report
    """
    compare = _Comparison(raw_checksum, refocused_checksum)
    states: Counter[str] = Counter()
    pending: list[str] = []
    problems: list[Problem] = []
    frames = 0
    for axes in _known(fates, refocused) if raw is None else raw:
        frames += 1
        fate, written = fates.of(axes), refocused.times(axes)
        if raw is not None and fate is not None and _skipped_without_raw(fate):
            fate = None  # the raw frame exists, so it can be refocused after all
        if fate is not None:
            states[fate.state] += 1
        if fate is None and (running or not written):
            pending.append(axes)
        problems += _problems_of(axes, fate, written, running=running)
        if written and not (running and fate is None):
            problems += (
                problem
                for problem in compare.frame(axes, fate, has_raw=raw is not None)
                if problem.kind != "raw changed since" or not was_taken_again(fates, axes)
            )
        looked_at()
    replaced, strangers = ([], []) if raw is None else _not_in_raw(fates, refocused, raw)
    frames += len(replaced)
    states.update(fate.state for fate in replaced)
    if not running:
        # A frame without pixels cannot be refocused; one with a state is in the list already.
        problems += [
            Problem("raw incomplete", axes, "raw names it, but its pixels are not in the file")
            for axes in raw_incomplete
        ]
        problems += strangers
    unnamed = max(0, acquired - frames) if raw is None and acquired is not None else 0
    return Report(
        frames=max(frames, acquired or 0) if raw is None else frames,
        states=dict(sorted(states.items())),
        pending=tuple(pending),
        unnamed=unnamed,
        problems=tuple(problems),
        compared=compare.compared,
        raw_compared=compare.raw_compared,
        without_checksum=compare.without,
    )


def _not_in_raw(
    fates: Outcomes, refocused: Refocused, raw: Collection[str]
) -> tuple[list[Fate], list[Problem]]:
    """Frames that raw does not have: those that were replaced in it, and those that nothing explains."""
    replaced: list[Fate] = []
    strangers: list[Problem] = []
    for axes in _known(fates, refocused, raw):
        fate, written = fates.of(axes), refocused.times(axes)
        if fate is not None and not written and _was_replaced(fate):
            replaced.append(fate)
        else:
            strangers.append(Problem("not in raw", axes, _whose(fate, written)))
    return replaced, strangers


def _problems_of(axes: str, fate: Fate | None, written: int, *, running: bool) -> Iterator[Problem]:
    """Problems of a frame, apart from its pixels."""
    if written > 1:
        yield Problem("written twice", axes, f"{written} times in the refocused dataset")
    if fate is None:
        if written and not running:
            yield Problem("not in the ledger", axes, "in the refocused dataset, without an attempt")
    elif fate.state in WRITTEN:
        if not written:
            yield Problem("missing from the dataset", axes, f"{fate.state}, says the ledger")
    elif written and not running:
        detail = f"{fate.state} ({fate.reason}), says the ledger, but it is in the dataset"
        yield Problem("state differs", axes, detail)
    elif fate.state == "failed":
        yield Problem("failed", axes, fate.reason)


def _skipped_without_raw(fate: Fate) -> bool:
    return fate.state == "skipped" and fate.reason.startswith(NO_RAW)


def _was_replaced(fate: Fate) -> bool:
    return fate.state == "skipped" and fate.reason == REPLACED


def _known(
    fates: Outcomes, refocused: Refocused, raw: Collection[str] = frozenset()
) -> Iterator[str]:
    """Frames that raw does not have: those that were attempted, then those only refocused."""
    yield from (fate.axes for fate in fates if fate.axes not in raw)
    yield from (axes for axes in refocused if axes not in raw and fates.of(axes) is None)


def _whose(fate: Fate | None, written: int) -> str:
    said = [f"{fate.state}, says the ledger"] if fate else []
    return "; ".join([*said, *(["in the refocused dataset"] if written else [])])


class _Comparison:
    """Compares pixels with the checksums that were recorded when they were written."""

    def __init__(self, raw: Checksum | None, refocused: Checksum | None) -> None:
        self._raw = raw
        self._refocused = refocused
        self.compared = 0
        self.raw_compared = 0
        self.without = 0

    def frame(self, axes: str, fate: Fate | None, *, has_raw: bool) -> Iterator[Problem]:
        """Problems of the pixels of a frame in the dataset."""
        expected = fate.checksum if fate else None
        self.without += expected is None
        try:
            found = self._refocused(axes) if self._refocused else None
        except (InputError, OSError, ValueError) as error:
            yield Problem("unreadable", axes, f"refocused: {error}")
            found = None
        if found is not None and expected is not None:
            self.compared += 1
            if found != expected:
                yield _changed("refocused pixels changed", axes, found, expected)
        if not (has_raw and self._raw):
            return
        passed = fate is not None and fate.state == "passed_through"
        before = fate.raw_checksum if fate else None
        if before is None and not passed:
            return
        try:
            raw = self._raw(axes)
        except (InputError, OSError, ValueError) as error:
            yield Problem("unreadable", axes, f"raw: {error}")
            return
        if before is not None:
            self.raw_compared += 1
            if raw != before:
                yield _changed("raw changed since", axes, raw, before)
        elif expected is None and found is not None and raw != found:
            # A frame that passed through has exactly the raw pixels.
            yield _changed("refocused pixels changed", axes, found, raw)


def _changed(kind: ProblemKind, axes: str, found: int, expected: int) -> Problem:
    return Problem(kind, axes, f"XXH3 {found:016x}, was {expected:016x}")
