"""Measures the microscope: camera, through-focus response, point spread function.

Writes the calibration profile (`refocusd.profiles.profile`) that training, normalisation and
verdicts read.

=============  =====================================================================================
`estimates`    Weighted fits and uncertainties for all measurements
`measurement`  The result of every measurement: a section of the profile, checks and notes
`camera/`      The camera: gain, read noise, offset, hot pixels, flat field (EMVA 1288)
`cli/`         `refocusd calibrate ...` on the command line
`focus/`       Through-focus response: best focus, tilt, depth of field, backlash, drift
`profile/`     Writes, shows and compares profiles
`psf/`         The point spread function against defocus, from beads or matched planes
`stage/`       Plans, checks and runs the moves of the microscope during a measurement
=============  =====================================================================================

Simulated cameras, specimens and beads of known truth are in `tests/support`.

May import `errors`, `frame`, `formats`, `imaging` and `profiles` of `refocusd`.
"""
