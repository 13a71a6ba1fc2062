"""One acquisition in the daemon: opened, scheduled, caught up, closed, described.

================  =============================================================
`state`           an acquisition, its lanes and tasks, and its state machine
`registry`        all open acquisitions and tasks: the one owner of their state
`scheduler`       who gets the ring's slots, and which frame goes next
`intake`          what sources and catch-ups send
`lifecycle`       what follows from that, until the last frame is on disk
`catch_up`        threads that read from raw what could not be done live
`unfinished`      what an earlier daemon left
`focus_monitor`   which frames are measured for focus, and the advice that follows
`focus_tracker`   the focus of one field, from many estimates
`checks`          messages that are refused
`run_id`          what identifies a run
`statistics`      totals since the daemon started
================  =============================================================
"""
