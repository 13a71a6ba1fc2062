"""Measures the microscope: camera, through-focus response, point spread function.

Writes the calibration profile (`refocusd.profiles.profile`) that training, normalisation and
verdicts read.

====================  =============================================================
`camera*`             dark and flat series: gain, noise, offset, linearity, maps
`focus*`              through-focus series: best focus, surface, backlash, drift
`psf*`                beads or matched planes: the kernel as a function of defocus
`moves`, `move_plan`  series on the microscope: planned, limited, run, verified
`microscope`          the core that a series runs on, left as it was found
`identity`            which microscope frames are of
`profiles`            sections, maps and raw data written into one profile
`compare`             two profiles: has the microscope drifted?
`report*`             a profile as a picture or a page
`simulate_*`          cameras and optics of known truth, to prove all this against
`*command*`, `flags`  the command line, ``refocusd calibrate``
====================  =============================================================

May import `errors`, `frame`, `optics`, `profile`, `quality` and `sources` of `refocusd`.
"""
