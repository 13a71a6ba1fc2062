"""The stage's distance from focus: which frames are measured, and the advice that follows.

=========  =========================================================================================
`monitor`  Which frames are measured for focus, and the advice that follows for each field
`tracker`  How far to move the stage, and in which direction: many distances from focus, put together
=========  =========================================================================================
"""
