"""What the view knows of the daemon: asked by one thread, read by all requests.

============  ================================================================
`link`        one thread, one connection to the daemon
`view_state`  what the link learned last, for every thread
`previews`    the newest frames, bounded
`event_log`   what a person should see: workers that end, a daemon that is gone
`figures`     rates and percentiles, from one status to the next
`report`      the state as the page gets it, and health
`gpu`         memory and load of this host's NVIDIA devices
============  ================================================================
"""
