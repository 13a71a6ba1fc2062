"""The process that owns one device: ``python -m refocusd.worker`` or ``refocusd worker``.

==========  ========================================================================================
`__main__`  ``python -m refocusd.worker``: the daemon starts one such process per device
`blurs`     Keeps the blur that was measured in earlier frames, for the next frames of the same stream
`order`     The order that a parent gives to a new worker, as one JSON line on its standard input
`refocus`   Refocuses one frame, judges the result, and decides what is written
`remote`    A worker without a supervisor: it reconnects to its daemon by itself
`session`   What all workers have in common: they build an engine, announce themselves, and process frames
`worker`    The loop of a worker: it receives tasks and returns refocused frames
==========  ========================================================================================

May import everything up to `sources`; never `daemon`.
"""
