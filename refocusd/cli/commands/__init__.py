"""One sub-command a file: its texts, its flags, and what it runs (`refocusd.cli.flags.Command`).

=========  =========================================================================================
`bench`    ``refocusd bench``: measures how fast this computer is, and compares it with what it could be
`config`   ``refocusd config``: prints the settings in force, or writes a commented example of all
`ctl`      ``refocusd ctl``: shows and changes a running daemon's state, through the API of its live view
`demo`     ``refocusd demo``: refocuses acquisitions of a simulated microscope, from MMCore to the picture
`doctor`   ``refocusd doctor``: says what works on this computer, and what to do about the rest
`export`   ``refocusd export``: writes a dataset as OME-TIFF
`keys`     ``refocusd keys``: manages who may connect from another host, or as another user of this one
`models`   ``refocusd models``: list, show, add, remove, test and build model bundles
`process`  ``refocusd process``: finished datasets and recordings, from scratch at full speed
`replay`   ``refocusd replay``: recorded stacks through the same path as live frames
`report`   ``refocusd report``: documents what was done to a dataset, for its readers and reviewers
`resume`   ``refocusd resume``: finishes what is pending or failed
`run`      ``refocusd run``: the daemon
`verify`   ``refocusd verify``: proves frame by frame that nothing was lost or altered
`view`     ``refocusd view``: shows the frames of a running daemon live, as a page or in napari
`worker`   ``refocusd worker``: runs a worker on another host, or by hand on this one
=========  =========================================================================================
"""
