"""The demo: a simulated specimen under a real Micro-Manager core.

==============  ============================================================
`specimen`      real nuclei, imaged through focus by a small simulator
`microscope`    MMCore with its demo camera, stage and channels, showing them
`sheet`         the contact sheet raw | refocused | truth
`lettering`     its text, with the signs that Pillow's font lacks
==============  ============================================================

May import every room below `cli`.
"""

from __future__ import annotations
