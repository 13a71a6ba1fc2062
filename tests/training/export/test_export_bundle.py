"""Export: ONNX gives the same numbers, and bundles describe what was trained."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
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
from refocusd_training.export import bundle as export
from refocusd_training.export.bundle import bundle_id, export_bundle, receptive_field_px
from refocusd_training.export.card import _trained, model_card
from refocusd_training.export.onnx import export_onnx
from refocusd_training.export.rdf import Facts, rdf
from refocusd_training.loop.folder import network_of_run
from refocusd_training.loop.record import RunRecord
from refocusd_training.networks import (
    NetworkConfig,
    RefocusNetwork,
    build_described,
    build_network,
)
from refocusd_training.simulate.ranges import DEFAULT_RANGES, WIDE_RANGES
from safetensors.torch import load_file, save_file

from refocusd.errors import ConfigError, InputError, OutputError
from refocusd.models.bundle import load_bundle
from refocusd.models.description import MAX_RDF_BYTES

SMALL = NetworkConfig(
    widths=(8, 16, 16), blocks=(1, 1, 1), half=8, fine=4, stages=(8, 8, 12, 16), depths=(1, 1, 1, 1)
)
#: Configurations and records of runs.
RUNS: dict[str, tuple[TrainingConfig, dict[str, Any]]] = {
    "resnet34": (
        TrainingConfig(
            network=replace(SMALL, name="resnet34", defocus_head=True), data=DataConfig(layers=3)
        ),
        {
            "samples": {"kind": "sharp", "channels": ["DNA", "actin"]},
            "limits": ("Bubbles become objects.",),
        },
    ),
    "live": (
        TrainingConfig(network=SMALL, data=DataConfig(kind="bbbc006")),
        {
            "data": "BBBC006v1 (CC0)",
            "samples": {
                "kind": "bbbc006",
                "channels": ["w1"],
                "skipped": {"corrupt": 2},
                "problems": ["/home/me"],
            },
        },
    ),
}
# torch's exporter uses deprecated parts of torch, and warns that torchvision is missing.
pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"
)


def settled(config: NetworkConfig) -> RefocusNetwork:
    """A network whose batch norms have seen data."""
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


def run_folder(folder: Path, config: TrainingConfig, **record: Any) -> Path:
    """Write the files of a run whose network learned nothing."""
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


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """Give run and bundle of a network by name, exported only once because that takes seconds."""
    made: dict[str, tuple[Path, Path]] = {}

    def give(name: str) -> tuple[Path, Path]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            config, record = RUNS[name]
            run = run_folder(folder / "run", config, **record)
            with pytest.MonkeyPatch.context() as patch:
                # The receptive field of these networks fits into a smaller frame than the default.
                patch.setattr(export, "receptive_field_px", partial(receptive_field_px, size=256))
                export_bundle(run, folder / "bundle", model_id=f"{name}-1")
            made[name] = run, folder / "bundle"
        return made[name]

    return give


@pytest.mark.parametrize("name", ["live", "resnet34", "resnet34-96"])
def test_onnx_gives_the_same_numbers_at_other_sizes(
    name: str, bundles: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    if name in RUNS:
        run, bundle = bundles(name)
        network = network_of_run(run)
        path.write_bytes((bundle / "model.onnx").read_bytes())
    else:
        network = settled(replace(SMALL, name="resnet34-96"))
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
    network = build_network(NetworkConfig(defocus_head=True)).eval()
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


def test_a_bundle_describes_its_network_so_that_it_can_be_made_again(
    bundles: Callable[[str], tuple[Path, Path]],
) -> None:
    _, folder = bundles("resnet34")
    bundle = load_bundle(folder)
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
        described = load_description(folder / "rdf.yaml")
    assert isinstance(described, ModelDescr), described.validation_summary.format()
    card = bundle.card
    for said in ("sharp images of mine (7 images)", "DNA, actin", "5 of 10 planned", "NA 0.4"):
        assert said in card
    assert "specimens 0 to 8 µm deep" in card
    assert "- Bubbles become objects." in card
    assert bundle.trained["depth_um"] == (0.0, 8.0)
    assert "nuclei" not in card.replace("nuclei.tif", "")


def test_a_card_of_real_pairs_promises_no_optics(
    bundles: Callable[[str], tuple[Path, Path]],
) -> None:
    bundle = load_bundle(bundles("live")[1])
    assert bundle.trained == {}
    assert "real pairs" in bundle.card
    assert "corrupt" in bundle.card
    assert "NA 0.4" not in bundle.card
    text = (bundle.folder / "rdf.yaml").read_text(encoding="utf-8")
    assert "/home" not in text
    described = yaml.safe_load(text)
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
    with pytest.raises(
        InputError, match=r"does not fit the network .*size mismatch.* more"
    ) as raised:
        export_bundle(run, tmp_path / "bundle")
    assert "\n" not in str(raised.value)
    (run / "weights.safetensors").write_bytes(b"none")
    with pytest.raises(InputError, match="cannot be read as weights"):
        export_bundle(run, tmp_path / "bundle")
    (run / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="not a record of a run"):
        export_bundle(run, tmp_path / "bundle")
    with pytest.raises(OutputError, match="not a bundle"):
        export_bundle(run, run)
    with pytest.raises(ConfigError, match="cannot be the id of a model"):
        export_bundle(run, tmp_path / "bundle", model_id="40x, oil")
    with pytest.raises(OutputError, match="cannot be written"):
        export_bundle(run, run / "run.json" / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_model_is_called_as_its_folder_as_far_as_that_is_a_name(tmp_path: Path) -> None:
    assert bundle_id(tmp_path / "live_2.1") == "live_2.1"
    assert bundle_id(tmp_path / "Our cells, 40x") == "our-cells-40x"
    assert bundle_id(tmp_path / "Our cells, 40x", "ours") == "ours"


def test_a_bundle_of_a_whole_plate_says_which_wells_it_saw() -> None:
    wells = [f"{row}{column:02d}" for row in "abcdefghijklmnop" for column in range(1, 25)]
    samples = {
        "kind": "bbbc006",
        "wells": {"train": wells[:300], "validate": wells[300:340], "test": wells[340:]},
        "test_planes": [32],
    }
    facts = Facts("plate-1", {"data": "", "samples": samples}, {}, 32, 64, DEFAULT_RANGES)
    described = rdf(facts, defaultdict(str))["config"]["refocusd"]["training"]["samples"]
    assert described["test_planes"] == [32]
    assert described["wells"]["train"].split() == wells[:300]
    assert described["wells"]["validate"].split() == wells[300:340]


def figures(methods: int) -> dict[str, Any]:
    """An evaluation's document with `methods` methods besides the bundle's own."""
    names = ["input", "refocused", "as written", *(f"rival {i}" for i in range(methods))]
    quality = {"psnr_db": 30.1234, "psnr_affine_db": 31.5, "ssim": 0.9, "pearson": 0.99}
    every = {"f1": 0.9, "invented": 0.0123, "lost": 0.0345, "flux_ratio": 0.987, "frc_um": None}
    means = dict.fromkeys(names, quality)
    scopes = [f"microscope {i}" for i in range(9)]
    quoted = {name: {**quality, **every} for name in names}
    return {
        "onnx_sha256": "0" * 64,
        "definition": "as ever",
        "frames_per_level": 3,
        "by_defocus_um": dict.fromkeys(("0", "4", "8", "16", "32"), means),
        "mean_4_8_16_32_um": means,
        "by_microscope": dict.fromkeys(scopes, means),
        "in_focus_by_microscope": dict.fromkeys(scopes, means),
        "figures_mean_4_8_16_32_um": quoted,
        "deep": {"figures_mean_4_8_16_32_um": quoted, "figures_by_defocus_um": {}},
    }


@pytest.mark.parametrize("methods", [1, 20])
def test_a_card_quotes_nuclei_flux_and_deep_specimens_within_what_a_description_holds(
    methods: int, bundles: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    run, folder = bundles("resnet34")
    shared = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    document = {**figures(methods), "onnx_sha256": shared["model.onnx"]}
    (tmp_path / "evaluation.json").write_text(json.dumps(document), encoding="utf-8")
    short = export._short_metrics(tmp_path / "evaluation.json", shared["model.onnx"])
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    described = load_bundle(folder)
    facts = Facts("mine-1", record, dict(described.network or {}), 32, 64, DEFAULT_RANGES, short)
    shared.pop("rdf.yaml")
    text = yaml.safe_dump(rdf(facts, shared), sort_keys=False, allow_unicode=True)
    assert len(text.encode()) < MAX_RDF_BYTES
    kept = set(short["by_microscope"]["microscope 0"])
    assert {"input", "refocused"} <= kept
    assert ("rival 0" in kept) == (methods == 1), (
        "what is left out is more than there is no room for"
    )
    card = model_card(facts)
    assert card.count("| refocused | 30.12 | 0.900 | 1.2% | 3.5% | 0.987 |") == 2
    assert "deeper than any in training" in card
    assert "resolution" not in card, "a figure that there is not"
    with pytest.raises(InputError, match="other weights"):
        export._short_metrics(tmp_path / "evaluation.json", "1" * 64)
    for other in ("[]", "{}", '{"onnx_sha256": 3}', "no JSON"):
        (tmp_path / "evaluation.json").write_text(other, encoding="utf-8")
        with pytest.raises(InputError, match=r"is not an evaluation of held-out|other weights"):
            export._short_metrics(tmp_path / "evaluation.json", "1" * 64)


def test_a_model_for_any_microscope_states_its_reach_in_pixels_of_blur() -> None:
    record = {"data": "cells", "samples": {"kind": "sharp"}}
    network = {"name": "live", "defocus_head": False}
    for ranges, said, key in (
        (WIDE_RANGES, "blurs of 0.53 to 26.5 px, at most 60 µm", "blur_px"),
        (DEFAULT_RANGES, "defocus up to 36 µm on either side", "defocus_um"),
    ):
        facts = Facts("any-1", record, network, 32, 64, ranges)
        assert said in " ".join(_trained(facts).split())
        optics = rdf(facts, defaultdict(str))["config"]["refocusd"]["optics"]
        assert [name for name in optics if name in ("blur_px", "defocus_um")] == [key]
