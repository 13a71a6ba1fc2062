"""The point spread function against defocus, from beads or matched planes.

===================  ===============================================================================
`automatic`          Measures the PSF on the z-stacks of a recording, without a user
`automatic_command`  `refocusd calibrate auto`: measures the PSF on z-stacks; run by the daemon and `refocusd process`
`average`            Averages beads to one radial profile per plane, registered to a fraction of a pixel
`beads`              Finds beads that can be measured: single, whole, not saturated, and sharpest at the common focus
`checks`             Conditions that a measured PSF must meet to be valid
`command`            `refocusd calibrate psf`: measures beads or matched planes, recorded ones or ones taken now
`fit`                Fits a law of blur to the observed values, with uncertainties from the replicates
`laws`               Three laws of how a point blurs with defocus, as radial functions that can be fitted
`measure`            Measures the defocus kernel as a function of the distance from focus, from beads or matched planes
`observed`           The observed blur, in a form that any law can be fitted to
`spectra`            Measures the blur without beads: spectra of defocused planes relative to the in-focus plane
`stack`              Planes of one field at known stage positions, from which the PSF is measured
`width`              Measures the width of each kernel, and how it differs between the two sides of focus
===================  ===============================================================================
"""
