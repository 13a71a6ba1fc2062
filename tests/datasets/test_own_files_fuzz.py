"""Damaged files of refocusd's own are never overwritten, and never crash `verify` or `resume`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pytest
from fuzzing import ROUNDS, Target, damaged, fuzz, weak_places
from ledgers import final_states
from recordings_on_disk import frames

from refocusd.errors import RefocusdError
from refocusd.formats.ndtiff.reader import NDTiffReader
from refocusd.formats.ndtiff.writer import NDTiffSink
from refocusd.ledger import Attempt, Ledger

pytestmark = pytest.mark.fast

SIDE = (24, 32)


def _write_dataset(path: Path) -> None:
    with NDTiffSink.create(path, {"Prefix": "run"}) as sink:
        for z, plane in enumerate(frames(4, side=SIDE)):
            sink.write(plane, {"z": z}, {"Camera": "c"})


def _sink_target(folder: Path) -> Target:
    """A refocused dataset, damaged, to which a resumed run appends."""
    path = folder / "appended"
    _write_dataset(path)
    whole = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
    names = ["NDTiff.index", "NDTiffStack.tif"]
    weak = {name: weak_places(whole[name]) for name in names}

    def mutate(name: bytes, rng: Random) -> bytes:
        chosen = name.decode()
        return name + b"\n" + damaged(whole[chosen], rng, weak=weak[chosen])

    def feed(data: bytes) -> str:
        name, _, content = data.partition(b"\n")
        for file in path.iterdir():
            file.unlink()
        for other, good in whole.items():
            (path / other).write_bytes(content if other == name.decode() else good)
        fresh = frames(1, side=SIDE)[0]
        with NDTiffSink.append(path) as sink:
            sink.write(fresh, {"z": 99}, {"Camera": "c"})
        with closing(NDTiffReader(path)) as reader:
            np.testing.assert_array_equal(reader.read({"z": 99}).pixels, fresh)
        return "appended"

    return Target("refocused dataset", [name.encode() for name in names], mutate, feed)


def _ledger_target(folder: Path) -> Target:
    """A ledger, or its copy beside the output, that `verify` and `resume` read."""
    path = folder / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.begin_run("run", version="1", engine="{}", settings="{}")
        ledger.open_acquisition(
            "a", name="n", raw="/raw", output="/out", shape=SIDE, dtype="uint16"
        )
        ledger.record([Attempt("run", "a", f'{{"z":{z}}}', "refocused") for z in range(60)])
        copy = folder / "copy.sqlite"
        ledger.copy_to(copy)
    content = copy.read_bytes()
    weak = [*range(200), *range(4096, 4200), *range(len(content) - 300, len(content))]

    def feed(data: bytes) -> str:
        copy.write_bytes(data)
        with Ledger(copy, read_only=True) as ledger:
            for acquisition in ledger.acquisitions():
                list(ledger.attempts(acquisition))
                final_states(ledger, "run", acquisition)
        return "read"

    return Target("ledger", [content], partial(_damaged_ledger, weak), feed)


def _damaged_ledger(weak: Sequence[int], content: bytes, rng: Random) -> bytes:
    return damaged(content, rng, weak=weak)


#: Every reader of our own files; each makes its valid inputs in a separate folder.
TARGETS: dict[str, Callable[[Path], Target]] = {
    "refocused dataset": _sink_target,
    "ledger": _ledger_target,
}


@pytest.mark.parametrize("kind", list(TARGETS))
def test_a_damaged_file_of_ours_is_an_error_or_goes_on(tmp_path: Path, kind: str) -> None:
    report = fuzz(TARGETS[kind](tmp_path), ROUNDS)
    assert not report.defects, report.defects[0].data[:500]
    refused = sum(n for outcome, n in report.outcomes.items() if outcome.endswith("Error"))
    assert ROUNDS // 20 < refused < ROUNDS


def test_an_index_damaged_at_its_start_is_not_mistaken_for_an_empty_dataset(tmp_path: Path) -> None:
    """The frames behind it exist and would be overwritten."""
    path = tmp_path / "run_refocused"
    _write_dataset(path)
    before = (path / "NDTiffStack.tif").read_bytes()
    index = path / "NDTiff.index"
    content = bytearray(index.read_bytes())
    content[4] ^= 0xFF  # the first record's axes are not valid JSON any more
    index.write_bytes(content)
    with pytest.raises(RefocusdError), NDTiffSink.append(path) as sink:
        sink.write(frames(1, side=SIDE)[0], {"z": 99}, {})
    assert (path / "NDTiffStack.tif").read_bytes() == before


@pytest.mark.parametrize(
    "facts",
    ["'{'", "'no json'", "x'ff22'", "NULL"],
)
def test_a_ledger_whose_facts_are_damaged_is_an_error_of_ours(tmp_path: Path, facts: str) -> None:
    """A flipped byte that SQLite does not notice."""
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.begin_run("run", version="1", engine="{}", settings="{}")
        ledger.open_acquisition(
            "a", name="n", raw="/raw", output="/out", shape=SIDE, dtype="uint16"
        )
        ledger.record([Attempt("run", "a", '{"z":0}', "refocused")])
        # Like a damaged page, this bypasses the constraints of the table.
        ledger._db.execute("PRAGMA writable_schema = ON")
        ledger._db.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, 'facts TEXT NOT NULL', 'facts')"
        )
        ledger._db.commit()
    with Ledger(path) as ledger:
        ledger._db.execute(f"UPDATE attempt SET facts = {facts}")
        ledger._db.commit()
        with pytest.raises(RefocusdError):
            list(ledger.attempts("a"))
