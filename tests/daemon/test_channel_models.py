"""A model per channel: each frame is refocused by its channel's model, into one dataset."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from finished import blurred, raw_dataset, refocusd, verify
from live import read_all
from onnx import numpy_helper
from recordings_on_disk import write_ndtiff
from test_resume import KILL, stop_midway

from refocusd.config import EngineOptions, Settings
from refocusd.daemon.acquisitions.run_id import models_named, run_id
from refocusd.daemon.daemon import Daemon
from refocusd.datasets.dataset import find_dataset
from refocusd.errors import BundleError, ConfigError
from refocusd.models.bundle import load_bundle
from refocusd.transport import messages as wire
from refocusd.worker.session import prepare

#: Added to every pixel by the second model, in units of a frame's scale.
BRIGHTER = 0.5


@pytest.fixture(scope="module")
def brighter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second bundle: the shipped one, but its frames are brighter by half their scale."""
    folder = tmp_path_factory.mktemp("models") / "brighter"
    shutil.copytree(load_bundle("live-nuclei").folder, folder)
    network = onnx.load(folder / "model.onnx")
    for tensor in network.graph.initializer:
        if tensor.name.removeprefix("network.") == "out.bias":
            tensor.CopyFrom(
                numpy_helper.from_array(
                    numpy_helper.to_array(tensor) + np.float32(BRIGHTER), tensor.name
                )
            )
    onnx.save(network, folder / "model.onnx")
    description = yaml.safe_load((folder / "rdf.yaml").read_text(encoding="utf-8"))
    ours = description["config"]["refocusd"]
    ours["id"] = "brighter-1"
    ours["files"]["model.onnx"] = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    for name in ours.pop("variants", {}).values():
        # It was quantised from the unchanged network.
        del ours["files"][name]
        (folder / name).unlink()
    (folder / "rdf.yaml").write_text(yaml.safe_dump(description), encoding="utf-8")
    return folder


def two_channels(folder: Path, frames: int) -> Path:
    """Raw data whose channels have the same pixels."""
    pixels = blurred(frames, 96)
    return write_ndtiff(
        folder,
        [
            ({"time": number, "channel": channel}, plane, {})
            for number, plane in enumerate(pixels)
            for channel in ("DAPI", "GFP")
        ],
    )


def environment(brighter: Path) -> dict[str, str]:
    return {
        "REFOCUSD_BACKEND": "openvino",
        "REFOCUSD_MODEL": "live-nuclei",
        "REFOCUSD_PRECISION": "f32",
        "REFOCUSD_THREADS": "1",
        "REFOCUSD_PASS_IN_FOCUS": "false",
        "REFOCUSD_UNTRUSTED": "mark",
        "REFOCUSD_CHANNEL_MODELS": f"{{GFP = {json.dumps(str(brighter))}}}",
    }


def check(output: Path, frames: int) -> None:
    """Assert that each channel was refocused by its own model and its metadata say so."""
    found = read_all(output)
    assert len(found) == 2 * frames
    for number in range(frames):
        dapi, said = found[f'{{"channel":"DAPI","time":{number}}}']
        gfp, of_gfp = found[f'{{"channel":"GFP","time":{number}}}']
        assert said["refocusd"]["model"] == "live-nuclei-2"
        assert of_gfp["refocusd"]["model"] == "brighter-1"
        assert of_gfp["refocusd"]["engine"] != said["refocusd"]["engine"]
        # Where neither is clipped at 0 counts.
        added = (gfp.astype(float) - dapi)[dapi > 0]
        np.testing.assert_allclose(added, BRIGHTER * said["refocusd"]["scale"], atol=1.01)


def test_each_channel_is_refocused_by_its_model(tmp_path: Path, brighter: Path) -> None:
    raw = two_channels(tmp_path / "raw", 3)
    done = refocusd("process", raw, place=tmp_path, **environment(brighter))
    assert done.returncode == 0, done.stderr
    check(tmp_path / "raw_refocused", 3)
    assert verify(raw, place=tmp_path)[0] == 0


def test_what_was_begun_with_two_models_is_finished_with_both(
    tmp_path: Path, brighter: Path
) -> None:
    raw = two_channels(tmp_path / "raw", 40)
    output = tmp_path / "raw_refocused"
    stop_midway(["process", "raw"], output, tmp_path, KILL, 8, **environment(brighter))
    # No models are stated now: the run knows its own.
    done = refocusd("resume", raw, "--precision", "f32", place=tmp_path)
    assert done.returncode == 0, done.stderr
    check(output, 40)
    dataset = find_dataset(raw, str(tmp_path / "ledgers"))
    assert dataset.outputs[0].settings["channel_models"] == {"GFP": str(brighter)}


def test_a_run_whose_second_model_is_gone_is_not_resumed(tmp_path: Path, brighter: Path) -> None:
    lost = shutil.copytree(brighter, tmp_path / "lost")
    raw = two_channels(tmp_path / "raw", 40)
    output = tmp_path / "raw_refocused"
    stop_midway(["process", "raw"], output, tmp_path, KILL, 4, **environment(lost))
    shutil.rmtree(lost)
    done = refocusd("resume", raw, place=tmp_path)
    assert done.returncode != 0
    said = " ".join(done.stderr.split())
    assert "brighter-1" in said
    assert "channel_models" in said


def test_the_identity_has_no_models(tmp_path: Path, brighter: Path) -> None:
    raw = raw_dataset(tmp_path / "raw", 4)
    more = environment(brighter) | {"REFOCUSD_BACKEND": "identity"}
    assert refocusd("process", raw, place=tmp_path, **more).returncode == 0


def test_a_run_is_named_by_all_its_models(brighter: Path) -> None:
    one = wire.Engines("openvino", "f32", "CPU", "key", "live", "a" * 64)
    two = wire.Engines("openvino", "f32", "CPU", "key", "live", "a" * 64, {"GFP": one})
    settings = Settings()
    assert run_id(one, settings) != run_id(two, settings)
    assert models_named({"": "a", "GFP": "b"}) != models_named({"": "a", "DAPI": "b"})
    assert models_named({"": "a"}) == "a"


def test_channels_of_one_model_share_its_engine() -> None:
    options = EngineOptions("openvino", "f32", 1)
    prepared = prepare({"": "live-nuclei", "GFP": "live-nuclei"}, options)
    assert prepared.engines["GFP"] is prepared.engines[""]
    assert prepared.ready.engine.of_channel("GFP").model_id == "live-nuclei-2"
    prepared.close()


def test_a_channel_is_not_skipped_and_refocused() -> None:
    with pytest.raises(ConfigError, match="BF has a model"):
        Settings(channel_models={"BF": "live-nuclei"}, skip_channels=["BF"])


def test_a_channels_missing_model_is_told_before_anything_starts(tmp_path: Path) -> None:
    settings = Settings(
        endpoint="tcp://127.0.0.1:0",
        channel_models={"GFP": str(tmp_path / "nowhere")},
        ledgers=str(tmp_path / "ledgers"),
    )
    with pytest.raises(BundleError, match="nowhere"), Daemon(settings):
        pass
