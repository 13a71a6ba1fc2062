"""Logs to standard error, and to a rotating file in the user's log folder.

Commands that run for long (`KEEPS_FILE`) keep a log file, others only with ``--log-file``.
Each process of refocusd (workers, view, attached sources) writes its own lines to the standard
error that it inherits from the daemon.  Neither a full pipe nor a slow disk makes a command wait
(`refocusd.processes.background_log`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BufferedWriter, FileIO, TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

import platformdirs

from refocusd.errors import OutputError
from refocusd.files import for_its_user
from refocusd.processes.background_log import BackgroundHandler, LineFormatter, to_stderr

#: Commands that often run unattended.
KEEPS_FILE = frozenset({"run", "worker", "process", "resume"})
MAX_NBYTES = 10 << 20
KEPT_FILES = 5
#: Time to the next attempt after a failed rotation (on Windows another process has the file open).
RETRY_S = 60.0

_TEXT = "%(asctime)s %(levelname)s %(message)s"


def add_log_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--log-json`` and ``--log-file``; like ``-v``, they come before the command."""
    parser.add_argument(
        "--log-json",
        action="store_true",
        help="log as JSON, one object per line (run, worker, ...)",
    )
    parser.add_argument(
        "--log-file",
        metavar="FILE",
        help="rotating log file (default for run, worker, process, resume: "
        + str(default_log_file()).replace("%", "%%")
        + ")",
    )


def default_log_file() -> Path:
    """Log file of a command that runs for long."""
    return Path(platformdirs.user_log_dir("refocusd", appauthor=False)) / "refocusd.log"


@contextlib.contextmanager
def logged(
    command: str, *, verbose: bool = False, as_json: bool = False, file: str | None = None
) -> Iterator[None]:
    """Send this process's log to standard error and to a file while a command runs.

    Parameters
    ----------
    command : str
        Name of the sub-command.
    verbose : bool
        Log debug lines as well.
    as_json : bool
        One JSON object per line: ``time`` (UTC), ``level``, ``logger``, ``process``, ``message``
        and, if there was one, ``error`` (the traceback).
    file : str, optional
        Log file.  It must be writable; the default file need not be.

    Raises
    ------
    OutputError
        If `file` cannot be written.
    """
    root = logging.getLogger()
    formatter = _JsonLines() if as_json else LineFormatter(_TEXT)
    with contextlib.ExitStack() as stack:
        if not root.handlers:
            root.setLevel(logging.DEBUG if verbose else logging.INFO)
            stack.enter_context(_handling(BackgroundHandler(to_stderr), formatter))
        if kept := _file(command, file):
            stack.enter_context(_handling(BackgroundHandler(kept.write, kept.close), formatter))
        yield


@contextlib.contextmanager
def _handling(handler: logging.Handler, formatter: logging.Formatter) -> Iterator[None]:
    handler.setFormatter(formatter)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def _file(command: str, file: str | None) -> _Rotating | None:
    if file is None and command not in KEEPS_FILE:
        return None
    path = Path(file) if file is not None else default_log_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _Rotating(path, maxBytes=MAX_NBYTES, backupCount=KEPT_FILES, encoding="utf-8")
    except OSError as error:
        reason = f"the log file {path} cannot be written: {error.strerror or error}"
        if file is not None:
            raise OutputError(f"{reason}; name another --log-file") from error
        logging.getLogger(__name__).warning("%s; the log goes to standard error only", reason)
        return None


class _Rotating(RotatingFileHandler):
    """Continues in the same file if it cannot be rotated; only its user can read its files."""

    _not_before = 0.0

    def _open(self) -> TextIOWrapper:
        file = FileIO(self.baseFilename, "a", opener=for_its_user)
        return TextIOWrapper(BufferedWriter(file), self.encoding)

    def write(self, line: str) -> None:
        """Append one line, rotating first where it would not fit; called by one thread only."""
        self.emit(logging.makeLogRecord({"msg": line.removesuffix("\n")}))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 (logging's)
        """Leave the error to the caller, who counts the line as dropped."""
        raise

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802 (logging's name)
        """Whether the file is full, and a rotation has not failed just now."""
        return time.monotonic() >= self._not_before and bool(super().shouldRollover(record))

    def doRollover(self) -> None:  # noqa: N802 (logging's name)
        """Rotate, or try again in a minute: Windows moves no file that another process has open.

        The full file is moved first.  If the older ones were moved first, each failed attempt
        would push one of them out.
        """
        full = Path(f"{self.baseFilename}.full")
        stream = self.stream or self._open()
        try:
            ours = os.path.samestat(os.fstat(stream.fileno()), Path(self.baseFilename).stat())
            stream.close()
            if ours:  # else another process rotated it already
                if not full.exists():
                    os.rename(self.baseFilename, full)  # noqa: PTH104 (replaces nothing on Windows)
                for number in range(self.backupCount - 1, 0, -1):
                    with contextlib.suppress(FileNotFoundError):
                        self._kept(number).replace(self._kept(number + 1))
                full.replace(self._kept(1))
        except OSError:
            self._not_before = time.monotonic() + RETRY_S
        if stream.closed:
            self.stream = self._open()

    def _kept(self, number: int) -> Path:
        return Path(f"{self.baseFilename}.{number}")


class _JsonLines(logging.Formatter):
    """One object per line; line breaks within a message are escaped."""

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
