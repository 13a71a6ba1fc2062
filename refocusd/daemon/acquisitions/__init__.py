"""One acquisition in the daemon: opened, scheduled, caught up, closed, described.

===================  ===============================================================================
`blur_memory`        The blur measured on the frames of one microscope, kept from one acquisition to the next
`catch_up`           Catch-up: frames that could not be refocused live, from the raw dataset
`checks`             What a message must satisfy, beyond its type, before the broker acts on it
`focus_monitor`      Which frames are measured for focus, and the advice that follows for each field
`focus_tracker`      How far to move the stage, and in which direction: many distances from focus, put together
`intake`             Receives what sources and catch-ups send: acquisitions, frames, missed frames, and their end
`known_blurs`        What is known about a frame's blur before a worker sees the frame
`lifecycle`          From the announcement of an acquisition to its end: what follows from each event
`registry`           All open acquisitions and the frames in the daemon: the one owner of their state
`run_id`             What identifies a run: everything that determines the pixels of its frames
`saved_frames`       Frames that sources have on disk: read into their slots, by one thread an acquisition
`scheduler`          Who gets the ring's slots, and which of the waiting frames goes to a worker next
`self_calibrations`  Measures the PSF on an acquired z-stack, for the next acquisitions of the same microscope
`shared_blurs`       The blur that the positions of an acquisition share, by channel and plane
`state`              An acquisition while it is open: its state machine, its lanes, its frames, its counts
`statistics`         Totals since the daemon started.  Their size does not grow with the number of frames
`unfinished`         Acquisitions that an earlier daemon left unfinished, from the marks beside the ledgers
===================  ===============================================================================
"""
