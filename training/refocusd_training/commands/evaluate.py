"""`refocusd train evaluate`: how good a bundle is."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["register"]


def register(inner: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = inner.add_parser(
        "evaluate", help="a bundle on held-out specimens and optics, beside Richardson-Lucy"
    )
    parser.add_argument(
        "--bundle", default="live-nuclei", help="folder, or a shipped bundle's name"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the test images")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--limit", type=int, help="at most so many specimens")
    parser.add_argument("--no-deconvolution", action="store_true", help="leave out Richardson-Lucy")
    parser.set_defaults(command=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    from refocusd_training.evaluate import evaluate, held_out_cases, print_table, write_json

    cases = held_out_cases(arguments.data, limit=arguments.limit)
    results = evaluate(arguments.bundle, cases, deconvolve=not arguments.no_deconvolution)
    print_table(results)
    if arguments.json:
        write_json(arguments.json, arguments.bundle, results)
    return 0
