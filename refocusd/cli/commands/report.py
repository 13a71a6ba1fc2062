"""``refocusd report``: write a page on what was done to a dataset, and which frames to look at.

Writes one HTML file for each run: what made its frames, states and verdicts,
agreement with raw, the frames to look at in pictures, and a statement of use
for a methods section.

examples:
  refocusd report data/run_1                        a page beside the refocused frames of each run
  refocusd report data/run_1_refocused --output run_1.html
  refocusd report data/run_1 --pdf                  and the same as PDF
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from refocusd.cli.console import say, write_json
from refocusd.cli.flags import add_setting_flags, settings_of
from refocusd.cli.html_page import print_pdf, write_page
from refocusd.cli.report_page import Pictures, RunReport, page
from refocusd.datasets.dataset import RawAndOutputs, find_dataset
from refocusd.datasets.judged import JudgedFrame, attempts_of, judged
from refocusd.datasets.output import Output
from refocusd.datasets.run_figures import count_verdicts
from refocusd.datasets.run_folder import made_by, notes_of
from refocusd.errors import InputError
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import Pixels, canonical_axes
from refocusd.imaging.blur import BlurEstimate
from refocusd.imaging.field_evidence import examine_field
from refocusd.imaging.pair_evidence import examine_pair
from refocusd.ledger import Attempt

#: Name of the page beside the refocused frames, unless --output names another file.
REPORT_NAME = "refocusd-report.html"
#: At most this many frames are shown in pictures.
SHOWN = 10


JSON = "the figures of all runs"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "dataset", type=Path, help="raw dataset or recording, or a refocused dataset of it"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="file to write, for a dataset of one run"
    )
    parser.add_argument(
        "--pdf", action="store_true", help="also print it to PDF, with Chromium, Chrome or Edge"
    )
    add_setting_flags(parser, "ledgers")


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    dataset = find_dataset(arguments.dataset, settings_of(arguments, "ledgers").ledgers)
    if not dataset.outputs:
        raise InputError(
            f"{arguments.dataset}: none of its frames was refocused, so there is nothing to report"
        )
    if arguments.output is not None and len(dataset.outputs) > 1:
        raise InputError(
            f"{arguments.dataset} has {len(dataset.outputs)} runs: name the refocused dataset of one, or "
            "leave out --output"
        )
    figures, written = [], []
    for output in dataset.outputs:
        report = _run_report(dataset, output)
        place = arguments.output or notes_of(output.path) / REPORT_NAME
        write_page(place, page(report))
        say(f"wrote {place}")
        if arguments.pdf:
            print_pdf(place, place.with_suffix(".pdf"))
            say(f"wrote {place.with_suffix('.pdf')}")
        figures.append(report.figures)
        written.append(str(place.absolute()))
    write_json(arguments.json, {"runs": figures, "files": written})
    return 0


def _run_report(dataset: RawAndOutputs, output: Output) -> RunReport:
    attempts = attempts_of(output.path)
    doubted = judged(attempts, ("untrusted", "doubtful"))
    records = [attempt.facts or {} for attempt in attempts]
    blurred = [each for each in records if isinstance(each.get("blur_px"), float)]
    return RunReport(
        dataset=output.path.name,
        made=_made(output),
        states=Counter(attempt.state for attempt in attempts),
        verdicts=count_verdicts(attempts),
        agreement=_agreement(attempts),
        blur_px=[each["blur_px"] for each in blurred],
        blur_sources=Counter(str(each.get("blur_source")) for each in blurred),
        doubted=doubted,
        worst=_pictures(dataset, output, doubted),
    )


def _made(output: Output) -> dict[str, str]:
    engine = output.engine
    about = {
        "version": made_by(output.path).get("version"),
        "run": output.run,
        "model": output.model,
        "model sha256": engine.get("model_sha256"),
        "engine": engine.get("key"),
        "precision": engine.get("precision"),
        "device": engine.get("device"),
        "settings": ", ".join(f"{name} = {value}" for name, value in output.settings.items()),
        "calibration profiles": ", ".join(output.profiles)
        or "none: optics and camera were assumed",
        "how to cite": "name refocusd with this version and the sha256 of the model",
    }
    return {name: str(value) for name, value in about.items() if value}


def _agreement(attempts: Sequence[Attempt]) -> dict[str, str]:
    """How refocused frames agree with raw: in their light, and in how much of raw they explain."""
    records = [attempt.facts or {} for attempt in attempts if attempt.state == "refocused"]
    found = {}
    for name, key in (
        ("light of a frame, written over raw", "flux_ratio"),
        ("largest change of light in a part of a frame", "worst_flux_change"),
        ("share of raw's structure left unexplained", "unexplained"),
    ):
        values = [float(each[key]) for each in records if isinstance(each.get(key), float)]
        if values:
            middle, high = np.percentile(values, (50, 95))
            found[name] = f"median {middle:.3f}; at most {high:.3f} in 95 % of the frames"
    return found


def _pictures(
    dataset: RawAndOutputs, output: Output, frames: Sequence[JudgedFrame]
) -> list[Pictures]:
    """Pictures of the worst frames of which both the raw and the written frame exist."""
    if dataset.raw is None:
        return []
    found: list[Pictures] = []
    with ExitStack() as stack:
        raw = stack.enter_context(open_dataset(dataset.raw))
        written = stack.enter_context(open_dataset(output.path))
        both = set(raw.axes_keys()) & set(written.axes_keys())
        for frame in frames:
            key = canonical_axes(frame.axes)
            if key in both and len(found) < SHOWN:
                before, after = raw.read(key).pixels, written.read(key).pixels
                found.append(_shown(frame, before, after))
    return found


def _shown(frame: JudgedFrame, before: Pixels, after: Pixels) -> Pictures:
    field = examine_field(before)
    blur = BlurEstimate(frame.blur_px, 0.3, "frame") if frame.blur_px else None
    known = field is not None and not np.array_equal(before, after)
    residuals = examine_pair(field, before, after, blur).residuals if known and field else None
    return Pictures(frame, before, after, residuals)
