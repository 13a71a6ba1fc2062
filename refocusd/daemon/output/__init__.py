"""What the daemon writes: refocused datasets with their ledgers, and previews.

===========  ====================================================
`jobs`       what the writer is asked to do
`writer`     the thread that does it, one job after the other
`dataset`    an open acquisition on disk: refocused frames and ledger
`folder`     which folder a run is written to
`metadata`   the metadata of a refocused frame
`preview`    the newest frame, reduced, for views
===========  ====================================================
"""
