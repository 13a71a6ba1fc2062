"""The microscope during a measurement: its moves are planned, checked and run.

============  ======================================================================================
`microscope`  Finds or starts the microscope that a measurement runs on, and restores its state
`moves`       Runs the moves of a measurement on the microscope, and verifies them
`plan`        The planned moves of a microscope, checked and printed before anything moves
`z_series`    A z series on the microscope: its flags, its planes, and how it is taken
`z_sweeps`    Through-focus series: assigns the frames of recordings to planes and sweeps
============  ======================================================================================
"""
