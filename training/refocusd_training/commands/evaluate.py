"""`refocusd train evaluate`: evaluates a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from refocusd.config import Settings
from refocusd.errors import ConfigError
from refocusd.files import check_writable

EXAMPLES = """examples:
  refocusd train evaluate --bundle models/live --data bbbc038 --json quality.json --page quality
  refocusd train evaluate --bundle models/live --data bbbc038 --rival CARE=care.onnx --csv q.csv
  refocusd train evaluate --protocol stacks --data z_stacks --page real --json real.json
  refocusd train evaluate --protocol stacks --data z_stacks --engine deconvolution --engine my/bundle
  refocusd train evaluate --bundle models/live --data bbbc006 --protocol bbbc006 --json q.json
  refocusd train evaluate --bundle models/live --data bbbc006 --protocol mpt
  refocusd train evaluate --bundle models/live --data bbbc006 --protocol bbbc006 --planes 32
  refocusd train evaluate --bundle models/live --input blurred.tif --truth sharp.tif
"""


def register(inner: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = inner.add_parser(
        "evaluate",
        help="evaluate a bundle on real stacks, or on held-out specimens and optics",
        description="Evaluates a bundle on real through-focus stacks, on specimens and microscopes that "
        "training never saw, on a published protocol, or on a pair of your own frames.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--bundle",
        help="folder, or a shipped bundle's name (default: live-nuclei; for --protocol stacks the model that "
        "refocusd uses by itself)",
    )
    parser.add_argument(
        "--engine",
        action="append",
        default=[],
        help="engine for --protocol stacks: 'deconvolution', a shipped bundle's name, or a bundle's "
        "folder; may be repeated (default: --bundle and deconvolution); the page shows the worst "
        "frames of the first",
    )
    parser.add_argument(
        "--data", type=Path, help="folder of the stacks, of the test images, or of a plate"
    )
    parser.add_argument(
        "--protocol",
        choices=("stacks", "held-out", "bbbc006", "mpt"),
        default="held-out",
        help="stacks: every plane of real through-focus stacks against the sharpest; held-out: "
        "simulated from the test images (default); bbbc006: planes of a plate against plane 16; "
        "mpt: the same for comparison with published figures, with planes 2, 6 and 10 and every "
        "frame scaled by its own minimum and maximum",
    )
    parser.add_argument(
        "--notes",
        type=Path,
        help="TOML file for --protocol stacks, with the NA, pixel size, z step or truth channel that the "
        "stacks' files lack (see benchmarks/quality/real_stacks.toml)",
    )
    parser.add_argument(
        "--planes",
        type=int,
        nargs="+",
        help="planes for --protocol bbbc006 (default: the planes that the bundle's training set apart, "
        "else the published 2 6 10; 32 is beyond the focus)",
    )
    parser.add_argument("--input", type=Path, help="your own out-of-focus image")
    parser.add_argument("--truth", type=Path, help="the same field in focus")
    parser.add_argument(
        "--pixel-um", type=float, default=0.645, help="pixel size of --input (default: %(default)s)"
    )
    parser.add_argument(
        "--stain",
        default="nuclei",
        help="stain of --input; nuclei are counted if it is 'nuclei' (default: %(default)s)",
    )
    parser.add_argument(
        "--channel",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="evaluate also on sharp images of another channel, on which the bundle was not trained",
    )
    parser.add_argument(
        "--rival",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="compare with another network: ONNX that takes and returns frames in network units",
    )
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--csv", type=Path, help="write one row per frame and method to this file")
    parser.add_argument("--page", type=Path, help="write curves and pictures to this folder")
    parser.add_argument(
        "--limit", type=int, help="largest number of specimens, of fields, or of planes per stack"
    )
    parser.add_argument("--no-deconvolution", action="store_true", help="leave out deconvolution")
    parser.set_defaults(command=_evaluate)


def _named(text: str, flag: str, what: str) -> tuple[str, Path]:
    name, _, place = text.partition("=")
    if not name or not place:
        raise ConfigError(f"{flag} is {text!r}; give NAME={what}")
    return name, Path(place)


def _check(arguments: argparse.Namespace) -> None:
    if (arguments.input is None) != (arguments.truth is None):
        raise ConfigError("give both --input and --truth, which are a pair")
    if (arguments.data is None) == (arguments.input is None):
        raise ConfigError("give --data FOLDER, or --input FILE and --truth FILE of your own")
    if (arguments.engine or arguments.notes) and arguments.protocol != "stacks":
        raise ConfigError("--engine and --notes apply to --protocol stacks only; leave them out")
    if arguments.limit is not None and arguments.limit < 1:
        raise ConfigError(f"--limit is {arguments.limit}; give at least 1")
    if not 0 < arguments.pixel_um < 100:
        raise ConfigError(f"--pixel-um is {arguments.pixel_um}; give a pixel's side in um")
    if arguments.planes and (arguments.protocol != "bbbc006" or arguments.input):
        raise ConfigError("--planes applies to --protocol bbbc006 only; leave it out")
    if any(not 0 <= plane <= 33 or plane == 16 for plane in arguments.planes or ()):
        raise ConfigError(
            f"--planes is {arguments.planes}; give planes of 0 to 33 except 16, which is the truth"
        )
    if arguments.channel and (arguments.protocol != "held-out" or arguments.input):
        raise ConfigError("--channel applies to the held-out protocol only; leave it out")


def _evaluate(arguments: argparse.Namespace) -> int:
    _check(arguments)
    for path in filter(None, (arguments.json, arguments.csv, arguments.page)):
        check_writable(path)
    from refocusd_training.evaluation import run

    options = run.Options(
        rivals=[_named(text, "--rival", "FILE") for text in arguments.rival],
        limit=arguments.limit,
        deconvolve=not arguments.no_deconvolution,
        json=arguments.json,
        csv=arguments.csv,
        page=arguments.page,
    )
    stacks = arguments.protocol == "stacks" and arguments.input is None
    bundle = arguments.bundle or (Settings().model if stacks else "live-nuclei")
    data = arguments.data
    if arguments.input is not None:
        pair = (arguments.input, arguments.truth)
        run.run_own_pair(bundle, *pair, options, stain=arguments.stain, pixel_um=arguments.pixel_um)
    elif stacks:
        engines = arguments.engine or (bundle, "deconvolution")
        run.run_stacks(engines, data, options, notes=arguments.notes)
    elif arguments.protocol in ("bbbc006", "mpt"):
        scaled = arguments.protocol == "mpt"
        run.run_protocol(bundle, data, options, planes=arguments.planes, scaled=scaled)
    else:
        channels = [_named(text, "--channel", "FOLDER") for text in arguments.channel]
        run.run_held_out(bundle, data, options, channels=channels)
    return 0
