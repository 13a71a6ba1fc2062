"""Frames for viewers: read from datasets, encoded for the page, saved as files.

==========  ========================================================================================
`datasets`  Any frame of the datasets that the daemon names, read from disk when asked for
`encode`    Frames as they are sent to the page: a JSON header, then the counts of both frames
`snapshot`  Raw and refocused in one file to keep: a PNG to show, or a TIFF to measure
==========  ========================================================================================
"""
