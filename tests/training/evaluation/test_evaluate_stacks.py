"""`refocusd train evaluate --protocol stacks`, and the figures of single objects."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from refocusd_training.evaluation.measures.objects import IsolatedObjects, object_figures
from refocusd_training.evaluation.protocol import scaled_quality
from refocusd_training.evaluation.run import Options, run_stacks
from refocusd_training.evaluation.stacks import StackNotes, read_notes, stack_pairs
from refocusd_training.simulate.blur import Defocus
from refocusd_training.simulate.ranges import HELD_OUT, Setting
from refocusd_training.simulate.scene import simulate_frame
from scipy import ndimage

from refocusd.errors import ConfigError, InputError
from refocusd.imaging.optics import Optics

PLANES_UM = (-12.0, -4.0, 0.0, 8.0)
OPTICS = Optics(0.45, 0.461)


def discs(shape: tuple[int, int] = (160, 160), radius: float = 9) -> NDArray[np.float32]:
    """Four round objects, each far from the others."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros(shape, np.float32)
    for row, column in ((40, 40), (45, 110), (110, 45), (115, 115)):
        image += (y - row) ** 2 + (x - column) ** 2 < radius**2
    return image


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a stack that states its z step, and one with a sharp second channel."""
    folder = tmp_path_factory.mktemp("stacks")
    rng = np.random.default_rng(0)
    setting = Setting("own", OPTICS, HELD_OUT[4].camera, 900.0)
    planes = [simulate_frame(discs(), setting, Defocus(um), rng).raw for um in PLANES_UM]
    per_um = 1 / OPTICS.pixel_um
    known: dict[str, Any] = {"spacing": 4.0, "unit": "um"}
    tifffile.imwrite(
        folder / "one.tif",
        np.stack(planes),
        imagej=True,
        resolution=(per_um, per_um),
        metadata={"axes": "ZYX", **known},
    )
    confocal = (200 + 3000 * discs()).astype(np.uint16)
    both = np.stack([np.stack([confocal, plane]) for plane in planes])
    tifffile.imwrite(folder / "two.tif", both, imagej=True, metadata={"axes": "ZCYX", **known})
    (folder / "notes.toml").write_text(
        '["one*"]\nna = 0.45\nwavelength_um = 0.461\nstain = "nuclei"\n["two.tif"]\n'
        'truth_channel = "0"\n',
        encoding="utf-8",
    )
    return folder


def test_every_plane_is_a_pair_with_the_sharpest_and_with_a_truth_of_its_own(stacks: Path) -> None:
    pairs = stack_pairs(stacks, read_notes(stacks / "notes.toml"))
    sets = [pair.group for pair in pairs]
    assert sets.count("one, sharpest plane") == 3
    assert sets.count("two, sharpest plane") == 3
    [channel] = {name for name in sets if "channel 0" in name}
    assert sets.count(channel) == 4
    one = [pair for pair in pairs if pair.group == "one, sharpest plane"]
    assert [pair.specimen for pair in one] == [f"one plane {k}" for k in (0, 1, 3)]
    assert all(pair.optics is not None for pair in one)
    assert [pair.pixel_um for pair in one] == pytest.approx([0.645] * 3, abs=1e-4)
    assert one[2].defocus_um is not None
    assert one[0].defocus_um is not None
    assert one[2].defocus_um - one[0].defocus_um == pytest.approx(12.0)
    assert all(pair.optics is None for pair in pairs if pair.group.startswith("two"))
    with pytest.raises(InputError, match="no channel 'x'"):
        stack_pairs(stacks, {"two.tif": StackNotes(truth_channel="x")})


def test_notes_with_an_unknown_key_are_refused(tmp_path: Path) -> None:
    (tmp_path / "n.toml").write_text('["a.tif"]\naperture = 1.2\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"n\.toml does not describe stacks.*aperture"):
        read_notes(tmp_path / "n.toml")


def test_real_stacks_are_evaluated_plane_by_plane(
    stacks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "q.json"
    run_stacks(["deconvolution"], stacks, Options(json=output), notes=stacks / "notes.toml")
    document = json.loads(output.read_text(encoding="utf-8"))
    frames: list[dict[str, Any]] = document["frames"]
    assert len(frames) == 10
    first = next(frame for frame in frames if frame["frame"] == "one plane 0")
    assert {"input", "deconvolution", "RL estimated blur"} <= set(first)
    # RL with nominal optics runs only if they are known.
    assert first["RL nominal PSF"]["object_area"] > 0
    other = next(frame for frame in frames if frame["frame"] == "two plane 0")
    assert "RL nominal PSF" not in other
    gained = document["gain_over_raw"]["one, sharpest plane"]["RL nominal PSF"]
    assert gained["frames"] == 3
    assert gained["worst_db"] <= gained["mean_db"] <= gained["best_db"]
    assert gained["best_db"] > 1
    assert document["nominal_optics"]["one, sharpest plane"]["na"] == 0.45
    assert "one, sharpest plane: raw" in capsys.readouterr().out


def test_the_page_of_stacks_shows_the_worst_frames_first(stacks: Path, tmp_path: Path) -> None:
    shutil.copy(stacks / "one.tif", tmp_path)
    page = tmp_path / "page"
    run_stacks(["deconvolution"], tmp_path, Options(page=page, deconvolve=False))
    text = (page / "index.html").read_text(encoding="utf-8")
    assert text.index("Worst frames of deconvolution") < text.index("<h2>one, sharpest plane")
    assert "one plane 3" in text
    for picture in ("worst.png", "curves-0.png"):
        assert picture in text
        assert (page / picture).stat().st_size > 10_000


def ratios(images: Sequence[NDArray[Any]], truth: NDArray[Any]) -> dict[str, float]:
    objects = IsolatedObjects(truth)
    assert len(objects) == 4
    return object_figures([objects.compare(image) for image in images])


def test_an_equal_frame_has_objects_of_equal_size_and_light() -> None:
    truth = 100 + 1000.0 * discs()
    found = ratios([truth, 50 + 2 * truth], truth)
    assert found["object_area"] == 1
    assert found["area_within_15"] == 1
    # The frame with twice the gain has twice the light, whatever the background.
    assert found["object_light"] == pytest.approx(1.5)
    assert found["light_within_5"] == 0.5


def test_a_larger_and_a_dimmer_object_are_noticed() -> None:
    truth = 100 + 1000.0 * discs()
    larger = 100 + 1000.0 * discs(radius=12)
    found = ratios([larger], truth)
    assert found["object_area"] == pytest.approx((12 / 9) ** 2, rel=0.05)
    assert found["area_within_15"] == 0
    dimmer = 100 + 800.0 * discs()
    assert ratios([dimmer], truth)["object_light"] == pytest.approx(0.8, abs=0.01)


def test_objects_that_touch_others_or_the_border_are_not_measured() -> None:
    image = 1000.0 * discs()
    assert len(IsolatedObjects(image[35:, 35:])) == 1
    close = image + np.roll(image, 22, axis=1)
    assert len(IsolatedObjects(close)) == 0
    assert np.isnan(object_figures([IsolatedObjects(close).compare(close)])["object_area"])


def test_scaled_figures_do_not_depend_on_gain_and_offset_but_on_one_hot_pixel() -> None:
    truth = ndimage.gaussian_filter(100 + 1000.0 * discs(), 2)
    image = ndimage.gaussian_filter(truth, 3)
    once = scaled_quality(image, truth)
    assert scaled_quality(7 * image + 300, truth).psnr_db == pytest.approx(once.psnr_db)
    assert once.psnr_affine_db >= once.psnr_db
    assert scaled_quality(truth, truth).ssim == pytest.approx(1)
    error = (image - image.min()) / np.ptp(image) - (truth - truth.min()) / np.ptp(truth)
    assert once.psnr_db == pytest.approx(-10 * np.log10(np.mean(error**2)))
    hot = image.copy()
    hot[3, 3] = 5000
    assert scaled_quality(hot, truth).psnr_db < once.psnr_db - 3
