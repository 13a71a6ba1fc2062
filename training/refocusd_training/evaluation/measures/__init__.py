"""Figures of one frame compared with the truth.

===============  ===================================================================================
`defocus`        Accuracy of the defocus that a network with a defocus head predicts
`figures`        All figures of one frame compared with the truth, in addition to `refocusd.imaging.quality`
`fourier_rings`  Fourier-ring correlation: the smallest detail at which a frame agrees with the truth
`objects`        Compares size and light of single restored objects with the true ones, for any stain
`segmentation`   Compares the nuclei found in a refocused frame with the true ones, by a simple recipe
===============  ===================================================================================
"""
