"""``refocusd doctor``: looks at everything a run needs, changes nothing, and says what to do.

Each check is a function of a `Case` that gives `Finding` objects.  None raises and none hangs:
`examine` runs each in a thread with a time limit, and what may crash or block inside a library
(an engine, a driver) runs in a process of its own.

=============  =====================================================================================
`case`         What is looked at, and what a check finds
`disk`         Ledgers, output folder, speed, and room for a planned acquisition; which disk a folder lies on
`engine`       Devices and backends that networks can run on, which engine would be taken, and one frame through it
`examination`  The checks in order, each with its time limit
`machine`      Python, packages, memory, clock, anti-virus
`memory_ring`  The shared ring: made here, attached and read by another process
`network`      Micro-Manager's bridge, the daemon, and the ports of this computer
=============  =====================================================================================

May import everything but the command line.
"""

from __future__ import annotations

from refocusd.doctor.case import Case, Finding, Plan, parse_plan
from refocusd.doctor.examination import CHECKS, Check, examine

__all__ = ["CHECKS", "Case", "Check", "Finding", "Plan", "examine", "parse_plan"]
