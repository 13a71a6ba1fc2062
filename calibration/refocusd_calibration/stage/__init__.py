"""The microscope that is measured on: its moves, planned, checked and run.

============  ======================================================================================
`microscope`  The microscope that a measurement runs on: found, or started, and left as it was
`moves`       Moves of a microscope for a measurement: planned, printed, checked, run, verified
`plan`        Moves of a microscope, as a plan: what is checked and printed before anything moves
`z_series`    A z series on the microscope: its flags, its planes, and how it is taken
`z_sweeps`    Through-focus series: which frames of recordings are which plane of which sweep
============  ======================================================================================
"""
