"""Networks run by torch, on NVIDIA cards without TensorRT.

A bundle only names its architecture, which is built by the entry point ``build`` of the group
``refocusd.networks`` (`docs/decisions`, 14), and holds the weights as safetensors: nothing in a bundle is
executed.  A full-size network's frames go to the device as counts and return as counts; they are
normalised, tiled and rounded on the device.
"""

from __future__ import annotations

import logging
import time
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from refocusd.config import EngineOptions
from refocusd.engines.engine import EngineDescription, Refocused, card_lost
from refocusd.engines.scaled import OUTPUTS
from refocusd.engines.tiling import Tile, least_tile_px, plan_tiles
from refocusd.errors import EngineError
from refocusd.frame import Pixels
from refocusd.imaging.normalise import CountsRange, check_frame
from refocusd.models.bundle import ModelBundle

if TYPE_CHECKING:
    from torch import Tensor


log = logging.getLogger(__name__)

#: The torch wheels of the package index support CUDA on Linux only.
INSTALL = "pip install torch --index-url https://download.pytorch.org/whl/cu128"
DEFAULTS = EngineOptions()
#: Largest side of a tile, px: limits the time of one kernel on a card that also drives a display.
LARGEST_TILE = 2048
#: Number of frame shapes whose recorded graph is kept.
MAX_GRAPHS = 4

Device = Literal["cuda", "cpu"]


def probe() -> str:
    """Why this engine does not work on this machine, and what to install; empty if it works."""
    try:
        import torch
    except ImportError:
        return f"torch is not installed; install it with: {INSTALL}"
    except OSError as error:
        return f"torch does not load ({error}); install it again: {INSTALL}"
    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) computes on the CPU only; install: {INSTALL}"
    if not torch.cuda.is_available():
        return "torch finds no NVIDIA card: look at nvidia-smi, and update the driver"
    return ""


class _TorchModel:
    """A bundle's weights in torch, on one device.

    Parameters
    ----------
    bundle : ModelBundle
    options : EngineOptions
        Precision ``auto`` is f16 on a card, f32 on a CPU.
    device : {"cuda", "cpu"}
        The CPU is for tests only, because OpenVINO is faster.

    Raises
    ------
    EngineError
        If torch or a card is missing, the bundle does not describe its network, or its weights
        do not fit the network.
    """

    def __init__(
        self, bundle: ModelBundle, options: EngineOptions = DEFAULTS, device: Device = "cuda"
    ) -> None:
        if device == "cuda" and (why := probe()):
            raise EngineError(why)
        import torch

        precision = options.precision
        if precision == "auto":
            precision = "f16" if device == "cuda" else "f32"
        types = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
        if precision not in types:
            raise EngineError(
                f"the cuda backend does not compute in {precision}; set precision to f16, bf16, f32 "
                "or auto"
            )
        # By default, f32 convolutions on a card round to 10 bits of mantissa (TF32).
        torch.backends.cudnn.allow_tf32 = False
        self._torch = torch
        self._bundle = bundle
        #: Only names the network in messages; torch loads the weights from the safetensors.
        self.onnx = bundle.onnx
        self._device = torch.device(device)
        self._type = types[precision]
        self._network: Any = described_network(bundle).to(
            self._device, memory_format=torch.channels_last
        )
        name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
        runtime = f"torch-{torch.__version__}-{name.replace(' ', '_')}"
        self.description = EngineDescription.of_bundle(bundle, "cuda", precision, name, runtime)

    def close(self) -> None:
        """Free the device."""
        self._network = None
        if self._device.type == "cuda":
            self._torch.cuda.empty_cache()

    def _failure(self, shape: tuple[int, ...], error: Exception) -> EngineError:
        """The error to raise for `error`: if the card is lost, synchronising fails, too."""
        try:
            self._wait()
        except RuntimeError:
            return card_lost(error)
        return EngineError(f"torch failed on {shape[-1]}×{shape[-2]} px of a frame: {error}")

    def _wait(self) -> None:
        if self._device.type == "cuda":
            self._torch.cuda.synchronize()


