"""Small parts that several sources share."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from refocusd.sources.once import MAX_WARNINGS, Once
from refocusd.sources.output_folder import output_folder

pytestmark = pytest.mark.fast

log = logging.getLogger("refocusd.sources.test")


def test_a_warning_is_logged_once_until_things_were_better(
    caplog: pytest.LogCaptureFixture,
) -> None:
    warn = Once(log, "run_1", " (raw data is not affected)")
    for text in ("100 % full", "100 % full", "gone"):
        warn(text)
    assert [record.getMessage() for record in caplog.records] == [
        "run_1: 100 % full (raw data is not affected)",
        "run_1: gone (raw data is not affected)",
    ]
    warn.forget()
    warn("gone")
    assert len(caplog.records) == 3


def test_warnings_that_name_each_frame_fill_no_disk(caplog: pytest.LogCaptureFixture) -> None:
    warn = Once(log)
    for number in range(3 * MAX_WARNINGS):
        warn(f"frame {number} is odd")
    assert len(caplog.records) == MAX_WARNINGS


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("my cells", "my_cells_"),
        ("../../etc/passwd", "etc_passwd_"),
        ("...", "MDA_"),
        ("", "MDA_"),
        ("Zellen-µ.1", "Zellen-µ.1_"),
    ],
)
def test_an_output_is_named_after_its_acquisition_and_stays_in_its_folder(
    tmp_path: Path, name: str, begins: str
) -> None:
    output = output_folder(tmp_path, name)
    assert output.parent == tmp_path
    assert output.name.startswith(begins)
    assert output.name.endswith("_refocused")


def test_an_output_that_exists_is_never_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.strftime", lambda *_: "20260101-120000")
    for _ in range(3):
        output_folder(tmp_path, "run").mkdir()
    assert sorted(folder.name for folder in tmp_path.iterdir()) == [
        "run_20260101-120000_refocused",
        "run_20260101-120000_refocused_2",
        "run_20260101-120000_refocused_3",
    ]
