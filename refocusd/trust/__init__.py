"""What refocused frames tell of the microscope: how far it is out of focus, and which way.

==========  ==================================================================
`defocus`   one frame: distance from focus, by the spectra before and after
`advice`    many frames: which way, how surely, and how fast it drifts
==========  ==================================================================

May import `refocusd.frame`, `errors`, `optics`, `quality` and `profile` only.  `defocus`
needs SciPy, and so is imported where a frame is looked at, not by every peer of the wire.
"""
