"""Reads one run of a dataset from disk and reconciles it; changes nothing."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refocusd.datasets.dataset import RawAndOutputs, recognised
from refocusd.datasets.identity import Recognition
from refocusd.datasets.output import Output
from refocusd.datasets.output_ledger import open_ledger
from refocusd.datasets.reconcile import (
    NoOutcomes,
    Problem,
    ProblemKind,
    Report,
    reconcile,
)
from refocusd.errors import InputError
from refocusd.files import in_command
from refocusd.formats.dataset import Dataset
from refocusd.formats.ndtiff.index import INDEX_NAME, NDTiffIndex
from refocusd.formats.ome_zarr.frame_list import lines_of
from refocusd.formats.ome_zarr.layout import chunk_path, frames_path, is_omezarr
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.open_sink import sink_kind
from refocusd.frame import canonical_axes, counted
from refocusd.ledger import Ledger, Outcomes
from refocusd.transport.records import UNFIT

#: What `refocusd resume` records from the refocused frames themselves.
_IN_LEDGER: frozenset[ProblemKind] = frozenset({"not in the ledger", "state differs"})
#: Problems of refocused frames, and of raw ones; frames that cannot be read may be either.
_DAMAGED: frozenset[ProblemKind] = frozenset({"written twice", "refocused pixels changed"})
_RAW_LOST: frozenset[ProblemKind] = frozenset({"raw incomplete", "not in raw"})
#: States of frames, in the order of the tables.
STATES = ("refocused", "passed_through", "skipped", "failed", "pending")


@dataclass(frozen=True, slots=True)
class RunCheck:
    """The result of checking one run.

    Parameters
    ----------
    output : Output
    report : Report
        Frame by frame.
    faults : tuple of str
        Faults of the dataset as a whole.
    notes : tuple of str
        Remarks that are not faults.
    running : bool
        Whether it was being written during the check.
    ledger_off : bool
        Whether the local ledger is lost, damaged or behind its copy.
    recognition : Recognition or None
        Whether raw is the recording that was refocused; None while it is being written, or without raw.
    raw : str
        Where the raw frames are, or were.
    refocused_unreadable : bool
        Whether the refocused dataset cannot be opened.
    verdicts : dict of str to int
        Frames by verdict, of those that have one.
    acquired : int or None
        Number of acquired frames, from the ledger; None unless the acquisition was closed.
    """

    output: Output
    report: Report
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    running: bool
    ledger_off: bool = False
    recognition: Recognition | None = None
    raw: str = ""
    refocused_unreadable: bool = False
    verdicts: dict[str, int] = field(default_factory=dict)
    acquired: int | None = None

    @property
    def clean(self) -> bool:
        """Whether every frame is accounted for and everything matches."""
        return self.report.clean and not self.faults

    def counts(self) -> dict[str, int]:
        """Frames by state; ``frames`` is all of them."""
        pending = len(self.report.pending) + self.report.unnamed
        states = dict.fromkeys(STATES, 0) | self.report.states | {"pending": pending}
        return {"frames": self.report.frames} | {name: states[name] for name in STATES}

    def advice(self) -> list[str]:
        """How to repair it, one sentence for each kind of fault; empty if nothing need be done."""
        if self.running:
            return []
        if self.recognition is not None and self.recognition.another:
            return []  # the fault says what to do; nothing else would be right before that
        problems = self.report.problems
        output, raw = in_command(self.output.path), in_command(self.raw) if self.raw else "RAW"
        unfit = _frames(p for p in problems if p.kind == "failed" and p.detail.startswith(UNFIT))
        resumed = len(self.report.to_do()) - unfit, sum(p.kind in _IN_LEDGER for p in problems)
        damaged = _frames(
            p for p in problems if p.kind in _DAMAGED or _is_unreadable(p, "refocused")
        )
        lost = _frames(p for p in problems if p.kind in _RAW_LOST or _is_unreadable(p, "raw"))
        said = []
        # Nothing is appended to a damaged dataset.
        if any(resumed) and not self.refocused_unreadable:
            said.append(
                f"{counted(resumed[0])} to refocus, {resumed[1]} to record in the ledger: `refocusd "
                f"resume {output}`"
            )
        elif self.ledger_off and not self.refocused_unreadable:
            said.append(f"`refocusd resume {output}` repairs the ledger on this computer")
        if unfit:
            said.append(
                f"{counted(unfit)} cannot be refocused in the form that raw has: export them with the "
                "program that recorded them, and refocus the export by itself; nothing is wrong with the others"
            )
        if damaged or self.refocused_unreadable:
            what = counted(damaged, "refocused frame") if damaged else "the refocused dataset"
            said.append(
                f"damaged: {what}; move {self.output.path} away, and `refocusd process "
                f"{raw}` makes all of them again"
            )
        if self.report.unnamed:
            said.append(
                f"{counted(self.report.unnamed)} were acquired, and neither refocused nor saved: nothing can "
                "bring them back, and nothing is wrong with the others"
            )
        if changed := _frames(p for p in problems if p.kind == "raw changed since"):
            said.append(
                f"{counted(changed, 'raw frame')} changed since: {_recorded_again(self.raw, self.output)}"
            )
        if lost:
            said.append(
                f"{counted(lost, 'raw frame')} gone or damaged: restore "
                f"{self.raw or 'the raw data'} from a copy, unless other frames were acquired there "
                "since (refocused frames are not touched)"
            )
        return said

    @property
    def ledger_needs_repair(self) -> bool:
        """Whether the ledger, or its local file, must be repaired; opening the run does that."""
        # A ledger that was replaced by its copy is only a note; one without a usable copy is a fault.
        kinds = {problem.kind for problem in self.report.problems}
        return self.ledger_off or bool(kinds & _IN_LEDGER)

    def as_json(self) -> dict[str, Any]:
        """The whole result, as plain values."""
        return {
            "output": str(self.output.path),
            "run": self.output.run,
            "acquisition": self.output.acquisition,
            "model": self.output.model,
            "running": self.running,
            "faults": list(self.faults),
            "notes": list(self.notes),
            **self.report.as_json(),
            "verdicts": self.verdicts,
            "clean": self.clean,
        }


def check_run(
    dataset: RawAndOutputs,
    output: Output,
    ledgers: str | Path,
    *,
    pixels: bool,
    running: bool,
    begin: Callable[[int], object] = lambda _: None,
    looked_at: Callable[[], object] = lambda: None,
) -> RunCheck:
    """Reconcile one run of a dataset.

    Parameters
    ----------
    dataset, output
        From `find_dataset`.
    ledgers : path
        Folder of the local ledgers.
    pixels : bool
        Read every frame and compare checksums.
    running : bool
        Frames are being written meanwhile (see `reconcile`).
    begin, looked_at : callable
        `begin` is called with the number of frames, `looked_at` after each frame that was checked.

    Raises
    ------
    InputError
        If the raw data cannot be opened.
    """
    faults: list[str] = []
    with ExitStack() as stack:
        # In this order, a frame that is written meanwhile never counts as lost.
        ledger, notes = open_ledger(ledgers, output.path, output.acquisition)
        ledger_off = bool(notes)
        if ledger is None:
            faults.append(notes.pop())
        else:
            stack.enter_context(ledger)
        recorded = _recorded(ledger, output)
        refocused: Dataset | None = None
        written = _Written(())
        try:
            refocused = stack.enter_context(_open_refocused(output.path))
            written = _Written(refocused, _rewritten(output.path, refocused))
        except InputError as error:
            refocused = None
            faults.append(f"the refocused dataset cannot be read: {error}")
        raw = stack.enter_context(open_dataset(dataset.raw)) if dataset.raw is not None else None
        recognition = recognised(raw, output, ledgers) if raw is not None and not running else None
        endless = recorded.acquired is None and not running
        faults += _raw_faults(dataset, raw, output, recognition, endless=endless)
        begin(len(written if raw is None else raw))
        report = reconcile(
            raw,
            recorded.fates,
            written,
            raw_incomplete=raw.missing_keys() if raw is not None else (),
            acquired=recorded.acquired,
            raw_checksum=raw.checksum if pixels and raw is not None else None,
            refocused_checksum=refocused.checksum if pixels and refocused is not None else None,
            running=running,
            looked_at=looked_at,
        )
    said = (*dataset.notes, *notes)
    unsure = recognition is not None and not (recognition.compared or recognition.another)
    if unsure and len(written):
        said += ("only its name tells that raw is the recording that was refocused",)
    return RunCheck(
        *(output, report, tuple(faults), said, running, ledger_off, recognition),
        raw=str(dataset.raw or dataset.raw_lost),
        refocused_unreadable=refocused is None,
        verdicts=recorded.verdicts,
        acquired=recorded.acquired,
    )


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What the ledger says about a run: nothing if it is lost."""

    fates: Outcomes = field(default_factory=NoOutcomes)
    acquired: int | None = None
    verdicts: dict[str, int] = field(default_factory=dict)


