"""The view's HTTP, on Starlette and uvicorn.

==========  ========================================================================================
`answers`   The answers that every address gives: JSON, bytes in pieces, and errors in words
`app`       Which address is answered by what: a Starlette application behind the guard
`events`    Server-sent events: the state as it changes, notices of new frames, and what became of each frame
`frames`    Pixels: the newest frame reduced, any frame from disk, and snapshots
`guard`     Who may ask: only pages that this view served itself, and programs on purpose
`jobs`      Jobs: commands that are started, watched and cancelled from the page, and what they are given
`metrics`   The state for Prometheus: text exposition format 0.0.4
`options`   Where the view listens, and what it needs to listen beyond this computer
`query`     What a request asks, checked: nothing else of it is believed
`server`    The view's web server: uvicorn in a thread of its own, with limits on every connection
`settings`  Settings that are chosen on the page: the daemon is started anew with them
`status`    The state of daemon and view: for the page, for programs, and what they can change
`streams`   Server-sent events: how they are written, to a bounded number of readers
==========  ========================================================================================

Each of `status`, `events` and `frames` gives its own list of routes: another
version of the interface is another list, put together in `app`.  ``openapi.json`` describes the
API; a test holds it against the routes and their answers.
"""
