"""Models that work at the scale of the blur: one engine, and what runs their network.

========  ==========================================================================================
`engine`  Refocuses frames at the scale of their blur, and finds that blur out as it goes
========  ==========================================================================================
"""

from refocusd.engines.scaled.engine import OUTPUTS, Answer, ScaledEngine

__all__ = ["OUTPUTS", "Answer", "ScaledEngine"]
