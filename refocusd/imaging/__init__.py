"""Arithmetic on frames: optics, defocus, normalisation, quality.  No files, no sockets.

================  ==================================================================================
`blur`            Width of a frame's blur, in pixels, estimated from the frame alone
`deconvolve`      Richardson-Lucy deconvolution at the scale of the blur
`defocus`         Estimates how far out of focus a frame was, from the raw and the refocused frame
`field_evidence`  Evidence from a raw frame alone: its noise, its contrast, and what kind of picture it is
`hot_pixels`      Pixels that stand alone: no light that came through a lens does
`known_blur`      How wide a frame's blur must be, by what is known of the microscope and of the distance from focus
`normalise`       Offset and scale of a whole frame: an engine sees (counts - offset) / scale
`optics`          Blur of an out-of-focus plane in a widefield fluorescence microscope
`pair_evidence`   Evidence from a raw frame and its refocused frame together: whether the one explains the other
`psf_shape`       The form of a PSF apart from its width: what optics, or a measured PSF, tell that one number cannot
`quality`         Measures how sharp a frame is, and how close a refocused frame comes to the truth
`reduction`       Frames made smaller until their blur has a given width, and made large again
`tiles`           Frames by tile: means of blocks and of tiles, and how sharp each tile is
`trust_map`       How likely each part of a refocused frame is wrong: one value for each cell of 16 by 16 px
================  ==================================================================================
"""
