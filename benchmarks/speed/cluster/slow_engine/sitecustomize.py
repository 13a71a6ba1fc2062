"""Makes the identity engine take a known time, where this folder is on ``PYTHONPATH``.

Workers are processes of their own: this is how a benchmark reaches the engine in them.  It waits and does
not compute, so that more workers than cores can be measured.
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
