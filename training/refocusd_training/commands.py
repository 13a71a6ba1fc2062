"""`refocusd train ...`: the training package's part of the command line.

Only argparse and rich are imported here; torch waits until a command runs.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from refocusd.errors import ConfigError, InputError, OutputError

__all__ = ["register"]

EXAMPLES = """examples:
  refocusd train fetch-bbbc038 --output bbbc038
  refocusd train run --config training/configs/live-nuclei.toml --data bbbc038 \\
      --output runs/live --bundle models/live-nuclei
  refocusd train evaluate --bundle models/live-nuclei --data bbbc038 --json quality.json
  refocusd train simulate nuclei.tif --defocus-um 8 --output defocused.tif
  refocusd train simulate nuclei.tif --defocus-um 8 --profile zyla.json --output defocused.tif
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``train`` and its sub-commands to a parser.

    Each sets ``command`` to a callable that takes the parsed arguments and
    returns the exit status.
    """
    train = subparsers.add_parser(
        "train",
        help="train, export and evaluate networks",
        description="Train, export and evaluate networks on simulated defocus.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inner = train.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _register_run(inner)
    _register_export(inner)
    _register_evaluate(inner)
    _register_fetch(inner)
    _register_simulate(inner)


def _register_run(inner: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = inner.add_parser("run", help="train a network; optionally export and evaluate it")
    parser.add_argument("--config", type=Path, required=True, help="TOML file of the run")
    parser.add_argument("--data", type=Path, required=True, help="folder of the BBBC038 images")
    parser.add_argument("--output", type=Path, required=True, help="new folder of the run")
    parser.add_argument("--bundle", type=Path, help="also export, evaluate and write a bundle here")
    parser.add_argument("--resume", action="store_true", help="continue the run in --output")
    parser.add_argument("--device", help="a torch device; by default CUDA if there is one")
    parser.set_defaults(command=_run)


def _register_export(inner: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = inner.add_parser("export", help="turn a run into a model bundle")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--output", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--weights", type=Path, help="an earlier checkpoint of the run")
    parser.add_argument("--metrics", type=Path, help="JSON of 'evaluate' to quote in the bundle")
    parser.add_argument("--id", default="live-nuclei-1", help="model id (default: %(default)s)")
    parser.set_defaults(command=_export)


def _register_evaluate(inner: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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


def _register_fetch(inner: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = inner.add_parser("fetch-bbbc038", help="download the training images and check them")
    parser.add_argument("--output", type=Path, required=True, help="folder for the images")
    parser.set_defaults(command=_fetch)


def _register_simulate(inner: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = inner.add_parser("simulate", help="image a sharp picture out of focus")
    parser.add_argument("image", type=Path, help="sharp grey PNG or TIFF")
    parser.add_argument("--defocus-um", type=float, required=True)
    parser.add_argument("--output", type=Path, required=True, help="TIFF to write")
    parser.add_argument(
        "--profile", type=Path, help="calibration profile: its optics and its camera, as measured"
    )
    parser.add_argument("--na", type=float, help="default: the profile's, or 0.45")
    parser.add_argument("--wavelength-um", type=float, help="default: the profile's, or 0.461")
    parser.add_argument("--pixel-um", type=float, help="default: the profile's, or 0.645")
    parser.add_argument("--peak", type=float, default=900.0, help="counts of bright structures")
    parser.add_argument("--seed", type=int, default=0, help="of the camera's noise")
    parser.set_defaults(command=_simulate)


def _needs_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "torch is not installed, and training needs it: pip install 'refocusd[train]'"
        ) from error


def _run(arguments: argparse.Namespace) -> int:
    _needs_torch()
    from refocusd_training.config import load_config
    from refocusd_training.train import specimens_of, train

    config = load_config(arguments.config)
    specimens = list(specimens_of(arguments.data, "train").values())
    record = train(
        config, specimens, arguments.output, device=arguments.device, resume=arguments.resume
    )
    Console().print(f"{record.steps} steps in {record.seconds:.0f} s, loss {record.final_loss:.3f}")
    if arguments.bundle:
        from refocusd_training.evaluate import evaluate, held_out_cases, print_table, write_json
        from refocusd_training.export import export_bundle

        figures = arguments.output / "evaluation.json"
        export_bundle(arguments.output, arguments.bundle)
        results = evaluate(arguments.bundle, held_out_cases(arguments.data))
        write_json(figures, arguments.bundle, results)
        export_bundle(arguments.output, arguments.bundle, metrics=figures)
        print_table(results)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    _needs_torch()
    from refocusd_training.export import export_bundle

    export_bundle(
        arguments.run,
        arguments.output,
        model_id=arguments.id,
        weights=arguments.weights,
        metrics=arguments.metrics,
    )
    Console().print(f"wrote {arguments.output}")
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from refocusd_training.evaluate import evaluate, held_out_cases, print_table, write_json

    cases = held_out_cases(arguments.data, limit=arguments.limit)
    results = evaluate(arguments.bundle, cases, deconvolve=not arguments.no_deconvolution)
    print_table(results)
    if arguments.json:
        write_json(arguments.json, arguments.bundle, results)
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    from refocusd_training.data import fetch_bbbc038
    from refocusd_training.split import load_split

    digests = {entry.name: entry.digest for entry in load_split()}
    checksum = fetch_bbbc038(arguments.output, digests)
    Console().print(f"{len(digests)} images in {arguments.output}; archive sha256 {checksum}")
    return 0


def _simulate(arguments: argparse.Namespace) -> int:
    import tifffile

    from refocusd.optics import Optics
    from refocusd.profile import load_profile
    from refocusd_training.data import read_image
    from refocusd_training.simulate.blur import Defocus
    from refocusd_training.simulate.camera import Camera
    from refocusd_training.simulate.ranges import Setting, measured
    from refocusd_training.simulate.scene import simulate_frame
    from refocusd_training.simulate.specimen import flux_of

    if arguments.output.exists():
        raise OutputError(f"{arguments.output} exists already: name another file")
    if not 0 < arguments.peak < 60000:
        raise InputError(f"a peak of {arguments.peak} counts does not fit 16 bits; give 1 to 60000")
    flux = flux_of(read_image(arguments.image))
    optics, camera = Optics(0.45, 0.461, pixel_um=0.645), Camera(bits=16)
    if arguments.profile:
        optics, camera = measured(load_profile(arguments.profile), (flux.shape[0], flux.shape[1]))
    given = {name: getattr(arguments, name) for name in ("na", "wavelength_um", "pixel_um")}
    optics = replace(optics, **{name: value for name, value in given.items() if value is not None})
    setting = Setting("command line", optics, camera, arguments.peak)
    scene = simulate_frame(
        flux,
        setting,
        Defocus(arguments.defocus_um),
        np.random.default_rng(arguments.seed),
    )
    tifffile.imwrite(arguments.output, scene.raw)
    Console().print(f"wrote {arguments.output}: {arguments.defocus_um:g} um out of focus")
    return 0
