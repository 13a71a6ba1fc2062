"""Child processes: started, supervised, and ended with their parent.

================  ==================================================================
module            what lives there
================  ==================================================================
`child`           one process, its order on standard input, and its orderly end
`supervisor`      keeps one child alive; restarts it after a back-off
`order`           what a parent tells a child: one JSON line, typed
`trial`           one order carried out in a process of its own, with a report
`lifeline`        how a child notices that its parent is gone
`priority`        how a child leaves the processor to the acquisition
`daemon_process`  ``refocusd run`` as a child, for `demo` and `replay`
`background_log`  log lines are queued; a thread writes them, so that nothing waits
`signals`         an event that Ctrl-C and the like set
================  ==================================================================

May import `formats`, `ledger`, `models`, `transport` and below.
"""
