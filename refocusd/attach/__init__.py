"""Attached sources: they find acquisitions that nobody hooked, beside what the user runs.

They run in a process of their own and are to the daemon what any source is: a peer that
opens an acquisition, submits frames and closes it.  Each is a class with ``run(stop)``, which
never raises.  May import `refocusd.sources` and what lies below; never the daemon.

===================  ==========================================================
`follow`             folders where datasets appear, followed while they grow
`follow_scan`        which datasets there are, and which of them change
`follow_dataset`     one of them on its way to the daemon
`follow_daemon`      ... what the daemon is told and says of it
`growing`            datasets read while they are written
`growing_ndtiff`     ... NDTiff, by Micro-Manager or Python
`growing_stack`      ... Micro-Manager's OME-TIFF image stacks
`growing_opening`    ... whichever of the two it is
`growing_file`       ... a pre-sized TIFF, directory by directory
`offers`             finished datasets that were never refocused
`bridge`             Micro-Manager's Java side, through pyjavaz, from one thread
`bridge_probe`       ... whether it is there, and of which version
`bridge_pace`        ... how much may be asked of it
`bridge_values`      ... what it answers, as plain values
`bridge_delivery`    ... frames from it on their way to the daemon
`bridge_source`      what the sources below share
`studio`             acquisitions started with Micro-Manager's own button
`studio_box`         ... what its windows show
`studio_frames`      ... frames that are in its memory only
`live`               live mode and snaps, the newest wins, shown and not kept
`order`, `process`   the child processes that run all of these
===================  ==========================================================
"""
