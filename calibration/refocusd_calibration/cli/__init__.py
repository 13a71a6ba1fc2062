"""`refocusd calibrate ...` on the command line."""
