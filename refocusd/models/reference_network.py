"""Runs a network in float32 on the CPU, as the reference for every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import BundleError, EngineError


class ReferenceNetwork:
    """Runs an ONNX file as it is: no normalisation, no tiles, no counts.

    Parameters
    ----------
    onnx : Path
    threads : int
        0: as many as OpenVINO likes.

    Raises
    ------
    BundleError
        If it does not take one float image of any size and return one.
    EngineError
        If OpenVINO cannot compile it.
    """

    def __init__(self, onnx: Path, threads: int = 0) -> None:
        import openvino

        core = openvino.Core()
        # A mapped file cannot be moved on Windows, and a bundle that is taken in will be.
        how = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": str(threads),
        }
        try:
            core.set_property({"ENABLE_MMAP": False})
            model = core.read_model(str(onnx))
            _check_input(onnx, model)
            self._request: Any = core.compile_model(model, "CPU", how).create_infer_request()
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"OpenVINO cannot compile {onnx}: {error}") from error
        outputs = self._request.model_outputs
        named = [port for port in outputs if "refocused" in port.get_names()]
        self._output = (named or list(outputs))[0]
        self._onnx = onnx

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Output for frames in network units.

        Parameters
        ----------
        batch : ndarray of float32, shape (n, 1, height, width)

        Returns
        -------
        ndarray of float32, same shape

        Raises
        ------
        EngineError
            If the network fails on this size, or returns another shape.
        """
        out = np.empty_like(batch)
        for index, frame in enumerate(batch):
            try:
                answer = self._request.infer([np.ascontiguousarray(frame[None])])[self._output]
            except RuntimeError as error:
                raise EngineError(
                    f"{self._onnx.name} does not run on {frame.shape[-1]}×{frame.shape[-2]} px: {error}"
                ) from error
            if answer.shape != (1, *frame.shape):
                raise EngineError(
                    f"{self._onnx.name} returned {answer.shape} for {(1, *frame.shape)}"
                )
            out[index] = answer[0]
        return out


def _check_input(onnx: Path, model: Any) -> None:
    if len(model.inputs) != 1:
        raise BundleError(f"{onnx.name} takes {len(model.inputs)} inputs; refocusd gives one frame")
    port = model.inputs[0]
    shape = port.get_partial_shape()
    kind = port.get_element_type().get_type_name()
    if kind != "f32":
        raise BundleError(f"{onnx.name} takes {kind}; refocusd gives float32")
    if shape.rank.is_dynamic or len(shape) != 4:
        raise BundleError(f"{onnx.name} takes {shape}; refocusd gives (n, 1, height, width)")
    if shape[1].is_static and shape[1].get_length() != 1:
        raise BundleError(f"{onnx.name} takes {shape[1]} channels; a frame has one")
    if shape[2].is_static or shape[3].is_static:
        raise BundleError(
            f"{onnx.name} takes frames of one size ({shape}); export it with dynamic height "
            "and width"
        )
