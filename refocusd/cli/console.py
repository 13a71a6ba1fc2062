"""Output for people: results on standard output, progress and remarks on standard error."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
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


class _Progress(Progress):
    """A progress bar, or its numbers for a listener: a program that reads the output."""

    listener: Callable[[str, float, float | None], None] | None = None
    _told: tuple[str, float, float | None] | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """What to draw; called ten times a second, and at the end."""
        if self.listener is None:
            return super().get_renderables()
        if self.tasks:
            task = self.tasks[0]
            now = Text.from_markup(task.description).plain, task.completed, task.total
            if now != self._told:
                self._told = now
                self.listener(*now)
        return ()


def tell_progress(listener: Callable[[str, float, float | None], None]) -> None:
    """From now on, call a function with the progress instead of drawing bars.

    Parameters
    ----------
    listener : callable
        Called with a description, the amount done, and the total or None while it is unknown; at
        most ten times a second, in a thread of its own.
    """
    _Progress.listener = staticmethod(listener)


def progress(*more: ProgressColumn) -> Progress:
    """A progress bar for anything that takes more than two seconds."""
    return _Progress(
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


def told_as_json(file: str | None, figures: dict[str, Any]) -> bool:
    """Write or print the figures as ``--json [FILE]`` asks; True if nothing else may be printed.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    if file == "-":
        say(json.dumps(figures, indent=1))
        return True
    write_json(file, figures)
    return False
