"""The daemon: one on an acquisition PC.

=============  ================================================================
`daemon`       the whole, put together: start, stop
`broker`       one thread, one socket: who sends what to whom
`books`        what the broker knows of acquisitions, workers and tasks
`desk`         acquisitions: opened, credited, closed, caught up
`crew`         workers: who is ready, who holds which frame
`focus_watch`  which frames are looked at for their focus, and what that says
`checks`       what is refused before it is believed
`writer`       one thread: sinks and ledgers
`supervisor`   worker processes, kept alive
`catchup`      refocuses from raw what could not be done live
`mailbox`      how these threads tell the broker something
`process`      a daemon as a child process, for `demo` and `replay`
=============  ================================================================

May import everything but `demo` and `cli`.
"""
