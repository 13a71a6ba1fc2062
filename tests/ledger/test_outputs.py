"""The places of a recording's outputs are known, whatever happens to the list."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from refocusd.ledger import note_output, noted_outputs

pytestmark = pytest.mark.fast


def test_each_output_is_noted_once_in_its_order(tmp_path: Path) -> None:
    for name in ("b", "a", "b", "c\nd"):
        note_output(tmp_path / "ledgers", tmp_path / "raw", tmp_path / name)
    found = noted_outputs(tmp_path / "ledgers", tmp_path / "raw")
    assert [place.name for place in found] == ["b", "a", "c\nd"]
    assert noted_outputs(tmp_path / "ledgers", tmp_path / "other") == []
    # Found by another path to it, and by one of its frames.
    assert noted_outputs(tmp_path / "ledgers", tmp_path / "x" / ".." / "raw") == found
    assert noted_outputs(tmp_path / "ledgers", "{} 64x64 uint16 0") == []


def test_a_torn_line_costs_no_other(tmp_path: Path) -> None:
    note_output(tmp_path, tmp_path / "raw", tmp_path / "a")
    (place,) = (tmp_path / "outputs").iterdir()
    with place.open("ab") as file:
        file.write(b'\n"/half\n[1]\n\xff\x00')
    note_output(tmp_path, tmp_path / "raw", tmp_path / "b")
    assert noted_outputs(tmp_path, tmp_path / "raw") == [tmp_path / "a", tmp_path / "b"]


def test_what_cannot_be_noted_is_reported_and_costs_no_frame(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ledgers").write_text("a file")
    with caplog.at_level(logging.WARNING):
        note_output(tmp_path / "ledgers", tmp_path / "raw", tmp_path / "a")
    assert "will not be found from" in caplog.text
