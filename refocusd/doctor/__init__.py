"""``refocusd doctor``: checks everything that a run needs, changes nothing, and says what to do.

Each check is a function that takes a `Case` and yields `Finding` objects.  None can raise or hang:
`examine` runs each in a thread with a time limit, and whatever may crash or block inside a library
(an engine, a driver) runs in another process.

=============  =====================================================================================
`case`         Input of an examination, and the findings of its checks
`disk`         Checks of ledgers, output folder, disk speed and free space; finds the kind of disk of a folder
`engine`       Checks of devices, backends, and the engine that would be used, with one frame through it
`examination`  The checks in order, each with its time limit
`machine`      Checks of Python, packages, memory, clock and anti-virus
`memory_ring`  Check of the shared ring: created here, attached and read by another process
`network`      Checks of Micro-Manager's bridge, the daemon, and the ports of this computer
=============  =====================================================================================

May import everything but the command line.
"""

from __future__ import annotations

from refocusd.doctor.case import Case, Finding, Plan, parse_plan
from refocusd.doctor.examination import CHECKS, Check, examine

__all__ = ["CHECKS", "Case", "Check", "Finding", "Plan", "examine", "parse_plan"]
