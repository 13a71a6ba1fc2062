"""The command line: one module a sub-command, each with `register`.

==========  ====================================================================
`main`      parses, runs, turns errors into one line and an exit status
`run`       the daemon
`replay`    recorded stacks through the same path
`demo`      a simulated microscope on a real MMCore
`models`    the shipped bundles
`show`      settings in force
`report`    what a run came to: counts, rates, latencies, quality
`console`   progress bars and tables
==========  ====================================================================

May import everything in `refocusd`.  `refocusd_training` and
`refocusd_calibration` add their sub-commands by entry point.
"""
