"""Text that a terminal or a code page cannot show, and text that would control the terminal."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import pytest
from live import stack, write_stack
from rich.table import Table

from refocusd.cli.console import _Console, console, plain, tolerate_any_encoding
from refocusd.cli.figures import quality_table
from refocusd.cli.logs import logged
from refocusd.cli.main import COMMANDS, main
from refocusd.imaging.quality import by_level, compare_frames
from refocusd.processes.background_log import escape_controls

HELPS = [[name, "--help"] for name in COMMANDS]
HELPS += [["models", action, "--help"] for action in ("list", "show", "add", "test", "build")]
HELPS += [["keys", action, "--help"] for action in ("new", "list", "revoke")]
SHOWS = [["models", "list"], ["models", "show", "live-nuclei"], ["config"], ["config", "init"]]


def run(folder: Path, encoding: str, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    """Run a command with redirected output, as on a computer with this code page."""
    return subprocess.run(
        [sys.executable, "-m", "refocusd", *map(str, arguments)],
        capture_output=True,
        cwd=folder,
        env=os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "80"},
    )


@pytest.fixture(params=["cp1252", "ascii"])
def encoding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    return str(request.param)


@contextmanager
def redirected(encoding: str) -> Iterator[Callable[[], str]]:
    """Redirect standard output to a file in a code page; yields a function for what was written."""
    file = io.BytesIO()
    stream = io.TextIOWrapper(file, encoding=encoding, errors="strict")

    def written() -> str:
        stream.flush()
        return file.getvalue().decode(encoding)

    with redirect_stdout(stream):
        yield written


@pytest.mark.parametrize("arguments", HELPS, ids=" ".join)
def test_help_can_be_redirected(encoding: str, arguments: list[str]) -> None:
    with redirected(encoding) as written, pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    text = written()
    assert "usage: refocusd" in text
    if len(arguments) == 2:
        assert "examples:" in text


@pytest.mark.parametrize("arguments", SHOWS, ids=" ".join)
def test_results_can_be_redirected(
    encoding: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REFOCUSD_MODEL", "Gewebe-µ-→-日本")
    with redirected(encoding) as written:
        assert main(arguments) == 0
        assert written()


def test_a_replay_whose_output_is_redirected_ends_well(tmp_path: Path, encoding: str) -> None:
    path = write_stack(tmp_path / "Zellen-ä-日本.tif", stack(3))
    flags = ["--output", tmp_path / "out", "--backend", "identity", "--fps", "0"]
    flags += ["--ledgers", tmp_path / "ledgers", "--ring-mib", "64", "--reference", "z=1"]
    done = run(tmp_path, encoding, "replay", path, *flags)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"PSNR" in done.stdout


def test_the_table_of_the_demo_can_be_redirected(encoding: str) -> None:
    frame = stack(1)[0]
    levels = by_level([compare_frames(4.0, frame, frame, frame, register=False)])
    with redirected(encoding) as written:
        tolerate_any_encoding()
        console.print(quality_table(levels, "µm", "raw → refocused"))
        assert "PSNR" in written()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, µm → 日本\n\tnext", "plain, µm → 日本\n\tnext"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("a\rb\x07\x9b", r"a\rb\x07\x9b"),
        ("right\u202eleft", r"right\u202eleft"),
        ("name\udc80", r"name\udc80"),
    ],
)
def test_controls_are_shown_and_not_obeyed(text: str, shown: str) -> None:
    assert escape_controls(text) == shown
    screen = _Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    table = Table("name")
    table.add_row(plain(text))
    screen.print(table)
    screen.print(text, markup=False, highlight=False)
    said = screen.file.getvalue()  # type: ignore[attr-defined]
    assert not any(sign in said for sign in "\x1b\r\x07\x9b\u202e\udc80")
    assert shown.partition("\n")[0] in said


def test_an_error_shows_controls_of_a_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(tmp_path / "\x1b[2J\udc80")]) == 2
    said = capfd.readouterr().err
    assert r"\x1b[2J\udc80 does not exist" in said
    assert "\x1b" not in said


def test_a_message_is_one_line_of_the_log(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with logged("run", file=str(file)):
        name = "cells\n2026-01-01 00:00:00 ERROR forged\x1b[2J\u2028"
        logging.getLogger("refocusd.test").warning("cannot read %s", name)
    (line,) = file.read_text(encoding="utf-8").splitlines()
    assert r"cells\n2026-01-01 00:00:00 ERROR forged\x1b[2J\u2028" in line
