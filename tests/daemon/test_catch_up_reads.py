"""A catch-up reads everything once, and then only what is new."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ndstorage import NDTiffDataset

from refocusd.daemon.acquisitions import catch_up
from refocusd.daemon.acquisitions.catch_up import _pending, _Raw
from refocusd.formats.dataset import Dataset
from refocusd.formats.ndtiff.layout import IndexEntry
from refocusd.formats.ndtiff.writer import NDTiffSink
from refocusd.ledger import Attempt, Ledger

FRAME = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32)


class Growing:
    """A raw dataset that is being recorded."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._dataset = NDTiffDataset(str(folder), name="raw", writable=True)
        self._dataset.initialize({})
        self.path = Path(self._dataset.path)
        self.count = 0

    def record(self, frames: int) -> None:
        for number in range(self.count, self.count + frames):
            self._dataset.put_image({"time": number}, FRAME, {})
        self._dataset._index_file.flush()
        self.count += frames

    def close(self) -> None:
        self._dataset.finish()
        self._dataset.close()


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[Growing]:
    raw = Growing(tmp_path / "data")
    yield raw
    raw.close()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "a.sqlite") as ledger:
        yield ledger


def key(time: int) -> str:
    return f'{{"time":{time}}}'


def test_a_second_catch_up_reads_what_was_recorded_since(
    raw: Growing, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw.record(6)
    known = _Raw.open(str(raw.path))
    assert known.pending == [key(n) for n in range(6)]
    known.pending = [key(2)]  # meanwhile the others have a final state
    raw.record(2)
    read: list[object] = []
    unpack = IndexEntry.__init__

    def counted(self: IndexEntry, *more: Any, **named: Any) -> None:
        read.append(more)
        unpack(self, *more, **named)

    monkeypatch.setattr(IndexEntry, "__init__", counted)
    with closing(known.dataset):
        known.refresh()
    assert known.pending == [key(2), key(6), key(7)]
    assert len(read) == 2, "the index is not read from its start again"


def test_a_raw_dataset_that_cannot_be_followed_any_more_is_read_again(
    raw: Growing, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw.record(3)
    known = _Raw.open(str(raw.path))
    known.pending = []
    index = raw.path / "NDTiff.index"
    index.write_bytes(index.read_bytes()[:-1])  # shorter than what was read before
    opened: list[str] = []
    again = catch_up._open_raw

    def noted(path: str) -> Dataset:
        opened.append(path)
        return again(path)

    monkeypatch.setattr(catch_up, "_open_raw", noted)
    known.refresh()
    known.dataset.close()
    assert opened == [str(raw.path)]
    assert known.pending[:2] == [key(0), key(1)]


def test_frames_without_a_final_state_are_pending(ledger: Ledger) -> None:
    ledger.record(Attempt("r", "a", key(n), state) for n, state in enumerate(("failed", "skipped")))
    ledger.record([Attempt("another", "a", key(2), "refocused")])
    keys = [key(n) for n in range(4)]
    assert list(_pending(ledger, "r", "a", keys, None)) == [key(2), key(3)]


def test_frames_that_the_output_lost_are_pending_again(ledger: Ledger, tmp_path: Path) -> None:
    """A deleted folder or a power cut lost them; this is checked at once."""
    with NDTiffSink.create(tmp_path / "raw_refocused", {}) as sink:
        sink.write(FRAME, {"time": 0}, {})
    ledger.record(Attempt("r", "a", key(n), "refocused") for n in range(2))
    keys = [key(n) for n in range(3)]
    output = tmp_path / "raw_refocused"
    assert list(_pending(ledger, "r", "a", keys, output)) == [key(1), key(2)]
    assert list(_pending(ledger, "r", "a", keys, None)) == [key(2)]
