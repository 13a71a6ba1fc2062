"""Engines on NVIDIA cards by TensorRT, without torch.

=========  =========================================================================================
`builder`  A bundle's ONNX compiled by TensorRT, and kept in the cache of engines
`card`     The NVIDIA card of this machine, as CUDA describes it
`context`  A compiled engine as TensorRT runs it, and what its run-time compiler made
`device`   The few CUDA calls that an engine makes, and nothing else
`edition`  Which TensorRT is installed, and whether it can work on this machine
`engine`   The TensorRT engine that a worker sees
`half`     A TensorRT network computed in half precision
`kernels`  Counts to network units and back, in kernels on the card
`log`      TensorRT's messages in refocusd's log
`runner`   One frame through a network on the card: counts go in, counts come out
=========  =========================================================================================

Imports without TensorRT and cuda-python; what needs them loads them when called.
"""

from __future__ import annotations

from refocusd.engines.tensorrt.edition import probe
from refocusd.engines.tensorrt.engine import TensorRtEngine

__all__ = ["TensorRtEngine", "probe"]
