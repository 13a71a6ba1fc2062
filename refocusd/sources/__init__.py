"""Where frames come from; each source drives a `refocusd.transport.session.Session`.

===============  ===============================================================
`pycromanager`   the hooks of a pycromanager acquisition (`Source`)
`pymmcore_plus`  the acquisitions of pymmcore-plus (`attach_mda`)
`feed`           what the hooks call: copies frames into a bounded buffer
`feed_state`     what hooks and the thread behind them know of one acquisition
`feed_upload`    the thread behind the hooks: hands over what is in the buffer
`cameras`        which camera took a frame, where several give frames of the same axes
`buffer`         the bounded buffer between the two
`raw_reader`     saved frames of a dataset that Micro-Manager's Java side is writing
`focus_hook`     moves the focus stage by the daemon's advice, where that is allowed
`focus_limits`   what it may do
`from_disk`      frames on disk, submitted at given times or as fast as possible
`replay`         a recording, submitted as if it was acquired now
`folders/`       datasets that are followed while they are written
`micromanager/`  Micro-Manager's GUI over its Java bridge: acquisitions, live, snaps
`attached/`      the process in which the last two run
`output_folder`  names for outputs of acquisitions that keep no raw data
`once`           warnings that are logged once
===============  ===============================================================

May import `datasets`, `processes`, `formats`, `transport`, `profiles`, `config`, `frame` and
`errors`.
"""
