"""Arithmetic on frames: optics, defocus, normalisation, quality.  No files, no sockets."""
