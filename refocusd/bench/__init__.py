"""Measures engines: speed, memory and quality, against what the machine can do.

=============  =====================================================================================
`__main__`     ``python -m refocusd.bench``: a measuring process (`refocusd.processes.trial`)
`combination`  What is measured, and what was found
`machine`      Hardware, versions, and how busy others keep the computer
`measure`      One combination, or what a device can do at best, in the process that measures it
`plot`         Latency against the limit, as a picture
`session`      All combinations, in interleaved rounds; each round of each in a fresh process
`tuning`       The best tiles of an engine, measured and kept for `refocusd run`
=============  =====================================================================================

May import everything but `refocusd.cli` and `refocusd.doctor`.
"""
