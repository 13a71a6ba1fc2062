"""The daemon: one on an acquisition PC.

===============  ===================================================================================
`broker`         Passes messages and events to the parts of the daemon that act on them, in one thread
`control`        Answers control peers and views: status, previews, outcomes, a pause, catch-up
`daemon`         Assembles the daemon: sockets, ring, broker, writer, workers, catch-ups
`events`         Events that other threads report to the broker, and the queue that wakes it
`offline`        A daemon inside a command, for frames that are already on disk: `refocusd process` and `resume`
`peers`          The connected peers: the role of each, and when it was last heard
`acquisitions/`  Acquisitions in the daemon: they are opened, scheduled, caught up, closed and described
`output/`        What the daemon writes: refocused datasets with their ledgers, and previews
`workers/`       The daemon's side of the workers
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
find-unfinished    looks for acquisitions that an earlier daemon left unfinished;
                   lives until the raw data of all of them were found
ledger-copy        copies a ledger beside its output, once a minute
ZeroMQ             I/O threads of its contexts, and the authenticator of remote
                   workers (`transport.secure`)
=================  ============================================================

Other threads report to the broker through `events.EventQueue`, and the broker
gives jobs to the writer (`output.jobs`); they share no other state.

May import everything but `bench`, `cli`, `demo`, `doctor` and `view`.
"""
