"""Engines on NVIDIA cards: compiled by TensorRT for RTX, run through ONNX Runtime's plug-in for it.

The plug-in (``onnxruntime-ep-nv-tensorrt-rtx``) contains TensorRT and supports GeForce and RTX
cards from Ampere on.  An engine is compiled from the bundle's ONNX when it is first needed, and stored
as an ONNX file that contains the engine.  TensorRT completes the kernels when a shape is first run;
they are stored, too, for this version of the driver.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
import numpy as np

from refocusd.config import EngineOptions
from refocusd.engines.cache import EngineCache, EngineKey
from refocusd.engines.runtimes.card import Card, find_card
from refocusd.engines.runtimes.onnxruntime import Graph, OnnxRuntimeNetwork, Shapes, runtime_errors
from refocusd.engines.tiled import TiledEngine, pixel_bytes
from refocusd.engines.tiling import least_tile_px
from refocusd.errors import EngineError
from refocusd.models.bundle import ModelBundle

log = logging.getLogger(__name__)

INSTALL = 'pip install "refocusd[tensorrt]"'
PROVIDER = "NvTensorRTRTXExecutionProvider"
PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
_NEEDED = {"onnxruntime": "onnxruntime", PLUGIN: PLUGIN.replace("_", "-"), "onnx": "onnx"}
#: First version of ONNX Runtime with the interface that the plug-in needs.
_LEAST_RUNTIME = (1, 24)
#: Compute capabilities that the plug-in supports, beside all from Blackwell (12.0) on.
_CAPABILITIES = {(8, 6), (8, 9)}
_BLACKWELL = (12, 0)
#: Version of the graph's preparation; if it changes, engines are built again.
_FORM = 1
#: Side of the frames for which kernels are optimised, and of the largest frame that is processed whole, px: for
#: networks at full size, and for those at the scale of the blur.
_FULL_PX, _SCALED_PX = (2048, 4096), (1024, 2048)
#: Largest side of a tile on a card that draws the desktop, px: the desktop stutters while a kernel runs, and
#: the system stops kernels that run for long.
_DISPLAY_PX = 1024
#: Share of the card's free memory that is used by default, because other programs need some, too.
_SHARE = 0.6
DEFAULTS = EngineOptions()


def unsupported(card: Card) -> str:
    """Why TensorRT for RTX does not run on a card; empty if it does."""
    if card.capability in _CAPABILITIES or card.capability >= _BLACKWELL:
        return ""
    major, minor = card.capability
    return (
        f"TensorRT for RTX does not run on {card.name} (compute capability {major}.{minor}), but on 8.6, "
        "8.9 and from 12.0 on; set backend to cuda, openvino or auto"
    )


def probe() -> str:
    """Why TensorRT does not work on this machine, and what to install; empty if it works."""
    try:
        card = find_card()
    except EngineError as error:
        return str(error)
    return unsupported(card) or _missing()


def _missing() -> str:
    for module, package in _NEEDED.items():
        if importlib.util.find_spec(module) is None:
            return f"{package} is not installed; install it with: {INSTALL}"
    import onnxruntime

    numbers = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    if numbers < _LEAST_RUNTIME:
        return f"onnxruntime {onnxruntime.__version__} is too old; install it again with: {INSTALL}"
    return ""


def engine_shapes(bundle: ModelBundle, batch: int = 1) -> Shapes:
    """Shapes for which engines of a bundle are built."""
    channels, sides = (1, _FULL_PX) if bundle.fine_sigma_px is None else (3, _SCALED_PX)
    return Shapes.of(bundle.size_multiple, channels, batch, *sides)


def engine_key(graph: Graph, sm: str) -> EngineKey:
    """The cache key of a graph's engine for compute capability `sm`, e.g. ``sm89``.

    Engines do not depend on the driver, which completes them when they are first run.
    """
    try:
        plugin = version(PLUGIN)
    except PackageNotFoundError:
        plugin = "unknown"
    return EngineKey(
        "onnx with engine",
        graph.source_sha256,
        f"{PLUGIN} {plugin}, form {_FORM}",
        sm,
        graph.precision,
        str(graph.shapes),
    )


class TensorRtProvider:
    """ONNX Runtime's plug-in for TensorRT for RTX; see `Provider`.

    Parameters
    ----------
    cache : EngineCache, optional
        By default, that of the user.
    on : (OrtEpDevice, Card), optional
        The device that computes; by default, that of the plug-in.

    Raises
    ------
    EngineError
        If a supported card, the plug-in or ONNX Runtime is missing.
    """

    backend = "tensorrt"
    precisions: tuple[str, ...] = ("f16", "f32")

    def __init__(
        self, cache: EngineCache | None = None, on: tuple[Any, Card] | None = None
    ) -> None:
        if on is None and (why := probe()):
            raise EngineError(why)
        self._device, self.card = on or _plugin_device()
        self.device = self.card.name
        self.runtime = f"{PLUGIN}-{version(PLUGIN)}-{self.card.sm}"
        self._cache = cache or EngineCache()

    def session(self, graph: Graph) -> Any:
        """See `Provider.session`."""
        key = engine_key(graph, self.card.sm)
        engine = self._cache.get_or_build(key, lambda: self._compiled(graph))
        try:
            return self._loaded(graph, engine)
        except runtime_errors() as error:
            # Stored by another edition, or damaged without the checksum showing it: build it again.
            log.warning("TensorRT rejects the cached engine (%s), which is built again", error)
        self._cache.discard(key)
        return self._loaded(graph, self._cache.get_or_build(key, lambda: self._compiled(graph)))

    def _compiled(self, graph: Graph) -> bytes:
        import onnxruntime

        begun = time.perf_counter()
        compiler = onnxruntime.ModelCompiler(
            self._how(graph), graph.model, embed_compiled_data_into_model=True
        )
        engine: bytes = compiler.compile_to_bytes()
        took_s = time.perf_counter() - begun
        log.info("TensorRT: an engine of %.1f MiB in %.1f s", len(engine) / 2**20, took_s)
        left = _left_out(engine)
        if left:
            log.warning("TensorRT leaves %s to the processor, which is slow", ", ".join(left))
        return engine

    def _loaded(self, graph: Graph, engine: bytes) -> Any:
        import onnxruntime

        return onnxruntime.InferenceSession(engine, self._how(graph))

    def _how(self, graph: Graph) -> Any:
        import onnxruntime

        kernels = self._cache.folder / "kernels" / f"{self.card.sm}-{self.card.driver}"
        how = onnxruntime.SessionOptions()
        how.log_severity_level = 4  # fatal only: errors are raised as well
        shapes = graph.shapes
        options = {
            f"nv_profile_{name}_shapes": f"{graph.input}:{'x'.join(map(str, shape))}"
            for name, shape in (
                ("min", shapes.least), ("opt", shapes.best), ("max", shapes.largest)
            )
        }  # fmt: skip
        options["nv_runtime_cache_path"] = str(kernels)
        how.add_provider_for_devices([self._device], options)
        return how


class TensorRtEngine(TiledEngine):
    """Runs a bundle that sees frames at full size on an NVIDIA card with TensorRT.

    A frame is processed whole if it fits into ``engine_mib`` (by default, 60 % of the card's free memory),
    otherwise in the largest tiles that fit.  On a card that draws the desktop, tiles are at most 1024 px.

    Parameters
    ----------
    bundle : ModelBundle
    options : EngineOptions
        Precision ``auto`` is f16.
    provider : TensorRtProvider, optional

    Raises
    ------
    EngineError
        If TensorRT or a card that it supports is missing, it cannot build the engine, or the tiles or
        the memory in `options` are too small.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        options: EngineOptions = DEFAULTS,
        provider: TensorRtProvider | None = None,
    ) -> None:
        provider = provider or TensorRtProvider()
        batch = options.tile_batch or 1
        shapes = engine_shapes(bundle, batch)
        largest, least = shapes.largest[3], least_tile_px(bundle, options.tile_px)
        if largest < least:
            raise EngineError(
                f"tile_batch = {batch}: model {bundle.model_id} needs tiles of {least} px, and "
                f"{largest} px are the most that go through together; set a smaller tile_batch"
            )
        if options.tile_px > largest:
            options = msgspec.structs.replace(options, tile_px=largest)
        network = _network(bundle, options, provider, shapes)
        size = 2 if network.description.precision == "f16" else 4
        super().__init__(
            bundle,
            options,
            network,
            pixel_bytes=pixel_bytes(bundle.onnx, bundle.size_multiple, size),
            memory_mib=int(_SHARE * provider.card.free_mib),
            largest_px=min(largest, _DISPLAY_PX) if provider.card.draws_display else largest,
        )

    def warm_up(self, shape: tuple[int, int]) -> None:
        """Process two flat frames of `shape` (height, width), of which the first completes the kernels."""
        flat = np.zeros(shape, np.uint16)
        for _ in range(2):
            self.refocus(flat, flat.copy())


