"""``refocusd doctor``: looks at everything a run needs, changes nothing, and says what to do.

Each check is a function of a `Case` that gives `Finding` objects.  None raises and none hangs:
`examine` runs each in a thread with a time limit, and what may crash or block inside a library
(an engine, a driver) runs in a process of its own.

==============  ========================================================
`finding`       what a check found, and what to do about it
`case`          what is looked at: settings, folder, planned acquisition
`examination`   the checks in order, each with its time limit
`machine`       Python, packages, memory, clock, anti-virus
`graphics`      NVIDIA devices, driver, backends
`engine`        which engine would be taken, and a frame through it
`memory_ring`   the shared ring, attached from another process
`network`       Micro-Manager's bridge, the daemon, ports
`disk`          ledgers, output folder, speed, room for a planned acquisition
`file_system`   which disk a folder lies on
`trial`         ``python -m refocusd.doctor.trial``: the other process
==============  ========================================================

May import everything but the command line.
"""

from __future__ import annotations

from refocusd.doctor.case import Case, Plan, parse_plan
from refocusd.doctor.examination import CHECKS, Check, examine
from refocusd.doctor.finding import Finding

__all__ = ["CHECKS", "Case", "Check", "Finding", "Plan", "examine", "parse_plan"]
