"""`refocusd calibrate ...` on the command line.

==========  ========================================================================================
`commands`  `refocusd calibrate ...`: the calibration package's part of the command line
`flags`     Flags that the measurements share, and what is done with them at the end
`outcome`   What every measurement ends with: figures printed, JSON written, the profile written or refused
==========  ========================================================================================
"""
