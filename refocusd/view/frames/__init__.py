"""Frames for viewers: read from datasets, encoded for the page, saved as a file.

==========  ========================================================================================
`datasets`  Any frame of the datasets that the daemon names, read from disk when asked for
`encode`    Frames as the page gets them: a JSON header, then raw counts of both frames
`snapshot`  Raw and refocused as one file to keep: a PNG to show, a TIFF to measure
==========  ========================================================================================
"""
