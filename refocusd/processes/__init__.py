"""Child processes: started, supervised, and ended with their parent.

================  ==================================================================================
`background_log`  A log that never makes its process wait: lines are queued, and one thread writes them
`child`           One child process: started with an order, watched, and ended within a bounded time
`daemon_process`  A daemon as a child process: what `demo` and `replay` start, as a user would
`lifeline`        Ends this process when its parent is gone, however the parent ended
`order`           What a parent tells a child: one JSON line on its standard input, as a typed struct
`priority`        The acquisition comes first: our processes take the processor after it
`signals`         What asks a process to stop: signals, and on Windows the end of its console or session
`supervisor`      Keeps one child process alive: starts it, watches it, restarts it after a back-off
`trial`           One order carried out in a process of its own: what may crash, hang, or leave traces
================  ==================================================================================

May import `formats`, `ledger`, `models`, `transport` and below.
"""
