"""The stage's distance from focus: which frames are measured, and the advice that follows.

=========  =========================================================================================
`monitor`  Which frames are measured for focus, and the advice that follows for each field
`tracker`  Combines many distances from focus: how far to move the stage, and in which direction
=========  =========================================================================================
"""
