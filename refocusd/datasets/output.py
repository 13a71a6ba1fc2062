"""One run's refocused dataset on disk: what the files beside its frames say, and whether it is being written."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refocusd import files
from refocusd.datasets.identity import Recording, noted
from refocusd.datasets.run_folder import made_by, noted_in
from refocusd.errors import OutputError
from refocusd.formats.lock import lock_for_writing
from refocusd.formats.refocused_name import REFOCUSED_NAME

#: File beside refocused frames of a recording that is not an NDTiff dataset: its path.
RECORDING_FILE = "refocusd-recording.json"
#: Files that the writer of a dataset keeps locked: the index of NDTiff, the lock file of OME-Zarr.
_LOCKS = ("NDTiff.index", "refocusd/frames.lock")


@dataclass(frozen=True, slots=True)
class Output:
    """One run's refocused dataset, as the file beside its frames describes it.

    Parameters
    ----------
    path : Path
        Its folder.
    acquisition, run : str
    raw : str
        Where the raw frames were; empty for an acquisition without raw data.
    engine : mapping
        As in `EngineInfo`.
    settings : mapping
        Those that determine the pixels.
    profiles : tuple of str
        Ids of the calibration profiles that it was started with.
    first : mapping
        The microscope, from the metadata of its first frame.
    recording : Recording
        Fingerprint of the recording that it was made from; empty if unknown.
    """

    path: Path
    acquisition: str
    run: str
    raw: str
    engine: dict[str, Any]
    settings: dict[str, Any]
    profiles: tuple[str, ...] = ()
    first: dict[str, Any] = field(default_factory=dict)
    recording: Recording = field(default_factory=Recording)

    @classmethod
    def at(cls, folder: Path) -> Output | None:
        """The run whose frames are in a folder; None if it was not written by refocusd."""
        said = made_by(folder)
        acquisition, run = said.get("acquisition"), said.get("run")
        if not isinstance(acquisition, str) or not isinstance(run, str):
            return None
        raw, engine, settings = said.get("raw"), said.get("engine"), said.get("settings")
        profiles, first = said.get("profiles"), said.get("first")
        return cls(
            path=folder.resolve(),
            acquisition=acquisition,
            run=run,
            raw=raw
            if isinstance(raw, str) and raw
            else str(noted_in(folder / RECORDING_FILE).get("recording", "")),
            engine=engine if isinstance(engine, dict) else {},
            settings=settings if isinstance(settings, dict) else {},
            profiles=tuple(map(str, profiles)) if isinstance(profiles, list) else (),
            first=first if isinstance(first, dict) else {},
            recording=noted(said.get("recording")),
        )

    @property
    def model(self) -> str:
        """Name of the model that made the frames, or of the backend if there was none."""
        return str(self.engine.get("model_id") or self.engine.get("backend") or "unknown")

    @property
    def raw_name(self) -> str:
        """Name of the raw dataset, also if its path comes from another operating system; empty for a drive's root."""
        return re.split(r"[\\/]", re.sub(r"^[A-Za-z]:", "", self.raw).rstrip("\\/"))[-1]

    def raw_places(self) -> tuple[Path, ...]:
        """Where the raw frames may be; as folders are moved, places beside the output come first."""
        if not self.raw:
            return ()
        beside = self.path.parent
        named_alike = REFOCUSED_NAME.sub("", self.path.name)
        places = (beside / self.raw_name, Path(self.raw), beside / named_alike)
        return tuple(place for place in dict.fromkeys(places) if place != self.path)


def is_being_written(output: Path) -> bool:
    """Whether a process is writing a refocused dataset now."""
    for name in _LOCKS:
        try:
            with io.FileIO(output / name) as file:
                lock_for_writing(file)  # and released at once
        except OutputError:
            return True
        except OSError:
            continue  # not of this format
    return False


def note_recording(output: Path, recording: Path) -> None:
    """Record beside refocused frames which recording they belong to.

    Raises
    ------
    OutputError
        If that cannot be written.
    """
    place = output / RECORDING_FILE
    text = json.dumps({"recording": str(recording.resolve())}, indent=1) + "\n"
    try:
        files.write_whole(place, text.encode())
    except OSError as error:
        gone = "" if output.is_dir() else f": was {output} moved or deleted meanwhile?"
        raise OutputError(f"{place} cannot be written ({error.strerror or error}){gone}") from error
