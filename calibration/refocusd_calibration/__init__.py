"""Measures the microscope: camera, through-focus response, point spread function.

Writes the calibration profile that training, normalisation and verdicts read.
Nothing is in here yet; until there is a profile the documented defaults apply,
and each frame's metadata says so (``"calibration": null``).
"""
