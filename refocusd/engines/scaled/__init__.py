"""Models that work at the scale of the blur: one engine, and what runs their network.

==========  ========================================================================================
`engine`    Refocuses frames at the scale of their blur, and finds that blur out as it goes
`network`   What a network at the scale of the blur is to `ScaledEngine`, whatever runs it
`openvino`  A network at the scale of the blur on the CPU, compiled by OpenVINO
`torch`     A network at the scale of the blur by torch, on NVIDIA cards
==========  ========================================================================================
"""

from refocusd.engines.scaled.engine import ScaledEngine
from refocusd.engines.scaled.network import Answer, ScaleNetwork

__all__ = ["Answer", "ScaleNetwork", "ScaledEngine"]
