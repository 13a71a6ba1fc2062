"""Where the outputs of a recording lie, so that all of them are found from the recording.

``<ledgers>/outputs/<id>.txt`` names one folder per line, as JSON.  The id is made from the recording's
path, or from one of its frames, because it may be moved.  Outputs beside the recording are found
without this list.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from contextlib import suppress
from pathlib import Path

from refocusd.files import for_its_user, open_file, read_limited

log = logging.getLogger(__name__)

FOLDER = "outputs"
MAX_LIST_BYTES = 1 << 20
_NAMESPACE = uuid.UUID("0c6f4a52-9b0f-4b7c-8f0e-3f2f6f0a5d11")


def note_output(ledgers: str | Path, recording: str | Path, output: Path) -> None:
    """Note where an output of a recording lies; a failure is only logged, as the frames matter more.

    Parameters
    ----------
    ledgers : path
        Folder of the ledgers.
    recording : path or str
        Its path, or a name that only one of its frames has.
    output : Path
        The output's folder.
    """
    if output in noted_outputs(ledgers, recording):
        return
    place = _place(ledgers, recording)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with open_file(place, "a", for_its_user) as file:
            file.write(b"\n" + json.dumps(str(output)).encode("ascii"))
    except OSError as error:
        log.warning("%s will not be found from %s (%s: %s)", output, recording, place, error)


def noted_outputs(ledgers: str | Path, recording: str | Path) -> list[Path]:
    """The folders noted for a recording, in the order noted; they may not exist any more."""
    found = []
    # A line may be torn: by a full disk, or a power cut.
    with suppress(OSError):
        for line in dict.fromkeys(
            read_limited(_place(ledgers, recording), MAX_LIST_BYTES).splitlines()
        ):
            with suppress(ValueError, TypeError, RecursionError):
                found.append(Path(json.loads(line)))
    return found


def _place(ledgers: str | Path, recording: str | Path) -> Path:
    name = (
        os.path.normcase(os.path.realpath(recording)) if isinstance(recording, Path) else recording
    )
    # A path that is not valid UTF-8 must have an id as well.
    name = name.encode(errors="backslashreplace").decode()
    return Path(ledgers) / FOLDER / f"{uuid.uuid5(_NAMESPACE, name)}.txt"
