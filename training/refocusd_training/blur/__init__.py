"""Makes the network that estimates a frame's blur (`refocusd.imaging.blur`).

========  ==========================================================================================
`fit`     The network that tells a frame's blur by its features: simulated, fitted, measured
`frames`  Frames whose blur is known: sharp light, blurred, through a camera
`psfs`    Transfer functions of many kinds of PSF, all scaled to one width
========  ==========================================================================================

May import `data`, and the imaging of `refocusd`.
"""
