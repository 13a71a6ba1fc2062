"""Batches are the same for the same seed and step, whatever was added since."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from refocusd_training.data.config import DataConfig
from refocusd_training.data.samples import Batch, Prefetched, SampleStream
from refocusd_training.data.source import open_samples
from refocusd_training.simulate.depth import blurred_layers, depths_um, layer_transfers, layers_of

from refocusd.errors import InputError
from refocusd.imaging.optics import Optics


def stream_of(flux: NDArray[np.float32], **options: object) -> SampleStream:
    return SampleStream([flux], size=64, batch=3, bank=4, seed=5, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("layers", [1, 3])
def test_a_batch_is_a_function_of_seed_and_step(flux: NDArray[np.float32], layers: int) -> None:
    run = list(itertools.islice(stream_of(flux, layers=layers).batches(0), 4))
    resumed = next(stream_of(flux, layers=layers).batches(3))
    for name in ("raw", "truth", "span", "defocus_um"):
        np.testing.assert_array_equal(getattr(run[3], name), getattr(resumed, name))


def test_the_shipped_configuration_draws_what_it_always_drew() -> None:
    # Up to the noise of a mean: the last bits of an FFT differ between processors.
    rng = np.random.default_rng(0)
    specimens = [np.abs(rng.normal(size=(200 + 40 * i, 300))).astype(np.float32) for i in range(3)]
    batch = next(SampleStream(specimens, size=96, batch=3, bank=5, seed=2).batches(3))
    np.testing.assert_allclose(batch.defocus_um, [-11.006116, -29.572214, 17.932718], rtol=1e-5)
    np.testing.assert_allclose(batch.raw.mean(axis=(1, 2, 3)), SHIPPED_MEANS, atol=3e-3)


#: Figures of the stream with which the shipped bundle was trained.
SHIPPED_MEANS = (0.4117, 0.4201, 0.4326)


def test_every_frame_says_how_far_from_focus_it_is(flux: NDArray[np.float32]) -> None:
    batches = list(itertools.islice(stream_of(flux).batches(0), 60))
    um = np.concatenate([batch.defocus_um for batch in batches])
    error = np.concatenate([np.abs(b.raw - b.truth).mean(axis=(1, 2, 3)) / b.span for b in batches])
    assert 0 < np.isnan(um).sum() < 0.1 * um.size, "frames that show nothing have no defocus"
    assert np.nanmin(um) < -5
    assert np.nanmax(um) > 5
    near, far = np.abs(um) < 2, np.abs(um) > 15
    assert np.median(error[far]) > 1.5 * np.median(error[near])


def test_channels_are_drawn_evenly_however_many_images_they_have() -> None:
    even = [np.full((96, 96), 1.0, np.float32)] * 9
    striped = [np.tile(np.repeat(np.array([0, 1], np.float32), 16), (96, 3))]
    stream = SampleStream(
        [*even, *striped], size=32, batch=32, bank=1, seed=3, channels=[0] * 9 + [1]
    )
    batches = list(itertools.islice(stream.batches(0), 8))
    # Without channels, a tenth of the frames would have stripes.
    structured = [np.ptp(truth) > 0.4 for batch in batches for truth in batch.truth]
    assert 0.4 < np.mean(structured) < 0.6


def test_layers_share_the_light_and_lie_at_their_depths(flux: NDArray[np.float32]) -> None:
    assert depths_um(6.0, 3) == [-2.0, 0.0, 2.0]
    part = flux[:160, :160]
    layers = layers_of(part, 3, np.random.default_rng(1))
    np.testing.assert_allclose(layers.sum(axis=0), part, rtol=1e-5, atol=1e-6)
    shares = layers.sum(axis=(1, 2)) / part.sum()
    assert shares.min() > 0.1
    # Most structures are in one layer.
    most = (layers.max(axis=0) > 0.9 * part)[part > 0.2]
    assert most.mean() > 0.5


def test_a_deep_specimen_is_sharp_in_one_place_and_blurred_in_another(
    flux: NDArray[np.float32],
) -> None:
    from refocusd_training.simulate.blur import Defocus

    part = flux[:160, :160]
    layers = layers_of(part, 2, np.random.default_rng(1))
    optics = Optics(0.45, 0.461)
    in_focus, lower = (
        layer_transfers(optics, Defocus(um), depths_um(24.0, 2), part.shape) for um in (0.0, 6.0)
    )
    both, one = blurred_layers(layers, in_focus, lower)
    # 6 um up, the lower layer (6 um below the middle) is in focus and the upper is 12 um off.
    sharp = np.abs(one - part) < np.abs(both - part)
    alone = layers > 0.9 * part
    lit = part > 0.2
    assert sharp[alone[0] & lit].mean() > sharp[alone[1] & lit].mean() + 0.3
    assert both.sum() == pytest.approx(float(part.sum()), rel=0.01)


def test_the_prefetcher_hands_on_what_went_wrong(flux: NDArray[np.float32]) -> None:
    def failing() -> Iterator[Batch]:
        yield next(stream_of(flux).batches(0))
        raise InputError("the plate was unplugged")

    with Prefetched(failing()) as batches:
        assert batches.take().raw.shape == (3, 1, 64, 64)
        with pytest.raises(InputError, match="unplugged"):
            batches.take()


def blobs(seed: int, side: int = 128) -> NDArray[np.uint16]:
    """Give a sharp image of bright discs."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    image = np.full((side, side), 120.0)
    for _ in range(12):
        y, x, radius = *rng.uniform(0, side, 2), rng.uniform(4, 9)
        image += 600.0 * ((rows - y) ** 2 + (columns - x) ** 2 < radius**2)
    return (image + rng.normal(0, 3, image.shape)).astype(np.uint16)


