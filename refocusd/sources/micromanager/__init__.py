"""Micro-Manager's GUI over its Java bridge: acquisitions, live mode and snaps.

==============  ====================================================================================
`acquisitions`  Acquisitions of Micro-Manager's GUI: what exists is taken, whether or not it was seen to run
`bridge`        Micro-Manager's Java bridge, called from one thread, slowly, and watched from another
`coordinates`   Which images a growing acquisition may have: its axes' lengths, and what was not found yet
`engine`        What Micro-Manager's acquisition engine says of the acquisition that it ran last
`frames`        Frames of an acquisition that Micro-Manager keeps in memory, through its data provider
`live`          The live camera and snaps: the newest frame is shown in the view and written nowhere
`probe`         Finds out who answers on the bridge's port, before pyjavaz connects to it
`rate_limit`    How much of the bridge refocusd may use: calls and bytes a second
`save_roots`    The folders in which Micro-Manager saves acquisitions, each watched by one thread
`source`        The sources that live on Micro-Manager's bridge, in the one thread that owns it
`unseen`        Tells the daemon of acquisitions of which no frame could be had, so that none is missed in silence
`values`        What Java says, as plain Python values
`viewers`       The windows of Micro-Manager that show data, each described once
==============  ====================================================================================
"""
