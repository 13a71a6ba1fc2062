"""Checks after a fault: `resume`, a clean `verify`, raw unchanged, every frame accounted for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from waiting import PATIENCE_S

from refocusd.formats.ndtiff.reader import NDTiffReader
from refocusd.frame import checksum


def refocused_of(raw: Path) -> Path:
    """Path of the refocused dataset of a raw one."""
    return raw.with_name(raw.name + "_refocused")


def _refocusd(place: Path, *arguments: object) -> tuple[int, Any, str]:
    """Exit status, JSON and output of a command with the ledgers in `place`."""
    report = place / "report.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "refocusd", *map(str, arguments)]
    command += ["--ledgers", str(place / "ledgers"), "--json", str(report)]
    ours = {"REFOCUSD_BACKEND": "identity", "REFOCUSD_RING_MIB": "32", "REFOCUSD_RESERVE_MIB": "1"}
    # Nothing listens there, so that a daemon of the person who runs the tests is not asked.
    ours |= {"REFOCUSD_ENDPOINT": "tcp://127.0.0.1:9", "COLUMNS": "200"}
    done = subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",  # on Windows it is in the code page
        env={**os.environ, **ours},
        timeout=2 * PATIENCE_S,
        check=False,
    )
    found = json.loads(report.read_text(encoding="utf-8")) if report.exists() else None
    return done.returncode, found, done.stdout + done.stderr


def resume(raw: Path, place: Path) -> None:
    """Refocus pending frames with the user's command."""
    status, _, said = _refocusd(place, "resume", raw)
    assert status == 0, said


def verify(raw: Path, place: Path) -> dict[str, Any]:
    """Findings of ``refocusd verify``, which must be clean."""
    status, found, said = _refocusd(place, "verify", raw)
    assert status == 0, said
    assert found["clean"]
    report: dict[str, Any] = found
    return report


def assert_raw_is_as_acquired(raw: Path, saved: dict[str, int]) -> list[str]:
    """Assert that raw has every frame reported as saved, unchanged; returns the keys of all."""
    with closing(NDTiffReader(raw)) as reader:
        keys = reader.axes_keys()
        assert set(saved) <= set(keys), "raw has lost a frame"
        for key, expected in saved.items():
            assert checksum(reader.read(key).pixels) == expected, f"raw frame {key} has changed"
        return keys


def assert_whole(
    raw: Path,
    place: Path,
    saved: dict[str, int],
    *,
    resumed: bool = True,
    unchanged: bool = True,
) -> int:
    """Check all of the above; returns the number of frames.

    Parameters
    ----------
    raw : Path
    place : Path
        Folder of the daemon's ledgers.
    saved : dict of str to int
        Canonical axes → checksum, as the acquisition has reported them.
    resumed : bool
        Whether `resume` may be needed; if False, the daemon must have done everything.
    unchanged : bool
        Whether the engine returns frames unchanged.
    """
    before = assert_raw_is_as_acquired(raw, saved)
    if resumed:
        resume(raw, place)
    found = verify(raw, place)
    assert assert_raw_is_as_acquired(raw, saved) == before
    with closing(NDTiffReader(raw)) as reader, closing(NDTiffReader(refocused_of(raw))) as output:
        assert sorted(output.axes_keys()) == sorted(before), "a frame is unaccounted for"
        for key in before if unchanged else ():
            assert checksum(output.read(key).pixels) == checksum(reader.read(key).pixels)
    (run,) = found["runs"]
    assert not run["pending"]
    assert not run["problems"]
    return len(before)
