"""The interfaces of engines and networks that the worker uses.

=====================  ==========================  =============================
engine                 runs                        builds from
=====================  ==========================  =============================
`OpenVinoEngine`       any x86-64 or Arm CPU       ``model.onnx`` of a bundle
`TensorRtEngine`       an NVIDIA RTX card          ``model.onnx`` of a bundle
`TorchEngine`          an NVIDIA card              weights of a bundle of ours
`ScaledEngine`         any CPU, an NVIDIA card     a bundle that works at the scale of the blur
`DeconvolutionEngine`  any CPU, without a network  nothing
`IdentityEngine`       nothing (for measurements)  nothing
=====================  ==========================  =============================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import DeviceLostError
from refocusd.frame import Pixels
from refocusd.imaging.blur import BlurEstimate
from refocusd.imaging.normalise import CountsRange
from refocusd.models.bundle import ModelBundle


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """Everything needed to reproduce an engine's results.

    Parameters
    ----------
    backend, precision, device : str
        For example ``openvino``, ``bf16``, ``CPU``.
    key : str
        Content key: model, runtime with version, device, precision.
    model_id, model_sha256 : str
        The bundle; empty for engines without one.
    verdict : Path or None
        File of thresholds by which its results are judged; None for those that come with refocusd.
    """

    backend: str
    precision: str
    device: str
    key: str
    model_id: str
    model_sha256: str
    verdict: Path | None = None

    @classmethod
    def of_bundle(
        cls, bundle: ModelBundle, backend: str, precision: str, device: str, runtime: str
    ) -> EngineDescription:
        """Describe an engine of a bundle; `runtime` is the library that runs it, with its version."""
        key = f"{bundle.sha256[:16]}-{runtime}-{precision}"
        names = (backend, precision, device, key, bundle.model_id, bundle.sha256)
        return cls(*names, verdict=bundle.verdict)


@dataclass(frozen=True, slots=True, eq=False)
class Refocused:
    """The result of refocusing one frame, apart from its pixels.

    Parameters
    ----------
    counts : CountsRange
        Offset and scale with which the engine normalised the frame.
    engine_ms : float
        Time in the engine alone.
    clipped : int
        Number of pixels clipped at the ends of the counts scale.
    blur : BlurEstimate or None
        The blur that the engine assumed; None if it did not estimate any.
    expected_error : float or None
        Root mean square error that the engine expects in its result, in counts; None if it states
        none.
    interval : ndarray of float32, shape (2, rows, columns), or None
        Distances below and above the result, in counts, within which 90 % of true pixels lie, at the
        engine's own (possibly lower) resolution; None if the engine states none.
    """

    counts: CountsRange
    engine_ms: float
    clipped: int
    blur: BlurEstimate | None = None
    expected_error: float | None = None
    interval: NDArray[np.float32] | None = None


def card_lost(reason: object) -> DeviceLostError:
    """The error with which a worker ends if its card no longer works."""
    return DeviceLostError(
        f"the NVIDIA card failed ({reason}); the worker must start again, and if this happens "
        "again, check the card's driver and temperature"
    )


class Engine(Protocol):
    """A network, or a substitute for one, on one device.  Used by one thread only."""

    @property
    def description(self) -> EngineDescription:
        """What the engine runs, and on which device."""

    def warm_up(self, shape: tuple[int, int]) -> None:
        """Make the first frame of this shape as fast as the others."""

    def refocus(self, raw: Pixels, out: Pixels) -> Refocused:
        """Estimate the in-focus frame.

        Parameters
        ----------
        raw : ndarray of uint8 or uint16, shape (height, width)
            Not changed.
        out : ndarray, same shape and dtype
            Filled with counts on the raw frame's scale.

        Raises
        ------
        EngineError
            If the network does not return finite pixels.
        """

    def close(self) -> None:
        """Free the device."""


class BlurEngine(ABC):
    """An `Engine` that works with each frame's blur, and can be given what is known of it."""

    @abstractmethod
    def refocus(self, raw: Pixels, out: Pixels, blur: BlurEstimate | None = None) -> Refocused:
        """Estimate the in-focus frame; see `Engine.refocus`.

        Parameters
        ----------
        raw, out : ndarray of uint8 or uint16, shape (height, width)
        blur : BlurEstimate, optional
            The blur known from the optics or from earlier frames.
        """


class Network(Protocol):
    """A compiled graph on one device.  Used by one thread only."""

    description: EngineDescription
    #: The bundle's file that it was compiled from.
    onnx: Path
    #: Names of the arrays that `run` returns.
    outputs: tuple[str, ...]

    def run(self, batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """Run the network; the outputs are valid until the next run, which may overwrite them.

        Parameters
        ----------
        batch : ndarray of float32, shape (count, channels, height, width)

        Raises
        ------
        MemoryError
            If memory ran out.  The next run compiles the network again.
        DeviceLostError
            If the device no longer works.
        EngineError
            If the runtime fails otherwise.
        """

    def close(self) -> None:
        """Free the device."""
