"""Renames and deletes that are refused for a moment, as on Windows."""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refocusd import files

SHARING_VIOLATION = 32


def refusal() -> PermissionError:
    """What Windows says while another program holds a file."""
    error = PermissionError(errno.EACCES, "The process cannot access the file")
    error.winerror = SHARING_VIOLATION  # type: ignore[attr-defined, unused-ignore]
    return error


class Refusals:
    """Refuses each rename and delete of this process up to `most` times, by the dice of a seed.

    Nobody waits between two attempts.
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

    def _wrapped(self, action: Callable[..., Any]) -> Callable[..., Any]:
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
