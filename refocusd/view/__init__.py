"""The live view: a web page, metrics and health, in a process of its own.

A crash here, or fifty open pages, must not touch an acquisition: so the view is
a separate process of low priority that asks the daemon for what it shows, and
asks for pixels only while somebody looks.

===========  =======================================================================================
`__main__`   ``python -m refocusd.view``: the live view's process, started by the daemon or by hand
`client`     A program's end of the view's API: requests, streams, and what became of frames as it happens
`command`    The flags of the view, and what they make it do: for the command line and the daemon's child
`json_text`  JSON as the page gets it
`process`    The view as a child of the daemon: started, kept alive, and never waited for
`serve`      The view, put together: link, datasets, server
`frames/`    Frames for viewers: read from datasets, encoded for the page, saved as a file
`http/`      The view's HTTP, on Starlette and uvicorn
`state/`     What the view knows of the daemon: asked by one thread, read by all requests
===========  =======================================================================================

The daemon is asked by a thread (`state.link`) and never by the event loop that
serves the pages: asyncio cannot watch ZeroMQ's sockets on Windows.

The page lies in ``static/``: plain HTML, CSS and JavaScript modules, without a
build step and without anything from the network.

May import everything but `daemon`, `demo` and `cli`.
"""
