"""The default engine: a bundle's ONNX, compiled by OpenVINO for the CPU or another of its devices."""

from __future__ import annotations

import os
import re
import sys
from collections import deque
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refocusd.config import EngineOptions
from refocusd.engines.engine import EngineDescription
from refocusd.engines.tiled import OUTPUT, TiledEngine, pixel_bytes
from refocusd.errors import EngineError
from refocusd.models.bundle import ModelBundle

#: Memory that one frame may take in the engine by default, MiB.
DEFAULT_ENGINE_MIB = 2048
DEFAULTS = EngineOptions()
#: Number of sizes, beside the one in use, for which a network at the scale of the blur stays compiled.
_SIZES = 2
#: Frames whose blur is narrower than the network's by at least this (natural logarithm) were not reduced; smaller
#: differences come from rounding the size.
_NOT_REDUCED = -0.05
#: Compiling for a size takes as long as it saves on about 35 frames.  A camera's size does not change, so its second
#: frame is reason enough.  The size of reduced frames depends on their blur: it must occur this often among the last
#: frames, of which this many count.
_OFTEN, _LATELY = 8, 24
#: A value that no network returns: if it is still present, nothing was computed.
UNANSWERED = np.finfo(np.float32).min
#: OpenVINO's messages that mean that memory ran out (others may mean it, too).
OUT_OF_MEMORY = re.compile(r"alloc|out of memory|not enough memory", re.IGNORECASE)

Computed = Literal["f32", "f16", "bf16", "int8"]


def engine_threads(wanted: int = 0) -> int:
    """Threads for a CPU engine: as wanted, or all cores but one if there are more than two.

    The remaining core is left to the acquisition.  With two cores, it is better to use both and leave
    the choice to the scheduler, because the worker runs at a low priority.
    """
    cores = os.cpu_count() or 1
    if sys.platform == "linux":
        # Only those that this process may use: a container or a scheduler may reserve the others.
        cores = len(os.sched_getaffinity(0))
    return wanted or (cores - 1 if cores > 2 else cores)


def openvino_devices() -> dict[str, str]:
    """Devices that OpenVINO finds here (``CPU``, ``GPU``, ``NPU``), each with its full name."""
    import openvino

    core = openvino.Core()
    return {name: core.get_property(name, "FULL_DEVICE_NAME") for name in core.available_devices}


