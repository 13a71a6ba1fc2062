"""The folders in which Micro-Manager saves acquisitions, each watched by one thread."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from refocusd.sources.folders.watcher import Follower

log = logging.getLogger(__name__)

#: Folders watched at a time; if there are more, idle ones are dropped.
MAX_ROOTS = 4
#: Acquisitions saved up to this long before refocusd was started are named in the log.
OFFERED_S = 86_400.0
#: Datasets are searched for to this depth below the save root.
DEPTH = 3


class SaveRoots:
    """Watches the folders that acquisitions are saved in.

    Parameters
    ----------
    endpoint : str
        Address of the daemon.
    since_s : float
        Acquisitions saved there after this time, in seconds since 1970, are taken even if finished.
    covered : sequence of Path
        Folders that are followed already, with all folders in them.
    start : callable
        Runs a follower in a thread with the given name.
    noted : Path, optional
        File that keeps the folders for the next process, as by then windows and settings may not
        name them any more.
    unfinished : collection of str
        As in `Follower`.
    """

    def __init__(
        self,
        endpoint: str,
        since_s: float,
        covered: Sequence[Path],
        start: Callable[[Follower, str], None],
        noted: Path | None = None,
        unfinished: Collection[str] = (),
    ) -> None:
        self._endpoint = endpoint
        self._since_s = since_s
        self._covered = [folder.expanduser().absolute() for folder in covered]
        self._start = start
        self._noted = noted
        self._unfinished = unfinished
        self._watched: dict[Path, Follower] = {}

    def resume(self) -> None:
        """Watch the folders that an earlier process watched last."""
        if self._noted is not None:
            with contextlib.suppress(OSError):
                for line in self._noted.read_text("utf-8", "surrogateescape").splitlines():
                    self.watch(Path(line))

    def watch(self, root: Path) -> bool:
        """Watch a folder, unless it is watched already; False if it does not exist."""
        root = root.expanduser().absolute()
        if root in self._watched:
            self._watched[root] = self._watched.pop(root)  # the most recently used one comes last
            return True
        if any(root.is_relative_to(folder) for folder in self._covered):
            return True
        if not os.path.isdir(root):  # noqa: PTH112 (as `files.exists`)
            return False
        log.info("Micro-Manager saves in %s: acquisitions are followed there", root)
        offered = self._since_s - OFFERED_S
        follower = Follower(
            root,
            self._endpoint,
            since_s=self._since_s,
            depth=DEPTH,
            offers_since_s=offered,
            unfinished=self._unfinished,
        )
        self._watched[root] = follower
        self._leave_idle()
        if self._noted is not None:
            text = "\n".join(map(str, self._watched))
            with contextlib.suppress(OSError):
                self._noted.write_text(text, "utf-8", "surrogateescape")
        self._start(follower, f"follow {root.name}")
        return True

    def _leave_idle(self) -> None:
        for root, follower in list(self._watched.items())[:-1]:
            if len(self._watched) <= MAX_ROOTS:
                return
            if follower.idle:
                follower.leave()
                del self._watched[root]
