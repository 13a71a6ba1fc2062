"""Flags of the commands that fit on simulated frames (`blur`, `trust`), and their checks."""

from __future__ import annotations

import argparse
from pathlib import Path

from refocusd.errors import InputError, OutputError
from refocusd.files import check_writable


def add_fitting_flags(
    parser: argparse.ArgumentParser, *, output: str, samples: int, needed: bool = True
) -> None:
    """Add ``--data``, ``--output``, ``--samples`` and ``--seed``."""
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, help="folders of sharp fluorescence images"
    )
    parser.add_argument("--output", type=Path, required=needed, help=f"{output} to write")
    parser.add_argument(
        "--samples", type=int, default=samples, help="simulated frames (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)


def check_fitting(arguments: argparse.Namespace) -> None:
    """Refuse flags with which no fit is possible.

    Raises
    ------
    OutputError
        If the output exists, or nothing can be written there.
    InputError
        If the number of samples or the seed is out of range.
    """
    if arguments.output is not None and arguments.output.exists():
        raise OutputError(f"{arguments.output} exists already: name another file")
    if arguments.output is not None:
        check_writable(arguments.output)
    if not 60 <= arguments.samples <= 10**6 or arguments.seed < 0:
        raise InputError(
            f"{arguments.samples} samples with seed {arguments.seed} cannot be fitted: give 60 to "
            "1000000 samples, and a seed of 0 or more"
        )