def _recorded(ledger: Ledger | None, output: Output) -> _Recorded:
    if ledger is None:
        return _Recorded()
    about = ledger.acquisition_note(output.acquisition)
    return _Recorded(
        ledger.fates(output.run, output.acquisition),
        about.acquired if about else None,
        ledger.verdicts(output.run, output.acquisition),
    )


def _raw_faults(
    dataset: RawAndOutputs,
    raw: Dataset | None,
    output: Output,
    recognition: Recognition | None,
    *,
    endless: bool,
) -> Iterator[str]:
    """Faults of the raw data as a whole; `endless` if the number of acquired frames is unknown."""
    if dataset.raw_lost:
        yield (
            f"the raw data are not at {dataset.raw_lost}, nor beside the output: put them back, or "
            f"move {output.path} beside them; if they were renamed, name them: `refocusd verify RAW`"
        )
    elif raw is None and endless:
        yield (
            "no raw data, and the acquisition was never closed: nobody knows its end; the frames that "
            f"are there can be used as they are: `refocusd export {in_command(output.path)} --output FILE.ome.tif`"
        )
    if raw is not None and recognition is not None and recognition.another:
        yield (
            f"{raw.path} is another recording than the one that was refocused here "
            f"({recognition.what}): {_recorded_again(raw.path, output)}"
        )


