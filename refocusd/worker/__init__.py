"""The process that owns one device: ``python -m refocusd.worker`` or ``refocusd worker``.

===========  ==================================================================
`worker`     the loop: a task in, a refocused frame out
`session`    an engine built, a daemon greeted, the loop until its end
`remote`     session after session, for a worker that nobody supervises
`lifeline`   ends the process when its parent is gone
`keeper`     the parent's side of other children: the view, attached sources
`priority`   lets the acquisition go first
`order`      what the parent tells a new worker, on standard input
===========  ==================================================================

May import everything up to `engines` and `transport`; never `daemon`.
"""
