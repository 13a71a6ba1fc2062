"""Renames, deletes and opens that are refused for a moment, as happens on Windows."""

from __future__ import annotations

import errno
import io
import random
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from refocusd import files

SHARING_VIOLATION = 32


def refusal() -> PermissionError:
    """The error of Windows while another program holds a file."""
    error = PermissionError(errno.EACCES, "The process cannot access the file")
    error.winerror = SHARING_VIOLATION  # type: ignore[attr-defined, unused-ignore]
    return error


def refusal_to_open() -> PermissionError:
    """What Windows says then of an open: Python does not tell its number."""
    error = PermissionError(errno.EACCES, "Permission denied")
    error.winerror = None  # type: ignore[attr-defined, unused-ignore]
    return error


class Refusals:
    """Refuses renames, deletes and opens of this process at random, each up to `most` times in a row.

    The product does not wait between two attempts.
    """

    def __init__(self, patch: pytest.MonkeyPatch, seed: int, most: int = 5) -> None:
        self.count = 0
        self._dice = random.Random(seed)
        self._most = most
        self._left: dict[str, int] = {}
        self._lock = threading.Lock()
        patch.setattr(files, "DELAYS_S", (0.0,) * len(files.DELAYS_S))
        patch.setattr(Path, "replace", self._wrapped(Path.replace))
        patch.setattr(Path, "rename", self._wrapped(Path.rename))
        patch.setattr(Path, "unlink", self._wrapped(Path.unlink))
        patch.setattr(files, "_file", self._wrapped(io.FileIO, refusal_to_open))
        patch.setattr(files, "open_shared", self._wrapped(files.open_shared))

    def _wrapped(
        self, action: Callable[..., Any], refusal: Callable[[], OSError] = refusal
    ) -> Callable[..., Any]:
        def refused(path: Path, *rest: Any, **options: Any) -> Any:
            with self._lock:
                left = self._left.setdefault(str(path), self._dice.randint(0, self._most))
                if left:
                    self._left[str(path)] -= 1
                    self.count += 1
                    raise refusal()
                del self._left[str(path)]
            return action(path, *rest, **options)

        return refused


if sys.platform == "win32":
    import _winapi

    #: FILE_SHARE_READ, FILE_SHARE_WRITE: meanwhile nobody may rename or delete the file.
    _NOT_DELETE = 1 | 2
    #: Nobody may open it either.
    _NOTHING = 0
    _OPENS_FOLDERS = 0x02000000

    class Held:
        """Holds files and folders as a virus scanner does, so that Windows itself refuses.

        Every second one, chosen at random from a seed, is held for up to 0.2 s.
        """

        def __init__(self, patch: pytest.MonkeyPatch, seed: int) -> None:
            self.count = 0
            self._dice = random.Random(seed)
            patch.setattr(Path, "replace", self._wrapped(Path.replace))
            patch.setattr(Path, "unlink", self._wrapped(Path.unlink))
            patch.setattr(files, "_file", self._wrapped(io.FileIO, _NOTHING))
            patch.setattr(files, "open_shared", self._wrapped(files.open_shared, _NOTHING))
            self._known: set[str] = set()

        def _wrapped(
            self, action: Callable[..., Any], shared: int = _NOT_DELETE
        ) -> Callable[..., Any]:
            def held(path: Path, *rest: Any, **options: Any) -> Any:
                if str(path) not in self._known and path.exists():
                    self._known.add(str(path))
                    if self._dice.random() < 0.5:
                        self._hold(path, shared)
                try:
                    done = action(path, *rest, **options)
                except PermissionError as error:
                    self.count += error.winerror in (SHARING_VIOLATION, None)
                    raise
                self._known.discard(str(path))
                return done

            return held

        def _hold(self, path: Path, shared: int) -> None:
            # One that has been open since cannot be held so.
            with suppress(PermissionError):
                handle = _winapi.CreateFile(
                    *(str(path), _winapi.GENERIC_READ, shared, 0, _winapi.OPEN_EXISTING),
                    *(_OPENS_FOLDERS, 0),
                )
                threading.Timer(self._dice.uniform(0.0, 0.2), _winapi.CloseHandle, [handle]).start()

else:

    class Held(Refusals):
        """Elsewhere, the behaviour of Windows can only be imitated."""


#: As parameters of a test.
HOLDERS = [
    pytest.param(Refusals, id="imitated"),
    pytest.param(
        Held,
        id="held",
        marks=pytest.mark.skipif(sys.platform != "win32", reason="only Windows refuses"),
    ),
]
