"""The log: lines on standard error, and a rotating file in the user's log folder.

The file is kept by the commands that run for long (`KEEPS_FILE`), or by any with ``--log-file``.
Each process of refocusd (workers, view, attached sources) says its own on the standard error
that it has from the daemon.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

import platformdirs

from refocusd.errors import OutputError

__all__ = ["add_log_flags", "default_log_file", "logged"]

#: Commands that nobody watches.
KEEPS_FILE = frozenset({"run", "worker", "process", "resume"})
MAX_NBYTES = 10 << 20
KEPT_FILES = 5
#: After a rotation that failed (another process holds the file open on Windows).
AGAIN_S = 60.0

_TEXT = "%(asctime)s %(levelname)s %(message)s"


def add_log_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--log-json`` and ``--log-file``; they stand before the command, as ``-v`` does."""
    parser.add_argument(
        "--log-json", action="store_true", help="log in JSON, one object a line (run, worker, ...)"
    )
    parser.add_argument(
        "--log-file",
        metavar="FILE",
        help="rotating log file (default for run, worker, process, resume: "
        + str(default_log_file()).replace("%", "%%")
        + ")",
    )


def default_log_file() -> Path:
    """Where the log of a command that runs for long is kept."""
    return Path(platformdirs.user_log_dir("refocusd", appauthor=False)) / "refocusd.log"


@contextlib.contextmanager
def logged(
    command: str, *, verbose: bool = False, as_json: bool = False, file: str | None = None
) -> Iterator[None]:
    """Send this process's log to standard error, and, while a command runs, to a file.

    Parameters
    ----------
    command : str
        Name of the sub-command.
    verbose : bool
        Debug lines as well.
    as_json : bool
        One JSON object a line: ``time`` (UTC), ``level``, ``logger``, ``process``, ``message``
        and, where there was one, ``error`` (the traceback).
    file : str, optional
        Log file; one that was asked for and cannot be written is an error, the default is not.

    Raises
    ------
    OutputError
        If `file` cannot be written.
    """
    formatter = _JsonLines() if as_json else logging.Formatter(_TEXT)
    level = logging.DEBUG if verbose else logging.INFO
    screen = logging.StreamHandler(sys.stderr)
    screen.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[screen])
    kept = _file(command, file)
    if kept is None:
        yield
        return
    kept.setFormatter(formatter)
    logging.getLogger().addHandler(kept)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(kept)
        kept.close()


def _file(command: str, file: str | None) -> logging.Handler | None:
    if file is None and command not in KEEPS_FILE:
        return None
    path = Path(file) if file is not None else default_log_file()
    try:
        return _keep(path)
    except OSError as error:
        reason = f"the log file {path} cannot be written: {error.strerror or error}"
        if file is not None:
            raise OutputError(f"{reason}; name another --log-file") from error
        logging.getLogger(__name__).warning("%s; the log goes to standard error only", reason)
        return None


def _keep(path: Path) -> _Rotating:
    path.parent.mkdir(parents=True, exist_ok=True)
    return _Rotating(path, maxBytes=MAX_NBYTES, backupCount=KEPT_FILES, encoding="utf-8")


class _Rotating(RotatingFileHandler):
    """Goes on in the same file where it cannot be rotated."""

    _not_before = 0.0

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802 (logging's name)
        """Whether the file is full, and a rotation has not failed just now."""
        return time.monotonic() >= self._not_before and bool(super().shouldRollover(record))

    def doRollover(self) -> None:  # noqa: N802 (logging's name)
        """Rotate, or leave it for a minute: on Windows a file that another process has open stays."""
        try:
            super().doRollover()
        except OSError:
            self._not_before = time.monotonic() + AGAIN_S
            if self.stream is None:
                self.stream = self._open()


class _JsonLines(logging.Formatter):
    """One object a line; line breaks within a message are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)
