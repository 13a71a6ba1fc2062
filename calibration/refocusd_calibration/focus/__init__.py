"""Through-focus response: best focus, tilt, depth of field, backlash, drift.

===============  ===================================================================================
`checks`         Conditions that a through-focus measurement must meet to be valid, and advice if it does not
`choose_metric`  Which focus metric decides: every metric judged on the same planes
`command`        `refocusd calibrate focus`: through-focus series, taken now or recorded before
`measure`        Through-focus measurement: from sweeps to a profile's focus section and its checks
`metrics`        Focus metrics: how sharp each tile of a frame is, by several definitions
`peak`           The peak of a focus curve, between its planes and with its uncertainty
`stage_motion`   Backlash, drift and repeatability of the stage, from the best z of each sweep
`surface`        The focal surface over the field: tilt and curvature from the best z of each tile
`table`          Measures all planes of a series: metrics by tile, light, shifts, and whatever is suspicious
===============  ===================================================================================
"""
