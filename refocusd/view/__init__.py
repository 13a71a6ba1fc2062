"""The live view: a web page, metrics and health, in a process of its own.

A crash here, or fifty open pages, must not affect an acquisition. The view is
therefore a separate process of low priority. It polls the daemon's state, and
asks for pixels only while somebody watches.

===========  =======================================================================================
`__main__`   ``python -m refocusd.view``: the live view's process, started by the daemon or by hand
`client`     Client of the view's API, for programs: requests, streams, and the outcomes of frames
`command`    The flags of the view, and what they do: for the command line and for the daemon's child
`json_text`  JSON for the page
`process`    The view as a child of the daemon: started, kept alive, and never waited for
`serve`      The assembled view: link, datasets, jobs and web server
`frames/`    Frames for viewers: read from datasets, encoded for the page, saved as files
`http/`      The view's HTTP, on Starlette and uvicorn
`state/`     What the view knows about the daemon: one thread asks for it, all requests read it
===========  =======================================================================================

A thread (`state.link`) talks to the daemon, never the event loop that serves
the pages: asyncio cannot watch ZeroMQ's sockets on Windows.

The page is in ``static/``: plain HTML, CSS and JavaScript modules, without a
build step and without anything from the network.

May import everything but `daemon`, `demo` and `cli`.
"""
