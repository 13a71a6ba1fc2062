"""The daemon: one on an acquisition PC.

Threads of the daemon's process, and what each owns:

=================  ============================================================
main               `daemon.Daemon`: starts and stops the others
broker             the sockets, the state of all acquisitions, the worker pool
                   (`broker`, `peers`, `control`, `acquisitions`, `workers`)
writer             refocused datasets and ledgers (`output`)
supervisor-N       one worker process each (`workers.processes`)
catch-up           one acquisition's raw data; lives until that is caught up
                   (`acquisitions.catch_up`)
find-unfinished    looks for what an earlier daemon left; lives for the start
ledger-copy        copies a ledger beside its output, once a minute
ZeroMQ             I/O threads of its contexts, and the authenticator of remote
                   workers (`transport.secure`)
=================  ============================================================

Other threads report to the broker through `events.EventQueue`, and the broker
gives jobs to the writer (`output.jobs`); they share no other state.

May import everything but `bench`, `cli`, `demo`, `doctor` and `view`.
"""
