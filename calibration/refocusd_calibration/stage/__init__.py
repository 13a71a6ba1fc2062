"""Plans, checks and runs the moves of the microscope during a measurement.

============  ======================================================================================
`microscope`  Finds or starts the microscope that a measurement runs on, and restores its state
`moves`       Runs the moves of a measurement on the microscope, and verifies them
`plan`        The planned moves of a microscope, checked and printed before anything moves
`z_series`    Takes a z series on the microscope: its flags, its planes and its moves
`z_sweeps`    Assigns the frames of through-focus recordings to planes and sweeps
============  ======================================================================================
"""
