"""What a person sees: progress bars and tables, on standard error and output."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from refocusd.errors import OutputError

__all__ = ["console", "messages", "plain", "printable", "progress", "write_json"]

#: Results: may be redirected to a file.
console = Console(soft_wrap=True)
#: Progress and remarks.
messages = Console(stderr=True, soft_wrap=True)


def plain(text: str) -> str:
    """Text that others wrote, as it is: no markup, and nothing that commands the terminal."""
    return escape(printable(text))


def printable(text: str) -> str:
    """The same where markup is off."""
    return "".join(
        sign if sign.isprintable() or sign in "\n\t" else "\N{REPLACEMENT CHARACTER}"
        for sign in text
    )


def progress() -> Progress:
    """A progress bar for anything that takes more than two seconds."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=messages,
        transient=True,
    )


def write_json(path: str | None, figures: dict[str, Any]) -> None:
    """Write a command's figures to the file given with ``--json``, if it was given.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    if path is None:
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_finite(figures), indent=1, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"the figures cannot be written to {path}: {error.strerror}") from error


def _finite(value: Any) -> Any:
    """JSON knows neither infinity (equal frames) nor NaN (nothing measured): null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
