"""Child processes: started, supervised, and ended with their parent.

==================  ================================================================================
`background_log`    A log that never blocks its process: lines are queued, and a thread writes them
`child`             A child process: it is started with an order, watched, and ended within a bounded time
`daemon_process`    A daemon as a child process, which `demo` and `replay` start as a user would
`lifeline`          Ends this process when its parent has ended, for whatever reason
`order`             Orders of a parent to a child: one JSON line on its standard input, as a typed struct
`priority`          Lowers the priority of our processes, because the acquisition comes first
`self_calibration`  Measures the PSF on z-stacks of recordings, by running ``refocusd calibrate auto`` in a child process
`signals`           Requests to stop a process: signals, and on Windows the end of its console or session
`supervisor`        Keeps one child process alive: starts it, watches it, and restarts it after a back-off
`trial`             Carries out an order in a separate process, because it may crash, hang or leave traces
==================  ================================================================================

May import `formats`, `ledger`, `models`, `transport` and below.
"""