def tensorrt_scale_network(
    bundle: ModelBundle, options: EngineOptions, provider: TensorRtProvider | None = None
) -> OnnxRuntimeNetwork:
    """A network at the scale of the blur on an NVIDIA card, for `ScaledEngine`.

    Raises
    ------
    EngineError
        If TensorRT or a card that it supports is missing, or it cannot build the engine.
    """
    provider = provider or TensorRtProvider()
    return _network(bundle, options, provider, engine_shapes(bundle))


def _network(
    bundle: ModelBundle, options: EngineOptions, provider: TensorRtProvider, shapes: Shapes
) -> OnnxRuntimeNetwork:
    try:
        return OnnxRuntimeNetwork(bundle, options, provider, shapes)
    except MemoryError as error:
        raise EngineError(
            f"the card's memory is too full for model {bundle.model_id}; close other programs, or "
            "set backend to openvino"
        ) from error


@functools.cache
def _plugin_device() -> tuple[Any, Card]:
    """The first card that the plug-in finds.  A process registers a plug-in only once."""
    import onnxruntime
    import onnxruntime_ep_nv_tensorrt_rtx as plugin

    try:
        onnxruntime.register_execution_provider_library(PROVIDER, plugin.get_library_path())
    except runtime_errors() as error:
        raise EngineError(
            f"ONNX Runtime does not load TensorRT for RTX ({error}); update the NVIDIA driver, or "
            f"install it again with: {INSTALL}"
        ) from error
    found = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER]
    if not found:
        raise EngineError(
            "TensorRT for RTX finds no card that it runs on; update the NVIDIA driver (580 or newer), "
            "or set backend to cuda or openvino"
        )
    # On Windows, devices do not state their bus address.
    return found[0], find_card(dict(found[0].device.metadata).get("pci_bus_id", ""))


def _left_out(engine: bytes) -> list[str]:
    """Operators that are not part of the engine, and run on the processor."""
    import onnx

    nodes = onnx.load_model_from_string(engine).graph.node
    return sorted({node.op_type for node in nodes} - {"EPContext"})
