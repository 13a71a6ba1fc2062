"""The demo: a simulated specimen under a real Micro-Manager core.

=================  =========================================================
`specimen`         real nuclei, imaged through focus by a small simulator
`microscope`       MMCore with its demo camera, stage and channels
`specimen_camera`  shows the specimen in place of the camera's test picture
`sheet`            the contact sheet raw | refocused | truth
=================  =========================================================

May import every package below `cli`.
"""

from __future__ import annotations
