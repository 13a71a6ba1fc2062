"""Makes the network that estimates a frame's blur (`refocusd.imaging.blur`).

========  ==========================================================================================
`fit`     Fits the network that estimates a frame's blur from its features, and measures its errors
`frames`  Simulates frames with a known blur: sharp light that is blurred and recorded by a camera
`psfs`    Transfer functions of many kinds of PSF, all scaled to one width
========  ==========================================================================================

May import `data`, and the imaging of `refocusd`.
"""
