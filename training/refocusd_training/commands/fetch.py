"""`refocusd train fetch-bbbc038`: download training images."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console


def register(inner: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = inner.add_parser("fetch-bbbc038", help="download the training images and check them")
    parser.add_argument("--output", type=Path, required=True, help="folder for the images")
    parser.set_defaults(command=_fetch)


def _fetch(arguments: argparse.Namespace) -> int:
    from refocusd_training.data.bbbc038 import fetch_bbbc038
    from refocusd_training.data.split import load_split

    digests = {entry.name: entry.digest for entry in load_split()}
    checksum = fetch_bbbc038(arguments.output, digests)
    Console().print(f"{len(digests)} images in {arguments.output}; archive sha256 {checksum}")
    return 0
