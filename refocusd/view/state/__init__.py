"""What the view knows of the daemon: asked by one thread, read by all requests.

============  ======================================================================================
`alerts`      Sends alerts to one URL, for when nobody looks: JSON that says what is wrong
`figures`     Rates and percentiles of the last seconds, from one status of the daemon to the next
`gpu`         Memory and load of this host's NVIDIA devices, from the driver (NVML)
`job_order`   Order for a job: one of the product's own commands, with what the page may choose of it
`jobs`        Jobs: the product's own commands, run for those who look at the page instead of at a terminal
`link`        One thread, one connection: asks the daemon how it is, and for its newest frame
`previews`    The newest frames, reduced: one for each channel, slice and position
`report`      The state of daemon and view, as the page gets it: one JSON object
`view_state`  What the link learned last: written by one thread, read by all requests
============  ======================================================================================
"""
