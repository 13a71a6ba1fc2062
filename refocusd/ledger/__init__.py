"""The durable record of every frame's fate.

`ledger.Ledger` is the one class: SQLite on a local disk, attempts append-only,
the latest decides.  May import `errors`, `frame`.
"""

from __future__ import annotations

from refocusd.ledger.ledger import Attempt, Ledger

__all__ = ["Attempt", "Ledger"]
