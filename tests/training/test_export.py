"""Export: the same numbers from ONNX, and bundles that describe what was trained."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
import yaml
from bioimageio.spec import ValidationContext, load_description
from bioimageio.spec.model.v0_5 import ModelDescr
from numpy.typing import NDArray
from onnx.numpy_helper import to_array
from refocusd_training.config import TrainingConfig, write_config
from refocusd_training.data.config import DataConfig
from refocusd_training.export import export_bundle, receptive_field_px
from refocusd_training.export_onnx import export_onnx
from refocusd_training.loop.record import RunRecord
from refocusd_training.networks import (
    NetworkConfig,
    RefocusNetwork,
    build_described,
    build_network,
)
from safetensors.torch import load_file, save_file

from refocusd.engines.bundle import load_bundle
from refocusd.errors import InputError, OutputError

SMALL = NetworkConfig(
    widths=(8, 16, 16), blocks=(1, 1, 1), half=8, fine=4, stages=(8, 8, 12, 16), depths=(1, 1, 1, 1)
)
# torch's exporter uses what torch deprecates, and misses an optional torchvision.
pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"
)


def settled(config: NetworkConfig) -> RefocusNetwork:
    """A network whose batch norms have seen something."""
    network = build_network(config).train()
    with torch.no_grad():
        network(torch.rand(4, 1, 64, 64))
    return network.eval()


def answers(path: Path, frame: NDArray[np.float32]) -> list[list[NDArray[np.float32]]]:
    """Outputs of OpenVINO and of ONNX Runtime."""
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return [
        [np.asarray(value) for value in compiled(frame).values()],
        session.run(None, {"raw": frame}),
    ]


@pytest.mark.parametrize("name", ["live", "resnet34", "resnet34-96"])
def test_onnx_gives_the_same_numbers_at_other_sizes(name: Any, tmp_path: Path) -> None:
    network = settled(replace(SMALL, name=name, defocus_head=name != "resnet34-96"))
    path = tmp_path / "model.onnx"
    export_onnx(network, path)
    assert b"site-packages" not in path.read_bytes(), "paths of this machine are in the file"
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"], "weights outside the file"
    graph = onnx.load(path).graph
    assert [value.name for value in graph.input] == ["raw"]
    expected_names = ["refocused", "defocus"] if network.defocus is not None else ["refocused"]
    assert [value.name for value in graph.output] == expected_names
    for shape in ((1, 1, 64, 64), (3, 1, 96, 32), (1, 1, 160, 224)):
        frame = np.random.default_rng(shape[2]).random(shape, np.float32)
        with torch.inference_mode():
            raw = torch.from_numpy(frame)
            expected = (
                network.forward_with_defocus(raw) if network.defocus is not None else [network(raw)]
            )
        for found in answers(path, frame):
            for ours, theirs in zip(expected, found, strict=True):
                np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-4)


def test_the_shipped_weights_export_to_the_shipped_function(tmp_path: Path) -> None:
    bundle = load_bundle("live-nuclei")
    assert bundle.weights is not None
    network = build_network(NetworkConfig()).eval()
    network.load_state_dict(load_file(bundle.weights))
    export_onnx(network, tmp_path / "model.onnx")
    shipped, ours = onnx.load(bundle.onnx).graph, onnx.load(tmp_path / "model.onnx").graph
    assert [n.op_type for n in ours.node] == [n.op_type for n in shipped.node]
    weights = {t.name: to_array(t) for t in shipped.initializer}
    for tensor in ours.initializer:
        if tensor.name in weights:
            np.testing.assert_array_equal(to_array(tensor), weights[tensor.name])
    raws = np.load(bundle.folder / "validation_raw.npy")[:1]
    expected = np.load(bundle.folder / "validation_refocused.npy")[:1]
    for found in answers(tmp_path / "model.onnx", raws):
        np.testing.assert_allclose(found[0], expected, atol=1e-4)


def run_folder(folder: Path, config: TrainingConfig, **record: Any) -> Path:
    """Files that a run leaves, of a network that learned nothing."""
    folder.mkdir()
    write_config(config, folder / "config.toml")
    weights = settled(config.network).state_dict()
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "weights.safetensors")
    said: dict[str, Any] = {
        "data": "sharp images of mine",
        "images": 7,
        "split_sha256": "",
        "seed": 3,
        "steps": 5,
        "planned_steps": 10,
        "seconds": 12.5,
        "final_loss": 0.5,
        "device": "cpu",
        "versions": {"torch": "2"},
    }
    record = asdict(RunRecord(**{**said, **record}))
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def test_a_bundle_describes_its_network_so_that_it_can_be_made_again(tmp_path: Path) -> None:
    config = TrainingConfig(network=replace(SMALL, name="resnet34", defocus_head=True))
    run = run_folder(
        tmp_path / "run", config, samples={"kind": "sharp", "channels": ["DNA", "actin"]}
    )
    export_bundle(run, tmp_path / "bundle", model_id="mine-1")
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.channels == ("DNA", "actin")
    assert bundle.network is not None
    assert bundle.weights is not None
    network = build_described(bundle.network).eval()
    network.load_state_dict(load_file(bundle.weights))
    raws = np.load(bundle.folder / "validation_raw.npy")
    with torch.inference_mode():
        again = network(torch.from_numpy(raws)).numpy()
    np.testing.assert_allclose(
        again, np.load(bundle.folder / "validation_refocused.npy"), atol=1e-5
    )
    with ValidationContext(perform_io_checks=True):
        described = load_description(tmp_path / "bundle" / "rdf.yaml")
    assert isinstance(described, ModelDescr), described.validation_summary.format()
    card = bundle.card
    for said in ("sharp images of mine (7 images)", "DNA, actin", "5 of 10 planned", "NA 0.4"):
        assert said in card
    assert "nuclei" not in card.replace("nuclei.tif", "")


def test_a_card_of_real_pairs_promises_no_optics(tmp_path: Path) -> None:
    config = TrainingConfig(network=SMALL, data=DataConfig(kind="bbbc006"))
    samples = {"kind": "bbbc006", "channels": ["w1"], "skipped": {"corrupt": 2}}
    run = run_folder(tmp_path / "run", config, data="BBBC006v1 (CC0)", samples=samples)
    export_bundle(run, tmp_path / "bundle", model_id="pairs-1")
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.trained == {}
    assert "real pairs" in bundle.card
    assert "corrupt" in bundle.card
    assert "NA 0.4" not in bundle.card
    described = yaml.safe_load((bundle.folder / "rdf.yaml").read_text(encoding="utf-8"))
    assert "Ljosa" in described["cite"][0]["text"]


def test_a_receptive_field_is_measured_also_of_the_deep_network() -> None:
    live, deep = (settled(replace(SMALL, name=name)) for name in ("live", "resnet34"))
    assert 16 <= receptive_field_px(live, size=256) <= 128
    assert 16 <= receptive_field_px(deep, size=256) <= 256


def test_what_is_no_run_or_no_bundle_is_refused(tmp_path: Path) -> None:
    config = TrainingConfig(network=SMALL)
    run = run_folder(tmp_path / "run", config)
    other = replace(config, network=replace(SMALL, half=12))
    write_config(other, run / "config.toml")
    with pytest.raises(InputError, match="does not fit the network"):
        export_bundle(run, tmp_path / "bundle")
    (run / "weights.safetensors").write_bytes(b"none")
    with pytest.raises(InputError, match="does not fit the network"):
        export_bundle(run, tmp_path / "bundle")
    (run / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="no record of a run"):
        export_bundle(run, tmp_path / "bundle")
    with pytest.raises(OutputError, match="no bundle"):
        export_bundle(run, run)
    assert not (tmp_path / "bundle").exists()
