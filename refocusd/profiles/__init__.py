"""Calibration profiles in use: which profile applies to a frame, and what it changes.

=====================  =============================================================================
`applied`              The calibration profiles that apply to one acquisition, and warnings about them
`catalogue`            The folder of calibration profiles, and the choice of the profile closest to a frame
`conformity`           Warnings, in sentences, if an acquisition, its calibration profile and the model disagree
`hot_pixels`           Replaces defective pixels in the copy of a frame that an engine sees
`microscope_metadata`  Reads the microscope from a frame's metadata, by Micro-Manager's keys
`profile`              A calibration profile: the measurements of one microscope, in one JSON file
=====================  =============================================================================

May import `refocusd.profiles.profile`, `refocusd.frame` and `refocusd.errors`.
"""
