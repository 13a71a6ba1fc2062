"""The camera: gain, read noise, offset, hot pixels, flat field (EMVA 1288).

=================  =================================================================================
`checks`           Checks of a camera series, each with advice if it fails
`command`          `refocusd calibrate camera`: measures dark and flat series, recorded ones or ones taken now
`levels`           Statistics of one level (frames at one exposure), in one pass over its frames
`maps`             Maps with one value for each pixel (offset, variance, gain, flat field), and defective pixels
`measure`          Measures a camera from dark and lit (flat) frames, by the definitions of EMVA 1288
`photon_transfer`  The photon-transfer curve: gain, read noise, saturation and linearity (EMVA 1288)
`series`           Series of frames at known exposures, read one frame at a time
=================  =================================================================================
"""
