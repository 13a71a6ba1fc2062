"""`refocusd train trust`: fits the thresholds by which refocused frames are judged."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from refocusd.errors import InputError
from refocusd_training.commands.fitting import add_fitting_flags, check_fitting

if TYPE_CHECKING:
    from refocusd.engines.verdict import Judge
    from refocusd_training.trust.examples import Example
    from refocusd_training.trust.fit import Reliability

#: Name of the engine without a network, among those of models.
DECONVOLUTION = "deconvolution"


def register(inner: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = inner.add_parser(
        "trust", help="fit the thresholds of `refocusd.engines.verdict`, by which frames are judged"
    )
    add_fitting_flags(
        parser,
        output="file of thresholds (.toml); without it, that of the model's bundle is written",
        samples=3000,
        needed=False,
    )
    parser.add_argument(
        "--minutes", type=float, default=1e6, help="make no more samples after so many minutes"
    )
    parser.add_argument(
        "--transmitted",
        type=Path,
        help="a TIFF stack in phase contrast or brightfield: what tells fluorescence from other pictures is "
        "fitted again as well",
    )
    parser.add_argument(
        "--model",
        nargs="+",
        default=["live-fluorescence"],
        help=f"models whose frames are judged, or {DECONVOLUTION} (default: %(default)s)",
    )
    parser.set_defaults(command=_fit)


def _fit(arguments: argparse.Namespace) -> int:
    from refocusd.config import EngineOptions
    from refocusd.engines.choose import build_engine
    from refocusd.engines.deconvolution import DeconvolutionEngine
    from refocusd.engines.verdict import shipped_judge
    from refocusd.models.library import find_bundle
    from refocusd_training.blur.frames import load_sharp, planes_of
    from refocusd_training.trust.examples import examples, other_looks
    from refocusd_training.trust.fit import (
        Looks,
        calibrated,
        fit_judge,
        fit_looks,
        judge_text,
    )
    from refocusd_training.trust.put import put_into_bundle

    _check(arguments)
    transmitted = planes_of(arguments.transmitted) if arguments.transmitted else []
    engines = {
        model: DeconvolutionEngine()
        if model == DECONVOLUTION
        else build_engine(model, EngineOptions())
        for model in arguments.model
    }
    images = load_sharp(arguments.data)
    made = list(examples(images, engines, arguments.samples, arguments.seed, arguments.minutes))
    teaching = [example for example in made if not example.test]
    held_out = [example for example in made if example.test]
    shipped = shipped_judge()
    all_looks = looks = Looks(shipped.looks, shipped.strange, shipped.foreign)
    if transmitted:
        others = other_looks(transmitted, max(20, len(made) // 10), arguments.seed)
        looks, all_looks = fit_looks(teaching, others), fit_looks(made, others)
    judge = fit_judge(teaching, looks)
    # Intervals are scaled on one half of the held-out frames, and tested on the other half.
    told = calibrated(judge, held_out[::2])
    console = Console()
    for engine in engines:
        curve, about_held_out = _held_out(console, engine, judge, told, held_out)
    # The intervals are scaled on frames on which nothing was fitted.
    final = replace(fit_judge(made, all_looks), interval=calibrated(judge, held_out).interval)
    text = judge_text(final, curve, about_held_out, _made_by(arguments, len(made)))
    if arguments.output is None:
        place = put_into_bundle(find_bundle(arguments.model[0]), text)
    else:
        place = arguments.output
        place.write_text(text, encoding="utf-8")
    console.print(f"{len(made)} frames, {len(held_out)} of them held out; wrote {place}")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    check_fitting(arguments)
    if arguments.output is None and (
        len(arguments.model) != 1 or arguments.model == [DECONVOLUTION]
    ):
        raise InputError("name the file to write (--output), or one model, whose bundle is written")
    if not arguments.minutes > 0:
        raise InputError(f"--minutes is {arguments.minutes:g}; give more than 0")


def _held_out(
    console: Console, engine: str, judge: Judge, told: Judge, held_out: list[Example]
) -> tuple[list[Reliability], dict[str, Any]]:
    """Print how well an engine's held-out frames are judged, and return its reliability curve and figures."""
    from refocusd_training.trust.fit import auroc, chances, coverage, figures, reliability

    chance, wrong = chances(judge, held_out, engine)
    curve = reliability(chance, wrong)
    title = f"held out, {engine}: AUROC {auroc(chance, wrong):.3f}"
    table = Table("chance", "frames", "wrong", title=title)
    for row in curve:
        table.add_row(f"{row.low:g}-{row.high:g}", str(row.frames), f"{row.wrong:.0%}")
    found = {**figures(judge, held_out, engine), **coverage(told, held_out[1::2], engine)}
    console.print(found, table)
    return curve, found


def _made_by(arguments: argparse.Namespace, samples: int) -> str:
    """The command line, with only the names of folders, because their paths are private."""
    return shlex.join(
        [
            *("refocusd", "train", "trust", "--data", *(folder.name for folder in arguments.data)),
            *("--model", *arguments.model, "--seed", str(arguments.seed)),
            *("--samples", str(samples)),
            *(("--transmitted", arguments.transmitted.name) if arguments.transmitted else ()),
        ]
    )
