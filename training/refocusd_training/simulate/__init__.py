"""Simulates raw frames from a sharp image: specimen → optics → camera.

============  =============================================================
`specimen`    flux of a sharp image, with windows cut out of it
`blur`        what the objective makes of it at a defocus, in and out of focus
`depth`       specimens of several layers, each at a depth of its own
`camera`      counts: offset, gain, shot noise, read noise, hot pixels, saturation
`ranges`      what training draws from, and what evaluation uses instead
`scene`       all of it together: a raw frame and the truth behind it
`plate`       the microscope of BBBC006, fitted to its fields
`statistics`  what simulated and real frames are compared by
============  =============================================================

Uses only numpy and scipy; `torch_exposure` does the same on the training device.
"""
