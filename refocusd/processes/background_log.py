"""A log that never blocks its process: lines are queued, and a thread writes them.

The reader of a process's standard error may stop reading: a full pipe, or a Windows console in
which text is selected, blocks the writer.  Here, only the writing thread blocks.  The queue is
bounded; if it is full, lines are dropped, and their number is logged.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

#: Largest number of characters that are queued.
MAX_QUEUED_CHARS = 1 << 20
#: How long a process waits at its end for the last lines to be written.
FLUSH_S = 2.0
#: Interval of the attempts to write to a non-blocking terminal.
RETRY_S = 0.05


def escape_controls(text: str, keep: str = "\n\t") -> str:
    r"""Text from elsewhere, with control characters made visible (``\x1b``)."""
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign in keep or sign == "\xa0" else ascii(sign)[1:-1]
        for sign in text
    )


class LineFormatter(logging.Formatter):
    """One line per message; only a traceback takes more."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """The line without control characters, so that it cannot control a terminal or look like two lines."""
        record.message = escape_controls(record.message, keep="\t")
        return super().formatMessage(record)

    def formatException(self, ei: logging._SysExcInfoType) -> str:  # noqa: N802 (logging's name)
        """The traceback, without control characters."""
        return escape_controls(super().formatException(ei))


class BackgroundHandler(logging.Handler):
    """Formats lines in the calling thread, and writes them in a separate one.

    Parameters
    ----------
    write : callable
        Writes one line, including its line end.  Only the writing thread calls it, and it may block
        for ever.  A line for which it raises OSError or ValueError counts as dropped.
    end : callable, optional
        Called by the thread after the last line.
    """

    def __init__(
        self, write: Callable[[str], None], end: Callable[[], object] = lambda: None
    ) -> None:
        super().__init__()
        self._write = write
        self._end = end
        self._lines: deque[str] = deque()
        self._queued_chars = 0
        self._dropped = 0
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or count it as dropped."""
        try:
            line = self.format(record) + "\n"
        except Exception:  # noqa: BLE001 (a wrong format string must not stop the work)
            line = f"{record.levelname} {record.msg!r} cannot be formatted\n"
        with self._changed:
            if self._queued_chars + len(line) > MAX_QUEUED_CHARS:
                self._dropped += 1
                return
            self._lines.append(line)
            self._queued_chars += len(line)
            self._changed.notify()

    def close(self) -> None:
        """Write the queued lines, for at most `FLUSH_S`."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(FLUSH_S)
        super().close()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._ended)
                line = self._lines.popleft() if self._lines else ""
                self._queued_chars -= len(line)
                dropped, self._dropped = self._dropped, 0
            try:
                if dropped or line:
                    self._write(self._gap(dropped) + line)
            except (OSError, ValueError):  # the disk is full, or the stream was closed
                with self._changed:
                    self._dropped += dropped + 1
            if not line:
                self._end()
                return

    def _gap(self, dropped: int) -> str:
        if not dropped:
            return ""
        told = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING"}
        told |= {"msg": "%d log lines were dropped: nobody read them", "args": (dropped,)}
        return self.format(logging.makeLogRecord(told)) + "\n"


def to_stderr(text: str) -> None:
    """Write to standard error, bypassing Python's buffer.

    A thread that blocks while it holds the buffer's lock would keep the process from ending.
    """
    stream: TextIO | None = sys.stderr
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    if stream is None:  # pythonw
        return
    if raw is None:
        stream.write(text)
        return
    text = text.replace("\n", os.linesep)
    data = memoryview(text.encode(stream.encoding, stream.errors or "backslashreplace"))
    while data:
        nbytes: int | None = raw.write(data)
        if nbytes is None:  # another program made the terminal non-blocking
            time.sleep(RETRY_S)
        data = data[nbytes or 0 :]


def write_bounded(text: str) -> None:
    """Write to standard error, and continue after `FLUSH_S` if nobody reads it."""
    thread = threading.Thread(target=to_stderr, args=(text,), daemon=True)
    thread.start()
    thread.join(FLUSH_S)


def log_to_stderr(prefix: str) -> None:
    """Send this process's log to standard error; remaining lines are written when the process ends.

    Parameters
    ----------
    prefix : str
        The name of the process, which is written between time and level.
    """
    handler = BackgroundHandler(to_stderr)
    handler.setFormatter(
        LineFormatter(f"%(asctime)s {prefix.replace('%', '%%')} %(levelname)s %(message)s")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])
