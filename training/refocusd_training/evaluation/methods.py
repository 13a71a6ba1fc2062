"""Methods that turn an out-of-focus frame into an in-focus one, all behind one Protocol.

======================  =====================================================================
method                  what it is given
======================  =====================================================================
`EngineMethod`          the frame; an engine, and possibly the worker's decision on what is written
`OnnxMethod`            the frame; any network in network units, as a rival's ONNX
`user_methods`          the frame and one mid-range PSF, as a user would run them
`stack_methods`         the frame, and its blur from the stage's position or from the frame alone
`oracle_methods`        the frame, its true PSF, and the truth, to choose the best estimate
======================  =====================================================================
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refocusd.config import EngineOptions, Precision
from refocusd.engines.engine import Engine
from refocusd.engines.runtimes.openvino import OpenVinoEngine, engine_threads
from refocusd.engines.verdict import shipped_judge
from refocusd.errors import EngineError, InputError
from refocusd.frame import Pixels
from refocusd.imaging.blur import estimate_blur
from refocusd.imaging.deconvolve import deconvolve
from refocusd.imaging.field_evidence import examine_field
from refocusd.imaging.normalise import CountsRange
from refocusd.imaging.optics import Optics
from refocusd.imaging.pair_evidence import examine_pair
from refocusd.imaging.quality import psnr
from refocusd.models.bundle import ModelBundle
from refocusd_training.deconvolution import noise_to_signal, richardson_lucy, wiener
from refocusd_training.simulate.blur import Defocus, transfer

INPUT, REFOCUSED = "input", "refocused"
#: Names of the methods, which must not change because figures of earlier bundles have them.
USER_RL, ORACLE_RL = "RL 12 um PSF", "RL true PSF"
USER_WIENER, ORACLE_WIENER = "Wiener 12 um PSF", "Wiener true PSF"
ORACLE_TV = "RL-TV true PSF"
NOMINAL_RL, ESTIMATED_RL = "RL nominal PSF", "RL estimated blur"

#: Methods that need optics and defocus of a frame.
_NEED_OPTICS = frozenset({NOMINAL_RL, ORACLE_RL, ORACLE_TV, ORACLE_WIENER})
#: The settings of a user: nominal optics, and one PSF in the middle of the range.
USER_OPTICS = Optics(0.45, 0.461)
USER_DEFOCUS = Defocus(12.0)
USER_ITERATIONS = 30
BEST_OF_ITERATIONS = frozenset(range(10, 101, 10))
#: Weights of the total variation that the oracle chooses from; Dey et al. use 0.002.
BEST_OF_VARIATIONS = (0.002, 0.01, 0.04)
BEST_OF_RATIOS = tuple(float(ratio) for ratio in np.logspace(-6, 0, 13))
#: Frames for a rival are padded to sides that are multiples of this, px.
RIVAL_MULTIPLE = 32


@dataclass(frozen=True, slots=True)
class Exposure:
    """One out-of-focus frame, and what is known about it.

    Parameters
    ----------
    raw : ndarray of uint8 or uint16, shape (height, width)
    truth : ndarray of float32, same shape
        The in-focus frame in counts.
    range : CountsRange
        Offset and scale of `raw`, as engines compute them.
    pixel_um : float
    optics : Optics or None
        True or nominal optics; None if the microscope is not known.
    defocus_um : float or None
        True or nominal defocus.
    """

    raw: Pixels
    truth: NDArray[np.float32]
    range: CountsRange
    pixel_um: float
    optics: Optics | None = None
    defocus_um: float | None = None


class Method(Protocol):
    """Estimates the in-focus frame.  Only oracles use more than the raw frame."""

    @property
    def name(self) -> str:
        """Name of the method's column."""
        ...

    def refocus(self, exposure: Exposure) -> NDArray[Any]:
        """Estimate the in-focus frame in counts, same shape as the raw frame."""
        ...


@dataclass(frozen=True, slots=True)
class _Plain:
    """A function as a `Method`."""

    name: str
    function: Callable[[Exposure], NDArray[Any]]

    def refocus(self, exposure: Exposure) -> NDArray[Any]:
        return self.function(exposure)


