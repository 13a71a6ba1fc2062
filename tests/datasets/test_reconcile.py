"""Raw, ledger and refocused frames held against each other: every trouble has its name."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refocusd.datasets.reconcile import Report
from refocusd.datasets.reconcile import reconcile as reconcile_read
from refocusd.frame import REPLACED
from refocusd.ledger import Attempt, Fate, Ledger

pytestmark = pytest.mark.fast

ALTERED = '{"raw":"altered"}'


@dataclass
class Listed:
    """Outcomes in memory."""

    fates: dict[str, Fate]

    def __iter__(self) -> Iterator[Fate]:
        return iter(self.fates.values())

    def of(self, axes: str) -> Fate | None:
        return self.fates.get(axes)


@dataclass
class Written:
    """Refocused frames in memory."""

    counts: Counter[str]

    def __iter__(self) -> Iterator[str]:
        return iter(self.counts)

    def times(self, axes: str) -> int:
        return self.counts[axes]


def reconcile(
    raw: Iterable[str] | None, fates: Iterable[Fate], refocused: Iterable[str], **more: Any
) -> Report:
    listed = Listed({fate.axes: fate for fate in fates})
    keys = None if raw is None else list(raw)
    return reconcile_read(keys, listed, Written(Counter(refocused)), **more)


def kinds(report: Report) -> dict[str, str]:
    return {problem.axes: problem.kind for problem in report.problems}


def test_every_kind_of_trouble_has_its_name() -> None:
    fates = [
        Fate("well", "refocused", "", 1, 2),
        Fate("failed", "failed", "why"),
        Fate("skipped", "skipped", "a rule"),
        Fate("lost", "refocused"),
        Fate("both", "failed", "first, then written"),
        Fate("twice", "passed_through", "", 1, 2),
        Fate("altered", "refocused", "", 9, 2),
        Fate(ALTERED, "refocused", "", 1, 9),
        Fate("torn", "refocused", "", 1, 2),
        Fate("stranger", "refocused"),
    ]
    raw = ["well", "failed", "skipped", "lost", "both", "twice", "altered", ALTERED, "torn"]
    raw += ["pending", "unrecorded"]
    written = ["well", "both", "twice", "twice", "altered", ALTERED, "torn", "unrecorded"]

    def after(axes: str) -> int:
        if axes == "torn":
            raise OSError("input/output error")
        return 1

    report = reconcile(
        raw,
        fates,
        [*written, "foreign"],
        raw_incomplete=["cut"],
        raw_checksum=lambda _: 2,
        refocused_checksum=after,
    )
    assert kinds(report) == {
        "failed": "failed",
        "lost": "missing from the dataset",
        "both": "state differs",
        "twice": "written twice",
        "altered": "refocused pixels changed",
        ALTERED: "raw changed since",
        "torn": "unreadable",
        "unrecorded": "not in the ledger",
        "cut": "raw incomplete",
        "stranger": "not in raw",
        "foreign": "not in raw",
    }
    assert report.pending == ("pending",)
    assert report.to_do() == ["pending", "failed", "lost"]
    assert report.frames == 11
    assert not report.clean


def test_without_raw_what_went_by_must_be_accounted_for() -> None:
    fates = [Fate("a", "refocused"), Fate("b", "skipped", "no raw")]
    assert reconcile(None, fates, ["a"], acquired=2).clean
    short = reconcile(None, fates, ["a"], acquired=5)
    assert (short.unnamed, short.frames, short.clean) == (3, 5, False)


def test_a_frame_skipped_for_want_of_raw_is_pending_where_there_is_raw() -> None:
    report = reconcile(["a"], [Fate("a", "skipped", "no raw: the disk is full")], [])
    assert report.pending == ("a",)
    assert report.states == {}


states = st.sampled_from(["refocused", "passed_through", "skipped", "failed"])


@given(
    raw=st.sets(st.integers(0, 9)),
    ends=st.dictionaries(st.integers(0, 9), states),
    written=st.lists(st.integers(0, 9), max_size=12),
    running=st.booleans(),
)
def test_every_raw_frame_is_in_one_place_and_clean_means_equal(
    raw: set[int], ends: dict[int, str], written: list[int], running: bool
) -> None:
    fates = [Fate(str(axes), state) for axes, state in ends.items()]
    report = reconcile(map(str, sorted(raw)), fates, map(str, written), running=running)
    unrecorded = [p.axes for p in report.problems if p.kind == "not in the ledger"]
    assert report.frames == len(raw)
    assert sum(report.states.values()) + len(report.pending) + len(unrecorded) == len(raw)
    exact = (
        set(ends) == raw
        and "failed" not in ends.values()
        and sorted(written) == sorted(a for a, s in ends.items() if s != "skipped")
    )
    if not running:
        assert report.clean == exact
    elif exact:
        assert report.clean


def test_a_frame_that_another_replaced_in_raw_is_counted_and_no_problem() -> None:
    replaced = Fate("a of another camera", "skipped", REPLACED)
    report = reconcile(["a"], [Fate("a", "refocused"), replaced], ["a"])
    assert report.clean
    assert (report.frames, report.states) == (2, {"refocused": 1, "skipped": 1})
    assert not report.to_do()


def test_raw_may_differ_where_it_keeps_a_later_frame_of_the_same_axes() -> None:
    again = Fate('{"repeat":1,"z":0}', "skipped", REPLACED)
    fates = [Fate(f'{{"z":{z}}}', "refocused", "", 1, 2) for z in (0, 1)]
    keys = [fate.axes for fate in fates]
    report = reconcile(keys, [*fates, again], keys, raw_checksum=lambda _: 3)
    assert kinds(report) == {'{"z":1}': "raw changed since"}


@pytest.mark.parametrize("frames", [500, 10_000])
def test_memory_does_not_grow_with_the_frames(tmp_path: Path, frames: int) -> None:
    def key(number: int) -> str:
        return f'{{"time":{number}}}'

    class Raw(Collection[str]):
        def __len__(self) -> int:
            return frames

        def __iter__(self) -> Iterator[str]:
            return map(key, range(frames))

        def __contains__(self, axes: object) -> bool:
            return isinstance(axes, str) and int(axes[8:-1]) < frames

        def times(self, axes: str) -> int:
            return int(axes in self)

    with Ledger(tmp_path / "a.sqlite") as ledger:
        ledger.record(Attempt("r", "a", key(n), "refocused", "", checksum=n) for n in range(frames))
        tracemalloc.start()
        try:
            report = reconcile_read(Raw(), ledger.fates("r", "a"), Raw())
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert report.clean
    assert report.frames == frames
    assert peak < 100_000
