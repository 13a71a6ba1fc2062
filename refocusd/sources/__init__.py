"""Where frames come from; each source drives a `refocusd.transport.session.Session`.

===============  ===================================================================================
`buffer`         Frames between the hook and the feed's thread: bounded, and each copied once at most
`cameras`        Frames of several cameras to which one acquisition gives the same axes
`feed`           Frames from the hooks to the daemon: a bounded buffer, and one thread that empties it
`feed_state`     State of one acquisition, shared by the hooks and the feed's thread
`feed_upload`    The feed's thread: submits what the hooks left in the buffer
`focus_hook`     Moves the focus stage by the daemon's advice: only where it was allowed to, and carefully
`focus_limits`   The limits of a focus correction, as set by the user's script
`from_disk`      Frames on disk, submitted to a daemon at given times or as fast as it takes them
`once`           Warnings that a source would repeat for every frame: each is logged once
`output_folder`  The output folder of an acquisition that keeps no raw data on disk
`pycromanager`   The hooks of a pycromanager acquisition
`pymmcore_plus`  The acquisitions of pymmcore-plus, for those who left Java
`raw_reader`     Frames of a dataset that an acquisition is writing, by the places that its index names
`replay`         A recording, submitted to a daemon as if it was acquired now
`attached/`      ``python -m refocusd.sources.attached``: the process in which attached sources run
`folders/`       Folders where datasets appear: followed while they grow, offered when finished
`micromanager/`  Micro-Manager's GUI over its Java bridge: acquisitions, live mode and snaps
===============  ===================================================================================

May import `datasets`, `processes`, `formats`, `transport`, `profiles`, `config`, `frame` and
`errors`.
"""
