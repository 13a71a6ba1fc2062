"""Small disks that fill up, and disks that hang."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """Mount a file system (tmpfs) of `mib` MiB, or skip the test if mounting is not permitted."""
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
        # A lazy unmount: a process that is about to end may still have a file open there.
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave_mib: float) -> Path:
    """Write a file that leaves only `leave_mib` MiB free; remove it to make room."""
    ballast = disk / "ballast"
    nbytes = shutil.disk_usage(disk).free - round(leave_mib * 2**20)
    with ballast.open("wb") as file:
        for _ in range(max(0, nbytes) // 2**20):
            file.write(bytes(2**20))
        file.write(bytes(max(0, nbytes) % 2**20))
    return ballast


@contextlib.contextmanager
def hanging_disk(folder: Path) -> Iterator[Path]:
    """Mount FUSE without a server: a file system that never answers, like a share that is gone.

    Skips the test if mounting is not permitted.  Calls that wait for it fail at the end.
    """
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("only root on Linux can mount such a file system")
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"hanging", os.fsencode(folder), b"fuse", 0, options) != 0:
        os.close(device)
        pytest.skip(f"FUSE cannot be mounted here: {os.strerror(ctypes.get_errno())}")
    try:
        # Only the kernel's FUSE_INIT is answered, with version 7.31.
        unique = struct.unpack_from("<IIQ", os.read(device, 1 << 17))[2]
        answer = struct.pack("<IIIIHHI", 7, 31, 1 << 16, 0, 1, 1, 1 << 16).ljust(64, b"\0")
        os.write(device, struct.pack("<IiQ", 16 + len(answer), 0, unique) + answer)
        yield folder
    finally:
        os.close(device)  # ends the calls that wait
        libc.umount2(os.fsencode(folder), 2)  # MNT_DETACH
