"""Exposures by torch follow the same law as numpy's, on the CPU and on a GPU if there is one."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from refocusd_training.data.samples import MARGIN, Exposure, SampleStream
from refocusd_training.simulate.camera import Camera
from refocusd_training.simulate.depth import blurred_layers
from refocusd_training.simulate.scene import expose_scene
from refocusd_training.simulate.torch_exposure import expose_on

from refocusd.imaging.normalise import counts_range

CAMERAS = {
    "12 bits": Camera(110.0, 1.5, 4.0, bits=12),
    "8 bits": Camera(110.0, 1.5, 4.0, bits=8),
    "saturated": Camera(110.0, 3.0, 4.0, bits=12),
    "hot pixels": Camera(110.0, 1.5, 4.0, hot_fraction=5e-4, bits=16),
}
REPEATS = 24


@pytest.fixture(scope="module")
def drawn(flux: NDArray[np.float32]) -> Exposure:
    """Give one frame of three layers, out of focus."""
    stream = SampleStream([flux], size=64, batch=8, bank=6, seed=5, layers=3)
    exposures, _ = next(stream.exposures(0))
    return next(e for e in exposures if abs(e.defocus_um) > 4)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Give each device that is available."""
    name = str(request.param)
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return name


@pytest.mark.parametrize("name", CAMERAS)
def test_mean_and_variance_are_those_of_numpys_exposures(
    drawn: Exposure, name: str, device: str
) -> None:
    camera = CAMERAS[name]
    peak = 6000.0 if name == "saturated" else 900.0
    exposure = replace(drawn, camera=camera, peak=peak, haze=np.full((1, 1), 0.05, np.float32))
    rng = np.random.default_rng(0)
    inner = (slice(MARGIN, -MARGIN),) * 2
    one, two = blurred_layers(exposure.layers, exposure.unfocused, exposure.in_focus)
    scenes = [
        expose_scene(one[inner], two[inner], camera, peak=peak, haze=0.05, rng=rng)
        for _ in range(REPEATS)
    ]
    batch = expose_on([exposure] * REPEATS, np.ones(REPEATS, np.float32), device=device, seed=1)
    ours = np.stack([(s.raw.astype(np.float32) - s.range.offset) / s.range.scale for s in scenes])
    theirs = batch.raw[:, 0].cpu().numpy()
    noise = float(ours.std(axis=0).mean())
    assert abs(theirs.mean() - ours.mean()) < 0.1 * noise + 0.005
    assert float(theirs.std(axis=0).mean()) == pytest.approx(noise, rel=0.05)
    # Pixel by pixel, the means differ by their remaining noise.
    difference = theirs.mean(axis=0) - ours.mean(axis=0)
    assert float(np.median(np.abs(difference))) < 2 * noise / np.sqrt(REPEATS) + 0.005
    truth = np.mean([(s.truth - s.range.offset) / s.range.scale for s in scenes], axis=0)
    np.testing.assert_allclose(batch.truth[:, 0].cpu().numpy().mean(axis=0), truth, atol=0.03)
    assert np.isfinite(theirs).all()
    if name == "hot pixels":
        # Two of 4096 pixels, below the percentile of the range.
        peaks = [np.median(frames.max(axis=(1, 2))) for frames in (ours, theirs)]
        assert peaks[1] == pytest.approx(peaks[0], rel=0.3)


def test_a_frame_is_normalised_as_the_engines_do(drawn: Exposure) -> None:
    batch = expose_on([drawn], np.ones(1, np.float32), device="cpu", seed=3)
    # With an offset of 0 and a scale of 1 000 the counts come back as integers.
    raw = batch.raw[0, 0].numpy().astype(np.float64)
    steps = np.diff(np.unique(raw.round(7)))
    counts = np.rint((raw - raw.min()) / steps[steps > 1e-6].min()).astype(np.uint16)
    found = counts_range(counts)
    low, high = (found.offset, found.offset + found.scale)
    normalised = (counts - low) / (high - low)
    np.testing.assert_allclose(normalised, raw, atol=2e-3)


def test_a_step_repeats_itself_and_the_next_does_not(flux: NDArray[np.float32]) -> None:
    stream = SampleStream([flux], size=64, batch=4, bank=4, seed=2)
    (first, dimming), (again, _) = (next(stream.exposures(7)) for _ in range(2))
    one = expose_on(first, dimming, device="cpu", seed=7)
    two = expose_on(again, dimming, device="cpu", seed=7)
    other = expose_on(again, dimming, device="cpu", seed=8)
    torch.testing.assert_close(one.raw, two.raw, rtol=0, atol=0)
    assert not torch.equal(one.raw, other.raw)
    assert one.raw.shape == one.truth.shape == (4, 1, 64, 64)
    assert one.span.shape == one.defocus_um.shape == (4,)


def test_whole_streams_agree_in_distribution(flux: NDArray[np.float32]) -> None:
    stream = SampleStream([flux], size=64, batch=16, bank=24, seed=2)
    ours = list(itertools.islice(stream.batches(0), 6))
    theirs = [
        expose_on(*step, device="cpu", seed=number)
        for number, step in enumerate(itertools.islice(stream.exposures(0), 6))
    ]
    for pick in ("raw", "truth"):
        one = np.concatenate([getattr(b, pick) for b in ours]).std(axis=(1, 2, 3))
        two = torch.cat([getattr(b, pick) for b in theirs]).std(dim=(1, 2, 3)).numpy()
        assert np.median(two) == pytest.approx(np.median(one), rel=0.25)
    spans = np.concatenate([b.span for b in ours]), torch.cat([b.span for b in theirs]).numpy()
    assert np.median(spans[1]) == pytest.approx(np.median(spans[0]), rel=0.25)
    empty = torch.cat([b.defocus_um for b in theirs]).isnan()
    assert empty.float().mean() < 0.15