def _recorded_again(raw: Path | str, output: Output) -> str:
    """What to do if raw is not what was refocused, without losing either."""
    return (
        f"if it was acquired again, move {output.path} away, and `refocusd process {in_command(raw)}` "
        "refocuses all of it as it is now; if not, what was refocused is right, and raw is not: keep "
        "it under another name, and put a copy of the earlier one in its place"
    )


def _open_refocused(path: Path) -> Dataset:
    """Open a refocused dataset that has all the files its writer relies on.

    Raises
    ------
    InputError
    """
    if sink_kind(path) is None:
        raise InputError(f"{path} has lost its list of frames")
    frames = open_dataset(path)
    if missing := frames.missing_files():
        frames.close()
        raise InputError(f"{path} has lost {', '.join(missing[:3])}")
    return frames


def _frames(problems: Iterable[Problem]) -> int:
    """Number of frames with these problems; a frame may have several."""
    return len({problem.axes for problem in problems})


def _is_unreadable(problem: Problem, which: str) -> bool:
    return problem.kind == "unreadable" and problem.detail.startswith(f"{which}:")


class _Written:
    """The frames of a refocused dataset, and how often each was written, if not once."""

    def __init__(self, frames: Collection[str], otherwise: Mapping[str, int] = {}) -> None:
        self._frames = frames
        self._otherwise = otherwise

    def __iter__(self) -> Iterator[str]:
        return (axes for axes in self._frames if self.times(axes))

    def __len__(self) -> int:
        return len(self._frames)

    def times(self, axes: str) -> int:
        """How often a frame was written."""
        return self._otherwise.get(axes, int(axes in self._frames))


def _rewritten(output: Path, frames: Dataset) -> dict[str, int]:
    """Frames that were not written exactly once, and how often each was.

    In NDTiff, a frame may occur twice; the list of OME-Zarr may name one whose pixels were lost.
    """
    if (output / INDEX_NAME).is_file():

        def listed() -> Iterator[str]:
            # A reader lists each frame once; the index lists every time it was written.
            keys = (canonical_axes(axes) for axes, _ in NDTiffIndex(output, sys.maxsize).records())
            return (key for key in keys if key in frames)

        if sum(1 for _ in listed()) == len(frames):
            return {}
        return {key: times for key, times in Counter(listed()).items() if times > 1}
    lost: dict[str, int] = {}
    if is_omezarr(output):
        for _, _, line in lines_of(frames_path(output)):
            key = canonical_axes(line.axes)
            # A frame is listed again when it is written again.
            if _size(output / chunk_path(line)) == line.nbytes:
                lost.pop(key, None)
            else:
                lost[key] = 0
    return lost


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
