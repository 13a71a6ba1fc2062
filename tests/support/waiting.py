"""How the tests wait for another thread or process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

#: Costs time only in a failing test: a busy machine may need many seconds to start a process.
PATIENCE_S = 100.0


def until(
    done: Callable[[], Any], what: str = "what was waited for", timeout_s: float = PATIENCE_S
) -> Any:
    """Wait until `done` returns something true, and return that.

    Raises
    ------
    AssertionError
        With the text `what`, if it never does.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := done()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(0.02)
    return found
