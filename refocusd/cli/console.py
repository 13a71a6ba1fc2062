"""Output for people: results on standard output, progress and remarks on standard error."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from refocusd.files import output
from refocusd.processes.background_log import escape_controls

__all__ = [
    "console",
    "messages",
    "note",
    "plain",
    "progress",
    "say",
    "tolerate_any_encoding",
    "write_json",
]


class _Console(Console):
    """Shows control characters in text from elsewhere (metadata, file names) instead of obeying them."""

    def render_str(self, text: str, **how: Any) -> Text:
        """The text, with control characters made visible."""
        return super().render_str(escape_controls(text), **how)


#: Results: may be redirected to a file.
console = _Console(soft_wrap=True)
#: Progress and remarks.
messages = _Console(stderr=True, soft_wrap=True)


def say(text: object) -> None:
    """Print one line of a result without markup."""
    console.print(str(text), markup=False, highlight=False)


def note(text: object) -> None:
    """Print one remark without markup."""
    messages.print(str(text), markup=False, highlight=False)


def plain(text: object) -> str:
    """Escape text for a table's cell or a progress bar: no markup, no control characters."""
    return escape(escape_controls(str(text)))


def progress(*more: ProgressColumn) -> Progress:
    """A progress bar for anything that takes more than two seconds."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        *more,
        console=messages,
        transient=True,
    )


def tolerate_any_encoding() -> None:
    """Let standard output show ``?`` for characters that its encoding lacks.

    A file or a pipe on Windows has the code page of the system (cp1252 and the like).  An arrow
    in a table must not end a command whose work is done.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def write_json(path: str | os.PathLike[str] | None, figures: dict[str, Any]) -> None:
    """Write a command's figures to the file given with ``--json``, if it was given.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    if path is None:
        return
    # JSON knows neither infinity (equal frames) nor NaN (nothing measured): null.
    finite = json.loads(json.dumps(figures), parse_constant=lambda _: None)
    with output(Path(path)):
        Path(path).write_text(json.dumps(finite, indent=1) + "\n", encoding="utf-8")
