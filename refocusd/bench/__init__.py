"""Measures engines: speed, memory and quality, against what the machine can do.

==============  ==============================================================
`combination`   what is measured, and what was found
`work`          arithmetic and bytes of a network, counted from its graph
`rates`         arithmetic and bytes a second of the device
`machine`       hardware, versions, and how busy others keep it
`measure`       one combination, in the process that runs it
`session`       all combinations, each round of each in a fresh process
`plot`          latency against the limit, as a picture
==============  ==============================================================

May import everything but `refocusd.cli` and `refocusd.doctor`.
"""
