"""`refocusd train ...`: the command line of the training package.

===============  ===================================================================================
`blur`           `refocusd train blur`: fits the network that estimates a frame's blur
`blur_scale`     `refocusd train blur-scale`: train the network that works at the scale of the blur
`evaluate`       `refocusd train evaluate`: evaluates a bundle
`export`         `refocusd train export`: make a bundle from a run
`fetch`          `refocusd train fetch-bbbc038`: download training images
`fetch_bbbc006`  `refocusd train fetch-bbbc006`: download planes of the plate
`fine_tune`      `refocusd train fine-tune`: train a bundle further for a user's own microscope
`fitting`        Flags of the commands that fit on simulated frames (`blur`, `trust`), and their checks
`run`            `refocusd train run`: train a network
`simulate`       `refocusd train simulate`: simulate the out-of-focus image of one picture
`torch_at_hand`  Checks that torch is installed, which the base install lacks
`trust`          `refocusd train trust`: fits the thresholds by which refocused frames are judged
===============  ===================================================================================

Each sub-command has its own file.  Only argparse, numpy and rich are imported here; torch is imported
when a command runs.
"""

from __future__ import annotations

import argparse

from refocusd_training.commands import (
    blur,
    blur_scale,
    evaluate,
    export,
    fetch,
    fetch_bbbc006,
    fine_tune,
    run,
    simulate,
    trust,
)

EXAMPLES = """examples:
  refocusd train fetch-bbbc038 --output bbbc038
  refocusd train fetch-bbbc006 --planes 1 5 10 16 32 --output bbbc006
  refocusd train run --config training/configs/live-nuclei.toml --data bbbc038 \\
      --output runs/live --bundle models/live-nuclei
  refocusd train evaluate --bundle models/live-nuclei --data bbbc038 --json quality.json
  refocusd train fine-tune --bundle live-nuclei --data stacks --output runs/ours --to models/ours
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
    run.register(inner)
    fine_tune.register(inner)
    export.register(inner)
    evaluate.register(inner)
    fetch.register(inner)
    fetch_bbbc006.register(inner)
    simulate.register(inner)
    blur.register(inner)
    blur_scale.register(inner)
    trust.register(inner)
