"""Makes the network that estimates a frame's blur (`refocusd.imaging.blur`).

==========  ====================================================================
`psfs`      transfer functions of many kinds, scaled to one width
`frames`    frames blurred by a known width, as a camera would see them
`fit`       the network fitted on their features, and its errors
==========  ====================================================================

May import `data`, and the imaging of `refocusd`.
"""
