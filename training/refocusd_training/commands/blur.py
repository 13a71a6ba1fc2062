"""`refocusd train blur`: fits the network that estimates a frame's blur."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from refocusd_training.commands.fitting import add_fitting_flags, check_fitting


def register(inner: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = inner.add_parser(
        "blur", help="fit the estimator of a frame's blur that `refocusd.imaging.blur` uses"
    )
    add_fitting_flags(parser, output="file of weights (.npz)", samples=12000)
    parser.set_defaults(command=_fit)


def _fit(arguments: argparse.Namespace) -> int:
    from refocusd_training.blur.fit import collect, errors, fit, write_weights
    from refocusd_training.blur.frames import load_sharp

    check_fitting(arguments)
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
