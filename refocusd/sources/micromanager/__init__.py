"""Micro-Manager's GUI over its Java bridge: acquisitions, live mode and snaps.

==============  ====================================================================================
`acquisitions`  Acquisitions of Micro-Manager's GUI: taken whether or not they were seen to run
`bridge`        Micro-Manager's Java bridge: called by one thread at a limited rate, and watched by another
`coordinates`   The images that a growing acquisition may have: by its axes' lengths, minus those found
`engine`        What Micro-Manager's acquisition engine says about the acquisition that it ran last
`frames`        Frames of an acquisition that Micro-Manager keeps in memory, through its data provider
`live`          The live camera and snaps: the newest frame is shown in the view and written nowhere
`probe`         Finds out who answers on the bridge's port, before pyjavaz connects to it
`rate_limit`    Limits refocusd's use of the bridge: calls and bytes per second
`save_roots`    The folders in which Micro-Manager saves acquisitions, each watched by one thread
`source`        The sources that use Micro-Manager's bridge, in the one thread that owns it
`unseen`        Reports to the daemon acquisitions of which no frame could be had, so that none is missed silently
`values`        Values from Java as plain Python values
`viewers`       The windows of Micro-Manager that show data, each described once
==============  ====================================================================================
"""
