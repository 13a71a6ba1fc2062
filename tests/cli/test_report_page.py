"""`refocusd report` and the frames that it covers."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from recordings_on_disk import write_ndtiff

from refocusd.cli.html_page import BROWSERS, print_pdf
from refocusd.cli.main import main
from refocusd.datasets.judged import judged_frames
from refocusd.datasets.run_folder import LEDGER_COPY, RUN_FILE
from refocusd.demo.specimen import Specimen
from refocusd.engines.deconvolution import DeconvolutionEngine
from refocusd.errors import ConfigError, InputError
from refocusd.formats.ndtiff.writer import NDTiffSink
from refocusd.frame import Pixels, canonical_axes, checksum
from refocusd.ledger import Attempt, Ledger
from refocusd.worker.refocus import refocus_frame

ACQUISITION, RUN = "7a6f1e36-5f06-4b4c-9a06-0d5c1f0c7a11", "0123456789abcdef"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a raw dataset with three refocused frames; a tenth of the second is clipped."""
    folder = tmp_path_factory.mktemp("report")
    specimen, rng = Specimen(), np.random.default_rng(0)
    output = folder / "cells_1_refocused"
    attempts = []
    planes: list[tuple[dict[str, int], Pixels, dict[str, str]]] = []
    with NDTiffSink.create(output) as after:
        for time in range(3):
            z_um = specimen.focus.at() + (8.0 if time else 0.0)
            frame = specimen.frame("DAPI", z_um, 10.0, rng)
            if time == 1:
                np.minimum(frame, np.uint16(np.percentile(frame, 90)), out=frame)
            out = np.empty_like(frame)
            facts = refocus_frame(DeconvolutionEngine(), frame, out, untrusted="mark")
            axes = {"time": time}
            state = "refocused" if facts.written == "refocused" else "passed_through"
            planes.append((axes, frame, {}))
            after.write(out, axes, {})
            attempts.append(
                Attempt(
                    RUN,
                    ACQUISITION,
                    canonical_axes(axes),
                    state,
                    facts=msgspec.to_builtins(facts),
                    checksum=checksum(out),
                    raw_checksum=checksum(frame),
                )
            )
    write_ndtiff(folder / "cells_1", planes)
    # A frame from an older version, which had other verdicts.
    attempts.append(
        Attempt(RUN, ACQUISITION, '{"time":3}', "passed_through", facts={"verdict": "in focus"})
    )
    about = {
        "version": "0.2.0",
        "run": RUN,
        "acquisition": ACQUISITION,
        "raw": str(folder / "cells_1"),
        "engine": {"backend": "deconvolution", "key": "deconvolution-1"},
        "settings": {"untrusted": "mark"},
    }
    (output / RUN_FILE).write_text(json.dumps(about))
    with Ledger(output / LEDGER_COPY) as ledger:
        ledger.open_acquisition(
            ACQUISITION, name="cells", raw="", output="", shape=(512, 512), dtype="uint16"
        )
        ledger.record(attempts)
    return folder / "cells_1"


def test_the_page_holds_counts_reasons_and_pictures(raw: Path, tmp_path: Path) -> None:
    place = tmp_path / "report.html"
    told = tmp_path / "report.json"
    options = ["--ledgers", str(tmp_path), "--output", str(place), "--json", str(told)]
    assert main(["report", str(raw), *options]) == 0
    text = place.read_text(encoding="utf-8")
    assert "Statement of use" in text
    assert "10% of the pixels are clipped" in text
    assert text.count("data:image/png;base64,") >= 3
    assert "http" not in re.sub(r"<svg.*?</svg>", "", text), "the page must need no other file"
    inside = re.search(r'id="figures">(.*?)</script>', text, re.DOTALL)
    assert inside is not None
    figures = json.loads(inside[1])
    assert figures["verdicts"]["untrusted"] == 1
    assert figures["verdicts"]["passed_through"] == 1
    assert figures["states"]["passed_through"] == 2
    assert figures["blur_sources"] == {"frame": len(figures["blur_px"])}
    assert "<h2>Blur of raw, px</h2>" in text
    assert json.loads(told.read_text())["runs"] == [figures]


def test_a_browser_prints_the_page_to_pdf(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "a report.html"
    options = ["--ledgers", str(tmp_path), "--output", str(place), "--pdf"]
    if any(map(shutil.which, BROWSERS)):
        assert main(["report", str(raw), *options]) == 0
        printed = place.with_suffix(".pdf").read_bytes()
        assert printed.startswith(b"%PDF")
        assert len(printed) > 20_000, "the pictures are in it"
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(ConfigError, match=r"no Chromium.*open .* in a browser and print it"):
        print_pdf(place, place.with_suffix(".pdf"))


def test_frames_that_are_not_trusted_are_named_with_their_reasons(raw: Path) -> None:
    output = raw.with_name("cells_1_refocused")
    [frame] = judged_frames(output)
    assert frame.axes == {"time": 1}
    assert frame.verdict == "untrusted"
    assert "10% of the pixels are clipped" in frame.reasons


def test_the_ledger_counts_verdicts_and_leaves_those_of_older_versions_out(raw: Path) -> None:
    path = raw.with_name("cells_1_refocused") / LEDGER_COPY
    with Ledger(path, read_only=True) as ledger:
        counts = ledger.verdicts(RUN, ACQUISITION)
    assert sum(counts.values()) == 3
    assert counts["untrusted"] == 1


def test_a_dataset_without_a_ledger_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no copy of its ledger"):
        judged_frames(tmp_path)
