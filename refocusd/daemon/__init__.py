"""The daemon: one on an acquisition PC.

===============  ===================================================================================
`broker`         One thread, one socket: passes messages and events to those who act on them
`control`        What control peers and views ask for: status, previews, a pause, catch-up
`daemon`         The daemon, put together: sockets, ring, broker, writer, workers, catch-ups
`events`         What other threads report to the broker, and the queue that wakes it
`offline`        A daemon inside a command, for frames that lie on disk already: `refocusd process` and `resume`
`peers`          Who is connected: the role of each peer, and when it was last heard
`acquisitions/`  Acquisitions in the daemon: they are opened, scheduled, caught up, closed and described
`output/`        What the daemon writes: refocused datasets with their ledgers, and previews
`workers/`       The daemon's workers
===============  ===================================================================================

Threads of the daemon's process, and what each owns:

=================  ============================================================
main               `daemon.Daemon`: starts and stops the others
broker             the sockets, the state of all acquisitions, the worker pool
                   (`broker`, `peers`, `control`, `acquisitions`, `workers`)
writer             refocused datasets and ledgers (`output`)
supervisor-N       one worker process each (`workers.processes`)
catch-up           one acquisition's raw data; lives until that is caught up
                   (`acquisitions.catch_up`)
find-unfinished    looks for what an earlier daemon left; lives until all raw
                   data are there
ledger-copy        copies a ledger beside its output, once a minute
ZeroMQ             I/O threads of its contexts, and the authenticator of remote
                   workers (`transport.secure`)
=================  ============================================================

Other threads report to the broker through `events.EventQueue`, and the broker
gives jobs to the writer (`output.jobs`); they share no other state.

`offline` is a daemon inside `refocusd process` and `resume`, for frames that lie on disk.

May import everything but `bench`, `cli`, `demo`, `doctor` and `view`.
"""
