"""Training data: makes batches from images, plates and stacks.

===============  ===================================================================================
`archive`        Extracts the images of one archived plane safely
`bbbc006`        Plates of BBBC006: real pairs of an out-of-focus plane and plane 16
`bbbc038`        BBBC038 version 1 (Caicedo et al., Nature Methods 16, 1247, 2019; CC0): nuclei
`config`         The data of a training run: the ``[data]`` table of its configuration
`download`       Downloads one large file over HTTP: resumes where it stopped, and checks that it is complete
`fetch_bbbc006`  Downloads the planes of BBBC006, and verifies on a second run that they are unchanged
`images`         Grey images on disk: reads them, finds them by name, and compares their pixels
`pairs`          Pairs of real frames, out of focus and in focus, as training batches
`samples`        An endless stream of training batches, simulated while the network trains
`sharp`          Sharp images of one or several channels, defocused while the network trains
`sides`          Assigns wells and fields to training, validation and test, as a function of the name
`source`         The source of training batches, for every kind of data
`split`          Assigns images to training, validation and test; near-duplicates always to the same side
`stacks`         Through-focus stacks of a user's own microscope: pairs with the sharpest plane of each field
`z_step`         Distance between the planes of a recording
===============  ===================================================================================

Which of the BBBC038 images train, validate and test: `refocusd_training.data.split`.
"""
