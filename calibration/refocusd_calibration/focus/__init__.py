"""Through-focus response: best focus, tilt, depth of field, backlash, drift.

===============  ===================================================================================
`checks`         Conditions that a through-focus measurement must meet to be valid, and advice if it does not
`choose_metric`  Chooses the focus metric that decides, by judging every metric on the same planes
`command`        `refocusd calibrate focus`: measures through-focus series, recorded ones or ones taken now
`measure`        Through-focus measurement: from sweeps to a profile's focus section and its checks
`metrics`        Focus metrics: how sharp each tile of a frame is, by several definitions
`peak`           Fits the peak of a focus curve between its planes, with its uncertainty
`stage_motion`   Backlash, drift and repeatability of the stage, from the best z of each sweep
`surface`        Fits the focal surface over the field: tilt and curvature from the best z of each tile
`table`          Measures all planes of a series: metrics by tile, light, saturation, shifts and repeated frames
===============  ===================================================================================
"""
