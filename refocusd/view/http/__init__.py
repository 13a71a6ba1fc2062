"""The view's HTTP, on Starlette and uvicorn.

==========  ==================================================================
`options`   where the view listens, and what it needs to listen elsewhere
`server`    uvicorn in a thread of its own, and the limits of a connection
`guard`     who may ask: Host, Origin, token, sizes
`app`       the page's files, and which address is answered by what
`status`    state, health, metrics, and the actions of the page
`events`    server-sent events
`frames`    pixels: previews, frames from disk, snapshots
`metrics`   the state for Prometheus
`query`     parameters of a request, checked
`answers`   JSON, binary and error answers
==========  ==================================================================

Each of `status`, `events` and `frames` gives its own list of routes: another
version of the interface is another list, put together in `app`.
"""
