"""A shipped bundle learns a lab's own frames, and is refused if it got worse."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino
import pytest
import tifffile
import torch
import yaml
from numpy.typing import NDArray
from refocusd_training.data.config import DataConfig
from refocusd_training.fine_tune.result import FineTuned
from refocusd_training.fine_tune.run import FineTuning, fine_tune
from refocusd_training.loop.folder import network_of_run
from refocusd_training.simulate.blur import Defocus
from refocusd_training.simulate.ranges import HELD_OUT
from refocusd_training.simulate.scene import simulate_frame
from safetensors.torch import load_file
from scipy import ndimage
from tiny_training import write_images

from refocusd.cli.main import main
from refocusd.errors import BundleError, ConfigError
from refocusd.models.bundle import load_bundle

JOB = FineTuning(
    "live-nuclei",
    DataConfig(channels=("DNA=.",), bank=24, validate=0.3, test=0.0, validation_batches=3),
    steps=20,
    learning_rate=3e-4,
    size=128,
    batch=4,
    threads=1,
)
STEP_UM = 4.0


@pytest.fixture(scope="module")
def images(sample: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outlines, as of a membrane stain, so that the bundle has something to learn."""
    outlines = ndimage.grey_dilation(sample, size=(5, 5)) - ndimage.grey_erosion(
        sample, size=(5, 5)
    )
    return write_images(tmp_path_factory.mktemp("images"), outlines)


@pytest.fixture(scope="module")
def stacks(flux: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six fields, with seven planes each, of a microscope that is new to the bundle."""
    folder = tmp_path_factory.mktemp("stacks")
    rng = np.random.default_rng(4)
    for i in range(6):
        top, left = 128 * (i // 3), 128 * (i % 3)
        field = flux[top : top + 192, left : left + 192]
        planes = [
            simulate_frame(field, HELD_OUT[0], Defocus(STEP_UM * (z - 3)), rng).raw
            for z in range(7)
        ]
        tifffile.imwrite(
            folder / f"field{i}.ome.tif",
            np.stack(planes),
            ome=True,
            metadata={"axes": "ZYX", "PhysicalSizeZ": STEP_UM, "PhysicalSizeZUnit": "µm"},
        )
    return folder


# What torch 2.13's exporter says of itself.
@pytest.mark.filterwarnings("ignore:.isinstance.treespec:FutureWarning")
def test_a_bundle_learns_and_is_exported(images: Path, tmp_path: Path) -> None:
    tuned = fine_tune(JOB, images, tmp_path / "run", to=tmp_path / "bundle", device="cpu")
    assert tuned.after_db > tuned.before_db
    assert load_bundle(tmp_path / "bundle").model_id == "live-nuclei-2-tuned"
    shipped = load_file(load_bundle("live-nuclei").folder / "weights.safetensors")
    found = load_file(tmp_path / "bundle" / "weights.safetensors")
    trained = load_file(tmp_path / "run" / "weights.safetensors")
    assert all(torch.equal(found[key], trained[key]) for key in trained)
    assert not all(torch.equal(found[key], shipped[key]) for key in shipped)
    # The exported network is the trained one.
    raw = np.load(tmp_path / "bundle" / "validation_raw.npy")
    compiled = openvino.Core().compile_model(
        tmp_path / "bundle" / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    with torch.inference_mode():
        expected = network_of_run(tmp_path / "run")(torch.from_numpy(raw)).numpy()
    np.testing.assert_allclose(compiled(raw)[0], expected, atol=1e-3)
    page = tuned.page.read_text(encoding="utf-8")
    assert page.count("<img") == 4 * 8
    assert page.count("<tr>") == 1 + len(tuned.frames)
    assert "<b class='better'>" in page
    with pytest.raises(ConfigError, match="exists already"):
        fine_tune(JOB, images, tmp_path / "again", to=tmp_path / "bundle")
    assert not (tmp_path / "again").exists()


# What torch 2.13's exporter says of itself.
@pytest.mark.filterwarnings("ignore:.isinstance.treespec:FutureWarning")
def test_through_focus_stacks_are_learned_from(stacks: Path, tmp_path: Path) -> None:
    data = replace(JOB.data, kind="stacks", channels=())
    job = replace(JOB, data=data, steps=12, size=96)
    tuned = fine_tune(job, stacks, tmp_path / "run", to=tmp_path / "bundle", device="cpu")
    assert tuned.after_db > tuned.before_db
    # The files name no channel.
    assert load_bundle(tmp_path / "bundle").channels == ()
    # Distances from the focus that was found, which may lie between planes.
    assert all(abs(frame.defocus_um) < 18 for frame in tuned.frames)


def test_light_that_is_lost_is_worse_however_good_the_structure(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert not FineTuned((), 20.0, 20.5, 18.0, 18.0, page).worse
    assert FineTuned((), 20.0, 20.5, 18.0, 1.7, page).worse
    assert FineTuned((), 20.0, 19.9, 18.0, 18.4, page).worse


def test_what_got_worse_is_shown_and_not_exported(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--bundle", "live-nuclei", "--data", str(images), "--kind", "sharp"]
    arguments += ["--output", str(tmp_path / "run"), "--to", str(tmp_path / "bundle")]
    # A learning rate that no network survives.
    arguments += ["--learning-rate", "0.1", "--steps", "8", "--size", "128", "--batch", "2"]
    assert main(["train", "fine-tune", *arguments, "--device", "cpu"]) != 0
    said = capsys.readouterr().err.replace("\n", " ")
    assert "held-out frames worse" in said
    assert not (tmp_path / "bundle").exists()
    assert "<b class='worse'>" in (tmp_path / "run" / "before-after.html").read_text(
        encoding="utf-8"
    )


def test_a_bundle_without_weights_cannot_be_tuned(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(load_bundle("live-nuclei").folder, folder)
    (folder / "weights.safetensors").unlink()
    document = yaml.safe_load((folder / "rdf.yaml").read_text(encoding="utf-8"))
    del document["config"]["refocusd"]["files"]["weights.safetensors"]
    document["attachments"] = [
        item for item in document["attachments"] if item["source"] != "weights.safetensors"
    ]
    (folder / "rdf.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(BundleError, match=r"no weights\.safetensors"):
        fine_tune(replace(JOB, bundle=str(folder)), images, tmp_path / "run")
    assert not (tmp_path / "run").exists()
