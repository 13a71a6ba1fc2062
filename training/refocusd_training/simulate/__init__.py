"""Simulates raw frames from a sharp image: specimen → optics → camera.

================  ==================================================================================
`blur`            Images a specimen through the objective, in focus and out of focus
`camera`          A scientific camera: converts expected light to counts
`depth`           Specimens with depth: layers at different depths, so that sharp and blurred parts mix
`imperfections`   Imperfections of real fields: vignetting, an uneven background, debris
`ranges`          The ranges that training draws from, and those that it never sees
`scene`           A raw frame and its truth, both in counts and in network units
`specimen`        Specimens: the light that a sharp image represents, without the scale of its camera
`structures`      Generated structures that are not nuclei: sharp images of filaments, membranes, puncta and textures
`torch_exposure`  Exposures on the device that trains: blur, camera and normalisation as torch operations
================  ==================================================================================

Uses only numpy and scipy; `torch_exposure` does the same on the training device.
"""
