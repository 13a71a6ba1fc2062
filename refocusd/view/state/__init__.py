"""What the view knows about the daemon: one thread asks for it, all requests read it.

============  ======================================================================================
`alerts`      Posts alerts to one URL, for when nobody watches: JSON that says what is wrong
`figures`     Rates and percentiles of the last seconds, from the difference of two statuses of the daemon
`gpu`         Memory and load of this host's NVIDIA GPUs, from the driver (NVML)
`job_order`   Order for a job: one of refocusd's own commands, with the options that a page may choose
`jobs`        Jobs: refocusd's own commands, run for users of the page instead of in a terminal
`link`        The connection to the daemon, in one thread: asks for its state, outcomes and newest frame
`previews`    Previews of the newest frames: one for each channel, slice and position
`report`      The state of daemon and view for the page: one JSON object
`view_state`  The latest state that the link received: written by one thread, read by all requests
============  ======================================================================================
"""
