"""Which disk a folder lies on."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

__all__ = ["nearest", "network_kind"]

#: Kinds of file systems that are served by another computer (``/proc/self/mountinfo``).
NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs",
    "fuse.sshfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs", "virtiofs",
}  # fmt: skip
DRIVE_REMOTE = 4


def nearest(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    return there


def network_kind(folder: Path) -> str:
    """The kind of network share that a folder lies on; empty for a local disk.

    Parameters
    ----------
    folder : Path
        An existing one.
    """
    if sys.platform == "win32":
        return _windows(folder)
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    kind = mounted_kind(folder.resolve(), mounts)
    return kind if kind in NETWORK else ""


def mounted_kind(folder: Path, mounts: str) -> str:
    """The kind of file system a folder lies on, by the text of ``mountinfo``; empty if unknown."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < 5 or not right:
            continue
        # proc(5): space, tab, newline and backslash are octal there.
        point = Path(re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), fields[4]))
        # Of two mounts at one place the later one hides the other.
        if folder.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), right.split()[0]
    return kind


def _windows(folder: Path) -> str:
    if sys.platform == "win32":
        anchor = folder.resolve().anchor
        kernel = ctypes.WinDLL("kernel32")
        kernel.GetDriveTypeW.argtypes = [ctypes.c_wchar_p]
        # A drive letter of a share, or \\server\share itself.
        if kernel.GetDriveTypeW(anchor) == DRIVE_REMOTE:
            return "share"
    return ""
