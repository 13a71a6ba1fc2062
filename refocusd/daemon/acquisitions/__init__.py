"""One acquisition in the daemon: opened, scheduled, caught up, closed, described.

===================  ===============================================================================
`catch_up`           Catch-up: frames that could not be refocused live, from the raw dataset
`checks`             What a message must satisfy, beyond its type, before the broker acts on it
`intake`             Receives what sources and catch-ups send: acquisitions, frames, missed frames, and their end
`lifecycle`          From the announcement of an acquisition to its end: what follows from each event
`registry`           All open acquisitions and the frames in the daemon: the one owner of their state
`run_id`             What identifies a run: everything that determines the pixels of its frames
`saved_frames`       Frames that sources have on disk: read into their slots, by one thread an acquisition
`scheduler`          Who gets the ring's slots, and which of the waiting frames goes to a worker next
`self_calibrations`  Measures the PSF on an acquired z-stack, for the next acquisitions of the same microscope
`state`              An acquisition while it is open: its state machine, its lanes, its frames, its counts
`statistics`         Totals since the daemon started.  Their size does not grow with the number of frames
`unfinished`         Acquisitions that an earlier daemon left unfinished, from the marks beside the ledgers
`blur/`              What is known of the frames' blur before a worker sees them
`focus/`             The stage's distance from focus: which frames are measured, and the advice that follows
===================  ===============================================================================
"""
