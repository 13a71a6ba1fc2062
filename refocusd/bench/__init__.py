"""Measures engines: speed, memory and quality, against what the machine can do.

=============  =====================================================================================
`__main__`     ``python -m refocusd.bench``: a measuring process (`refocusd.processes.trial`)
`combination`  What is measured, and what was found
`machine`      Hardware, versions, and how busy others keep the computer
`measure`      One combination, in the process that runs it
`plot`         Latency against the limit, as a picture
`rates`        Arithmetic and bytes a second of the device that an engine runs on
`session`      All combinations, in interleaved rounds; each round of each in a fresh process
`tuning`       The best tiles of an engine, measured and kept for `refocusd run`
`work`         Arithmetic and bytes of a network, counted from its graph
=============  =====================================================================================

May import everything but `refocusd.cli` and `refocusd.doctor`.
"""
