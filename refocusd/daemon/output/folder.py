"""Chooses the folder that a run is written to, and writes the file in it that says what made it."""

from __future__ import annotations

import io
import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from refocusd import files
from refocusd.config import Settings
from refocusd.datasets.output import Output
from refocusd.datasets.run_folder import RUN_FILE, made_by, notes_of, output_of, second_path
from refocusd.errors import OutputError
from refocusd.formats.lock import lock_for_writing
from refocusd.formats.open_sink import append_sink
from refocusd.ledger import begin_lock, is_marked, noted_outputs
from refocusd.transport.messages import Open

log = logging.getLogger(__name__)

#: Time limit for another process to create an output.
BEGIN_S = 10.0
#: Files that a sink creates before its first frame, and refocusd's own files beside them.
_BEGUN = re.compile(
    r"NDTiff\.index|NDTiffStack(_\d+)?\.tif(\.part)?|zarr\.json|frames\.\w+|refocusd.*|\..*\.new|.*\.xml"
)


@contextmanager
def beginning(settings: Settings, acquisition: str) -> Iterator[None]:
    """Let only one process at a time create the output of an acquisition, or continue an existing one.

    Raises
    ------
    OutputError
        If another process does not finish this in time.
    """
    deadline = time.monotonic() + BEGIN_S
    with ExitStack() as stack:
        # Writing the mark, which comes next, reports a folder of ledgers that cannot be used.
        with suppress(OSError):
            place = begin_lock(settings.ledgers, acquisition)
            place.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(files.open_file(place, "a+"))
            while not _locked(file, acquisition, deadline):
                time.sleep(0.05)
        yield


def _locked(file: io.FileIO, acquisition: str, deadline: float) -> bool:
    try:
        lock_for_writing(file)
    except OutputError as error:
        if time.monotonic() < deadline:
            return False
        raise OutputError(
            f"another process has been creating the output of acquisition {acquisition} for too long: stop it, "
            "then try again"
        ) from error
    return True


def choose_folder(settings: Settings, message: Open, run: str) -> tuple[Path, bool]:
    """The folder for a run, and whether it already holds that run.

    A second run of an acquisition gets its own folder beside the first.  A run that was started in
    another folder is continued there, unless a folder was named.

    Raises
    ------
    OutputError
        If the folder holds something else, or two other runs.
    """
    first = output_of(message.raw, message.output)
    if not (message.output or first.exists()):
        for output in noted_outputs(settings.ledgers, Path(message.raw)):
            made = made_by(output)
            if (made.get("acquisition"), made.get("run")) == (message.acquisition, run):
                return output, True
    for output in (first, second_path(first, run)):
        if not output.exists() or not any(output.iterdir()):
            return output, False
        made = made_by(output)
        if not made and is_marked(settings.ledgers, message.acquisition):
            made = _unlabelled(output)
        if made.get("acquisition") != message.acquisition:
            break
        if made.get("run") == run:
            return output, True
    else:
        raise OutputError(
            f"{first} holds two other runs of this acquisition already; name another --output"
        )
    if not output.exists():
        return output, False
    made_here = Output.at(output)
    raw = f" ({made_here.raw})" if made_here and made_here.raw else ""
    whose = f"refocused frames of another recording{raw}" if made_here else "something else"
    raise OutputError(
        f"{output} exists already and holds {whose}; move it away, or name another --output"
    )


def _unlabelled(output: Path) -> dict[str, Any]:
    """What made a dataset without a run file, whose daemon was killed while it created the folder.

    If the folder is not a dataset yet, it is moved aside.

    Raises
    ------
    OutputError
        If the folder contains anything that refocusd did not create.
    """
    try:
        with append_sink(output) as sink:
            made = getattr(sink, "summary", {}).get("refocusd", {})
            return dict(made) if isinstance(made, dict) else {}
    except OutputError:
        if other := next((p for p in output.rglob("*") if not _is_ours(p)), None):
            raise OutputError(
                f"{output} was never completed, and {other.name} in it does not come from refocusd: move it away"
            ) from None
        aside = output.with_name(f"{output.name}.incomplete-{time.time_ns():x}")
        log.warning("%s was never completed: moved to %s", output, aside.name)
        files.replace(output, aside)
        return {}


def _is_ours(path: Path) -> bool:
    """Whether a path may be a file or folder that refocusd creates at the beginning."""
    return path.is_dir() or bool(_BEGUN.fullmatch(path.name))


def write_run_file(output: Path, made: dict[str, Any]) -> None:
    """Write what made the frames into a file beside them, unless it exists."""
    if made_by(output):
        return
    path = notes_of(output) / RUN_FILE
    files.write_whole(path, json.dumps(made, indent=1).encode())
