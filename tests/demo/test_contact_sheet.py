"""The contact sheet shows the given frames on one common grey scale."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from refocusd.demo.sheet import SheetRow, contact_sheet, defocus_label
from refocusd.errors import ConfigError, InputError, OutputError


def noise(seed: int, shape: tuple[int, int] = (300, 400)) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(100, 1000, shape, dtype=np.uint16)


def grey(truth: NDArray[np.uint16], shown: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Compute the grey values that a picture must have beside this truth."""
    black, white = np.percentile(truth, (1.0, 99.7))
    scaled = (shown.astype(np.float32) - black) / (white - black) * 255 + 0.5
    return np.asarray(np.clip(scaled, 0, 255), np.uint8)


def places(sheet: Path, picture: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Positions (left, top) of the picture on the sheet, matched within two grey values."""
    image = np.asarray(Image.open(sheet).convert("L")).astype(np.int16)
    height, width = picture.shape
    found = []
    windows = np.lib.stride_tricks.sliding_window_view(image, (1, 64))[:, :, 0]
    first = picture[0, :64].astype(np.int16)
    for top, left in np.argwhere(np.abs(windows - first).max(axis=-1) <= 2):
        region = image[top : top + height, left : left + width]
        if region.shape == picture.shape and np.abs(region - picture).max() <= 2:
            found.append((int(left), int(top)))
    return found


def sheet_of(folder: Path, *rows: SheetRow, pixel_um: float = 0.645) -> Path:
    return contact_sheet(rows, folder / "s.png", title="t", pixel_um=pixel_um, caption="c")


#: The part of `noise` that is shown, without the rows of the scale bar.
SHOWN = np.s_[22:278, 72:328]
ABOVE_THE_BAR = np.s_[:200]


def test_each_row_shows_raw_refocused_and_truth_from_left_to_right(tmp_path: Path) -> None:
    rows = [SheetRow(f"{n}", noise(n), noise(n + 10), noise(n + 20), 20, 21) for n in (1, 2)]
    sheet = sheet_of(tmp_path, *rows)
    tops = []
    for row in rows:
        truth = row.truth[SHOWN]
        lefts = []
        for picture in (row.raw, row.refocused, row.truth):
            ((left, top),) = places(sheet, grey(truth, picture[SHOWN])[ABOVE_THE_BAR])
            lefts.append(left)
            tops.append(top)
        assert lefts == sorted(lefts)
        assert lefts[1] - lefts[0] == lefts[2] - lefts[1] > 256
    assert tops[0] == tops[1] == tops[2] < tops[3] == tops[4] == tops[5]


def test_a_brighter_refocused_picture_is_shown_brighter_and_not_stretched(tmp_path: Path) -> None:
    truth = noise(1)
    sheet = sheet_of(tmp_path, SheetRow("+4 µm", truth // 2, truth // 4, truth, 20, 21))
    shown = truth[SHOWN]
    assert len(places(sheet, grey(shown, shown // 2))) == 1
    assert len(places(sheet, grey(shown, shown // 4))) == 1


@pytest.mark.parametrize("pixel_um", [0.1, 0.645, 3.0])
def test_the_scale_bar_has_the_length_it_names(tmp_path: Path, pixel_um: float) -> None:
    black = np.zeros((256, 256), np.uint16)
    sheet = sheet_of(tmp_path, SheetRow("in focus", black, black, black, 20, 21), pixel_um=pixel_um)
    image = np.asarray(Image.open(sheet).convert("RGB"))
    # Only the bar has pure white rows of pixels of that length.
    white = (image == 255).all(axis=-1)
    length = max(run for line in white for run in _runs(line))
    length_um = length * pixel_um
    expected = {0.1: 5.0, 0.645: 50.0, 3.0: 200.0}[pixel_um]
    assert length_um == pytest.approx(expected, abs=pixel_um)


def _runs(line: NDArray[np.bool_]) -> list[int]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], line.astype(np.int8), [0]))))
    return [0, *(edges[1::2] - edges[::2]).tolist()]


@pytest.mark.parametrize("shape", [(256, 256), (520, 696), (2048, 2048)])
def test_nothing_is_drawn_outside_the_margins(tmp_path: Path, shape: tuple[int, int]) -> None:
    flat = np.full(shape, 700, np.uint16)
    sheet = contact_sheet(
        [SheetRow("−16 µm", flat, flat, flat, 21.0, 20.1)],
        tmp_path / "s.png",
        title="refocusd demo: nuclei, live from Micro-Manager",
        pixel_um=0.645,
        caption="Real nuclei (BBBC038, CC0); defocus and camera are simulated.",
    )
    image = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
    marked = np.abs(image - image[0, 0]).max(axis=-1) > 0
    rows, columns = np.flatnonzero(marked.any(axis=1)), np.flatnonzero(marked.any(axis=0))
    assert columns[0] >= 27
    assert columns[-1] <= image.shape[1] - 27
    assert rows[0] >= 20
    assert rows[-1] <= image.shape[0] - 20


def test_a_loss_is_not_coloured_as_a_gain(tmp_path: Path) -> None:
    flat = np.full((256, 256), 5, np.uint16)

    def colours(before: float, after: float) -> set[tuple[int, ...]]:
        path = sheet_of(tmp_path, SheetRow("+8 µm", flat, flat, flat, before, after))
        image = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
        return {tuple(int(v) for v in colour) for colour in np.unique(image, axis=0)}

    better, worse = (110, 205, 160), (240, 150, 110)
    assert better in colours(20.0, 24.0)
    assert worse not in colours(20.0, 24.0)
    assert worse in colours(24.0, 20.0)
    assert not {better, worse} & colours(20.0, 20.01)


@pytest.mark.parametrize(
    ("defocus_um", "label"),
    [(0.0, "in focus"), (-0.001, "in focus"), (8.0, "+8 µm"), (-16.0, "−16 µm"), (2.5, "+2.5 µm")],
)
def test_a_defocus_is_named(defocus_um: float, label: str) -> None:
    assert defocus_label(defocus_um) == label


def test_pictures_that_do_not_match_are_refused(tmp_path: Path) -> None:
    good = noise(1)
    with pytest.raises(InputError, match="without rows"):
        sheet_of(tmp_path)
    with pytest.raises(InputError, match=r"refocused picture of row 'a' has shape \(20, 30\)"):
        sheet_of(tmp_path, SheetRow("a", good, good[:20, :30], good, 20, 21))
    with pytest.raises(InputError, match="256 px a side at least"):
        sheet_of(tmp_path, SheetRow("a", good[:255], good[:255], good[:255], 20, 21))
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    good = noise(1)
    (tmp_path / "nowhere").write_text("a file", encoding="utf-8")
    with pytest.raises(OutputError, match=r"nowhere.*s\.png cannot be written"):
        sheet_of(tmp_path / "nowhere", SheetRow("a", good, good, good, 20, 21))


def test_signs_that_a_font_may_lack_are_drawn_and_dollars_are_no_formulas(tmp_path: Path) -> None:
    """Matplotlib warns of characters that it cannot draw, and a warning fails a test."""
    row = SheetRow("−16 µμ → 5–6 × $2^8$", noise(1), noise(2), noise(3), 20, 21)
    contact_sheet([row], tmp_path / "s.png", title="μ $5", pixel_um=1.0, caption="→ $ × $")


def test_without_matplotlib_the_message_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"refocusd\[demo\]"):
        sheet_of(tmp_path, SheetRow("in focus", noise(1), noise(2), noise(3), 20, 21))
