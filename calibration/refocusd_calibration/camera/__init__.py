"""The camera: gain, read noise, offset, hot pixels, flat field (EMVA 1288).

=================  =================================================================================
`checks`           Checks of a camera series, each with advice if it fails
`command`          `refocusd calibrate camera`: dark and flat series, taken now or recorded before
`levels`           Statistics of one level (frames at one exposure), in one pass over its frames
`maps`             One value a pixel: offset, variance, gain, flat field; and the pixels that are defective
`measure`          A camera, measured from dark and lit (flat) frames by the definitions of EMVA 1288
`photon_transfer`  The photon-transfer curve: gain, read noise, saturation and linearity (EMVA 1288)
`series`           Series of frames at known exposures, read one frame at a time
=================  =================================================================================
"""
