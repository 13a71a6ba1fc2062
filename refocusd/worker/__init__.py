"""The process that owns one device: ``python -m refocusd.worker`` or ``refocusd worker``.

===========  ==================================================================
`worker`     the loop: a task in, a refocused frame out
`session`    an engine built, a daemon greeted, the loop until its end
`remote`     session after session, for a worker that nobody supervises
`order`      what the parent tells a new worker, on standard input
===========  ==================================================================

May import everything up to `engines` and `transport`; never `daemon`.
"""