class TorchEngine(_TorchModel):
    """Refocuses with a network that sees frames at full size; see `Engine`."""

    def __init__(
        self, bundle: ModelBundle, options: EngineOptions = DEFAULTS, device: Device = "cuda"
    ) -> None:
        super().__init__(bundle, options, device)
        self._network.to(self._type)
        self._graphs: dict[tuple[int, ...], _Graph] = {}
        self._batch = options.tile_batch or 1
        step = bundle.size_multiple
        self._least = least_tile_px(bundle, options.tile_px)
        self._tile_px = options.tile_px or max(LARGEST_TILE // step * step, self._least)
        if device == "cuda" and options.engine_mib:
            cuda = self._torch.cuda
            total = cuda.get_device_properties(0).total_memory
            cuda.set_per_process_memory_fraction(min(1.0, (options.engine_mib << 20) / total))

    def warm_up(self, shape: tuple[int, int]) -> None:
        """Process two flat frames of `shape` (height, width), of which the second replays the graph."""
        flat = np.zeros(shape, np.uint16)
        for _ in range(2):
            self.refocus(flat, flat.copy())

    def tiles(self, shape: tuple[int, int]) -> list[Tile]:
        """The tiles of a frame of `shape` (height, width)."""
        bundle = self._bundle
        return plan_tiles(shape, self._tile_px, bundle.receptive_field_px, bundle.size_multiple)

    def refocus(self, raw: Pixels, out: Pixels) -> Refocused:
        """Estimate the in-focus frame into `out`; see `Engine.refocus`."""
        check_frame(raw, out)
        if self._network is None:
            raise EngineError("this engine is closed: build another")
        counts = self._bundle.counts_range(raw)
        torch = self._torch
        while True:
            try:
                with torch.inference_mode():
                    return self._refocus(raw, out, counts)
            except torch.cuda.OutOfMemoryError as error:
                self._shrink(raw.shape, error)
            except RuntimeError as error:
                raise self._failure(raw.shape, error) from error

    def close(self) -> None:
        """Free the device."""
        self._graphs.clear()
        super().close()

    def _refocus(self, raw: Pixels, out: Pixels, counts: CountsRange) -> Refocused:
        torch = self._torch
        frame = self._normalised(raw, counts)
        sharp = torch.empty_like(frame)
        self._wait()
        begun = time.perf_counter()
        plan = self.tiles(raw.shape)
        for first in range(0, len(plan), self._batch):
            tiles = plan[first : first + self._batch]
            answers = self._infer(
                torch.stack([_cut(torch, frame, tile) for tile in tiles])[:, None]
            )
            for tile, answer in zip(tiles, answers, strict=True):
                sharp[tile.write] = answer[0][tile.crop]
        self._wait()
        engine_ms = (time.perf_counter() - begun) * 1e3
        return Refocused(counts, engine_ms, self._restored(sharp, counts, out))

    def _normalised(self, raw: Pixels, counts: CountsRange) -> Tensor:
        torch = self._torch
        # torch has little support for uint16: the bits are uploaded as int16, and the sign is removed there.
        bits = torch.from_numpy(
            np.ascontiguousarray(raw).view(np.int16 if raw.itemsize == 2 else raw.dtype)
        )
        if self._device.type == "cuda":
            bits = bits.pin_memory().to(self._device, non_blocking=True)
        values = bits.to(torch.int32)
        if raw.itemsize == 2:
            values = values & 0xFFFF
        # In float32 with every precision, because 65535 is infinite in f16.
        normalised: Tensor = (values.to(torch.float32) - counts.offset) * (1 / counts.scale)
        return normalised

    def _restored(self, sharp: Tensor, counts: CountsRange, out: Pixels) -> int:
        torch = self._torch
        sharp.mul_(counts.scale).add_(counts.offset).round_()
        top = int(np.iinfo(out.dtype).max)
        clipped = torch.count_nonzero((sharp < 0) | (sharp > top))
        finite = torch.isfinite(sharp).all()
        cut = sharp.clamp_(0, top).to(torch.int32)
        bits = cut.to(torch.int16 if out.itemsize == 2 else torch.uint8).cpu().numpy()
        if not bool(finite):
            raise EngineError(
                "the network returned pixels that are not finite; set precision to f32, or use "
                "another model"
            )
        np.copyto(out, bits.view(out.dtype))
        return int(clipped)

    def _infer(self, batch: Tensor) -> Tensor:
        torch = self._torch
        given = batch.to(self._type).contiguous(memory_format=torch.channels_last)
        if self._device.type != "cuda":
            answer: Tensor = self._network(given).float()
            return answer
        shape = tuple(given.shape)
        graph = self._graphs.get(shape)
        if graph is None:
            while len(self._graphs) >= MAX_GRAPHS:
                del self._graphs[next(iter(self._graphs))]
            graph = self._graphs[shape] = _Graph(torch, self._network, given)
        sharp: Tensor = graph.run(given).float()
        return sharp

    def _shrink(self, shape: tuple[int, ...], error: Exception) -> None:
        """Use smaller tiles, or raise an error if there is no memory for the smallest."""
        self._graphs.clear()
        self._torch.cuda.empty_cache()
        step = self._bundle.size_multiple
        side = max(min(self._tile_px, max(shape)) // 2 // step * step, self._least)
        if side >= min(self._tile_px, max(shape)):
            raise EngineError(
                f"the card has no memory for tiles of {side} px of model {self._bundle.model_id}; "
                "close other programs that use it, or set backend to openvino"
            ) from error
        log.warning("the card is out of memory: from now on in tiles of %d px", side)
        self._tile_px = side


class TorchScaleNetwork(_TorchModel):
    """A network at the scale of the blur; see `Network`.

    Deconvolution is computed in f32, the layers after it in the chosen precision.
    """

    outputs: tuple[str, ...] = OUTPUTS

    def run(self, batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """All outputs; see `Network.run`."""
        torch = self._torch
        wide = self._type == torch.float32
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self._device.type, None if wide else self._type, enabled=not wide),
            ):
                found = self._network(torch.from_numpy(batch).to(self._device))
                return tuple(part.float().cpu().numpy() for part in found)
        except torch.cuda.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise MemoryError(str(error)) from error
        except RuntimeError as error:
            raise self._failure(batch.shape, error) from error


class _Graph:
    """The CUDA graph of one shape: its kernels are recorded once and launched together."""

    def __init__(self, torch: Any, network: Any, example: Tensor) -> None:
        self._input = example.clone()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            # Libraries choose their kernels here, which cannot be done while recording.
            for _ in range(3):
                network(self._input)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = network(self._input)

    def run(self, given: Tensor) -> Tensor:
        """The network's answer, valid until the next call."""
        self._input.copy_(given)
        self._graph.replay()
        output: Tensor = self._output
        return output


def described_network(bundle: ModelBundle) -> Any:
    """The bundle's network with its weights, for inference."""
    if bundle.network is None or bundle.weights is None:
        raise EngineError(
            f"the bundle {bundle.model_id} does not describe its network, which torch needs; use "
            "backend tensorrt or openvino"
        )
    found = entry_points(group="refocusd.networks", name="build")
    if not found:
        raise EngineError("no package here builds networks for torch; install refocusd again")
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise EngineError('safetensors is missing; pip install "refocusd[train]"') from error
    try:
        network = next(iter(found)).load()(bundle.network)
        network.load_state_dict(load_file(bundle.weights))
    except (RuntimeError, OSError, SafetensorError, KeyError) as error:
        raise EngineError(
            f"the weights of {bundle.model_id} do not fit the network that it describes ({error}); "
            "export the bundle again"
        ) from error
    return network.eval()


def _cut(torch: Any, frame: Tensor, tile: Tile) -> Any:
    """A tile of a frame, padded by reflection below and to the right."""
    seen = frame[tile.read]
    for axis, pad in enumerate(tile.pad):
        if pad:
            length = seen.shape[axis]
            index = np.pad(np.arange(length), (0, pad), mode="reflect")
            seen = seen.index_select(axis, torch.from_numpy(index).to(frame.device))
    return seen
