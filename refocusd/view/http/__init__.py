"""The view's HTTP, on Starlette and uvicorn.

==========  ========================================================================================
`answers`   Answers that all addresses share: JSON, bytes in pieces, and errors in words
`app`       The addresses and what answers them: a Starlette application behind the guard
`events`    Server-sent events: the state as it changes, notices of new frames, and the outcome of each frame
`frames`    Pixels: previews of the newest frame, any frame from disk, and snapshots
`guard`     Guard: answers only pages that this view served itself, and programs that address it on purpose
`jobs`      The API's routes for jobs: start, watch and cancel commands, and the models and folders to choose
`metrics`   The state for Prometheus: text exposition format 0.0.4
`options`   Options of the view: where it listens, and what other computers need to reach it
`query`     The fields and the body of a request, checked
`server`    The view's web server: uvicorn in a thread of its own, with limits on every connection
`settings`  Settings that are chosen on the page; the daemon restarts with them
`status`    The API's routes for the state of daemon and view, and for what pages and programs can change
`streams`   Streams of server-sent events to a bounded number of readers
==========  ========================================================================================

`status`, `events`, `frames`, `jobs` and `settings` each give a list of routes, which `app` puts
together.  ``openapi.json`` describes the API; a test compares it with the routes and their answers.
"""
