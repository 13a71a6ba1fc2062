"""The demo: a simulated specimen under a real Micro-Manager core.

=================  =================================================================================
`headless`         Runs Micro-Manager's core in this process, without its GUI
`microscope`       The demo's microscope: a real Micro-Manager core whose camera sees the specimen
`retake`           A drifting time-lapse that retakes only untrusted frames: ``python -m refocusd.demo.retake FOLDER``
`sheet`            The contact sheet: raw, refocused and truth side by side, one row per defocus
`specimen`         The demo's specimen: real nuclei on a slide, imaged through focus by a small simulator
`specimen_camera`  Shows the specimen to the demo's camera, in place of the core's test picture
=================  =================================================================================

May import every package below `cli`.
"""

from __future__ import annotations