class OpenVinoNetwork:
    """A graph compiled by OpenVINO; see `Network`.

    Parameters
    ----------
    bundle : ModelBundle
    options : EngineOptions
        Precision ``auto`` on the CPU is bf16 if the processor supports it, otherwise int8 if the
        bundle has an accepted int8 network and the processor supports int8, otherwise f32; on a GPU or NPU it
        is f16.  The precision is always set explicitly, because OpenVINO would use bf16 without saying so.
        With ``int8``, layers that are not quantised compute in bf16, f16 or f32.  Threads: see
        `engine_threads`; OpenVINO's threads inherit the priority of the thread that builds the engine.

    Raises
    ------
    EngineError
        If OpenVINO has no such device or cannot compile the network, or the device or the bundle
        does not support the chosen precision.
    """

    def __init__(self, bundle: ModelBundle, options: EngineOptions = DEFAULTS) -> None:
        import openvino

        self._model_id = bundle.model_id
        self._core = openvino.Core()
        # On Windows, a mapped file cannot be replaced, so a model could not be updated while a worker
        # runs.  (Weights inside an ONNX file are never mapped, those beside it are.)
        self._core.set_property({"ENABLE_MMAP": sys.platform != "win32"})
        self._device = _checked_device(self._core, options.device)
        chosen, hint = openvino_precision(self._core, bundle, options.precision, self._device)
        #: Bytes per value that is not quantised.
        self.number_bytes = 4 if hint == "f32" else 2
        self.onnx = bundle.variants["int8"] if chosen == "int8" else bundle.onnx
        self._how = _how(self._device, hint, engine_threads(options.threads))
        self._channels = 1 if bundle.fine_sigma_px is None else 3
        self._compiled, self._request = self._loaded()
        self.outputs = tuple(_name(port) for port in self._compiled.outputs)
        self._checked = self.outputs.index(OUTPUT) if OUTPUT in self.outputs else 0
        device = self._device
        if device == "AUTO":
            device = ",".join(self._compiled.get_property("EXECUTION_DEVICES"))
        runtime = f"openvino-{openvino.__version__.split('-')[0]}-{self._device.lower()}"
        self.description = EngineDescription.of_bundle(bundle, "openvino", chosen, device, runtime)

    def run(self, batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """Run the network; the outputs are in OpenVINO's own memory.  See `Network.run`."""
        if self._request is None:  # memory ran out, and may be free again
            self._load_again()
        ports = self._compiled.outputs
        self._infer(self._request, ports[self._checked], self._inputs(batch))
        return tuple(self._request.get_tensor(port).data for port in ports)

    def close(self) -> None:
        """Free the compiled network."""
        self._request = self._compiled = None

    def _infer(self, request: Any, port: Any, inputs: list[NDArray[np.float32]]) -> None:
        """Run a request; the output `port` shows whether anything was computed."""
        earlier = request.get_tensor(port).data
        if earlier.size:
            earlier.flat[0] = UNANSWERED
        try:
            request.infer(inputs, share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            if OUT_OF_MEMORY.search(str(error)):
                raise self._out_of_memory(str(error)) from error
            height, width = inputs[0].shape[2:]
            raise EngineError(
                f"OpenVINO failed on {width}×{height} px of a frame: {error}"
            ) from error
        checked = request.get_tensor(port).data
        # With one thread, OpenVINO (2026.4) raises no error if an allocation fails, and leaves the
        # result of another frame in place.
        if not checked.size or checked.flat[0] == UNANSWERED:
            raise self._out_of_memory("OpenVINO computed nothing")

    def _out_of_memory(self, why: str) -> MemoryError:
        """The error to raise; the network is closed, as it would now fail or return wrong frames."""
        self.close()
        return MemoryError(why)

    def _loaded(self, count: int = -1, height: int = -1, width: int = -1) -> tuple[Any, Any]:
        """The network compiled for frames of this size (-1: any), and a request to run it."""
        try:
            model = self._core.read_model(str(self.onnx))
            if len(model.inputs) != 1:
                raise ValueError(f"it takes {len(model.inputs)} inputs instead of one")
            # Ours are dynamic; others may state the size of the frames that they were made with.
            model.reshape([count, self._channels, height, width])
            return self._compile(model)
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"OpenVINO cannot compile {self.onnx}: {error}") from error

    def _compile(self, model: Any, **how: str) -> tuple[Any, Any]:
        compiled = self._core.compile_model(model, self._device, {**self._how, **how})
        return compiled, compiled.create_infer_request()

    def _inputs(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return [batch]

    def _load_again(self) -> None:
        try:
            self._compiled, self._request = self._loaded()
        except (EngineError, MemoryError) as error:
            raise EngineError(
                f"the memory ran out for model {self._model_id}, which cannot even be compiled again; "
                "close other programs"
            ) from error


class OpenVinoScaleNetwork(OpenVinoNetwork):
    """A network at the scale of the blur in two parts: deconvolution, and the layers after it.

    Deconvolution takes half of the time and does not depend on the stated blur, so a frame that is processed
    twice at the same size, with another blur, is deconvolved only once.  It is computed in f32, whatever the
    precision of the layers after it, as with torch: with rounding, the iterations drift (0.15 dB on the demo's
    frames).

    If a size occurs often, the network is compiled for it: OpenVINO then fuses chains of operations and takes
    four fifths of the time.  The values differ only by rounding.
    """

    _frame: NDArray[np.float32] | None = None
    _deconvolution: Any = None
    _bank: Any = None
    #: Compiled networks that are not in use, by size (None for any), oldest first.
    _others: dict[tuple[int, ...] | None, tuple[Any, ...]]
    _size: tuple[int, ...] | None = None

    def __init__(self, bundle: ModelBundle, options: EngineOptions = DEFAULTS) -> None:
        self._others = {}
        self._lately: deque[tuple[int, ...]] = deque(maxlen=_LATELY)
        super().__init__(bundle, options)

    def run(self, batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """Run the network; see `OpenVinoNetwork.run`."""
        size = self._size_of(batch)
        if size != self._size and self._request is not None:
            self._change_to(size)
        return super().run(batch)

    def close(self) -> None:
        """Free the compiled network."""
        super().close()
        self._frame = self._deconvolution = self._bank = self._size = None
        self._others.clear()

    def _size_of(self, batch: NDArray[np.float32]) -> tuple[int, ...] | None:
        """The size for which to compile the network if it occurs often; None for any size."""
        if self._device != "CPU":
            return None
        size = (1, *batch.shape[2:])
        wanted = 1 if float(batch[0, 1, 0, 0]) < _NOT_REDUCED else _OFTEN
        often = self._lately.count(size) >= wanted
        self._lately.append(size)
        return size if often or size in (self._size, *self._others) else None

    def _change_to(self, size: tuple[int, ...] | None) -> None:
        self._others[self._size] = (
            self._compiled,
            self._request,
            self._bank,
            self._deconvolution,
        )
        if (other := self._others.pop(size, None)) is not None:
            self._compiled, self._request, self._bank, self._deconvolution = other
        else:
            while len(self._others) > _SIZES:
                del self._others[next(iter(self._others))]
            try:
                self._compiled, self._request = self._loaded(*size or ())
            except BaseException:
                self.close()  # otherwise, the parts of two sizes would be mixed
                raise
        self._size, self._frame = size, None

    def _compile(self, model: Any, **how: str) -> tuple[Any, Any]:
        self._frame = self._deconvolution = self._bank = None
        after = _after_deconvolution(model) if self._device == "CPU" else None
        if after is not None:
            import openvino
            from openvino import opset8

            bank = after.input_value(1)
            first = openvino.Model([bank], [model.inputs[0].get_node()], "deconvolution")
            self._bank, self._deconvolution = super()._compile(
                first, INFERENCE_PRECISION_HINT="f32"
            )
            given = opset8.parameter(bank.get_partial_shape(), bank.get_element_type(), "bank")
            after.input(1).replace_source_output(given.output(0))
            model.add_parameters([given])
            model.validate_nodes_and_infer_types()
        return super()._compile(model, **how)

    def _inputs(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        if self._deconvolution is None:
            return [batch]
        if self._frame is None or not np.array_equal(self._frame, batch[:, 0]):
            self._frame = None  # in case the deconvolution fails
            self._infer(self._deconvolution, self._bank.outputs[0], [batch])
            self._frame = batch[:, 0].copy()
        return [batch, self._deconvolution.get_output_tensor().data]


def _after_deconvolution(model: Any) -> Any:
    """The node that concatenates the frame (4 channels), the deconvolved frames and the blur (2), or None."""
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Concat" or node.get_input_size() != 3:
            continue
        shapes = [node.input_value(place).get_partial_shape() for place in range(3)]
        channels = [shape[1] for shape in shapes if shape.rank.is_static and len(shape) == 4]
        if len(channels) == 3 and channels[0] == 4 and channels[2] == 2:
            return node
    return None


class OpenVinoEngine(TiledEngine):
    """Runs a bundle with OpenVINO, in at most 2048 MiB unless ``engine_mib`` is set.

    Parameters
    ----------
    bundle : ModelBundle
    options : EngineOptions

    Raises
    ------
    EngineError
        See `OpenVinoNetwork` and `TiledEngine`.
    """

    def __init__(self, bundle: ModelBundle, options: EngineOptions = DEFAULTS) -> None:
        network = OpenVinoNetwork(bundle, options)
        needed = pixel_bytes(network.onnx, bundle.size_multiple, network.number_bytes)
        super().__init__(
            bundle, options, network, pixel_bytes=needed, memory_mib=DEFAULT_ENGINE_MIB
        )


def openvino_precision(
    core: Any, bundle: ModelBundle, wanted: str, device: str = "CPU"
) -> tuple[Computed, Computed]:
    """The precision to report, and OpenVINO's precision hint for layers that are not quantised."""
    able = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    hint: Computed = "bf16" if "BF16" in able else "f32"
    if device != "CPU" and "FP16" in able:
        hint = "f16"
    if wanted == "auto":
        # int8 is hardly faster than bf16 and costs up to 0.1 dB; compared with f32, it is worth it.
        quantised = "int8" in bundle.variants and "INT8" in able and hint == "f32"
        return ("int8" if quantised else hint), hint
    if wanted == "f32":
        return "f32", "f32"
    if wanted == hint:
        return hint, hint
    if wanted != "int8" or "INT8" not in able:
        where = "this processor" if device == "CPU" else f"OpenVINO's device {device}"
        raise EngineError(f"{where} does not compute in {wanted}; set precision to f32 or auto")
    if "int8" not in bundle.variants:
        raise EngineError(
            f"model {bundle.model_id} has no int8 network; set precision to auto, or export "
            "the model with --int8"
        )
    return "int8", hint


def _checked_device(core: Any, wanted: str) -> str:
    """The name of a device that OpenVINO finds here; ``GPU`` also means the first of several."""
    device = wanted.upper()
    found = [str(name) for name in core.available_devices]
    if device == "AUTO" or device in found or any(n.startswith(f"{device}.") for n in found):
        return device
    raise EngineError(
        f"OpenVINO finds no device {wanted} here, only {', '.join(found)}; set device to one of these "
        "or to AUTO, or install the device's driver"
    )


def _how(device: str, hint: str, threads: int) -> dict[str, str]:
    """OpenVINO's properties for compiling for a device."""
    how = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    # Threads are not pinned, because the acquisition may run on any core.
    cpu = {"INFERENCE_NUM_THREADS": str(threads), "ENABLE_CPU_PINNING": "NO"}
    if device == "CPU":
        return how | cpu
    if device == "AUTO":  # which may take the CPU
        inner = ",".join(f"{name}:{value}" for name, value in cpu.items())
        return how | {"DEVICE_PROPERTIES": f"{{CPU:{{{inner}}}}}"}
    return how


def _name(port: Any) -> str:
    names = sorted(port.get_names())
    return OUTPUT if OUTPUT in names else str(names[0] if names else "")
