"""Evaluates a bundle; the result decides whether it ships.

===========  =======================================================================================
`cases`      Test specimens imaged by microscopes that training never draws
`held_out`   The part of the evaluation's optics, noise and depth that training never drew
`methods`    Methods that turn an out-of-focus frame into an in-focus one, all behind one Protocol
`page`       Writes an evaluation as a folder of HTML and PNG: curves by defocus, contact sheets, worst cases
`pair`       Evaluates real frames: a user's own pair, and the published protocol
`protocol`   The published protocol on BBBC006: real planes 2, 6 and 10, or others, compared with plane 16
`report`     Writes an evaluation as JSON and CSV, and prints it as tables
`results`    Runs every method on every frame
`run`        The ways to evaluate a bundle, from data to tables, files and a page
`stacks`     Evaluates real through-focus stacks: every plane is compared with the sharpest, or with a separate truth
`summary`    Means of an evaluation by level, microscope, specimen and channel
`measures/`  Figures of one frame compared with the truth
===========  =======================================================================================

Simulated truths are the noise-free expectation of the in-focus frame with the same optics
and camera.  Networks run in the engine that ships, so that the figures are those of a user's results.
"""
