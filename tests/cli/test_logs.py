"""The log: where its lines go, and that no file stops a command."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from refocusd.cli import logs
from refocusd.cli.logs import default_log_file, logged
from refocusd.errors import OutputError
from refocusd.processes import background_log


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


def test_a_daemon_whose_standard_error_nobody_reads_goes_on(tmp_path: Path) -> None:
    """A full pipe, as under a program that started it and never looks."""
    code = (
        "import logging, sys\n"
        "from refocusd.cli.logs import logged\n"
        f"with logged('run', file={str(tmp_path / 'log')!r}):\n"
        "    for number in range(30_000):\n"
        "        logging.getLogger('refocusd.test').warning('line %d %s', number, 'x' * 100)\n"
        "    print('worked', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == b"worked"
        # It ends as well, though its last lines can go nowhere.
        assert child.wait(60) == 0
    assert (
        "line 0 x"
        in (tmp_path / "log.1" if (tmp_path / "log.1").exists() else tmp_path / "log").read_text()
    )


@pytest.mark.parametrize("module", ["worker", "view", "sources.attached"])
def test_every_process_writes_its_log_in_the_background(module: str) -> None:
    path = Path(logs.__file__).parents[1] / Path(*module.split(".")) / "__main__.py"
    assert "log_to_stderr(" in path.read_text(encoding="utf-8")


class Stuck:
    """Where lines go, until it is blocked like a pipe that nobody reads."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.free = threading.Event()
        self.called = threading.Event()

    def write(self, line: str) -> None:
        self.called.set()
        self.free.wait(30)
        self.lines.append(line)


def test_lines_that_find_the_queue_full_are_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background_log, "MAX_QUEUED_CHARS", 1000)
    stuck = Stuck()
    handler = background_log.BackgroundHandler(stuck.write)
    handler.handle(logging.makeLogRecord({"msg": f"{0:09}"}))
    # A writer that takes its first line later would make room for one in the middle.
    assert stuck.called.wait(60)
    for number in range(1, 300):
        handler.handle(logging.makeLogRecord({"msg": f"{number:09}"}))
    stuck.free.set()
    handler.close()
    lines = "".join(stuck.lines).splitlines()
    numbers = [int(line) for line in lines if line.isdigit()]
    assert numbers == list(range(len(numbers)))
    (told,) = [line for line in lines if not line.isdigit()]
    assert f"{300 - len(numbers)} log lines were dropped" in told


def test_the_end_waits_for_a_stuck_reader_no_longer_than_it_should(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background_log, "FLUSH_S", 0.05)
    stuck = Stuck()
    handler = background_log.BackgroundHandler(stuck.write)
    handler.handle(logging.makeLogRecord({"msg": "a"}))
    assert stuck.called.wait(30)
    handler.close()
    assert stuck.lines == []
    stuck.free.set()


def test_what_is_queued_at_the_end_is_written(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with logged("run", file=str(file)):
        for number in range(2000):
            logging.getLogger("refocusd.test").warning("line %d", number)
    assert file.read_text(encoding="utf-8").count("\n") == 2000


def test_a_disk_that_is_full_counts_as_dropped() -> None:
    lines: list[str] = []

    def write(line: str) -> None:
        if not lines:
            lines.append("")
            raise OSError("no space left on device")
        lines.append(line)

    handler = background_log.BackgroundHandler(write)
    handler.handle(logging.makeLogRecord({"msg": "first"}))
    handler.handle(logging.makeLogRecord({"msg": "second"}))
    handler.close()
    assert "".join(lines) == ("1 log lines were dropped: nobody read them\nsecond\n")


def test_a_rotation_that_fails_again_and_again_pushes_no_older_file_out(
    tmp_path: Path, small_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program holds the newest file open, hour after hour."""
    file = tmp_path / "log"
    older = {f"log.{number}": f"older {number}" for number in range(1, logs.KEPT_FILES + 1)}
    for name, text in older.items():
        (tmp_path / name).write_text(text, encoding="utf-8")

    def refuse(*_: Any) -> None:
        raise PermissionError("in use by another process")

    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr(logs, "RETRY_S", 0.0)
    with logged("run", file=str(file)):
        for number in range(100):
            logging.getLogger("refocusd.test").warning("line %d of many", number)
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in older} == older
    text = file.read_text(encoding="utf-8")
    assert all(f"line {number} of many" in text for number in range(100))


def test_two_processes_with_one_log_file_lose_no_line(tmp_path: Path, small_files: None) -> None:
    file = tmp_path / "log"
    ours, other = (logs._Rotating(file, maxBytes=200, backupCount=5) for _ in range(2))
    ours.write("x" * 190)
    other.write("first of the new file")
    ours.write("second line")
    ours.close()
    other.close()
    # On Windows a file that another process has open keeps its name, and grows.
    kept = ["log"] if sys.platform == "win32" else ["log.1", "log"]
    assert {path.name for path in tmp_path.iterdir()} == set(kept)
    text = "".join((tmp_path / name).read_text(encoding="utf-8") for name in kept)
    assert text.splitlines() == ["x" * 190, "first of the new file", "second line"]
