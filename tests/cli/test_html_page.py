"""The pages of reports: foreign text is escaped, and pictures are embedded."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refocusd.cli.html_page import document, grey_png, picture, table, write_page
from refocusd.errors import OutputError

pytestmark = pytest.mark.fast


def test_what_others_wrote_is_text_and_not_markup() -> None:
    page = document("<b>dish</b>", [table([("<i>", ('"&', "bad"))], ("<h>", "found"))])
    assert "<title>&lt;b&gt;dish&lt;/b&gt;</title>" in page
    assert '<td>&lt;i&gt;</td><td class="bad">&quot;&amp;</td>' in page
    assert "<th>&lt;h&gt;</th>" in page


def test_the_first_cell_of_a_table_without_heads_names_the_others() -> None:
    assert table([("frames", 3)]) == "<table><tr><th>frames</th><td>3</td></tr></table>"


def test_a_picture_is_reduced_and_keeps_its_range() -> None:
    ramp = np.tile(np.linspace(0, 1000, 900), (600, 1))
    shown = picture(grey_png(ramp, 0.0, 500.0, side_px=300), "a 'ramp'")
    found = re.fullmatch(r'<img alt="a &#x27;ramp&#x27;" src="data:image/png;base64,(.*)">', shown)
    assert found is not None
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))))
    assert pixels.shape == (200, 300)
    assert [int(pixels[0, at]) for at in (0, 75, -1)] == pytest.approx([0, 127, 255], abs=2)


def test_a_page_that_cannot_be_written_names_its_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match=r"file.page\.html cannot be written"):
        write_page(tmp_path / "file" / "page.html", "")
