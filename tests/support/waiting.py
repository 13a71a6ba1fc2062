"""How the tests wait for what happens in another thread or process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

#: Costs nothing but in a test that fails: a busy machine may need many seconds for a start.
PATIENCE_S = 100.0


def until(
    done: Callable[[], Any], what: str = "what was waited for", timeout_s: float = PATIENCE_S
) -> Any:
    """What `done` returns, once that is true.

    Raises
    ------
    AssertionError
        With `what`, if it never is.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := done()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(0.02)
    return found
