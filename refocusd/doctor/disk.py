"""Checks of ledgers, output folder, disk speed and free space; finds the kind of disk of a folder.

Trial files have no name, or are deleted with their temporary folder, so that nothing is left behind.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil

from refocusd.doctor.case import Case, Finding, broken, doubtful, fine
from refocusd.files import remove, replace
from refocusd.formats.disk_space import nearest

#: Types of file systems that another computer serves.
NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs",
    "fuse.sshfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs", "virtiofs",
}  # fmt: skip

MIB, GIB = 1 << 20, 1 << 30
#: Limits of the speed trial, which also writes at most a tenth of the free space.
SPEED_S = 2.0
SPEED_NBYTES = 256 * MIB
BLOCK_NBYTES = 8 * MIB
#: A slower disk is reported; this is 2048² of 16 bits at 10 frames/s, raw and refocused.
SLOW_MB_S = 170.0
#: Environment variables in which OneDrive states the folders that it uploads.
ONEDRIVE = ("OneDrive", "OneDriveCommercial", "OneDriveConsumer")
#: In a folder with a longer path, paths of our files may exceed Windows' 259 characters.
LONG_FOLDER = 150
#: If a file server's clock differs by more, datasets may be taken in the wrong order.
SKEW_S = 5.0


def ledgers(case: Case) -> Iterator[Finding]:
    """Whether the folder is local and writable, and SQLite can use a write-ahead log there."""
    folder = Path(case.settings.ledgers)
    there = nearest(folder)
    if kind := network_kind(there):
        yield broken(
            f"{folder} is on a network share ({kind})",
            "set ledgers to a folder on a local disk: SQLite's write-ahead log needs one",
        )
        return
    try:
        with _trial_folder(there) as trial:
            mode, count = _write_ahead(Path(trial) / "trial.sqlite")
    except (OSError, sqlite3.Error) as error:
        yield broken(f"nothing can be written in {there}: {error}", "set ledgers to another folder")
        return
    if mode != "wal" or count != 1:
        yield broken(
            f"SQLite keeps no write-ahead log in {there} (journal mode {mode})",
            "set ledgers to a folder on a local disk",
        )
        return
    yield fine(f"{folder}, local, write-ahead log works")


def output(case: Case) -> Iterator[Finding]:
    """Whether datasets can be written in the folder, and whether its disk's clock agrees with ours."""
    folder, there = case.folder, nearest(case.folder)
    try:
        with _trial_folder(there) as trial:
            file = Path(trial) / "trial"
            before = time.time()
            file.write_bytes(b"refocusd")
            skew = file.stat().st_mtime - before
            # These wait for a virus scanner that holds the new file for a moment.
            replace(file, file.with_name("renamed"))
            remove(file.with_name("renamed"))
    except OSError as error:
        yield broken(
            f"nothing can be written in {there}: {error.strerror or error}",
            "change its permissions, or save elsewhere (--folder checks another one)",
        )
        return
    if abs(skew) > SKEW_S:
        yield doubtful(
            f"{folder}: the clock of its disk is {skew:+.0f} s from this computer's",
            "set both by the same time server",
        )
        return
    if any(
        folder.absolute().is_relative_to(place) for place in map(os.environ.get, ONEDRIVE) if place
    ):
        yield doubtful(
            f"{folder.absolute()} is uploaded by OneDrive, which slows writing and may leave files on the "
            "internet only",
            "save elsewhere, and upload what is finished",
        )
        return
    if len(str(folder.absolute())) > LONG_FOLDER and paths_are_limited():
        yield doubtful(
            f"{folder.absolute()} leaves little of the 259 characters that Windows allows for a path",
            "save in a folder with a shorter path, or have an administrator set LongPathsEnabled",
        )
        return
    kind = network_kind(there)
    where = f", on a network share ({kind})" if kind else ""
    made = "" if folder.exists() else " (to be made)"
    yield fine(f"{folder.absolute()}{made}: files can be made, renamed and deleted{where}")


def paths_are_limited() -> bool:
    """Whether this is a Windows that refuses long paths, which is its default."""
    if sys.platform == "win32":
        import winreg

        place = r"SYSTEM\CurrentControlSet\Control\FileSystem"
        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, place) as key:
                return not winreg.QueryValueEx(key, "LongPathsEnabled")[0]
        except OSError:
            return True
    else:
        return False


