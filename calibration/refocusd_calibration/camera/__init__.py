"""The camera: gain, read noise, offset, hot pixels, flat field (EMVA 1288)."""
