"""Tasks of Fractal, which runs them on images of OME-Zarr plates, in jobs of its own.

=================  =================================================================================
`compute_refocus`  A Fractal task's second part: refocuses one image of a plate
`init_refocus`     A Fractal task's first part: makes the refocused plates, and a job for each image
`task_list`        What Fractal's tools make `refocusd/__FRACTAL_MANIFEST__.json` from
=================  =================================================================================

Fractal runs each file as a program of its own, and takes the function that is named like the file.
After a change of a signature or a docstring here, renew the manifest with ``fractal-manifest create
--package refocusd --task-list-path cli.fractal.task_list``.

May import everything in `refocusd`.
"""
