"""Runs a network in float32 on the CPU, as the reference for engines, and measures its receptive field."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import BundleError, EngineError
from refocusd.frame import Pixels


class ReferenceNetwork:
    """Runs an ONNX file without normalisation, tiles or counts.

    Parameters
    ----------
    onnx : Path
    threads : int
        0: OpenVINO chooses.

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
        # On Windows, a mapped file cannot be moved, and a bundle that is being added will be.
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


#: Changes of the output below this do not matter, in network units.
NEGLIGIBLE = 1e-3
#: Receptive fields are measured in multiples of this, in px.
STEP = 16

_Frame = TypeVar("_Frame", NDArray[np.float32], Pixels)
Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def measured_field_px(
    network: Network, frames: Sequence[NDArray[np.float32]], *, multiple: int = 1, size: int = 512
) -> int | None:
    """Radius beyond which pixels do not matter to the output.

    The smallest radius (a multiple of 16 px, in the maximum norm) such that replacing
    every pixel farther away by another frame, or by an empty one, changes the output at the centre by less
    than 1e-3 in network units, on all frames.  A tile's border cannot change the output more than such a
    replacement.  It is found by bisection, assuming that farther pixels matter less.

    Parameters
    ----------
    network : callable
        (n, 1, height, width) to the same shape, float32, network units.
    frames : sequence of ndarray of float32, shape (height, width)
        At least two, in network units.
    multiple : int
        Height and width that the network takes are multiples of this, in px.
    size : int
        Side of the frames tried, in px; radii reach up to half of it, less 8 px.

    Returns
    -------
    int or None
        None if even the farthest pixels matter.
    """
    size = -(-size // multiple) * multiple
    tried = [middle_square(frame, size) for frame in frames]
    others = [np.ascontiguousarray(frame[::-1, ::-1]) for frame in tried[1:] + tried[:1]]
    # Frames of one specimen have the same mean: only an empty frame reveals a network that depends on it.
    tried.append(tried[0])
    others.append(np.zeros_like(tried[0]))
    middle = size // 2
    # The 16 pixels of the centre cover several phases of the network's grids.
    centre = (slice(middle - 8, middle + 8),) * 2
    whole = [network(frame[None, None])[0, 0][centre] for frame in tried]

    def matters(radius: int) -> bool:
        inside = (slice(middle - radius - 8, middle + radius + 8),) * 2
        for frame, other, expected in zip(tried, others, whole, strict=True):
            mixed = other.copy()
            mixed[inside] = frame[inside]
            found = network(mixed[None, None])[0, 0][centre]
            if float(np.abs(found - expected).max()) >= NEGLIGIBLE:
                return True
        return False

    largest = (middle - 8) // STEP
    if matters(largest * STEP):
        return None
    return STEP * bisect.bisect_left(
        range(largest), True, key=lambda step: not matters(step * STEP)
    )


def middle_square(frame: _Frame, size: int) -> _Frame:
    """The middle of a frame, mirrored at its borders if it is too small."""
    short = [(max(0, size - side) // 2, -(-max(0, size - side) // 2)) for side in frame.shape]
    padded = np.pad(frame, short, mode="symmetric")
    top, left = ((side - size) // 2 for side in padded.shape)
    return np.ascontiguousarray(padded[top : top + size, left : left + size])
