"""`refocusd train fetch-bbbc006`: download planes of the plate."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console


def register(inner: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = inner.add_parser(
        "fetch-bbbc006",
        help="download planes of BBBC006, or unpack archives from elsewhere, and check them",
        description="Run it again to continue where it stopped, or to check the existing planes.",
    )
    parser.add_argument(
        "--planes",
        type=int,
        nargs="+",
        default=[1, 5, 10, 16, 32],
        metavar="Z",
        help="planes, 0 to 33; 16 is in focus (default: 1 5 10 16 32)",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the planes")
    parser.add_argument(
        "--from",
        dest="archives",
        type=Path,
        metavar="DIR",
        help="folder with BBBC006_v1_images_z_NN.zip, used instead of a download",
    )
    parser.add_argument("--url", help="folder of the archives on another server")
    parser.set_defaults(command=_fetch)


def _fetch(arguments: argparse.Namespace) -> int:
    from refocusd_training.data.fetch_bbbc006 import BBBC006_URL, fetch_bbbc006

    report = fetch_bbbc006(
        arguments.planes,
        arguments.output,
        archives=arguments.archives,
        url=(arguments.url or BBBC006_URL).rstrip("/"),
        console=Console(stderr=True),
    )
    console = Console()
    for plane, checksum in sorted(report.sha256.items()):
        what = "fetched" if plane in report.fetched else "is there, unchanged"
        console.print(f"plane {plane:02d} {what}; archive sha256 {checksum}", soft_wrap=True)
    return 0
