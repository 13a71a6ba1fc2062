"""Fits what `refocusd.engines.verdict` judges refocused frames by.

==========  ========================================================================================
`examples`  Refocused frames whose truth is known, with the evidence that tells of their errors
`fit`       Weights and thresholds of the judge, and how often it is right on what was kept apart
`pictures`  Pictures that a refocusing engine should leave alone: transmitted light, photographs, noise
`put`       Puts what a model's results are judged by into its bundle
==========  ========================================================================================

May import `blur`, and the imaging and engines of `refocusd`.
"""
