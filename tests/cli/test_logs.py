"""The log: where its lines go, and that no file stops a command."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from refocusd.cli import logs
from refocusd.cli.logs import default_log_file, logged
from refocusd.errors import OutputError


def refocusd(*arguments: object, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    home = {"XDG_STATE_HOME": str(tmp_path / "state"), "LOCALAPPDATA": str(tmp_path / "state")}
    return subprocess.run(
        [sys.executable, "-m", "refocusd", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        env=os.environ | home,
    )


def stopped_run(tmp_path: Path, *flags: object) -> subprocess.CompletedProcess[str]:
    """A daemon whose parent is gone before it starts: it logs a little and ends."""
    settings = ["--backend", "identity", "--endpoint", "tcp://127.0.0.1:0", "--no-view"]
    settings += ["--studio", "off", "--no-live", "--ledgers", str(tmp_path / "ledgers")]
    return refocusd(*flags, "run", "--with-parent", *settings, tmp_path=tmp_path)


def test_json_lines_go_to_the_file_one_object_each(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "refocusd.log"
    done = stopped_run(tmp_path, "--log-json", "--log-file", file)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert any("listens at" in line["message"] for line in lines)
    assert {"time", "level", "logger", "process", "message"} <= lines[0].keys()
    assert '"message": "refocusd ' in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows asks the system for its folder")
def test_the_daemon_keeps_a_log_in_the_users_folder(tmp_path: Path) -> None:
    done = stopped_run(tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "state").rglob("*.log")
    assert file.name == default_log_file().name
    assert " INFO refocusd" in file.read_text(encoding="utf-8")


def test_short_commands_keep_none(tmp_path: Path) -> None:
    assert refocusd("models", tmp_path=tmp_path).returncode == 0
    assert not (tmp_path / "state").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows asks the system for its folder")
def test_a_log_folder_that_cannot_be_made_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    done = stopped_run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "standard error only" in done.stderr


def test_a_log_file_that_was_asked_for_must_be_writable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = refocusd("--log-file", tmp_path / "file" / "log", "models", tmp_path=tmp_path)
    assert done.returncode == 2
    assert "name another --log-file" in done.stderr
    with pytest.raises(OutputError), logged("models", file=str(tmp_path / "file" / "log")):
        pytest.fail("went on")


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_NBYTES", 2000)


def test_the_file_is_rotated_and_old_ones_go(tmp_path: Path, small_files: None) -> None:
    file = tmp_path / "log"
    with logged("run", file=str(file)):
        for number in range(300):
            logging.getLogger("refocusd.test").warning("line %d of many", number)
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == 1 + logs.KEPT_FILES
    assert all(one.stat().st_size <= 2000 for one in kept)
    assert "line 299 of many" in file.read_text(encoding="utf-8")


def test_where_rotation_fails_nothing_is_lost(
    tmp_path: Path, small_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where a file that another process holds open cannot be renamed."""

    def refuse(*_: Any) -> None:
        raise PermissionError("in use by another process")

    monkeypatch.setattr(os, "rename", refuse)
    file = tmp_path / "log"
    with logged("run", file=str(file)):
        for number in range(100):
            logging.getLogger("refocusd.test").warning("line %d of many", number)
    text = file.read_text(encoding="utf-8")
    assert all(f"line {number} of many" in text for number in range(100))


def test_a_traceback_stays_on_one_json_line(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with logged("run", as_json=True, file=str(file)):
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logging.getLogger("refocusd.test").exception("a\nmessage")
    (line,) = file.read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["message"] == "a\nmessage"
    assert "ValueError: two\nlines" in json.loads(line)["error"]


def test_after_a_command_its_file_is_closed(tmp_path: Path) -> None:
    before = list(logging.getLogger().handlers)
    with logged("run", file=str(tmp_path / "log")):
        pass
    assert [h for h in logging.getLogger().handlers if h not in before] == []
