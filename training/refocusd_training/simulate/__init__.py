"""Simulates raw frames from a sharp image: specimen → optics → camera.

================  ==================================================================================
`blur`            The image of a specimen through the objective, in focus and out of focus
`camera`          A scientific camera: converts expected light to counts
`depth`           Specimens with depth: layers at different depths, so that sharp and blurred parts mix
`imperfections`   What real fields have besides the specimen: vignetting, an uneven background, debris
`implied_blur`    The blur that frames out of focus imply, from frames of other fields in focus
`plate`           The simulator's model of the BBBC006 microscope, fitted to the real plate
`ranges`          The ranges that training draws from, and those that it never sees
`scene`           A raw frame and its truth, both in counts and in network units
`specimen`        Specimens: the light that a sharp image represents, without the scale of its camera
`statistics`      Statistics of frames that a simulator must reproduce: spectra, and noise as a function of light
`structures`      Generated structures that are not nuclei: sharp images of filaments, membranes, puncta and textures
`torch_exposure`  Exposures on the device that trains: blur, camera and normalisation as torch operations
================  ==================================================================================

Uses only numpy and scipy; `torch_exposure` does the same on the training device.
"""
