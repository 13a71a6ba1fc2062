"""Fits the thresholds and weights by which `refocusd.engines.verdict` judges refocused frames.

==========  ========================================================================================
`examples`  Makes refocused frames whose truth is known, with the evidence for their errors
`fit`       Fits weights and thresholds of the judge, and measures how often it is right on held-out frames
`pictures`  Draws pictures that an engine should pass through: transmitted light, photographs, noise
`put`       Puts the thresholds by which a model's results are judged into its bundle
==========  ========================================================================================

May import `blur`, and the imaging and engines of `refocusd`.
"""
