"""The live network: shapes, a clean start, and the same numbers from ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from refocusd_training.export import export_onnx
from refocusd_training.networks import SIZE_MULTIPLE, LiveUNet, LiveUNetConfig, icnr_

SMALL = LiveUNetConfig(widths=(8, 16, 16), blocks=(1, 1, 1), half=8, fine=4)


def network(config: LiveUNetConfig = SMALL) -> LiveUNet:
    torch.manual_seed(0)
    return LiveUNet(config).eval()


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (3, 1, 64, 160), (1, 1, 224, 96)])
def test_a_frame_comes_back_with_its_shape(shape: tuple[int, ...]) -> None:
    with torch.inference_mode():
        assert network()(torch.rand(shape)).shape == shape


def test_the_shipped_widths_fit_the_bundle() -> None:
    parameters = sum(p.numel() for p in LiveUNet().parameters())
    assert parameters * 4 < 5.5e6  # twice, in ONNX and in safetensors, within 12 MB


def test_pixel_shuffle_starts_as_nearest_neighbour() -> None:
    convolution = torch.nn.Conv2d(6, 4 * 5, 1, bias=False)
    icnr_(convolution.weight)
    out = torch.nn.functional.pixel_shuffle(convolution(torch.rand(1, 6, 8, 8)), 2)
    assert torch.equal(out[..., ::2, ::2], out[..., 1::2, 1::2])
    assert torch.equal(out[..., ::2, ::2], out[..., ::2, 1::2])


def test_a_flat_frame_stays_flat_away_from_the_border() -> None:
    # The borders see the padding; in the middle no phase of any grid may show.
    with torch.inference_mode():
        out = network()(torch.full((1, 1, 512, 512), 0.3))[0, 0, 240:272, 240:272]
    assert float(out.max() - out.min()) < 1e-5


# torch's exporter uses what torch deprecates, and misses an optional torchvision.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_onnx_gives_the_same_numbers_at_other_sizes(tmp_path: Path) -> None:
    net = network()
    path = tmp_path / "model.onnx"
    export_onnx(net, path)
    assert b"site-packages" not in path.read_bytes(), "paths of this machine are in the file"
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"], "weights outside the file"
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert compiled.input(0).any_name == "raw"
    assert compiled.output(0).any_name == "refocused"
    for batch, height, width in ((1, 64, 64), (3, 96, 32), (1, 5 * SIZE_MULTIPLE, 224)):
        frame = np.random.default_rng(height).random((batch, 1, height, width), np.float32)
        with torch.inference_mode():
            expected = net(torch.from_numpy(frame)).numpy()
        np.testing.assert_allclose(compiled(frame)[0], expected, atol=2e-5)
