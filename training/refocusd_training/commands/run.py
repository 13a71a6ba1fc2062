"""`refocusd train run`: train a network."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from refocusd_training.commands.torch_at_hand import needs_torch


def register(inner: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = inner.add_parser("run", help="train a network; optionally export and evaluate it")
    parser.add_argument("--config", type=Path, required=True, help="TOML file of the run")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder of the data that its [data] table describes",
    )
    parser.add_argument("--output", type=Path, required=True, help="new folder of the run")
    parser.add_argument(
        "--bundle",
        type=Path,
        help="also export a bundle here, with figures if the data are BBBC038",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --output")
    parser.add_argument("--device", help="torch device (default: CUDA if there is one)")
    parser.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    needs_torch()
    from refocusd_training.config import load_config
    from refocusd_training.loop.run import process_rank, run_training

    config = load_config(arguments.config)
    if arguments.bundle:
        from refocusd_training.export.bundle import bundle_id

        bundle_id(arguments.bundle)
    shipped = config.data.kind == "sharp" and not config.data.channels
    if arguments.bundle and shipped:
        from refocusd_training.evaluation.cases import held_out_cases

        held_out_cases(
            arguments.data
        )  # What is missing for the figures is said before the training.
    record = run_training(
        config,
        arguments.data,
        arguments.output,
        device=arguments.device,
        resume=arguments.resume,
    )
    if process_rank()[0] > 0:
        return 0
    said = f"{record.steps} steps in {record.seconds:.0f} s, loss {record.final_loss:.3f}"
    if record.validation_loss is not None:
        said += f", validation loss {record.validation_loss:.3f}"
    if record.ended in {"patience", "minutes"}:
        said += f"; ended by {record.ended}"
    Console().print(said)
    if arguments.bundle:
        from refocusd_training.export.bundle import export_bundle

        export_bundle(arguments.output, arguments.bundle)
        if not shipped:
            Console().print(
                f"wrote {arguments.bundle}, not evaluated: use 'refocusd train evaluate' with "
                "--protocol bbbc006, or with --input and --truth, a pair of your own"
            )
            return 0
        from refocusd_training.evaluation.run import Options, run_held_out

        figures = arguments.output / "evaluation.json"
        run_held_out(str(arguments.bundle), arguments.data, Options(json=figures))
        export_bundle(arguments.output, arguments.bundle, metrics=figures)
    return 0
