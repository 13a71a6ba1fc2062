"""Names of a refocused dataset and of refocusd's own files in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refocusd.files import read_limited
from refocusd.formats.metadata import json_object
from refocusd.formats.ndtiff.reader import place_of
from refocusd.formats.refocused_name import SUFFIX

#: Files beside the refocused frames: the ledger's copy, and the description of the run.
LEDGER_COPY = "refocusd-ledger.sqlite"
RUN_FILE = "refocusd.json"
ZARR = ".zarr"
#: Larger files are not read: such a file holds a frame's metadata and a recording's fingerprint.
_MOST_BYTES = 16 << 20


def refocused_path(raw: Path) -> Path:
    """Default path of the refocused dataset of a raw one; that of an OME-Zarr is an OME-Zarr too."""
    if raw.name.endswith(ZARR):
        stem = raw.name.removesuffix(ZARR).removesuffix(".ome")
        return raw.with_name(stem + SUFFIX + ZARR)
    # Nothing can lie beside the root of a drive.
    return raw.with_name(raw.name + SUFFIX) if raw.name else raw / SUFFIX


def refocused_in(folder: Path, name: str) -> Path:
    """Path in another folder than raw's; the recording in the root of a drive has no name."""
    return refocused_path(folder / name) if name else folder / SUFFIX


def second_path(first: Path, run: str) -> Path:
    """Path of the refocused dataset of another run, beside that of the first."""
    ending = ZARR if first.name.endswith(ZARR) else ""
    return first.with_name(f"{first.name.removesuffix(ZARR)}_{run[:8]}{ending}")


def output_of(raw: str, output: str = "") -> Path:
    """Where an acquisition's refocused dataset goes: ``<raw>_refocused`` unless named."""
    return Path(output) if output else refocused_path(place_of(Path(raw)))


def notes_of(output: Path) -> Path:
    """Folder of refocusd's files about a refocused dataset; in OME-Zarr, a separate group."""
    ours = output / "refocusd"
    return ours if ours.is_dir() else output


def trust_maps_of(output: Path) -> Path:
    """Dataset of the trust maps of a refocused dataset, inside of it."""
    return notes_of(output) / "trust"


def made_by(output: Path) -> dict[str, Any]:
    """Contents of `RUN_FILE` beside refocused frames; empty if refocusd wrote none."""
    return noted_in(notes_of(output) / RUN_FILE)


def noted_in(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is none."""
    try:
        return json_object(read_limited(file, _MOST_BYTES)) or {}
    except OSError:
        return {}
