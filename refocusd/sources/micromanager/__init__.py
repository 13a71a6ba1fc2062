"""Micro-Manager's GUI over its Java bridge: acquisitions, live mode and snaps.

==============  ================================================================
`source`        the thread that owns the bridge, and what runs in it
`acquisitions`  notices acquisitions, and whether they are saved to disk
`frames`        fetches those that are only in memory
`coordinates`   which images such an acquisition may have
`live`          the live camera and snaps
`bridge`        calls into Java, from one thread, watched from another
`rate_limit`    how much of the bridge refocusd may use
`probe`         who answers on the bridge's port
`values`        what Java says, as plain Python values
==============  ================================================================
"""
