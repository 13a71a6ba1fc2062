"""The process that owns one device: ``python -m refocusd.worker`` or ``refocusd worker``.

==========  ========================================================================================
`__main__`  ``python -m refocusd.worker``: started by the daemon, one process a device
`blurs`     What frames told of their blur, for the next frames of their kind
`order`     What a parent tells a new worker, as one JSON line on its standard input
`refocus`   One frame through an engine, what is said of it, and what is written
`remote`    A worker that nobody supervises: it finds its daemon again by itself
`session`   What every worker does, whoever started it: build an engine, introduce itself, take frames
`worker`    The loop of a worker: a task in, a refocused frame out
==========  ========================================================================================

May import everything up to `sources`; never `daemon`.
"""
