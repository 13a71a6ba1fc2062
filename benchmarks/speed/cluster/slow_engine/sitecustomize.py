"""Makes the identity engine take a known time, in processes that have this folder on ``PYTHONPATH``.

Workers are separate processes, and this is how a benchmark changes the engine in them.  The engine sleeps
instead of computing, so that more workers than cores can be measured.
"""

import os
import time

if milliseconds := float(os.environ.get("BENCHMARK_ENGINE_MS", "0")):
    from refocusd.engines.engine import Refocused
    from refocusd.engines.identity import IdentityEngine
    from refocusd.frame import Pixels

    _at_once = IdentityEngine.refocus

    def _slowly(self: IdentityEngine, raw: Pixels, out: Pixels) -> Refocused:
        time.sleep(milliseconds / 1e3)
        return _at_once(self, raw, out)

    IdentityEngine.refocus = _slowly  # type: ignore[method-assign]
