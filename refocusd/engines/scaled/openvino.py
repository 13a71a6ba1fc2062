"""A network at the scale of the blur on the CPU, compiled by OpenVINO."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from refocusd.config import EngineOptions
from refocusd.engines.engine import EngineDescription
from refocusd.engines.openvino import OUT_OF_MEMORY, engine_threads, openvino_precision
from refocusd.engines.scaled.network import Answer, Floats
from refocusd.errors import EngineError
from refocusd.models.bundle import ModelBundle

__all__ = ["OpenVinoScaleNetwork"]


class OpenVinoScaleNetwork:
    """Runs a bundle's ONNX by OpenVINO; see `ScaleNetwork`.

    Raises
    ------
    EngineError
        If OpenVINO cannot compile it, or the processor lacks the precision asked for.
    """

    def __init__(self, bundle: ModelBundle, options: EngineOptions) -> None:
        import openvino

        core = openvino.Core()
        # A mapped file cannot be replaced on Windows.
        core.set_property({"ENABLE_MMAP": sys.platform != "win32"})
        chosen, hint = openvino_precision(core, bundle, options.precision)
        onnx = bundle.variants["int8"] if chosen == "int8" else bundle.onnx
        how = {
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": str(engine_threads(options.threads)),
            "ENABLE_CPU_PINNING": "NO",
        }
        try:
            compiled = core.compile_model(core.read_model(str(onnx)), "CPU", how)
            self._request: Any = compiled.create_infer_request()
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot compile {onnx}: {error}") from error
        runtime = f"openvino-{openvino.__version__.split('-')[0]}-cpu"
        self.description = EngineDescription.of_bundle(bundle, "openvino", chosen, "CPU", runtime)

    def run(self, seen: Floats) -> Answer:
        """Answer for one frame; see `ScaleNetwork.run`."""
        height, width = seen.shape[2:]
        try:
            found = self._request.infer([seen], share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            if OUT_OF_MEMORY.search(str(error)):
                raise MemoryError(str(error)) from error
            raise EngineError(
                f"OpenVINO failed on {width}×{height} px of a frame: {error}"
            ) from error
        light, interval, blur = (np.asarray(found[index]) for index in range(3))
        if light.shape != (1, 1, height, width):
            raise MemoryError("OpenVINO computed nothing")
        return Answer(light[0, 0], interval[0], float(blur[0, 0]), float(blur[0, 1]))

    def close(self) -> None:
        """Free the compiled network."""
        self._request = None
