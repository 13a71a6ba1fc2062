"""`refocusd train blur-scale`: train the network that works at the scale of the blur."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from refocusd.errors import InputError
from refocusd.files import reading
from refocusd_training.commands.torch_at_hand import needs_torch

#: Shares of frames with nuclei, other stains and generated structures.
SHARES = (0.47, 0.27, 0.26)
#: Highest learning rate.
RATE = 1.5e-3


def register(inner: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = inner.add_parser(
        "blur-scale",
        help="train a network that works at the scale of the blur, such as live-fluorescence",
    )
    parser.add_argument(
        "--nuclei", type=Path, nargs="+", required=True, help="folders of sharp images of nuclei"
    )
    parser.add_argument(
        "--stains",
        type=Path,
        nargs="+",
        required=True,
        help="folders of sharp images of other stains",
    )
    parser.add_argument("--minutes", type=float, required=True, help="how long to train")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of the run, which is gone on from"
    )
    parser.add_argument(
        "--start", type=Path, help="checkpoint.pt of another run, whose weights to begin with"
    )
    parser.add_argument(
        "--shares",
        type=float,
        nargs=3,
        default=SHARES,
        metavar=("NUCLEI", "STAINS", "GENERATED"),
        help="how often images of each kind are taken (default: %(default)s)",
    )
    parser.add_argument(
        "--rate", type=float, default=RATE, help="highest learning rate (default: %(default)s)"
    )
    parser.add_argument("--bundle", type=Path, help="model bundle to write in the end")
    parser.add_argument("--id", default="live-fluorescence", help="name of the model")
    parser.add_argument("--card", type=Path, help="text of the model's card (Markdown)")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(command=_train)


def _train(arguments: argparse.Namespace) -> int:
    needs_torch()
    import numpy as np

    from refocusd_training.blur.frames import load_sharp
    from refocusd_training.blur_scale.bundle import export_scale_bundle
    from refocusd_training.blur_scale.fit import Schedule, fit
    from refocusd_training.blur_scale.frames import Frames, sharp_kinds
    from refocusd_training.export.bundle import bundle_id

    if not 0 < arguments.minutes <= 60 * 24 * 30 or arguments.seed < 0:
        raise InputError(
            f"{arguments.minutes:g} minutes with seed {arguments.seed} cannot be trained: give more than "
            "0, and a seed of 0 or more"
        )
    if min(arguments.shares) < 0 or sum(arguments.shares) <= 0 or not 0 < arguments.rate <= 0.1:
        raise InputError(
            "shares are 0 or more, with one above 0, and a learning rate is above 0 and at most 0.1"
        )
    if arguments.start and not arguments.start.is_file():
        raise InputError(f"{arguments.start} is not there: name the checkpoint.pt of a run")
    if arguments.bundle:
        bundle_id(arguments.bundle, arguments.id)
    card = f"# {arguments.id}\n"
    if arguments.card:
        with reading(arguments.card):
            card = arguments.card.read_text(encoding="utf-8")
    logging.getLogger("refocusd_training").setLevel(logging.INFO)
    rng = np.random.default_rng(arguments.seed)
    nuclei, stains = load_sharp(arguments.nuclei), load_sharp(arguments.stains)
    some, others, generated = arguments.shares
    kinds = sharp_kinds([(some, nuclei), (others, stains)], generated, rng)
    frames = Frames(kinds, arguments.seed)
    schedule = Schedule(arguments.minutes, rate=arguments.rate)
    fitted = fit(frames, schedule, arguments.output, arguments.start)
    if arguments.bundle:
        training = {
            "nuclei": len(nuclei),
            "stains": len(stains),
            "steps": fitted.steps,
            "minutes": round(fitted.minutes, 1),
            "seed": arguments.seed,
        }
        export_scale_bundle(
            fitted.network,
            frames,
            arguments.bundle,
            model_id=arguments.id,
            card=card,
            training=training,
        )
    return 0
