"""`refocusd train export`: make a bundle from a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from refocusd.errors import ConfigError
from refocusd_training.commands.torch_at_hand import needs_torch


def register(inner: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = inner.add_parser("export", help="turn a run into a model bundle")
    parser.add_argument("--run", type=Path, help="folder of the run")
    parser.add_argument("--output", type=Path, help="folder of the bundle")
    parser.add_argument(
        "--bundle", help="instead of --run and --output: a model whose engines are built"
    )
    parser.add_argument("--weights", type=Path, help="an earlier checkpoint of the run")
    parser.add_argument(
        "--metrics", type=Path, help="JSON file of 'evaluate', whose figures the bundle then states"
    )
    parser.add_argument("--int8", action="store_true", help="add an int8 network for CPUs")
    parser.add_argument(
        "--data",
        type=Path,
        help="the run's data, for the calibration of int8 (default: the demo's sample)",
    )
    parser.add_argument(
        "--engine",
        metavar="FOLDER|cache",
        help="build TensorRT engines too: into a folder, or where 'refocusd run' looks for them",
    )
    parser.add_argument(
        "--for",
        dest="cards",
        default="sm86,sm89,sm120",
        metavar="CARDS",
        help="compute capabilities that engines are built for (default: %(default)s)",
    )
    parser.add_argument(
        "--engine-builder",
        choices=("onnx", "torch"),
        default="onnx",
        help="what builds them: TensorRT from ONNX, or torch-tensorrt (default: %(default)s)",
    )
    parser.add_argument(
        "--id", default="", help="model id (default: the name of the --output folder)"
    )
    parser.set_defaults(command=_export)


def _export(arguments: argparse.Namespace) -> int:
    if bool(arguments.bundle) == bool(arguments.run and arguments.output):
        raise ConfigError("name --run and --output, or --bundle and --engine")
    if arguments.bundle and not arguments.engine:
        raise ConfigError("--bundle builds engines: say where they go with --engine")
    if not arguments.bundle:
        _export_run(arguments)
    if arguments.engine:
        from refocusd_training.export.tensorrt import export_engines

        cards = [name.strip() for name in arguments.cards.split(",")]
        for key in export_engines(
            arguments.bundle or arguments.output,
            arguments.engine,
            cards=cards,
            builder=arguments.engine_builder,
        ):
            Console().print(f"built the engine for {key.target} in {key.precision}")
    return 0


def _export_run(arguments: argparse.Namespace) -> None:
    needs_torch()
    from refocusd_training.export.bundle import export_bundle

    export_bundle(
        arguments.run,
        arguments.output,
        model_id=arguments.id,
        weights=arguments.weights,
        metrics=arguments.metrics,
        int8=arguments.int8,
        data=arguments.data,
    )
    Console().print(f"wrote {arguments.output}")
