"""`refocusd calibrate ...` on the command line.

==========  ========================================================================================
`commands`  `refocusd calibrate ...`: the calibration package's part of the command line
`flags`     Flags that the measurements share, and the printing of their results
`outcome`   End of every measurement: figures are printed, JSON and the profile are written
==========  ========================================================================================
"""
