"""The live view: a web page, metrics and health, in a process of its own.

A crash here, or fifty open pages, must not touch an acquisition: so the view is
a separate process of low priority that asks the daemon for what it shows, and
asks for pixels only while somebody looks.

===============  ==============================================================
`options`        where it listens, and when it refuses to
`link`           one thread, one connection to the daemon
`board`          what the link learned last; requests wait here for news
`figures`        rates and percentiles, from one status to the next
`report`         the state as the page gets it, as JSON
`metrics`        the same for Prometheus, and health
`gpu`            memory and load of this host's NVIDIA devices
`datasets`       any frame of a dataset that the daemon names, from disk
`picture`        frames as the page gets them: a JSON header and raw counts
`snapshot`       raw and refocused as PNG or TIFF
`guard`          who may ask: Host, Origin, token
`query`          what is asked, checked
`routes`         which address answers what
`stream`         server-sent events
`server`         HTTP: connections, limits and time-outs
`serve`          all of it, put together
`command`        its flags
`process`        the view as a child of the daemon, kept alive
`napari_layers`  the same frames as two linked layers of napari
===============  ==============================================================

The page lies in ``static/``: plain HTML, CSS and JavaScript modules, without a
build step and without anything from the network.

May import everything but `daemon`, `demo` and `cli`.
"""