def test_several_stains_are_read_and_a_field_is_on_one_side_in_all_of_them(
    tmp_path: Path,
) -> None:
    for channel in ("nuclei", "actin"):
        (tmp_path / channel).mkdir()
        for number in range(10):
            name = f"field{number}.tif"
            tifffile.imwrite(tmp_path / channel / name, blobs(100 * len(channel) + number))
    (tmp_path / "actin" / "notes.tif").write_bytes(b"no image")
    tifffile.imwrite(tmp_path / "actin" / "empty.tif", np.full((64, 64), 9, np.uint16))
    config = DataConfig(
        channels=("DNA=nuclei", "actin=actin"), bank=4, validate=0.2, validation_batches=1
    )
    source = open_samples(config, tmp_path, size=64, batch=4, seed=0)
    said = source.description
    assert said["channels"] == ["DNA", "actin"]
    assert said["skipped"] == {"unreadable, or no grey image": 1, "no contrast": 1}
    assert "notes.tif cannot be read as an image" in str(said["problems"])
    images = said["images"]
    assert isinstance(images, dict)
    assert images["DNA"] == images["actin"], "the same fields on the same sides"
    assert images["DNA"]["validate"] >= 1
    assert next(source.batches(0)).raw.shape == (4, 1, 64, 64)
    assert len(source.validation()) == 1
    assert hashlib.sha256(source.validation()[0].raw.tobytes()).digest() == (
        hashlib.sha256(
            open_samples(config, tmp_path, size=64, batch=4, seed=9).validation()[0].raw.tobytes()
        ).digest()
    ), "validation frames do not depend on the run's seed"


def test_a_missing_channel_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="channel actin"):
        open_samples(DataConfig(channels=("actin=none",)), tmp_path, size=64, batch=4, seed=0)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no grey PNG or TIFF"):
        open_samples(DataConfig(channels=("actin=none",)), tmp_path, size=64, batch=4, seed=0)


def test_fields_that_bundles_are_evaluated_on_are_never_trained_on(test_data: Path) -> None:
    config = DataConfig(
        channels=("DNA=bbbc006/in_focus_w1", "actin=bbbc006/actin_z16_w2"), bank=2, layers=2
    )
    source = open_samples(config, test_data, size=64, batch=2, seed=0)
    assert source.description["channels"] == ["actin"]
    assert next(source.batches(0)).raw.shape == (2, 1, 64, 64)
