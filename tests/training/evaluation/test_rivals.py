"""The rivals: sizes as published, trained on our batches, a column beside a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from refocusd_training.config import TrainingConfig
from refocusd_training.data.samples import Batch, SampleStream
from refocusd_training.evaluation.methods import Exposure, OnnxMethod
from refocusd_training.losses import LossConfig
from refocusd_training.simulate.blur import Defocus
from refocusd_training.simulate.ranges import HELD_OUT
from refocusd_training.simulate.scene import simulate_frame
from torch import nn

from benchmarks.quality.ablation import checked
from benchmarks.rivals.care_unet import CareUNet
from benchmarks.rivals.nafnet import NafNet, paper_nafnet, small_nafnet
from benchmarks.rivals.train_rivals import Budget, train_rival
from refocusd.errors import ConfigError, InputError

#: The rivals with fewer channels.
SMALLER: dict[str, Callable[[], nn.Module]] = {
    "care": lambda: CareUNet(first=4),
    "nafnet": lambda: NafNet(4, (1,), 1, (1,)),
}


class Source:
    """The sample image as training data."""

    description: dict[str, object] = {"data": "the sample"}  # noqa: RUF012

    def __init__(self, flux: NDArray[np.float32]) -> None:
        self._stream = SampleStream([flux], size=64, batch=2, bank=4, seed=1)

    def batches(self, first: int):  # type: ignore[no-untyped-def]
        return self._stream.batches(first)

    def validation(self) -> list[Batch]:
        return [next(self._stream.batches(1000))]


def parameters(network: nn.Module) -> int:
    return sum(value.numel() for value in network.parameters())


def test_care_has_the_layers_that_csbdeep_builds() -> None:
    network = CareUNet()
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    shapes = [(m.in_channels, m.out_channels, m.kernel_size[0]) for m in convolutions]
    assert shapes == [
        *((1, 32, 5), (32, 32, 5), (32, 64, 5), (64, 64, 5)),
        *((64, 128, 5), (128, 64, 5)),
        *((128, 64, 5), (64, 32, 5), (64, 32, 5), (32, 32, 5)),
        (32, 1, 1),
    ]


def test_nafnet_of_the_paper_has_its_size() -> None:
    # 17.1 M parameters are published for three channels in and out.
    network = paper_nafnet()
    colour = 2 * 2 * 9 * 32 + 2
    assert (parameters(network) + colour) / 1e6 == pytest.approx(17.1, abs=0.05)


@pytest.mark.parametrize("make", [CareUNet, small_nafnet])
def test_a_rival_takes_any_frame_of_its_multiple(make: type[nn.Module]) -> None:
    network = make().eval()
    multiple = network.size_multiple
    assert isinstance(multiple, int)
    raw = torch.randn(2, 1, 2 * multiple, 3 * multiple)
    with torch.inference_mode():
        assert network(raw).shape == raw.shape


def test_nafnet_blocks_start_as_the_identity() -> None:
    network = NafNet(4, (1, 1), 1, (1, 1))
    block = network.middle[0]
    x = torch.randn(1, 16, 8, 8)
    assert torch.equal(block(x), x)


@pytest.fixture(scope="module")
def trained(flux: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rivals after a few steps on small batches."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("rivals")
    config = TrainingConfig(batch=2, size=64)
    for name, make in SMALLER.items():
        train_rival(name, make(), config, Source(flux), output, Budget(1.0, 3), torch.device("cpu"))
    torch.set_num_threads(threads)
    return output


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["care", "nafnet"])
def test_a_trained_rival_is_a_column(trained: Path, name: str, flux: NDArray[np.float32]) -> None:
    record = json.loads((trained / f"{name}.json").read_text(encoding="utf-8"))
    assert record["steps"] == 3
    assert record["parameters"] == parameters(SMALLER[name]())
    scene = simulate_frame(flux[:200, :190], HELD_OUT[4], Defocus(8.0), np.random.default_rng(0))
    method = OnnxMethod(name, trained / f"{name}.onnx")
    image = method.refocus(Exposure(scene.raw, scene.truth, scene.range, 0.645))
    assert image.shape == scene.raw.shape
    network = SMALLER[name]()
    from safetensors.torch import load_file

    network.load_state_dict(load_file(trained / f"{name}.safetensors"))
    padded = np.pad(scene.range.normalise(scene.raw), ((0, 24), (0, 2)), mode="reflect")
    with torch.inference_mode():
        expected = network.eval()(torch.from_numpy(padded)[None, None])[0, 0, :200, :190].numpy()
    counts = expected * scene.range.scale + scene.range.offset
    assert image == pytest.approx(counts, abs=1e-3 * scene.range.scale)


def test_a_budget_is_spent_in_steps_or_minutes() -> None:
    assert Budget(1.0, 10).share(5, 1e9) == 0.5
    assert Budget(2.0).share(10**9, 60.0) == 0.5
    assert Budget(2.0).share(0, 1000.0) == 1.0


def test_a_rival_that_is_no_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rival.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="cannot be compiled as ONNX"):
        OnnxMethod("rival", tmp_path / "rival.onnx")


def test_an_ablation_changes_one_thing() -> None:
    config = TrainingConfig()
    checked({"a": config, "b": replace(config, loss=LossConfig(name="l1"))})
    for other in (replace(config, steps=7), replace(config, learning_rate=1e-4)):
        with pytest.raises(ConfigError, match="an ablation changes one thing"):
            checked({"a": config, "b": other})
