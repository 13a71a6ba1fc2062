"""`refocusd train export`: make a bundle from a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from refocusd_training.commands.torch_at_hand import needs_torch

__all__ = ["register"]


def register(inner: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = inner.add_parser("export", help="turn a run into a model bundle")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--output", type=Path, required=True, help="folder of the bundle")
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
        metavar="FILE|cache",
        help="also build the TensorRT engine, as a file or in the cache of 'refocusd run'",
    )
    parser.add_argument(
        "--engine-builder",
        choices=("onnx", "torch"),
        default="onnx",
        help="builder of the engine: TensorRT from ONNX, or torch-tensorrt (default: %(default)s)",
    )
    parser.add_argument(
        "--id", default="", help="model id (default: the name of the --output folder)"
    )
    parser.set_defaults(command=_export)


def _export(arguments: argparse.Namespace) -> int:
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
    if arguments.engine:
        from refocusd_training.export.tensorrt import export_engine

        key = export_engine(arguments.output, arguments.engine, builder=arguments.engine_builder)
        Console().print(
            f"built the engine by {key.runtime} for {key.target} in {key.precision}: "
            f"{arguments.engine}"
        )
    return 0