@dataclass(frozen=True, slots=True)
class EngineMethod:
    """A bundle run by an engine, as users run it.

    Parameters
    ----------
    name : str
    engine : Engine
    as_written : bool
        Return what the worker writes: frames in focus pass through.
    """

    name: str
    engine: Engine
    as_written: bool = False

    def refocus(self, exposure: Exposure) -> Pixels:
        """Return the engine's result, or the raw frame if it passes through."""
        out = np.empty_like(exposure.raw)
        self.engine.refocus(exposure.raw, out)
        passes = self.as_written and was_in_focus(exposure.raw, out)
        return exposure.raw if passes else out


def was_in_focus(raw: Pixels, refocused: Pixels) -> bool:
    """Whether the worker passes the raw frame through, because it is empty or in focus."""
    field, judge = examine_field(raw), shipped_judge()
    if field is None or judge.nothing_to_refocus(field) is not None:
        return True
    return judge.in_focus(examine_pair(field, raw, refocused, None))


class OnnxNetwork:
    """A network in network units (see `refocusd.imaging.normalise`) on the CPU, in f32.

    Parameters
    ----------
    path : Path
        ONNX file with one input of shape (batch, 1, height, width).
    multiple : int
        Frames are padded by reflection to sides that are multiples of this, px.

    Raises
    ------
    InputError
        If the file cannot be compiled, or takes something else.
    """

    def __init__(self, path: Path, multiple: int) -> None:
        import openvino

        how = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(engine_threads())}
        try:
            compiled = openvino.Core().compile_model(str(path), "CPU", how)
            rank = len(compiled.input(0).partial_shape)
        except RuntimeError as error:
            raise InputError(f"{path} cannot be compiled as ONNX: {error}") from error
        if len(compiled.inputs) != 1 or rank != 4:
            raise InputError(
                f"{path} takes {len(compiled.inputs)} inputs of rank {rank}: give a network with one "
                "input of shape (batch, 1, height, width)"
            )
        self._names = [sorted(output.get_names()) for output in compiled.outputs]
        self._request: Any = compiled.create_infer_request()
        self._multiple = multiple
        self._path = path

    def outputs(self) -> list[str]:
        """Names of its outputs, in order."""
        return [names[0] if names else "" for names in self._names]

    def run(self, normalised: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Run the network on one frame, and return all outputs including the padding.

        Parameters
        ----------
        normalised : ndarray of float32, shape (height, width)
        """
        bottom, right = (-side % self._multiple for side in normalised.shape)
        padded = np.pad(normalised, ((0, bottom), (0, right)), mode="reflect")
        try:
            output = self._request.infer([padded[None, None]])
        except RuntimeError as error:
            raise InputError(
                f"{self._path} failed on a frame of {normalised.shape}: {error}"
            ) from error
        return [np.asarray(value, dtype=np.float32) for value in output.values()]


class OnnxMethod:
    """A column for any network in network units.

    Parameters
    ----------
    name : str
    path : Path
        ONNX file whose first output is the refocused frame.
    multiple : int
        Sides of frames are padded to multiples of this, px.

    Raises
    ------
    InputError
        See `OnnxNetwork`.
    """

    def __init__(self, name: str, path: Path, multiple: int = RIVAL_MULTIPLE) -> None:
        self.name = name
        self._network = OnnxNetwork(path, multiple)
        self._path = path

    def refocus(self, exposure: Exposure) -> NDArray[np.float32]:
        """Return the network's result in counts, not rounded."""
        counts = exposure.range
        height, width = exposure.raw.shape
        output = self._network.run(counts.normalise(exposure.raw))[0]
        if output.ndim != 4 or output.shape[2] < height or output.shape[3] < width:
            raise InputError(f"{self._path} returned {output.shape} for {height}×{width} px")
        sharp = output[0, 0, :height, :width]
        return np.asarray(
            sharp * np.float32(counts.scale) + np.float32(counts.offset), dtype=np.float32
        )


def bundle_methods(bundle: ModelBundle) -> list[Method]:
    """A bundle in f32, and in bf16 and int8 if this machine and the bundle support them."""
    methods: list[Method] = [
        EngineMethod(REFOCUSED, OpenVinoEngine(bundle, EngineOptions(precision="f32")))
    ]
    lower: tuple[Precision, ...] = ("bf16", "int8") if "int8" in bundle.variants else ("bf16",)
    for precision in lower:
        # A processor may not support it.
        with contextlib.suppress(EngineError):
            engine = OpenVinoEngine(bundle, EngineOptions(precision=precision))
            methods.append(EngineMethod(f"{REFOCUSED} {precision}", engine))
    return methods


def user_methods() -> list[Method]:
    """Richardson-Lucy and Wiener with nominal optics and one PSF for 12 um."""
    return [
        _Plain(USER_RL, lambda e: _richardson_lucy(e, _user_optics(e), USER_DEFOCUS)),
        _Plain(USER_WIENER, _user_wiener),
    ]


def stack_methods() -> list[Method]:
    """Richardson-Lucy with the nominal PSF at the stage's position, and with the blur estimated from the frame."""
    return [
        _Plain(NOMINAL_RL, lambda exposure: _richardson_lucy(exposure, *_known(exposure))),
        _Plain(ESTIMATED_RL, _estimated_richardson_lucy),
    ]


def applies(method: Method, exposure: Exposure) -> bool:
    """Whether the frame's optics and defocus are known, if the method needs them."""
    known = exposure.optics is not None and exposure.defocus_um is not None
    return known or method.name not in _NEED_OPTICS


def oracle_methods() -> list[Method]:
    """Deconvolution with the true PSF, with parameters chosen by comparison with the truth (affine PSNR)."""
    return [
        _Plain(ORACLE_RL, lambda exposure: _best(exposure, _iterations(exposure, 0.0))),
        _Plain(
            ORACLE_TV,
            lambda exposure: _best(
                exposure,
                (e for weight in BEST_OF_VARIATIONS for e in _iterations(exposure, weight)),
            ),
        ),
        _Plain(ORACLE_WIENER, _oracle_wiener),
    ]


def _light(exposure: Exposure) -> NDArray[np.float32]:
    return np.asarray(exposure.raw - np.float32(exposure.range.offset), dtype=np.float32)


def _user_optics(exposure: Exposure) -> Optics:
    """Nominal optics with the true pixel size, which users know."""
    return replace(USER_OPTICS, pixel_um=exposure.pixel_um)


def _richardson_lucy(exposure: Exposure, optics: Optics, defocus: Defocus) -> NDArray[np.float32]:
    *_, estimate = richardson_lucy(
        _light(exposure), partial(transfer, optics, defocus), USER_ITERATIONS
    )
    return np.asarray(estimate + np.float32(exposure.range.offset), dtype=np.float32)


def _estimated_richardson_lucy(exposure: Exposure) -> NDArray[Any]:
    blur = estimate_blur(exposure.raw)
    if blur is None:
        return exposure.raw
    return deconvolve(exposure.raw.astype(np.float32), blur.sigma_px).light


def _user_wiener(exposure: Exposure) -> NDArray[np.float32]:
    light = _light(exposure)
    [estimate] = wiener(
        light, partial(transfer, _user_optics(exposure), USER_DEFOCUS), [noise_to_signal(light)]
    )
    return np.asarray(estimate + np.float32(exposure.range.offset), dtype=np.float32)


def _oracle_wiener(exposure: Exposure) -> NDArray[np.float32]:
    known = partial(transfer, *_known(exposure))
    return _best(exposure, wiener(_light(exposure), known, BEST_OF_RATIOS))


def _iterations(exposure: Exposure, variation: float) -> Iterable[NDArray[np.float32]]:
    known, last = partial(transfer, *_known(exposure)), max(BEST_OF_ITERATIONS)
    estimates = richardson_lucy(_light(exposure), known, last, total_variation=variation)
    for number, estimate in enumerate(estimates, start=1):
        if number in BEST_OF_ITERATIONS:
            yield estimate


def _known(exposure: Exposure) -> tuple[Optics, Defocus]:
    if exposure.optics is None or exposure.defocus_um is None:
        raise InputError("an oracle needs the true optics and defocus of a frame")
    return exposure.optics, Defocus(exposure.defocus_um)


def _best(exposure: Exposure, estimates: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Choose the estimate with the highest affine PSNR."""
    offset = np.float32(exposure.range.offset)
    return max(
        (np.asarray(estimate + offset, dtype=np.float32) for estimate in estimates),
        key=lambda estimate: psnr(estimate, exposure.truth, affine=True),
    )
