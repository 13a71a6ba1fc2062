"""Calibration profiles in use: which profile applies to a frame, and what it changes.

===============  =========================================================
`identity`       what a frame's metadata tell of its microscope
`catalogue`      the folder of profiles, and the one that is closest to a frame
`applied`        what of the catalogue applies to one acquisition
`conformity`     whether acquisition, profile and model go together, in sentences
`hot_pixels`     defective pixels, replaced in the copy that an engine sees
===============  =========================================================

May import `refocusd.profiles.profile`, `refocusd.frame` and `refocusd.errors`.
"""
