"""Micro-Manager's GUI over its Java bridge: acquisitions, live mode and snaps.

==============  ====================================================================================
`acquisitions`  Acquisitions that were started with Micro-Manager's own button
`bridge`        Micro-Manager's Java bridge, called from one thread, slowly, and watched from another
`coordinates`   Which images a growing acquisition may have: its axes' lengths, and what was not found yet
`frames`        Frames of an acquisition that Micro-Manager keeps in memory, through its data provider
`live`          The live camera and snaps: the newest frame is shown in the view and written nowhere
`probe`         Finds out who answers on the bridge's port, before pyjavaz connects to it
`rate_limit`    How much of the bridge refocusd may use: calls and bytes a second
`source`        The sources that live on Micro-Manager's bridge, in the one thread that owns it
`values`        What Java says, as plain Python values
==============  ====================================================================================
"""
