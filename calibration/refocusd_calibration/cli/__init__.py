"""`refocusd calibrate ...` on the command line.

==========  ========================================================================================
`commands`  `refocusd calibrate ...`: the calibration package's part of the command line
`flags`     Flags that the measurements share, and the printing of their results
`outcome`   The end of every measurement: prints the figures, and writes JSON and the profile
==========  ========================================================================================
"""
