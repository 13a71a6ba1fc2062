"""The embedded CPU engine: a bundle's ONNX, compiled by OpenVINO."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refocusd.config import EngineOptions
from refocusd.engines.bundle import ModelBundle
from refocusd.engines.engine import EngineDescription, Refocused
from refocusd.engines.normalise import counts_range
from refocusd.errors import EngineError
from refocusd.frame import Pixels

__all__ = ["OpenVinoEngine", "engine_threads"]

#: Largest frame inferred whole, in pixels; larger ones go in overlapping tiles.
MAX_WHOLE_PIXELS = 4096 * 4096
TILE = 2048
DEFAULTS = EngineOptions()


def engine_threads(wanted: int = 0) -> int:
    """Threads for a CPU engine: as wanted, or all cores but one where there are more than two.

    The core left over is the acquisition's.  On two cores the engine's
    threads are better kept and the scheduler left to choose: the worker runs at
    a low priority.
    """
    cores = os.cpu_count() or 1
    return wanted or (cores - 1 if cores > 2 else cores)


class OpenVinoEngine:
    """Runs a bundle on the CPU.

    Parameters
    ----------
    bundle : ModelBundle
    options : EngineOptions
        Precision ``auto`` is bf16 where the processor computes in it, else f32.  Always
        set explicitly: left alone, OpenVINO picks bf16 silently.  Threads: see
        `engine_threads`.

    Raises
    ------
    EngineError
        If OpenVINO cannot compile the network, or the processor lacks the
        precision asked for.
    """

    def __init__(self, bundle: ModelBundle, options: EngineOptions = DEFAULTS) -> None:
        import openvino

        precision = options.precision
        if precision not in ("auto", "f32", "bf16"):
            raise EngineError(
                f"the openvino backend does not compute in {precision}; set precision to f32, "
                "bf16 or auto"
            )
        self._bundle = bundle
        core = openvino.Core()
        has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and not has_bf16:
            raise EngineError(
                "this processor does not compute in bf16; set precision to f32 or auto"
            )
        chosen = "bf16" if precision != "f32" and has_bf16 else "f32"
        how = {
            "INFERENCE_PRECISION_HINT": chosen,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": str(engine_threads(options.threads)),
            "ENABLE_CPU_PINNING": "NO",  # the acquisition may sit on any core
        }
        try:
            compiled = core.compile_model(str(bundle.onnx), "CPU", how)
            self._request: Any = compiled.create_infer_request()
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"OpenVINO cannot compile {bundle.onnx}: {error}") from error
        version = openvino.__version__
        self.description = EngineDescription(
            backend="openvino",
            precision=chosen,
            device="CPU",
            key=f"{bundle.sha256[:16]}-openvino-{version.split('-')[0]}-cpu-{chosen}",
            model_id=bundle.model_id,
            model_sha256=bundle.sha256,
        )

    def warm_up(self, shape: tuple[int, int]) -> None:
        """Run one flat frame of `shape` (height, width)."""
        flat = np.zeros(shape, np.uint16)
        self.refocus(flat, flat.copy())

    def refocus(self, raw: Pixels, out: Pixels) -> Refocused:
        """Estimate the in-focus frame into `out`; see `Engine.refocus`."""
        counts = counts_range(raw, self._bundle.low_percentile, self._bundle.high_percentile)
        normalised = counts.normalise(raw)
        begun = time.perf_counter()
        if raw.size <= MAX_WHOLE_PIXELS:
            sharp = self._infer(normalised)
        else:
            sharp = self._infer_tiles(normalised)
        engine_ms = (time.perf_counter() - begun) * 1e3
        sharp *= np.float32(counts.scale)
        sharp += np.float32(counts.offset)
        if not np.isfinite(float(sharp.sum(dtype=np.float64))):
            raise EngineError(
                f"the network {self._bundle.model_id} returned pixels that are not finite"
            )
        np.rint(sharp, out=sharp)
        top = np.iinfo(raw.dtype).max
        clipped = int(np.count_nonzero((sharp < 0) | (sharp > top)))
        np.clip(sharp, 0, top, out=sharp)
        np.copyto(out, sharp, casting="unsafe")
        return Refocused(counts, engine_ms, clipped)

    def close(self) -> None:
        """Free the compiled network."""
        self._request = None

    def _infer(self, normalised: NDArray[np.float32]) -> NDArray[np.float32]:
        height, width = normalised.shape
        step = self._bundle.size_multiple
        bottom, right = -height % step, -width % step
        # Reflection keeps the local statistics at the edge; numpy reflects repeatedly where
        # the frame is smaller than the padding.
        padded = np.pad(normalised, ((0, bottom), (0, right)), mode="reflect")
        try:
            output = self._request.infer([padded[None, None]], share_inputs=True)
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO failed on a frame of {width}×{height} px: {error}"
            ) from error
        result = np.array(next(iter(output.values())), dtype=np.float32, copy=True)
        if result.shape != (1, 1, *padded.shape):
            raise EngineError(
                f"the network {self._bundle.model_id} returned {result.shape} for {padded.shape}"
            )
        cropped: NDArray[np.float32] = result[0, 0, :height, :width]
        return cropped

    def _infer_tiles(self, normalised: NDArray[np.float32]) -> NDArray[np.float32]:
        """Tiles with a halo of the measured receptive field; only their cores are kept."""
        height, width = normalised.shape
        # Tiles must start on the network's own grid, or its strides fall elsewhere.
        step = self._bundle.size_multiple
        halo = -(-self._bundle.receptive_field_px // step) * step
        out = np.empty_like(normalised)
        side = -(-TILE // step) * step
        for top in range(0, height, side):
            for left in range(0, width, side):
                bottom, right = min(top + side, height), min(left + side, width)
                y0, x0 = max(0, top - halo), max(0, left - halo)
                tile = normalised[y0 : min(bottom + halo, height), x0 : min(right + halo, width)]
                sharp = self._infer(np.ascontiguousarray(tile))
                out[top:bottom, left:right] = sharp[top - y0 : bottom - y0, left - x0 : right - x0]
        return out
