"""`refocusd train blur`: the network that estimates a frame's blur."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from refocusd.errors import InputError, OutputError

__all__ = ["register"]


def register(inner: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = inner.add_parser(
        "blur", help="fit the estimator of a frame's blur, which `refocusd.imaging.blur` ships"
    )
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, help="folders of sharp images"
    )
    parser.add_argument("--output", type=Path, required=True, help="weights to write (.npz)")
    parser.add_argument("--samples", type=int, default=12000, help="simulated frames")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(command=_fit)


def _fit(arguments: argparse.Namespace) -> int:
    from refocusd_training.blur.fit import collect, errors, fit, write_weights
    from refocusd_training.blur.frames import load_sharp

    if arguments.output.exists():
        raise OutputError(f"{arguments.output} exists already: name another file")
    if not 60 <= arguments.samples <= 10**6 or arguments.seed < 0:
        raise InputError(
            f"{arguments.samples} samples with seed {arguments.seed} cannot be fitted: give 60 to "
            "1000000, and a seed of 0 or more"
        )
    samples = collect(load_sharp(arguments.data), arguments.samples, arguments.seed)
    known = fit(samples.of(~samples.test & ~samples.held_out), arguments.seed)
    shipped = fit(samples.of(~samples.test), arguments.seed)
    console = Console()
    for title, layers, chosen in (
        ("images and PSFs held out", known, samples.test & samples.held_out),
        ("images held out", known, samples.test & ~samples.held_out),
        ("images held out, as written", shipped, samples.test),
    ):
        table = Table("sigma px", "frames", "median", "p80", "bias", "stated", title=title)
        for row in errors(layers, samples.of(chosen)):
            table.add_row(
                f"{row.low_px:g}-{row.high_px:g}",
                str(row.frames),
                f"{row.median:.0%}",
                f"{row.p80:.0%}",
                f"{row.bias:+.0%}",
                f"{row.stated:.0%}",
            )
        console.print(table)
    write_weights(shipped, arguments.output)
    console.print(f"wrote {arguments.output}")
    return 0
