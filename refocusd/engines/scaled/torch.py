"""A network at the scale of the blur by torch, on NVIDIA cards."""

from __future__ import annotations

from typing import Any, Literal

from refocusd.config import EngineOptions
from refocusd.engines.cuda import described_network, probe
from refocusd.engines.engine import EngineDescription, card_lost
from refocusd.engines.scaled.network import Answer, Floats
from refocusd.errors import EngineError
from refocusd.models.bundle import ModelBundle


class TorchScaleNetwork:
    """Runs a bundle's weights by torch; see `ScaleNetwork`.

    Deconvolution computes in f32, the layers after it in the precision asked for.

    Raises
    ------
    EngineError
        If torch or a card is missing, or the bundle's weights do not fit its description.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        options: EngineOptions,
        device: Literal["cuda", "cpu"] = "cuda",
    ) -> None:
        if device == "cuda" and (why := probe()):
            raise EngineError(why)
        import torch

        precision = options.precision
        if precision == "auto":
            precision = "f16" if device == "cuda" else "f32"
        types = {"f32": None, "f16": torch.float16, "bf16": torch.bfloat16}
        if precision not in types:
            raise EngineError(
                f"the cuda backend does not compute in {precision}; set precision to f16, bf16, f32 "
                "or auto"
            )
        self._torch = torch
        # Left alone, convolutions on a card round to 10 bits of mantissa (TF32), and so would the deconvolution.
        torch.backends.cudnn.allow_tf32 = False
        self._type = types[precision]
        self._device = torch.device(device)
        self._network: Any = described_network(bundle).to(
            self._device, memory_format=torch.channels_last
        )
        name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
        runtime = f"torch-{torch.__version__}-{name.replace(' ', '_')}"
        self.description = EngineDescription.of_bundle(bundle, "cuda", precision, name, runtime)

    def run(self, seen: Floats) -> Answer:
        """Answer for one frame; see `ScaleNetwork.run`."""
        torch = self._torch
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self._device.type, self._type, enabled=self._type is not None),
            ):
                found = self._network(torch.from_numpy(seen).to(self._device))
                light, interval, blur = (part[0].float().cpu().numpy() for part in found)
        except torch.cuda.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise MemoryError(str(error)) from error
        except RuntimeError as error:
            raise self._failure(seen.shape, error) from error
        return Answer(light[0], interval, float(blur[0]), float(blur[1]))

    def close(self) -> None:
        """Free the device."""
        self._network = None
        if self._device.type == "cuda":
            self._torch.cuda.empty_cache()

    def _failure(self, shape: tuple[int, ...], error: Exception) -> EngineError:
        """What to say of it; a card that is lost fails the next call as well."""
        if self._device.type == "cuda":
            try:
                self._torch.cuda.synchronize()
            except RuntimeError:
                return card_lost(error)
        return EngineError(f"torch failed on {shape[3]}×{shape[2]} px of a frame: {error}")
