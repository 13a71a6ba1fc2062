"""Measures engines: speed, memory and quality, and speed relative to the machine's limit.

=============  =====================================================================================
`__main__`     ``python -m refocusd.bench``: a measuring process (`refocusd.processes.trial`)
`combination`  Orders to measuring processes, and their results
`machine`      Hardware, versions, and how busy other programs keep the computer
`measure`      Measures one combination, or the best rates of a device, in the measuring process
`plot`         Plots the time per frame against the limit
`session`      Measures all combinations in interleaved rounds, each in a fresh process
`tuning`       Measures the best tiles of an engine, and stores them for `refocusd run`
=============  =====================================================================================

May import everything but `refocusd.cli` and `refocusd.doctor`.
"""
