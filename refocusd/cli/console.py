"""What a person sees: progress bars and tables, on standard error and output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from refocusd.errors import OutputError

__all__ = ["console", "messages", "progress", "write_json"]

#: Results: may be redirected to a file.
console = Console(soft_wrap=True)
#: Progress and remarks.
messages = Console(stderr=True, soft_wrap=True)


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
        Path(path).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"the figures cannot be written to {path}: {error.strerror}") from error
