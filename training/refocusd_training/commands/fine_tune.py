"""`refocusd train fine-tune`: train a bundle further for a user's own microscope."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from refocusd_training.commands.torch_at_hand import needs_torch

EPILOG = """examples:
  refocusd train fine-tune --bundle live-nuclei --data stacks --output runs/ours \\
      --to models/ours
  refocusd train fine-tune --bundle live-nuclei --data sharp --kind sharp \\
      --profile zyla.json --stain DNA --steps 20000 --minutes 480 --output runs/ours --to models/ours

Ten through-focus stacks of different fields are enough to begin with. Some of the fields are
held out; if the bundle got worse on them, the command writes none and ends with an error.
"""


def register(inner: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = inner.add_parser(
        "fine-tune",
        help="train a bundle further for your own microscope",
        description="Trains a bundle further with your own stacks or sharp images.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", required=True, help="folder, or a shipped bundle's name")
    parser.add_argument("--data", type=Path, required=True, help="folder of stacks or images")
    parser.add_argument("--output", type=Path, required=True, help="new folder of the run")
    parser.add_argument("--to", type=Path, help="write the new bundle here if it is better")
    parser.add_argument("--id", help="id of the new model (default: the old one with '-tuned')")
    parser.add_argument(
        "--kind",
        choices=("stacks", "sharp"),
        default="stacks",
        help="through-focus stacks, or sharp images for the simulator (default: %(default)s)",
    )
    parser.add_argument(
        "--z-step-um",
        type=float,
        default=0.0,
        help="distance of the planes in um, for stacks that do not state it",
    )
    parser.add_argument(
        "--stain",
        default="specimens",
        help="content of the images of --kind sharp, for the model card (default: %(default)s)",
    )
    parser.add_argument("--profile", default="", help="calibration profile, for --kind sharp")
    parser.add_argument(
        "--steps", type=int, default=600, help="training steps (default: %(default)s)"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=0.0,
        help="stop after this time, whatever --steps is; 0 for no limit",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=1e-4,
        help="highest learning rate (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        type=int,
        default=256,
        help="side of a training frame in px (default: %(default)s)",
    )
    parser.add_argument(
        "--batch", type=int, default=4, help="frames per step (default: %(default)s)"
    )
    parser.add_argument("--device", help="torch device (default: CUDA if there is one)")
    parser.set_defaults(command=_fine_tune)


def _fine_tune(arguments: argparse.Namespace) -> int:
    needs_torch()
    from refocusd_training.data.config import DataConfig
    from refocusd_training.fine_tune.run import FineTuning, fine_tune

    channels = (f"{arguments.stain}=.",) if arguments.kind == "sharp" else ()
    job = FineTuning(
        bundle=arguments.bundle,
        data=DataConfig(
            kind=arguments.kind,
            channels=channels,
            validate=0.2,
            test=0.0,
            bank=96,
            z_step_um=arguments.z_step_um,
        ),
        steps=arguments.steps,
        minutes=arguments.minutes,
        learning_rate=arguments.learning_rate,
        size=arguments.size,
        batch=arguments.batch,
        profile=arguments.profile,
    )
    tuned = fine_tune(
        job,
        arguments.data,
        arguments.output,
        to=arguments.to,
        model_id=arguments.id,
        device=arguments.device,
    )
    Console().print(
        f"{len(tuned.frames)} held-out frames: PSNR {tuned.before_db:.2f} dB before, "
        f"{tuned.after_db:.2f} dB after; see {tuned.page}"
    )
    if arguments.to:
        Console().print(f"wrote {arguments.to}")
    return 0
