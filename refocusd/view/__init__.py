"""The live view: a web page, metrics and health, in a process of its own.

A crash here, or fifty open pages, must not touch an acquisition: so the view is
a separate process of low priority that asks the daemon for what it shows, and
asks for pixels only while somebody looks.

===============  ==============================================================
`state`          what the daemon said last, and the thread that asks it
`frames`         pixels: datasets on disk, what the page gets, snapshots
`http`           the web server, its limits, its guard and its addresses
`serve`          all of it, put together
`command`        its flags
`process`        the view as a child of the daemon
`napari_layers`  the same frames as two linked layers of napari
===============  ==============================================================

The daemon is asked by a thread (`state.link`) and never by the event loop that
serves the pages: asyncio cannot watch ZeroMQ's sockets on Windows.

The page lies in ``static/``: plain HTML, CSS and JavaScript modules, without a
build step and without anything from the network.

May import everything but `daemon`, `demo` and `cli`.
"""
