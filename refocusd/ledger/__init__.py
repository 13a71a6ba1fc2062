"""The durable record of what became of every frame.

============  ======================================================================================
`attempt`     The contents of a ledger, as plain data
`ledger`      The ledger of an acquisition: attempts at refocusing its frames, in SQLite
`open_marks`  Marks of open acquisitions, so that they are found without opening thousands of ledgers
`outputs`     Where the outputs of a recording lie, so that all of them are found from the recording
`restore`     Restores a lost or damaged ledger from its copy and from the refocused frames
`schema`      The ledger's tables, and the upgrade of those of an older refocusd
============  ======================================================================================

May import `files`, `frame` and `errors`.
"""

from __future__ import annotations

from refocusd.ledger.attempt import VERDICTS, WRITTEN, AcquisitionNote, Attempt, Fate
from refocusd.ledger.ledger import Ledger, Outcomes, was_taken_again
from refocusd.ledger.open_marks import OpenMark, begin_lock, is_marked, mark_open, marked, unmark
from refocusd.ledger.outputs import note_output, noted_outputs
from refocusd.ledger.restore import ledger_path, rebuild, restore_ledger

__all__ = [
    "VERDICTS",
    "WRITTEN",
    "AcquisitionNote",
    "Attempt",
    "Fate",
    "Ledger",
    "OpenMark",
    "Outcomes",
    "begin_lock",
    "is_marked",
    "ledger_path",
    "mark_open",
    "marked",
    "note_output",
    "noted_outputs",
    "rebuild",
    "restore_ledger",
    "unmark",
    "was_taken_again",
]
