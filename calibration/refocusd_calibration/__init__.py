"""Measures the microscope: camera, through-focus response, point spread function.

Writes the calibration profile (`refocusd.profiles.profile`) that training, normalisation and
verdicts read.

=============  =====================================================================================
`estimates`    Weighted fits and uncertainties that all measurements share
`measurement`  The result of every measurement: a section of the profile, checks and notes
`camera/`      The camera: gain, read noise, offset, hot pixels, flat field (EMVA 1288)
`cli/`         `refocusd calibrate ...` on the command line
`focus/`       Through-focus response: best focus, tilt, depth of field, backlash, drift
`profile/`     Profiles: written, shown, compared
`psf/`         The point spread function against defocus, from beads or matched planes
`stage/`       The microscope during a measurement: its moves are planned, checked and run
=============  =====================================================================================

Simulated cameras, specimens and beads of known truth are in `tests/support`.

May import `errors`, `frame`, `formats`, `imaging` and `profiles` of `refocusd`.
"""
