"""Where frames come from.

==============  ================================================================
`pycromanager`  the hooks of a pycromanager acquisition (`Source`)
`feed`          what stands behind the hooks: a bounded buffer and one thread
`focus_hook`    moves the focus stage by the daemon's advice, where that is allowed
`raw_reader`    frames of a dataset that Micro-Manager's Java side is writing
`recording/`    recorded stacks: TIFF, NDTiff, folders
`replay`        a recording, submitted at a chosen rate
==============  ================================================================

May import `errors`, `frame`, `config`, `quality`, `transport`.
"""
