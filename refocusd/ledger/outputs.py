"""Where the outputs of a recording lie, so that all of them are found from the recording.

``<ledgers>/outputs/<id>.txt`` names one folder a line, as JSON; the id is that of the recording's
path.  What is beside the recording is found without it.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from pathlib import Path

from refocusd.files import read_limited

log = logging.getLogger(__name__)

FOLDER = "outputs"
MAX_LIST_BYTES = 1 << 20
_NAMESPACE = uuid.UUID("0c6f4a52-9b0f-4b7c-8f0e-3f2f6f0a5d11")


def note_output(ledgers: str | Path, recording: str | Path, output: Path) -> None:
    """Note that an output of a recording lies there; a failure is logged, as the frames matter more."""
    if output in noted_outputs(ledgers, recording):
        return
    place = _place(ledgers, recording)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("a", encoding="ascii") as file:
            file.write(json.dumps(str(output)) + "\n")
    except OSError as error:
        log.warning("%s will not be found from %s (%s: %s)", output, recording, place, error)


def noted_outputs(ledgers: str | Path, recording: str | Path) -> list[Path]:
    """The folders noted for a recording, the first one first; they may be gone since."""
    try:
        lines = read_limited(_place(ledgers, recording), MAX_LIST_BYTES).decode("ascii").split("\n")
        return [Path(json.loads(line)) for line in dict.fromkeys(lines) if line]
    except (OSError, ValueError, TypeError, RecursionError):
        return []


def _place(ledgers: str | Path, recording: str | Path) -> Path:
    path = os.path.normcase(os.path.realpath(recording))
    return Path(ledgers) / FOLDER / f"{uuid.uuid5(_NAMESPACE, path)}.txt"
