"""`refocusd train trust`: fits the thresholds by which refocused frames are judged."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from refocusd_training.commands.fitting import add_fitting_flags, check_fitting

__all__ = ["register"]


def register(inner: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = inner.add_parser(
        "trust", help="fit the thresholds of `refocusd.engines.verdict`, by which frames are judged"
    )
    add_fitting_flags(parser, output="file of thresholds (.toml)", samples=3000)
    parser.add_argument(
        "--transmitted", type=Path, help="a TIFF stack in phase contrast or brightfield"
    )
    parser.add_argument(
        "--model", default="live-nuclei", help="model that is judged beside the deconvolution"
    )
    parser.set_defaults(command=_fit)


def _fit(arguments: argparse.Namespace) -> int:
    import tifffile

    from refocusd.config import EngineOptions
    from refocusd.engines.choose import build_engine
    from refocusd.engines.deconvolution import DeconvolutionEngine
    from refocusd_training.blur.frames import load_sharp
    from refocusd_training.trust.examples import examples, other_looks
    from refocusd_training.trust.fit import auroc, chances, fit_judge, reliability, write_judge

    check_fitting(arguments)
    stack = tifffile.imread(arguments.transmitted) if arguments.transmitted else None
    transmitted = [] if stack is None else list(stack.reshape(-1, *stack.shape[-2:]))
    engines = {
        "deconvolution": DeconvolutionEngine(),
        arguments.model: build_engine(arguments.model, EngineOptions()),
    }
    images = load_sharp(arguments.data)
    made = list(examples(images, engines, arguments.samples, arguments.seed))
    others = other_looks(transmitted, max(20, arguments.samples // 10), arguments.seed)
    held_out = [example for example in made if example.test]
    judge = fit_judge([example for example in made if not example.test], others)
    console = Console()
    table = Table("engine", "AUROC", "chance", "frames", "wrong", title="held out")
    for engine in engines:
        chance, wrong = chances(judge, held_out, engine)
        for row in (curve := reliability(chance, wrong)):
            about = (f"{row.low:g}-{row.high:g}", str(row.frames), f"{row.wrong:.0%}")
            table.add_row(engine, f"{auroc(chance, wrong):.3f}", *about)
    console.print(table)
    write_judge(fit_judge(made, others), curve, arguments.output)
    console.print(f"wrote {arguments.output}")
    return 0
