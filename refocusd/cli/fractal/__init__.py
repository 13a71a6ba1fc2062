"""Fractal tasks: Fractal runs them on the images of OME-Zarr plates, in its own jobs.

=================  =================================================================================
`compute_refocus`  A Fractal task's second part: refocuses one image of a plate
`init_refocus`     A Fractal task's first part: makes the refocused plates, and a job for each image
`task_list`        The tasks from which Fractal's tools make `refocusd/__FRACTAL_MANIFEST__.json`
=================  =================================================================================

Fractal runs each file as a program of its own, and calls the function named after the file.
After a change of a signature or a docstring here, renew the manifest with ``fractal-manifest create
--package refocusd --task-list-path cli.fractal.task_list``.

May import everything in `refocusd`.
"""
