"""One sub-command a file; each adds itself to the parser with `register`.

=========  =========================================================================================
`bench`    ``refocusd bench``: how fast this computer is, beside what it could be
`config`   ``refocusd config``: the settings in force, and a commented example of all
`ctl`      ``refocusd ctl``: a running daemon's state and switches, through the API of its live view
`demo`     ``refocusd demo``: the main job on a simulated microscope, from MMCore to the picture
`doctor`   ``refocusd doctor``: what works here, and what to do about the rest
`export`   ``refocusd export``: a dataset as OME-TIFF
`keys`     ``refocusd keys``: who may connect a worker from another host, and which other users of this one
`models`   ``refocusd models``: list, show, add, remove, test and build model bundles
`process`  ``refocusd process``: finished datasets and recordings, from scratch at full speed
`replay`   ``refocusd replay``: recorded stacks through the same path as live frames
`report`   ``refocusd report``: what was done to a dataset, for its readers and reviewers
`resume`   ``refocusd resume``: finishes what is pending or failed
`run`      ``refocusd run``: the daemon
`verify`   ``refocusd verify``: proves frame by frame that nothing is lost or altered
`view`     ``refocusd view``: the live view beside a running daemon, as a page or in napari
`worker`   ``refocusd worker``: a worker on another host, or run by hand on this one
=========  =========================================================================================
"""
