"""OpenVINO's devices: the processor, graphics, an NPU, or its own choice."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from refocusd.config import EngineOptions
from refocusd.engines.choose import build_engine
from refocusd.engines.runtimes.openvino import (
    OpenVinoEngine,
    OpenVinoNetwork,
    openvino_devices,
    openvino_precision,
)
from refocusd.errors import EngineError
from refocusd.models.bundle import ModelBundle, load_bundle


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return load_bundle("live-nuclei")


def test_the_processor_is_always_among_the_devices() -> None:
    assert openvino_devices()["CPU"]


@pytest.mark.parametrize("model", ["live-nuclei", "live-fluorescence"])
def test_auto_gives_the_frames_of_the_device_that_it_takes(model: str) -> None:
    raw = np.random.default_rng(0).integers(100, 4000, (96, 96), dtype=np.uint16)
    frames = []
    for device in ("CPU", "AUTO"):
        options = EngineOptions("openvino", "f32", threads=1, device=device)
        with closing(build_engine(model, options)) as engine:
            out = np.empty_like(raw)
            engine.refocus(raw, out)
            frames.append(out)
            if device == "AUTO" and set(openvino_devices()) == {"CPU"}:
                assert engine.description.device == "CPU"
                assert "-auto-" in engine.description.key
    assert np.abs(frames[0].astype(int) - frames[1]).max() <= 1


@pytest.mark.parametrize("device", ["TPU", "GPU.7", "npu7"])
def test_a_device_that_is_not_here_is_one_error_that_lists_those_that_are(
    bundle: ModelBundle, device: str
) -> None:
    with pytest.raises(EngineError, match=rf"no device {device} here, only .*CPU.*set device to"):
        OpenVinoEngine(bundle, EngineOptions("openvino", "f32", device=device))


class Graphics:
    """OpenVINO on a computer with two Intel graphics devices, up to the call that compiles."""

    available_devices = ("CPU", "GPU.0", "GPU.1", "NPU")

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []

    def set_property(self, how: dict[str, bool]) -> None:
        pass

    def get_property(self, device: str, name: str) -> list[str]:
        assert name == "OPTIMIZATION_CAPABILITIES"
        return ["FP32", "BF16"] if device == "CPU" else ["FP32", "FP16", "INT8"]

    def read_model(self, path: str) -> Unread:
        return Unread()

    def compile_model(self, model: Any, device: str, how: dict[str, str]) -> Any:
        self.asked.append((device, how))
        raise RuntimeError("no such driver here")


@pytest.mark.parametrize(
    ("device", "asked"),
    [
        ("GPU", {"INFERENCE_PRECISION_HINT": "f16", "PERFORMANCE_HINT": "LATENCY"}),
        ("gpu.1", {"INFERENCE_PRECISION_HINT": "f16", "PERFORMANCE_HINT": "LATENCY"}),
        ("NPU", {"INFERENCE_PRECISION_HINT": "f16", "PERFORMANCE_HINT": "LATENCY"}),
        (
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "bf16",
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": "3",
                "ENABLE_CPU_PINNING": "NO",
            },
        ),
        (
            "AUTO",
            {
                "INFERENCE_PRECISION_HINT": "f16",
                "PERFORMANCE_HINT": "LATENCY",
                "DEVICE_PROPERTIES": "{CPU:{INFERENCE_NUM_THREADS:3,ENABLE_CPU_PINNING:NO}}",
            },
        ),
    ],
)
def test_each_device_is_asked_in_its_own_words(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch, device: str, asked: dict[str, str]
) -> None:
    """Threads and pinning apply only to the processor; other devices refuse them."""
    computer = Graphics()
    monkeypatch.setattr("openvino.Core", lambda: computer)
    with pytest.raises(EngineError, match=r"cannot compile .*no such driver here"):
        OpenVinoNetwork(bundle, EngineOptions("openvino", threads=3, device=device))
    assert computer.asked == [(device.upper(), asked)]


class Unread:
    """A model that is not inspected."""

    inputs = (None,)

    def reshape(self, shape: list[int]) -> None:
        assert shape == [-1, 1, -1, -1]


def test_graphics_compute_in_f16_and_not_in_bf16(bundle: ModelBundle) -> None:
    computer = Graphics()
    assert openvino_precision(computer, bundle, "auto", "GPU") == ("f16", "f16")
    assert openvino_precision(computer, bundle, "f32", "GPU") == ("f32", "f32")
    assert openvino_precision(computer, bundle, "int8", "GPU") == ("int8", "f16")
    with pytest.raises(EngineError, match="device GPU does not compute in bf16"):
        openvino_precision(computer, bundle, "bf16", "GPU")
    with pytest.raises(EngineError, match="no int8 network"):
        openvino_precision(computer, replace(bundle, variants={}), "int8", "GPU")
