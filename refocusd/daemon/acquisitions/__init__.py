"""Acquisitions in the daemon: they are opened, scheduled, caught up, closed and described.

===================  ===============================================================================
`catch_up`           Catch-up: submits frames that could not be refocused live, from the raw dataset
`checks`             What a message must satisfy, beyond its type, before the broker acts on it
`intake`             Receives what sources and catch-ups send: acquisitions, frames, missed frames, and their end
`lifecycle`          Moves acquisitions from their announcement to their end, in response to each event
`registry`           Owns the state of all open acquisitions and of the frames in the daemon
`run_id`             Identifies a run by everything that determines the pixels of its frames
`saved_frames`       Reads frames that sources have on disk into their slots, in one thread per acquisition
`scheduler`          Decides who gets the ring's slots, and which of the waiting frames goes to a worker next
`self_calibrations`  Measures the PSF on an acquired z-stack, for the next acquisitions of the same microscope
`state`              State of an open acquisition: its state machine, lanes, frames and counts
`statistics`         Totals since the daemon started.  Their size does not grow with the number of frames
`unfinished`         Finds acquisitions that an earlier daemon left unfinished, by the marks beside the ledgers
`blur/`              What is known about the blur of frames before a worker sees them
`focus/`             The stage's distance from focus: which frames are measured, and the advice that follows
===================  ===============================================================================
"""
