"""``refocusd models``: the model bundles at hand."""

from __future__ import annotations

import argparse
from typing import Any

from rich.table import Table

from refocusd.cli.console import console
from refocusd.engines.bundle import load_bundle, shipped_bundles

__all__ = ["register"]


def register(commands: Any) -> None:
    """Add the sub-command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "models",
        help="list and check the model bundles",
        description="Lists the shipped model bundles, every file checked against its sha256.",
    )
    parser.add_argument("bundle", nargs="*", help="further bundles (folders) to check")
    parser.set_defaults(command=_models)


def _models(arguments: argparse.Namespace) -> int:
    table = Table("bundle", "model", "sha256", "size multiple", "receptive field", "folder")
    for name in [*shipped_bundles(), *arguments.bundle]:
        bundle = load_bundle(name)
        table.add_row(
            str(name),
            bundle.model_id,
            bundle.sha256[:12],
            f"{bundle.size_multiple} px",
            f"±{bundle.receptive_field_px} px",
            str(bundle.folder),
        )
    console.print(table)
    return 0
