"""Measures the microscope: camera, through-focus response, point spread function.

Writes the calibration profile (`refocusd.profiles.profile`) that training, normalisation and
verdicts read.

===============  =====================================================================
`camera`         dark and flat series: gain, noise, offset, linearity, maps
`focus`          through-focus series: best focus, surface, backlash, drift
`psf`            beads or matched planes: the kernel as a function of defocus
`stage`          series on the microscope: planned, limited, run, verified; and z series
                 read back from recordings
`profile`        sections, maps and raw data in one profile; reports; comparison
`measurement`    what every measurement results in: section, checks, notes
`cli`            the command line, ``refocusd calibrate``
===============  =====================================================================

Each of `camera`, `focus` and `psf` has a `simulate` module of known truth.

May import `errors`, `frame`, `formats`, `imaging` and `profiles` of `refocusd`.
"""
