"""Sources of frames; each drives a `refocusd.transport.session.Session`.

===============  ===================================================================================
`buffer`         Frames between the hook and the feed's thread: a bounded buffer that copies each at most once
`cameras`        Frames of several cameras to which one acquisition gives the same axes
`feed`           Frames from the hooks to the daemon: a bounded buffer, and one thread that empties it
`feed_state`     State of one acquisition, shared by the hooks and the feed's thread
`feed_upload`    The feed's thread: submits the frames that the hooks put into the buffer
`focus_hook`     Moves the focus stage by the daemon's advice: only within the user's limits, and carefully
`focus_limits`   The limits of a focus correction, as set by the user's script
`from_disk`      Frames on disk, submitted to a daemon at given times or as fast as it takes them
`once`           Logs warnings only once that a source would otherwise repeat for every frame
`output_folder`  The output folder of an acquisition that keeps no raw data on disk
`pycromanager`   The hooks of a pycromanager acquisition
`pymmcore_plus`  The acquisitions of pymmcore-plus, which needs no Java
`raw_reader`     Reads frames of a dataset that an acquisition is writing, at the places that its index gives
`replay`         A recording, submitted to a daemon as if it were acquired now
`attached/`      ``python -m refocusd.sources.attached``: the process in which attached sources run
`folders/`       Folders where datasets appear: growing ones are followed, finished ones are named in the log
`micromanager/`  Micro-Manager's GUI over its Java bridge: acquisitions, live mode and snaps
===============  ===================================================================================

May import `datasets`, `processes`, `formats`, `transport`, `profiles`, `config`, `frame` and
`errors`.
"""
