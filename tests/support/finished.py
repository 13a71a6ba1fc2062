"""What the tests of `verify`, `resume` and `process` share: datasets, commands, damage."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing, redirect_stderr
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from recordings_on_disk import write_ndtiff
from scipy.ndimage import gaussian_filter
from waiting import PATIENCE_S

from refocusd.cli.main import main
from refocusd.formats.ndtiff.reader import NDTiffReader
from refocusd.transport.secure.user_keys import FOLDER_VARIABLE


def blurred(frames: int, side: int = 64, seed: int = 0) -> NDArray[np.uint16]:
    """Frames of out-of-focus blobs, all different: something to refocus."""
    rng = np.random.default_rng(seed)
    spots = (rng.random((frames, side, side)) < 0.004) * 60_000.0
    glow = np.stack([gaussian_filter(plane, 3.0) for plane in spots])
    return (200 + glow + rng.normal(0, 3, glow.shape)).clip(0, 65535).astype(np.uint16)


def raw_dataset(folder: Path, frames: int = 12, side: int = 64, seed: int = 0) -> Path:
    """A finished raw NDTiff dataset by ndstorage."""
    pixels = blurred(frames, side, seed)
    return write_ndtiff(
        folder, [({"time": n, "channel": "DAPI"}, p, {"Exposure": n}) for n, p in enumerate(pixels)]
    )


def key(number: int) -> str:
    """Canonical axes of a frame of `raw_dataset`."""
    return f'{{"channel":"DAPI","time":{number}}}'


def environment(place: Path, **more: str) -> dict[str, str]:
    """Environment with the settings of these tests: identity engine, ledgers in `place`."""
    ours = {
        "REFOCUSD_LEDGERS": str(place / "ledgers"),
        "REFOCUSD_BACKEND": "identity",
        "REFOCUSD_RESERVE_MIB": "1",
        "REFOCUSD_RING_MIB": "64",
        # Nothing listens there, so that a daemon of the person who runs the tests is not asked.
        "REFOCUSD_ENDPOINT": "tcp://127.0.0.1:9",
        "COLUMNS": "80",
        **more,
    }
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("REFOCUSD_") or name == FOLDER_VARIABLE
    }
    return inherited | ours


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "refocusd", *map(str, arguments)]


def refocusd(*arguments: object, place: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        cwd=place,
        env=environment(place, **more),
        timeout=5 * PATIENCE_S,
    )


def told(*arguments: object, place: Path, **more: str) -> tuple[int, str]:
    """Run a command that starts no engine in this process; its exit status and standard error."""
    said = io.StringIO()
    with mock.patch.dict(os.environ, environment(place, **more), clear=True), redirect_stderr(said):
        status = main([str(argument) for argument in arguments])
    return status, said.getvalue()


def verify(dataset: Path, *flags: str, place: Path, **more: str) -> tuple[int, Any]:
    """Exit status and JSON of ``refocusd verify``, or its output if it wrote no JSON."""
    report = place / "verified.json"
    report.unlink(missing_ok=True)
    status, said = told("verify", dataset, *flags, "--json", report, place=place, **more)
    if not report.exists():
        return status, said
    return status, json.loads(report.read_text(encoding="utf-8"))


def flip_a_pixel(dataset: Path, axes: str) -> None:
    """Change one bit of one pixel of a frame in an NDTiff dataset."""
    entry = NDTiffReader(dataset)._frames[axes]
    with (dataset / entry.file).open("rb+") as file:
        file.seek(entry.offset + entry.format.nbytes // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def ledger_of(place: Path) -> Path:
    """The only local ledger in `place`, all of it in this one file."""
    (path,) = (place / "ledgers").glob("*.sqlite")
    # A process that read it last may have left everything in the write-ahead log.
    with closing(sqlite3.connect(path)) as ledger:
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def snapshot(*folders: Path) -> dict[str, bytes]:
    """Contents of every file, by path."""
    return {
        str(path): path.read_bytes()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