def _trial_folder(there: Path) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder; that it cannot be deleted at the end is not an error."""
    return tempfile.TemporaryDirectory(
        prefix="refocusd-doctor-", dir=there, ignore_cleanup_errors=True
    )


def speed(case: Case) -> Iterator[Finding]:
    """Write for at most two seconds, flush to the disk, and read it again."""
    there = nearest(case.folder)
    size = min(SPEED_NBYTES, shutil.disk_usage(there).free // 10)
    if size < BLOCK_NBYTES:
        yield doubtful(f"{there} is too full for a trial", "free some space")
        return
    block = os.urandom(BLOCK_NBYTES)  # nothing that a disk could compress
    # Without a name, or deleted by the system when it is closed: it cannot be left behind.
    with tempfile.TemporaryFile(dir=there, buffering=0) as file:
        written, begun = 0, time.perf_counter()
        while written + BLOCK_NBYTES <= size and time.perf_counter() - begun < SPEED_S:
            written += file.write(block)
        os.fsync(file.fileno())
        write_mb_s = written / 1e6 / (time.perf_counter() - begun)
        cached = _forget(file.fileno())
        file.seek(0)
        read, begun = 0, time.perf_counter()
        while (part := file.read(BLOCK_NBYTES)) and time.perf_counter() - begun < SPEED_S:
            read += len(part)
        read_mb_s = read / 1e6 / max(time.perf_counter() - begun, 1e-6)
    frame = case.plan.frame_nbytes if case.plan is not None else 2048 * 2048 * 2
    name = f"{case.plan.width}x{case.plan.height}" if case.plan is not None else "2048x2048 16-bit"
    says = (
        f"write {write_mb_s:.0f} MB/s, read {read_mb_s:.0f} MB/s{' (from memory)' if cached else ''}: "
        f"{name} raw and refocused at up to {write_mb_s * 1e6 / (2 * frame):.0f} frames/s"
    )
    if write_mb_s < SLOW_MB_S:
        yield doubtful(says, "save to a faster (SSD, local) disk, or acquire more slowly")
    else:
        yield fine(says)


def room(case: Case) -> Iterator[Finding]:
    """Free space, and the space that the planned acquisition needs: twice its raw data."""
    free = shutil.disk_usage(nearest(case.folder)).free
    reserve = case.settings.reserve_mib * MIB
    if case.plan is None:
        says = f"{free / GIB:.1f} GiB free in {case.folder.absolute()}"
        if free < 2 * reserve:
            yield doubtful(says, "free some space: refocused frames double what raw takes")
        else:
            yield fine(says, "--plan 2048x2048x16,1000 shows what an acquisition needs")
        return
    needed = case.plan.nbytes
    says = (
        f"{free / GIB:.1f} GiB free in {case.folder.absolute()}; {case.plan.frames} frames take "
        f"{needed / GIB:.1f} GiB (raw and refocused), {reserve / GIB:.1f} GiB stay in reserve"
    )
    missing = needed + reserve - free
    if missing > 0:
        yield broken(says, f"free {missing / GIB:.1f} GiB more, or save elsewhere")
    else:
        yield fine(says)


def _write_ahead(path: Path) -> tuple[str, int]:
    """Journal mode, and the rows that a second connection sees while the first is open."""
    with closing(sqlite3.connect(path, timeout=2.0)) as one:
        mode = str(one.execute("PRAGMA journal_mode=WAL").fetchone()[0])
        one.execute("CREATE TABLE trial (x)")
        one.execute("INSERT INTO trial VALUES (1)")
        one.commit()
        with closing(sqlite3.connect(path, timeout=2.0)) as two:
            return mode, int(two.execute("SELECT count(*) FROM trial").fetchone()[0])


def _forget(file: int) -> bool:
    """Drop a file from the system's cache; True if that is not possible."""
    if sys.platform != "win32" and hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        return False
    return True


def network_kind(folder: Path) -> str:
    """The kind of network share that a folder is on; empty for a local disk.

    Parameters
    ----------
    folder : Path
        An existing folder.
    """
    folder = folder.resolve()
    if folder.drive.startswith("\\\\"):
        return "share"
    inner, kind = -1, ""
    for mount in psutil.disk_partitions(all=True):
        point = Path(mount.mountpoint)
        # Of two mounts at the same place, the later one hides the other.
        if folder.is_relative_to(point) and len(point.parts) >= inner:
            inner = len(point.parts)
            on_windows = "share" if "remote" in mount.opts.split(",") else ""
            kind = mount.fstype if mount.fstype in NETWORK else on_windows
    return kind
