"""Disks that are small, and that fill up."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """A file system of `mib` MiB (a tmpfs, where it may be mounted; else the test is skipped)."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root on Linux can mount a small tmpfs")
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "none", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        # Lazily: a process that is about to end may still have a file open there.
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave_mib: float) -> Path:
    """A file that leaves only `leave_mib` MiB free; remove it to make room."""
    ballast = disk / "ballast"
    nbytes = shutil.disk_usage(disk).free - round(leave_mib * 2**20)
    with ballast.open("wb") as file:
        for _ in range(max(0, nbytes) // 2**20):
            file.write(bytes(2**20))
        file.write(bytes(max(0, nbytes) % 2**20))
    return ballast
