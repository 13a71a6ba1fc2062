"""One sub-command per file: its help, its flags, and what it runs (`refocusd.cli.flags.Command`).

=========  =========================================================================================
`bench`    ``refocusd bench``: measure the engines on this computer
`config`   ``refocusd config``: print the settings in force, or write an example file
`ctl`      ``refocusd ctl``: show, pause or watch a running daemon
`demo`     ``refocusd demo``: try refocusd on a simulated microscope with a real MMCore
`doctor`   ``refocusd doctor``: check this computer, and say what to do
`export`   ``refocusd export``: write a dataset as OME-TIFF
`keys`     ``refocusd keys``: manage who may connect from another host, or as another user of this one
`models`   ``refocusd models``: list, add, remove, test and build models
`process`  ``refocusd process``: refocus finished datasets and recordings at full speed
`replay`   ``refocusd replay``: refocus a recorded stack as if it were acquired now
`report`   ``refocusd report``: write a page on what was done to a dataset, and which frames to look at
`resume`   ``refocusd resume``: refocus the pending and failed frames of a dataset
`run`      ``refocusd run``: start the daemon beside Micro-Manager
`verify`   ``refocusd verify``: prove that every frame of a dataset is accounted for
`view`     ``refocusd view``: watch raw and refocused frames live, in a browser or in napari
`worker`   ``refocusd worker``: refocus frames for a daemon on another host
=========  =========================================================================================
"""
