"""The network at the scale of the blur: what it computes, how it is trained and shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bioimageio.spec import ValidationContext, load_description
from bioimageio.spec.model.v0_5 import ModelDescr
from refocusd_training.blur_scale.bundle import export_scale_bundle
from refocusd_training.blur_scale.fit import Schedule, fit, losses
from refocusd_training.blur_scale.frames import Frames, Pyramid
from refocusd_training.loop.module import DivergedError
from refocusd_training.networks.blur_scale import BlurScaleNet, RichardsonLucy

from refocusd.config import EngineOptions
from refocusd.engines.choose import build_engine
from refocusd.engines.runtimes.torch import TorchScaleNetwork
from refocusd.engines.scaled import ScaledEngine
from refocusd.engines.self_test import check_engine
from refocusd.errors import InputError, OutputError
from refocusd.imaging.quality import psnr
from refocusd.models.bundle import load_bundle

# torch's exporter uses deprecated parts of torch, and warns that torchvision is missing.
pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"
)


@pytest.fixture(scope="module")
def frames() -> Frames:
    rng = np.random.default_rng(0)
    light = np.zeros((300, 300), np.float32)
    yy, xx = np.mgrid[:300, :300]
    for y, x in rng.uniform(0, 300, (60, 2)):
        light += np.hypot(yy - y, xx - x) < rng.uniform(4, 12)
    return Frames([(1.0, [Pyramid.of(light, 1.0, rng)])], pool=1, families=("gaussian", "ring"))


def small() -> BlurScaleNet:
    torch.manual_seed(0)
    return BlurScaleNet((4, 8, 8))


def test_frames_are_normalised_and_the_blur_is_about_what_is_stated(frames: Frames) -> None:
    batch = frames.batch(64)
    assert batch.frame.shape == batch.truth.shape == (64, 1, 112, 112)
    low, high = (torch.quantile(batch.frame.flatten(1), q, dim=1) for q in (0.01, 0.999))
    assert torch.allclose(low, torch.zeros(64), atol=1e-4)
    assert torch.allclose(high, torch.ones(64), atol=1e-3)
    told = batch.known[:, 1]
    assert float((batch.error / told).std()) == pytest.approx(1.0, abs=0.35)
    assert float(batch.known[:, 0].max()) == 0.0


def test_an_untrained_network_answers_with_the_deconvolved_frame(frames: Frames) -> None:
    batch = frames.batch(64)
    with torch.inference_mode():
        answer = small().restore(batch.frame, batch.known)
    wide = batch.known[:, 0] == 0
    inner = (..., slice(8, -8), slice(8, -8))
    before, after = (
        (light - batch.truth)[inner][wide].square().mean((1, 2, 3))
        for light in (batch.frame, answer.light)
    )
    assert float((after / before).median()) < 0.9
    # And with the blur as given.
    assert float(answer.blur[:, 0].abs().max()) < 0.2


def test_deconvolution_keeps_the_light() -> None:
    frame = torch.rand(1, 1, 60, 70) + 0.1
    found = RichardsonLucy()(frame)
    assert torch.allclose(found.mean((2, 3)), frame.mean((2, 3)), rtol=0.02)
    assert float(found.min()) > 0


def test_the_low_frequencies_of_the_answer_are_those_of_the_frame(frames: Frames) -> None:
    network = small()
    with torch.no_grad():
        assert network.head.bias is not None
        network.head.bias[:4] = 0.5
        batch = frames.batch(8)
        light = network.restore(batch.frame, batch.known).light
    centre = (..., slice(24, -24), slice(24, -24))
    assert torch.allclose(light[centre].mean((2, 3)), batch.frame[centre].mean((2, 3)), atol=0.12)


def test_a_wrong_answer_costs_more(frames: Frames) -> None:
    batch = frames.batch(8)
    with torch.no_grad():
        answer = small().restore(batch.frame, batch.known)
    right = losses(answer._replace(light=batch.truth), batch)
    wrong = losses(answer._replace(light=batch.truth + 0.2), batch)
    assert float(right.pixels) < 0.01 < float(wrong.pixels)
    assert float(right.light) < float(wrong.light)


def test_a_run_is_gone_on_from(frames: Frames, tmp_path: Path) -> None:
    first = fit(frames, Schedule(0.03, batch=2), tmp_path / "run")
    assert first.steps > 0
    second = fit(frames, Schedule(0.05, batch=2), tmp_path / "run")
    assert second.steps > first.steps
    assert second.minutes >= 0.05


def test_a_checkpoint_that_cannot_be_gone_on_from_is_named(frames: Frames, tmp_path: Path) -> None:
    bad = tmp_path / "checkpoint.pt"
    for content in ({"mean": {"other": torch.zeros(1)}}, {}):
        torch.save(content, bad)
        with pytest.raises(InputError, match=r"checkpoint\.pt is not a checkpoint of this network"):
            fit(frames, Schedule(0.01, batch=2), tmp_path / "run", start=bad)
    bad.write_bytes(b"half")
    with pytest.raises(InputError, match=r"checkpoint\.pt does not continue"):
        fit(frames, Schedule(0.01, batch=2), tmp_path)


def test_a_loss_that_diverges_ends_it_and_keeps_the_checkpoint(
    frames: Frames, tmp_path: Path
) -> None:
    fit(frames, Schedule(0.01, batch=2), tmp_path)
    kept = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(DivergedError, match="lower --rate"):
        fit(frames, Schedule(10, batch=2, rate=float("inf")), tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == kept


def test_a_bundle_runs_the_same_everywhere(frames: Frames, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    export_scale_bundle(
        small(), frames, folder, model_id="small", card="# small\n", training={"steps": 0}
    )
    bundle = load_bundle(folder)
    assert bundle.fine_sigma_px == 3.0
    with ValidationContext(perform_io_checks=True):
        assert isinstance(load_description(folder / "rdf.yaml"), ModelDescr)
    options = EngineOptions("openvino", "f32", threads=1)
    ours = build_engine(str(folder), options)
    theirs = ScaledEngine(bundle, TorchScaleNetwork(bundle, options, "cpu"))
    assert all(check.good for check in check_engine(bundle, ours))
    assert all(check.good for check in check_engine(bundle, theirs))
    raw = np.random.default_rng(0).poisson(400, (200, 240)).astype(np.uint16)
    raw[60:120, 80:160] += 900
    found = [np.empty_like(raw) for _ in range(2)]
    for engine, out in zip((ours, theirs), found, strict=True):
        engine.refocus(raw, out)
    assert psnr(*found) > 60


def test_what_is_no_bundle_is_never_written_over(frames: Frames, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(OutputError, match="not a bundle"):
        export_scale_bundle(small(), frames, tmp_path, model_id="a", card="", training={})
