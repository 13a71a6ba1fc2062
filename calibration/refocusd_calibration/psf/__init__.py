"""The point spread function against defocus, from beads or matched planes.

===================  ===============================================================================
`automatic`          Measures the PSF on the z-stacks of a recording, without anybody's help
`automatic_command`  `refocusd calibrate auto`: what the daemon and `refocusd process` run by themselves on z-stacks
`average`            Averages beads to one kernel per plane: registered to a fraction of a pixel, as radial profiles
`beads`              Finds beads that can be measured: single, in the focus of the series, whole and not saturated
`checks`             Conditions that a measured PSF must meet to be valid
`command`            `refocusd calibrate psf`: beads or matched planes, taken now or recorded before
`fit`                Fits a law of blur to what was observed, with uncertainties from the replicates
`laws`               How a point blurs with defocus: three laws, as radial functions that can be fitted
`measure`            The defocus kernel as a function of micrometres, from beads or from matched planes
`observed`           The observed blur, in a form that any law can be fitted to
`spectra`            Measures the blur without beads: spectra of defocused planes relative to the in-focus plane
`stack`              Planes of one field at known stage positions, from which the PSF is measured
`width`              Measures the width of each kernel, and how it differs between the two sides of focus
===================  ===============================================================================
"""
