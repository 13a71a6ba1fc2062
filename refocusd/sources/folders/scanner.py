"""Finds the datasets in a folder, and notices when they change.

Folders are listed again only when they have changed, and of thousands of datasets each scan looks
only at the next few hundred, so that a scan is cheap on a network share too.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from refocusd.datasets.run_folder import RUN_FILE, ZARR
from refocusd.formats.ndtiff.index import INDEX_NAME
from refocusd.formats.ome_zarr.store.groups import is_store
from refocusd.formats.open_dataset import kind_of
from refocusd.formats.refocused_name import REFOCUSED_NAME
from refocusd.formats.tiff.growing_ome import ENDINGS
from refocusd.formats.tiff.separate_files import METADATA_FILE, run_of

log = logging.getLogger(__name__)

#: Datasets are searched for to this depth below the watched folder.
MAX_DEPTH = 6
#: Known datasets looked at in one scan.
MAX_PULSES = 256
#: At most this many folders of an OME-Zarr store, which has one for every few chunks, are looked at.
MAX_STORE_FOLDERS = 4096
#: A folder is listed again for this long after it changed: its time stamp may be coarse.
RESTLESS_S = 5.0
#: Every folder is listed again at this interval: some shares do not date their folders.
RELIST_S = 60.0

#: Sizes and times of the files that grow.
Pulse = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Found:
    """A dataset that is new, or that has changed since the last look.

    Parameters
    ----------
    path : Path
        Its folder, or its file if it is an OME-TIFF.
    pulse : tuple
        See `pulse_of`.
    new : bool
        Whether it was unknown before.
    """

    path: Path
    pulse: Pulse
    new: bool

    @property
    def changed_ns(self) -> int:
        """When it last changed by the clock of its disk, in ns since 1970."""
        return max((when for _, _, when in self.pulse), default=0)


@dataclass(slots=True)
class _Folder:
    depth: int
    stamp: int = -1
    listed_at: float = -RELIST_S
    changed_at: float = 0.0
    folders: list[Path] = field(default_factory=list)


class Scanner:
    """Scans a folder repeatedly; for one thread.

    Parameters
    ----------
    root : Path
    depth : int
        Datasets are searched for to this depth below it.
    """

    def __init__(self, root: Path, depth: int = MAX_DEPTH) -> None:
        self.root = root
        self._depth = depth
        self._folders: dict[Path, _Folder] = {root: _Folder(0)}
        self._pulses: dict[Path, Pulse] = {}
        self._round: deque[Path] = deque()
        self._links: set[Path] = set()
        self._silent: set[Path] = set()

    def scan(self) -> list[Found]:
        """Datasets that are new or have changed."""
        found: list[Found] = []
        waiting = [self.root]
        while waiting:
            folder = waiting.pop()
            known = self._folders.get(folder)
            if known is None:
                continue
            self._look_into(folder, known, found)
            waiting += known.folders
        for _ in range(min(MAX_PULSES, len(self._round))):
            path = self._round[0]
            self._round.rotate(-1)
            if path not in self._pulses:
                self._round.remove(path)
                continue
            pulse = pulse_of(path)
            if pulse and pulse != self._pulses[path]:
                self._pulses[path] = pulse
                found.append(Found(path, pulse, new=False))
        return found

    def forget(self, path: Path) -> None:
        """Forget a dataset that was deleted or moved: another one in its place is new."""
        self._pulses.pop(path, None)

    def _look_into(self, folder: Path, known: _Folder, found: list[Found]) -> None:
        now = time.monotonic()
        try:
            stamp = folder.stat().st_mtime_ns
            if stamp != known.stamp:
                known.stamp, known.changed_at = stamp, now
            elif now - known.changed_at > RESTLESS_S and now - known.listed_at < RELIST_S:
                return
            known.listed_at = now
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as error:
            self._complain(folder, error)
            return
        if folder in self._silent:
            self._silent.remove(folder)
            log.info("%s can be read again", folder)
        names = [entry.name for entry in entries]
        if kind := kind_of(names):
            known.folders = []
            self._note(folder, kind, names, found)
            return
        if folder != self.root and folder.name.lower().endswith(ZARR):
            return  # a store that is being copied: its wells are there before its own metadata
        known.folders = [
            Path(entry.path) for entry in entries if self._enters(entry, known.depth + 1)
        ]
        for inner in known.folders:
            self._folders.setdefault(inner, _Folder(known.depth + 1))
        for entry in entries:
            stem = entry.name.lower().partition(".ome.tif")[0]
            if entry.name.lower().endswith(ENDINGS) and stem and not _not_raw(stem):
                self._note_growing(Path(entry.path), found)

    def _note(self, folder: Path, kind: str, names: list[str], found: list[Found]) -> None:
        if RUN_FILE in names or _not_raw(folder.name):
            return
        if kind == "separate":
            try:
                run = run_of(folder)
            except OSError:
                return
            # The first entry appears a moment after the first file.
            if run is None or not run.is_relative_to(self.root):
                return
            folder = run
        self._note_growing(folder, found)

    def _note_growing(self, path: Path, found: list[Found]) -> None:
        if path in self._pulses:
            return
        pulse = pulse_of(path)
        if pulse:
            self._pulses[path] = pulse
            self._round.append(path)
            found.append(Found(path, pulse, new=True))

    def _enters(self, entry: os.DirEntry[str], depth: int) -> bool:
        if depth > self._depth or entry.name.startswith(".") or _not_raw(entry.name):
            return False
        try:
            if not entry.is_dir():
                return False
            if not (entry.is_symlink() or _is_junction(entry)):
                return True
            # A link may lead in a circle, or to folders that are scanned anyway.
            target = Path(entry.path).resolve()
        except OSError:
            return False
        root = self.root.resolve()
        if root.is_relative_to(target) or target.is_relative_to(root):
            return False
        if Path(entry.path) not in self._folders:
            if target in self._links:
                return False
            self._links.add(target)
        return True

    def _complain(self, folder: Path, error: OSError) -> None:
        if folder not in self._silent:
            self._silent.add(folder)
            log.warning("%s cannot be read (%s): looked at again later", folder, error)


def pulse_of(folder: Path) -> Pulse:
    """Name, size and time of a dataset's index and of its newest stack; empty if it is gone.

    For an OME-Zarr store, the time when a chunk was last added; for an OME-TIFF, those of the file.
    """
    try:
        if folder.name.lower().endswith(ENDINGS) and folder.is_file():
            status = folder.stat()
            return ((folder.name, status.st_size, status.st_mtime_ns),)
        if is_store(folder):
            return (("chunks", 0, max(_changed_ns(folder), default=0)),)
        with os.scandir(folder) as listing:
            entries = list(listing)
        stacks = sorted(
            entry.name for entry in entries if entry.name.lower().endswith((".tif", ".tiff"))
        )
        # NDTiff's newest stack grows, of image stacks any may, and of separate files their metadata.
        names = [INDEX_NAME, *stacks[-64:]]
        if not stacks:
            positions = sorted(entry.name for entry in entries if entry.is_dir())
            names += [f"{position}/{METADATA_FILE}" for position in positions[-64:]]
        pulse = []
        for name in names:
            try:
                status = os.stat(folder / name)  # noqa: PTH116 (listings are stale on Windows)
            except FileNotFoundError:
                continue
            pulse.append((name, status.st_size, status.st_mtime_ns))
    except OSError:
        return ()
    return tuple(pulse)


def _changed_ns(store: Path) -> Iterator[int]:
    """When the folders of an OME-Zarr store changed, in ns since 1970; at most `MAX_STORE_FOLDERS`."""
    waiting = deque([store])
    for _ in range(MAX_STORE_FOLDERS):
        if not waiting:
            return
        folder = waiting.popleft()
        yield folder.stat().st_mtime_ns
        with os.scandir(folder) as listing:
            waiting += [Path(entry.path) for entry in listing if entry.is_dir()]


def _is_junction(entry: os.DirEntry[str]) -> bool:
    # Python 3.12 and later; before that, Windows' junctions are followed to the bounded depth.
    check = getattr(entry, "is_junction", None)
    return bool(check and check())


def _not_raw(name: str) -> bool:
    """Whether a name is that of a refocused dataset."""
    return bool(REFOCUSED_NAME.search(name))
