"""Arithmetic on frames: optics, defocus, normalisation, quality.  No files, no sockets.

================  ==================================================================================
`blur`            Width of a frame's blur, in pixels, estimated from the frame alone
`deconvolve`      Richardson-Lucy deconvolution at the scale of the blur
`defocus`         Estimates how far out of focus a frame was, from the raw and the refocused frame
`field_evidence`  Evidence from a raw frame alone: its noise, its contrast, and what kind of picture it is
`hot_pixels`      Hot pixels: bright pixels that stand alone, as light that came through a lens never does
`known_blur`      Expected width of a frame's blur, from the microscope's optics and the distance from focus
`normalise`       Offset and scale of a whole frame: an engine sees (counts - offset) / scale
`optics`          Blur of an out-of-focus plane in a widefield fluorescence microscope
`pair_evidence`   Evidence from a raw frame and its refocused frame together: whether the refocused frame explains raw
`psf_shape`       The form of a PSF, apart from its width, from optics or from a measured PSF
`quality`         Measures how sharp a frame is, and how close a refocused frame comes to the truth
`reduction`       Reduces frames until their blur has a given width, and enlarges them again
`tiles`           Means over blocks and tiles of a frame, and how sharp each tile is
`trust_map`       Probability that a part of a refocused frame is wrong, for each cell of 16 by 16 px
================  ==================================================================================
"""
