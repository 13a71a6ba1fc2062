"""The durable record of what became of every frame.

=============  ================================================================
`attempt`      what a ledger holds, as plain data
`ledger`       SQLite on a local disk: attempts append-only, the latest decides
`schema`       its tables, and how older ones become today's
`open_marks`   which acquisitions were open when a daemon ended
`restore`      a ledger that was lost or damaged, put back
=============  ================================================================

May import `errors`, `frame`.
"""

from __future__ import annotations

from refocusd.ledger.attempt import WRITTEN, AcquisitionNote, Attempt, Fate, RunNote
from refocusd.ledger.ledger import Ledger
from refocusd.ledger.open_marks import OpenMark, is_marked, mark_open, marked, unmark
from refocusd.ledger.restore import ledger_path, rebuild, restore_ledger

__all__ = [
    "WRITTEN",
    "AcquisitionNote",
    "Attempt",
    "Fate",
    "Ledger",
    "OpenMark",
    "RunNote",
    "is_marked",
    "ledger_path",
    "mark_open",
    "marked",
    "rebuild",
    "restore_ledger",
    "unmark",
]
