"""Which disk a folder lies on."""

from __future__ import annotations

from pathlib import Path

import psutil

#: Kinds of file systems that are served by another computer.
NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs",
    "fuse.sshfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs", "virtiofs",
}  # fmt: skip


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
    folder = folder.resolve()
    if folder.drive.startswith("\\\\"):
        return "share"
    inner, kind = -1, ""
    for mount in psutil.disk_partitions(all=True):
        point = Path(mount.mountpoint)
        # Of two mounts at one place the later one hides the other.
        if folder.is_relative_to(point) and len(point.parts) >= inner:
            inner = len(point.parts)
            on_windows = "share" if "remote" in mount.opts.split(",") else ""
            kind = mount.fstype if mount.fstype in NETWORK else on_windows
    return kind
