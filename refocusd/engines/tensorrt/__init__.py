"""Engines on NVIDIA cards by TensorRT, without torch.

==================  ==========================================================
`engine`            what a worker sees: `TensorRtEngine`
`edition`, `card`   which TensorRT and which card there are, and what is missing
`builder`, `half`   a bundle's ONNX compiled, in f16 unless told otherwise
`context`           the compiled network, and the kernels made for this card
`runner`            one frame's way: counts up, tiles through, counts back
`device`            the CUDA calls that this takes, and none else
`kernels`           counts to network units and back, on the card
`log`               TensorRT's messages in refocusd's log
==================  ==========================================================

Imports without TensorRT and cuda-python; what needs them loads them when called.
"""

from __future__ import annotations

from refocusd.engines.tensorrt.edition import probe
from refocusd.engines.tensorrt.engine import TensorRtEngine

__all__ = ["TensorRtEngine", "probe"]
