"""Models that work at the scale of the blur: one engine, and what runs their network.

=========  =========================================================================================
`engine`   Refocuses frames at the scale of their blur, and finds that blur out as it goes
`graph`    A network at the scale of the blur as a bundle's ONNX graph, whatever runtime compiled it
`network`  What a network at the scale of the blur is to `ScaledEngine`, whatever runs it
`torch`    A network at the scale of the blur by torch, on NVIDIA cards
=========  =========================================================================================
"""

from refocusd.engines.scaled.engine import ScaledEngine
from refocusd.engines.scaled.graph import GraphScaleNetwork
from refocusd.engines.scaled.network import Answer, ScaleNetwork

__all__ = ["Answer", "GraphScaleNetwork", "ScaleNetwork", "ScaledEngine"]
