"""The split keeps near-duplicates together, and never trains on the demo's specimen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
from numpy.typing import NDArray
from refocusd_training.data.images import find_images, pixels_digest, read_image
from refocusd_training.data.split import (
    DIGEST_DIGITS,
    DUPLICATE,
    clusters_of,
    correlation,
    load_split,
    make_split,
    unusable,
    write_split,
)

from refocusd.errors import InputError


def field(seed: int, height: int = 256, width: int = 256) -> NDArray[np.uint8]:
    """Give blobs at random places with a little noise."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width))
    rows, columns = np.mgrid[:height, :width]
    for _ in range(40):
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        a, b = rng.uniform(4, 12, 2)
        image += rng.uniform(60, 180) * (((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 < 1)
    optics = scipy.ndimage.gaussian_filter(image, 1.5)
    return np.clip(optics + rng.normal(12, 1, image.shape), 0, 255).astype(np.uint8)


def test_no_cluster_is_on_two_sides() -> None:
    sides: dict[int, set[str]] = {}
    for entry in load_split():
        if entry.side != "excluded":
            sides.setdefault(entry.cluster, set()).add(entry.side)
    assert len(sides) > 100
    assert all(len(found) == 1 for found in sides.values())


def test_the_sides_have_their_sizes() -> None:
    entries = load_split()
    share = {s: sum(e.side == s for e in entries) / len(entries) for s in ("test", "validate")}
    assert 0.12 < share["test"] < 0.18
    assert 0.06 < share["validate"] < 0.10


def test_whatever_shows_the_demos_specimen_is_on_the_test_side(
    test_data: Path, sample: NDArray[np.uint8]
) -> None:
    entries = {entry.name: entry for entry in load_split()}
    same = [
        name
        for name, path in find_images(test_data, entries).items()
        if correlation(read_image(path), sample) >= DUPLICATE
    ]
    assert same, "the sample comes from this image set: its source must be found"
    assert {entries[name].side for name in same} == {"test"}


def test_the_images_are_those_the_split_was_made_of(test_data: Path) -> None:
    entries = {entry.name: entry for entry in load_split()}
    for name, path in list(find_images(test_data, entries).items())[::20]:
        assert pixels_digest(read_image(path))[:DIGEST_DIGITS] == entries[name].digest


def test_crops_and_neighbouring_tiles_are_one_cluster() -> None:
    whole = field(1, 512, 512)
    crop = whole[37:293, 90:346]
    left, right = field(2, 256, 512)[:, :256], field(2, 256, 512)[:, 256:]
    brighter = np.clip(whole[200:456, 200:456] * 1.2 + 5, 0, 255).astype(np.uint8)
    assert clusters_of([whole, crop, left, right, field(3), brighter]) == [0, 0, 1, 1, 2, 0]


def test_a_split_is_a_function_of_its_seed(tmp_path: Path) -> None:
    images = {f"{i}.png": field(10 + i) for i in range(12)}
    held = [images["3.png"][:, 20:]]
    one = make_split(images, held, seed=4)
    assert one == make_split(dict(reversed(images.items())), held, seed=4)
    assert next(e for e in one if e.name == "3.png").side == "test"
    write_split(one, tmp_path / "split.csv")
    assert load_split(tmp_path / "split.csv") == one


def test_a_growing_split_never_tests_on_what_was_trained_on() -> None:
    images = {f"{i}.png": field(10 + i) for i in range(12)}
    before = {entry.name: entry.side for entry in make_split(images, [], seed=4)}
    trained = next(name for name, side in before.items() if side == "train")
    tested = next(name for name, side in before.items() if side == "test")
    images["crop.png"] = images[trained][:, 30:]
    images[tested] = images[trained][20:, :].copy()
    after = {e.name: e for e in make_split(images, [], seed=99, settled=before)}
    assert after["crop.png"].side == "train"
    assert (after[tested].side, after[tested].reason) == ("excluded", "shows what training saw")
    others = set(before) - {tested}
    assert {name: after[name].side for name in others} == {name: before[name] for name in others}
    with pytest.raises(InputError, match="trained on"):
        make_split(images, [images[trained]], seed=4, settled=before)


def test_images_that_are_no_sharp_fluorescence_are_left_out() -> None:
    sharp = field(5)
    assert unusable(sharp) == ""
    assert unusable(255 - sharp) == "bright background"
    assert unusable(np.full((64, 64), 9, np.uint8)) == "no contrast"
    rows = np.mgrid[:256, :256][0]
    smooth = (100 + 90 * np.sin(rows / 40)).astype(np.uint8)
    assert unusable(smooth) == "blurred"


def test_a_broken_split_file_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text("name,sha256,cluster,side,reason\na.png,00,1,sideways,\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"line 2 .*sideways"):
        load_split(path)
